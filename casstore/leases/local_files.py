"""Local paths of objects that this process hands out, and what is found at them later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import Staging
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.records import Entry, Validator
from casstore.leases.holder import LeaseHolder

if TYPE_CHECKING:
    from casstore.pending.records import PendingWrite


class LocalFiles:
    """The local paths in this process's lease; thread-safe."""

    __slots__ = ("_leases",)

    def __init__(self, leases: LeaseHolder) -> None:
        self._leases = leases

    # --- views -------------------------------------------------------------------------------------------------------

    def view(self, entry: Entry, descriptor: int, bucket: str, object_key: str, mode: str | None = None) -> str:
        """Return a path with the object's name and the bytes of *descriptor*, the entry's open blob, until the process
        ends.
        """
        return self._leases.get().view(
            entry.key, entry.digest, entry.size, descriptor, bucket, object_key, mode, entry.validator
        )

    def view_streamed(
        self, descriptor: int, size: int, validator: Validator | None, key: Key, bucket: str, object_key: str
    ) -> str:
        """Return a path like `view` with a private copy of bytes that could not be stored."""
        # By a hash without known collisions: the usual one may be the reason why these bytes could not be stored.
        digest = hash_descriptor(descriptor, "sha256")
        return self._leases.get().view(key, digest, size, descriptor, bucket, object_key, "copy", validator)

    def view_directory(self, origin: str, bucket: str, prefix: str) -> str:
        """Return the directory of a prefix in the newest tree of views; made if it is missing."""
        return self._leases.get().directory(origin, bucket, prefix)

    def release_view(self, path: str) -> None:
        """Remove a view before the process ends; an edited one stays."""
        self._leases.get().release_view(path)

    # --- paths that other programs write to --------------------------------------------------------------------------

    def has_changes(self, key: Key) -> bool:
        """Whether a local path of *key* was changed: a stat for each that this process handed out."""
        lease = self._leases.taken
        return lease is not None and lease.changes.has_changes(key)

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Make pending writes of the changes to local paths of *key* since the last look; return the new ones.

        A touch is no change, nor are the same bytes again. Raises StillBeingWrittenError, StoreFullError, or OSError
        for a file that cannot be read.
        """
        lease = self._leases.taken
        return [] if lease is None else lease.changes.record_changes(key)

    def outbox(self, key: Key, bucket: str, object_key: str) -> str:
        """Return a path with the name of an object that does not exist, for a tool to make a file at."""
        return self._leases.get().outbox(key, bucket, object_key)

    def edit(self, key: Key, object_key: str, validator: Validator | None, source: int | None = None) -> str:
        """Return a path of its own with the object's name, to be changed: see `Lease.edit`."""
        return self._leases.get().edit(key, object_key, validator, source)

    def mark_uploaded(self, path: str, digest: Digest, validator: Validator) -> None:
        """Note that the bytes of *digest* at a local path were uploaded as *validator*.

        If the file still has these bytes, a path of `outbox` is removed, and a view becomes one of that version.
        """
        lease = self._leases.taken
        if lease is not None and not lease.release(path, digest):
            lease.rebase(path, digest, validator)

    def release_path(self, path: str, digest: Digest | None = None) -> bool:
        """Remove a path of `outbox` or `edit` and its file; False if *digest* is given and is not that of its bytes."""
        return self._leases.get().release(path, digest)

    def copy_local(self, path: str) -> Staging:
        """Return a private copy of a local file that others may write to, hashed; the caller closes it.

        Raises StillBeingWrittenError if it changes meanwhile, OSError unless it is a regular file.
        """
        from casstore.leases.edits import copy_privately  # few processes edit

        return copy_privately(path, self._leases.stage)
