"""The lease of this process, taken when it is first needed, and the files that it is needed for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import Staging
from casstore.exit_hooks import ExitHook
from casstore.format.digest import Digest, hash_descriptor
from casstore.format.keys import Key
from casstore.format.records import Entry, Validator
from casstore.leases.lease import Lease
from casstore.locks.mutex import new_mutex
from casstore.root import Root

if TYPE_CHECKING:
    from casstore.pending.records import PendingWrite


class LeaseHolder:
    """Takes and gives up the lease of one process; thread-safe. A forked child makes its own, and its own lease."""

    def __init__(self, root: Root, blobs: BlobStore, exit_hook: ExitHook) -> None:
        self._root = root
        self._blobs = blobs
        self._exit = exit_hook
        self._mutex = new_mutex()
        self.taken: Lease | None = None
        """The lease, if this process has one; read without a lock."""

    def get(self) -> Lease:
        """Return the lease; take one if this process has none, or if its directory was removed."""
        with self._mutex:
            if self.taken is not None and not self.taken.exists():
                self.taken.abandon()
                self.taken = None
            if self.taken is None:
                self.taken = self._take()
                self._exit.ensure()
            return self.taken

    def _take(self) -> Lease:
        try:
            return Lease(self._root.layout, self._root.settings.views, self._blobs)
        except FileNotFoundError:
            self._root.recreate()
            return Lease(self._root.layout, self._root.settings.views, self._blobs)

    def own_name(self) -> str | None:
        """Return the name of the lease, or None; takes none."""
        with self._mutex:
            return None if self.taken is None else self.taken.name

    def stage(self) -> Staging:
        """Return a private file on the store's file system, to become a blob or to be closed."""
        try:
            return self._blobs.stage(self._staging_directory)
        except FileNotFoundError:
            self._root.recreate()
            return self._blobs.stage(self._staging_directory)

    def _staging_directory(self) -> str:
        return self.get().paths.staging

    def close(self) -> None:
        """Give up the lease; the next use takes another."""
        with self._mutex:
            lease, self.taken = self.taken, None
        if lease is not None:
            lease.close()

    # --- local paths, and what is found at them later ----------------------------------------------------------------

    def view(self, entry: Entry, descriptor: int, bucket: str, object_key: str, mode: str | None = None) -> str:
        """Return a path with the object's name and the bytes of *descriptor*, the open blob, until the process ends."""
        return self.get().view(
            entry.key, entry.digest, entry.size, descriptor, bucket, object_key, mode, entry.validator
        )

    def view_streamed(
        self, descriptor: int, size: int, validator: Validator | None, key: Key, bucket: str, object_key: str
    ) -> str:
        """Return a path like `view` with a private copy of bytes that could not be stored."""
        # By a hash without known collisions: the usual one may be the reason why these bytes could not be stored.
        digest = hash_descriptor(descriptor, "sha256")
        return self.get().view(key, digest, size, descriptor, bucket, object_key, "copy", validator)

    def has_changes(self, key: Key) -> bool:
        """Whether a local path of *key* was changed: a stat for each that this process handed out."""
        lease = self.taken
        return lease is not None and lease.changes.has_changes(key)

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Make pending writes of the changes to local paths of *key* since the last look; return the new ones.

        A touch is no change, nor are the same bytes again. Raises StillBeingWrittenError, StoreFullError, or OSError
        for a file that cannot be read.
        """
        lease = self.taken
        return [] if lease is None else lease.changes.record_changes(key)

    def mark_uploaded(self, path: str, digest: Digest, proof: Digest, validator: Validator) -> None:
        """Note that the bytes of *digest* at a local path were uploaded as *validator*; *proof* is cryptographic.

        If the file still has these bytes, a path of `outbox` is removed, and a view becomes one of that version.
        """
        lease = self.taken
        if lease is not None and not lease.release(path, proof):
            lease.rebase(path, digest, proof, validator)

    def copy_local(self, path: str) -> Staging:
        """Return a private copy of a local file that others may write to, hashed; the caller closes it.

        Raises StillBeingWrittenError if it changes meanwhile, OSError unless it is a regular file.
        """
        from casstore.leases.edits import copy_privately  # few processes edit

        return copy_privately(path, self.stage)
