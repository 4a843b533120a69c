"""Updates of the index: results of fills, and what reads learn; and when each applies.

An update is applied inside a write transaction, retried outside it if its blob has gone meanwhile, and finished once.
"""

from __future__ import annotations

import abc
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from casstore import clock
from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.format import records
from casstore.format.keys import blob_row, count_row, ghost_row, user_prefix
from casstore.format.records import BlobRecord, ChecksumRecord, Entry, Moment, ProviderChecksum
from casstore.fs import files, mounts
from casstore.index import entries
from casstore.index.entries import IndexSnapshot
from casstore.index.transactions import Txn
from casstore.locks.single_flight import Flight


class IndexUpdate(abc.ABC):
    """A change of the index."""

    __slots__ = ()

    def rows(self) -> Sequence[bytes]:
        """Return the rows that `apply` reads, so that one call reads those of the whole batch."""
        return ()

    @abc.abstractmethod
    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        """Change the rows; return False to ask for `retry_outside` and another try."""

    def retry_outside(self, blobs: BlobStore) -> bool:
        """Prepare another try outside the transaction; return False to give up."""
        return False

    def done(self, error: BaseException | None) -> None:  # noqa: B027 (most updates release nothing)
        """Release resources: the batch is committed, or the update is dropped because of *error*. Called once."""


def _same(one: Entry | None, other: Entry | None) -> bool:
    return one is other or (one is not None and other is not None and one.same_content(other))


def _is_unchanged(txn: Txn, snapshot: IndexSnapshot, generation: int) -> bool:
    row = count_row(snapshot.key)
    if generation != snapshot.generation or records.unpack_count(row, txn.get(row)) != snapshot.write_count:
        return False
    current = entries.current_entry(txn, snapshot.key)
    # A local delete increments the count; a row that is gone without that was evicted, or its blob was lost.
    return current is None or _same(current, snapshot.entry)


@dataclass(slots=True, eq=False)
class PublishEntry(IndexUpdate):
    """Makes a linked blob a URI's entry.

    *staging* is None if the blob existed and nothing was downloaded; *open_blob* is then its descriptor: while it is
    open, no other file has its inode. With *is_local_write*, this machine has just uploaded the bytes, so the entry
    applies although the write count changes.
    """

    snapshot: IndexSnapshot
    entry: Entry
    added: AddedBlob
    staging: Staging | None
    stated: Sequence[ProviderChecksum] = ()
    locks: Sequence[Flight] = ()
    is_local_write: bool = False
    on_done: Callable[[PublishEntry], None] | None = None
    open_blob: int = -1
    is_queued: bool = False
    """Whether the committer owns it: its staging file, descriptor and locks."""
    applied: bool = False
    error: BaseException | None = None
    _synced: bool = False

    def rows(self) -> Sequence[bytes]:
        key, digest = self.entry.key, self.entry.digest.value
        rows = (key.row_key, blob_row(digest), count_row(key))
        return (*rows, ghost_row(digest)) if self.added.is_new else rows

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        """Put the rows if the blob exists and no local write came between."""
        self.applied = False
        if blobs.inode(self.entry.digest) != self.added.inode or self._needs_sync(txn):
            return False
        current = entries.current_entry(txn, self.entry.key)
        if self.is_local_write:
            entries.increment_write_count(txn, self.entry.key)
            is_foreign = current is not None and not _same(current, self.snapshot.entry)
            if is_foreign and current is not None and not current.validator.same_version(self.entry.validator):
                # Another process recorded another version: the current one is unknown.
                entries.delete_entry(txn, current)
                return True
        elif not _is_unchanged(txn, self.snapshot, generation):
            return True
        known = entries.current_blob(txn, self.entry.digest.value)
        is_synced = known is not None and known.written_on == 0
        if self.added.is_new:
            is_synced = self._synced  # the row may be an earlier file's
        entry = replace(self.entry, written_on=0) if is_synced else self.entry
        entries.put_entry(txn, entry, current, BlobRecord(self.added.size, entry.written_on))
        for checksum in self.stated:
            txn.put(checksum.row_key, records.pack_checksum(checksum.row_key, ChecksumRecord(entry.digest, False)))
        ghost = txn.get(ghost_row(entry.digest.value)) if self.added.is_new else None
        if ghost is not None:
            from casstore.index.eviction_history import record_return  # only if blobs were ever evicted

            record_return(txn, entry.digest.value, ghost)
        self.applied = True
        return True

    def _needs_sync(self, txn: Txn) -> bool:
        """Return whether rows of an earlier file of this name exist, which may mark it as synced.

        Deleting or quarantining a blob leaves its entries; they use this new file now.
        """
        is_unsynced = self.added.is_new and not self._synced and self.staging is not None
        # Rows put in this transaction are this file's: another file's fail the inode check.
        return is_unsynced and txn.has(user_prefix(self.entry.digest.value))

    def retry_outside(self, blobs: BlobStore) -> bool:
        """Link the bytes again if the blob was swept; sync them if that was missing."""
        if self.staging is None:
            return False
        if blobs.inode(self.entry.digest) == self.added.inode:
            files.sync(self.staging.descriptor)
            self._synced = True
            return True
        self._synced = False
        with contextlib.suppress(FileNotFoundError):
            self.added = blobs.add(self.staging, self.entry.digest)
            return True
        # An unnamed file that lost its only link cannot be linked again: copy the bytes to a new one.
        fresh = blobs.stage()
        try:
            fresh.copy_from(self.staging.descriptor)
            fresh.rehash()
            self.added = blobs.add(fresh, self.entry.digest)
        except BaseException:
            fresh.close()
            raise
        self.staging.close()
        self.staging = fresh
        return True

    def after_fork_in_child(self) -> None:
        if self.staging is not None:
            self.staging.close_in_child()
        self._close_blob()

    def _close_blob(self) -> None:
        descriptor, self.open_blob = self.open_blob, -1
        if descriptor >= 0:
            os.close(descriptor)

    def done(self, error: BaseException | None) -> None:
        """Close the descriptors and release the fill locks."""
        self.error = error
        if self.staging is not None:
            self.staging.close()
        self.discard()
        for lock in self.locks:
            lock.release()

    def discard(self) -> None:
        """Undo what it has shown to this process, and close the blob: it is committed, or is not to be."""
        self._close_blob()
        if self.on_done is not None:
            self.on_done(self)


def _is_later(one: Moment, other: Moment) -> bool:
    """Compare by the boot clock, else by wall time; any moment is later than one in the future (a clock was ahead)."""
    if one.boot == other.boot:
        return one.boot_ns > other.boot_ns or other.boot_ns > mounts.boot_clock_ns()
    return one.wall_ns > other.wall_ns or other.wall_ns > time.time_ns()


def _last_use(recorded: int, used: int) -> int:
    """Return the later hour; one in the future is from a clock that was ahead, and does not count."""
    return used if recorded > clock.current_hour() else max(recorded, used)


@dataclass(slots=True)
class TouchEntry(IndexUpdate):
    """Records a use, a validation or a sync of an entry, if the row still has the same content."""

    entry: Entry
    validated: Moment | None = None
    last_used_hour: int | None = None
    synced_inode: Inode | None = None
    """The file that was synced, if it is still the blob."""

    def rows(self) -> Sequence[bytes]:
        return (self.entry.key.row_key,)

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        current = entries.current_entry(txn, self.entry.key)
        if current is None or not current.same_content(self.entry):
            return True
        if self.validated is not None and _is_later(self.validated, current.validated):
            current = replace(current, validated=self.validated)
        if self.last_used_hour is not None:
            current = replace(current, last_used_hour=_last_use(current.last_used_hour, self.last_used_hour))
        if self.synced_inode is not None and blobs.inode(current.digest) == self.synced_inode:
            current = replace(current, written_on=0)
            entries.put_blob(txn, current.digest.value, BlobRecord(current.size, 0))
        txn.put(current.key.row_key, records.pack_entry(current))
        return True


@dataclass(slots=True)
class ChecksumVerdict(IndexUpdate):
    """Records that a provider's checksum was verified against the blob, or deletes its row (*record* None)."""

    checksum: ProviderChecksum
    record: ChecksumRecord | None

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        if self.record is None:
            txn.delete(self.checksum.row_key)
        else:
            txn.put(self.checksum.row_key, records.pack_checksum(self.checksum.row_key, self.record))
        return True
