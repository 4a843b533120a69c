"""What a store hands out to, and takes from, its user's own files: local paths of objects, and pending writes."""

from __future__ import annotations

import abc
import os
from typing import TYPE_CHECKING

from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import Staging
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Entry, Validator
from casstore.leases.lease import Lease
from casstore.locks.write_locks import WriteLocks
from casstore.reading.open_blob import Stored

if TYPE_CHECKING:
    from casstore.pending.records import PendingWrite
    from casstore.pending.store import Pending


class LocalFiles(abc.ABC):
    """`casstore.cache.Cache` as far as local files go."""

    layout: Layout
    write_locks: WriteLocks
    _lease: Lease | None
    _pending: Pending | None

    @property
    @abc.abstractmethod
    def lease(self) -> Lease:
        """This process's lease, taken on first use."""

    @abc.abstractmethod
    def stage(self) -> Staging:
        """A private file on the store's file system, to become a blob or to be closed."""

    # --- local paths of objects --------------------------------------------------------------------------------------

    def view(self, entry: Entry, descriptor: int, bucket: str, object_key: str, mode: str | None = None) -> str:
        """A path with the object's name that holds what *descriptor*, the entry's open blob, does, for this process's
        life.
        """
        return self.lease.view(
            entry.key, entry.digest, entry.size, descriptor, bucket, object_key, mode, entry.validator
        )

    def view_stored(self, stored: Stored, key: Key, bucket: str, object_key: str, mode: str | None = None) -> str:
        """A path as `view` gives it; of bytes that could only be streamed, a private copy."""
        if stored.entry is not None:
            return self.view(stored.entry, stored.descriptor, bucket, object_key, mode)
        # By a hash that nobody makes collide: these bytes could not be stored because their usual one did.
        digest = hash_descriptor(stored.descriptor, "sha256")
        return self.lease.view(key, digest, stored.size, stored.descriptor, bucket, object_key, "copy", stored.streamed)

    def view_directory(self, origin: str, bucket: str, prefix: str) -> str:
        """The directory in the newest tree of views that stands for a prefix, made if need be."""
        return self.lease.directory(origin, bucket, prefix)

    def release_view(self, path: str) -> None:
        """Give a view back before the process ends; an edited one stays."""
        self.lease.release_view(path)

    # --- local files that others change ------------------------------------------------------------------------------

    def has_local_edits(self, key: Key) -> bool:
        """Whether `notice` has something to look at: one look into a table where this process has handed out no path of
        *key*, else a stat for each.
        """
        lease = self._lease
        return lease is not None and lease.changes.has_changes(key)

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Make pending writes of what others did, since the last look, to the views and the outbox of *key* that this
        process handed out: those that are new. A touch is no change, nor are the same bytes once more.

        Raises StillBeingWrittenError, StoreFullError, OSError for a file that cannot be read.
        """
        lease = self._lease
        return [] if lease is None else lease.changes.record_changes(key)

    def outbox(self, key: Key, bucket: str, object_key: str) -> str:
        """A local path with the name of an object that does not exist, for a tool to make a file at: `Lease.outbox`."""
        return self.lease.outbox(key, bucket, object_key)

    def edit(self, key: Key, object_key: str, validator: Validator | None, source: int | None = None) -> str:
        """A local path of its own with the object's name, to be changed: `Lease.edit`."""
        return self.lease.edit(key, object_key, validator, source)

    def mark_uploaded(self, path: str, digest: Digest, validator: Validator) -> None:
        """The cloud has, as *validator*, the bytes of *digest* that were found at a path of this process: what is there
        still, and is those bytes, is a view of that version now, or goes, if it was put into the outbox.
        """
        lease = self._lease
        if lease is not None and not lease.release(path, digest):
            lease.rebase(path, digest, validator)

    def release_path(self, path: str, digest: Digest | None = None) -> bool:
        """Give a path of `outbox` or `edit` back, with the file there, unless *digest* is not its bytes'."""
        return self.lease.release(path, digest)

    def copy_local(self, path: str) -> Staging:
        """The bytes of a local file that others may write to, as a private copy, hashed; the caller's to close.

        Raises StillBeingWrittenError where it changed meanwhile, OSError for what is no regular file.
        """
        from casstore.leases.edits import copy_privately  # only for whoever edits

        return copy_privately(path, self.stage)

    # --- what the cloud does not have --------------------------------------------------------------------------------

    @property
    def pending(self) -> Pending:
        """What was written to this store and is not in the cloud."""
        if self._pending is None:
            from casstore.pending.store import Pending  # readers meet none

            self._pending = Pending(self.layout)
        return self._pending

    def has_local_changes(self, key: Key) -> bool:
        """Whether this machine may have bytes of *key* that the cloud has not: a pending write, or a local copy of
        this process that was changed. One failed ``access`` where there are none.
        """
        return os.access(self.layout.pending(key.name), os.F_OK) or self.has_local_edits(key)

    def discard_pending(self, write: PendingWrite, save_to: str | None = None) -> bool:
        """Discard a pending write for good, or move its bytes to the local file *save_to*, replaced as a whole.

        False where somebody has dealt with it meanwhile. Raises LockTimeoutError where the URI is being written. What
        `Pending.save` raises leaves it pending.
        """
        with self.write_locks.acquire(write.key):
            current = next((found for found in self.pending.of(write.key) if found.name == write.name), None)
            if current is None:
                return False
            if save_to is None:
                self.pending.discard(current)
            else:
                self.pending.save(current, save_to)
            return True
