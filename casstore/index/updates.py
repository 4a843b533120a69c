"""What goes into the index: results of fills, and what reads learn; and the rules by which each applies.

An item is applied inside a write transaction, mended outside one where its blob has gone meanwhile, and finished once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.format.checksums import ChecksumRecord, ProviderChecksum, pack_checksum
from casstore.format.keys import blob_row, count_row, ghost_row, user_prefix
from casstore.format.records import (
    BlobRecord,
    Entry,
    Moment,
    pack_blob,
    pack_entry,
    unpack_blob,
    unpack_count,
)
from casstore.fs import files
from casstore.index.entries import IndexSnapshot, current_entry, delete_entry, increment_write_count, put_entry
from casstore.index.transactions import Txn


class Releasable(Protocol):
    """A fill lock, as far as the committer cares."""

    def release(self) -> None:
        """Let others in."""
        ...


class IndexUpdate(Protocol):
    """Something to be put into the index."""

    def rows(self) -> Sequence[bytes]:
        """What `apply` will get, for all items of a batch to be read in one call."""
        ...

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        """Do it inside the transaction; False asks for `mend` and another try."""
        ...

    def retry_outside(self, blobs: BlobStore) -> bool:
        """Outside the transaction, after `apply` said False; False gives up."""
        ...

    def done(self, error: BaseException | None) -> None:
        """The batch is committed, or the item is dropped because of *error*. Called once."""
        ...


def _same(one: Entry | None, other: Entry | None) -> bool:
    return one is other or (one is not None and other is not None and one.same_content(other))


def _is_unchanged(txn: Txn, noted: IndexSnapshot, generation: int) -> bool:
    if generation != noted.generation:
        return False
    row = count_row(noted.key)
    if unpack_count(row, txn.get(row)) != noted.write_count:
        return False
    current = current_entry(txn, noted.key)
    # A local delete raises the count; a row that is gone without that was evicted, or its blob was lost.
    return current is None or _same(current, noted.entry)


@dataclass(slots=True)
class PublishEntry:
    """A blob that has its name, to become a URI's entry.

    *staging* is None where the blob was held already and nothing was received. With *base_moved*, the cloud now holds
    these bytes because this machine has just put them there: the entry moves even though the count of writes is raised.
    """

    snapshot: IndexSnapshot
    entry: Entry
    added: AddedBlob
    staging: Staging | None
    checksums: Sequence[tuple[ProviderChecksum, bool]] = ()
    locks: Sequence[Releasable] = ()
    is_local_write: bool = False
    on_done: Callable[[PublishEntry], None] | None = None
    open_blob: int = -1
    """Where nothing was received, the blob, open until the commit: as long as it is, no other file has its inode."""
    applied: bool = False
    error: BaseException | None = None
    _synced: bool = False

    def rows(self) -> Sequence[bytes]:
        """Entry, blob, count of writes, and whether a new blob was evicted before."""
        key, digest = self.entry.key, self.entry.digest.value
        rows = (key.row_key, blob_row(digest), count_row(key))
        return (*rows, ghost_row(digest)) if self.added.is_new else rows

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        """Put the rows if the blob is there and nothing came between."""
        self.applied = False
        if blobs.inode(self.entry.digest) != self.added.inode:
            return False
        if self._needs_sync(txn):
            return False
        current = current_entry(txn, self.entry.key)
        if self.is_local_write:
            increment_write_count(txn, self.entry.key)
            is_foreign = current is not None and not _same(current, self.snapshot.entry)
            if is_foreign and current is not None and not current.validator.same_version(self.entry.validator):
                # Somebody else's word on this URI, and another one than ours: nobody's.
                delete_entry(txn, current)
                return True
        elif not _is_unchanged(txn, self.snapshot, generation):
            return True
        row = blob_row(self.entry.digest.value)
        record = txn.get(row)
        known = None if record is None else unpack_blob(row, record)
        place = (
            self.entry.written_on
            if known is None or known.written_on not in (0, self.entry.written_on)
            else known.written_on
        )
        if self.added.is_new:
            # The row may be of a file that had this name before.
            place = 0 if self._synced else self.entry.written_on
        entry = self.entry if place == self.entry.written_on else replace(self.entry, written_on=place)
        put_entry(txn, entry, current, BlobRecord(self.added.size, place))
        for stated, proved in self.checksums:
            txn.put(stated.row_key, pack_checksum(stated.row_key, ChecksumRecord(entry.digest, proved)))
        if self.added.is_new:
            self._record_return(txn)
        self.applied = True
        return True

    def _record_return(self, txn: Txn) -> None:
        digest = self.entry.digest.value
        ghost = txn.get(ghost_row(digest))
        if ghost is not None:
            from casstore.index.eviction_history import (
                record_return,  # where nothing was ever evicted, nothing is learned
            )

            record_return(txn, digest, ghost)

    def _needs_sync(self, txn: Txn) -> bool:
        """Whether others used a file of this name before, which may have been synced and whose rows say so.

        A blob that somebody removed or that was found damaged leaves its entries behind; they find this one now.
        """
        if not self.added.is_new or self._synced or self.staging is None:
            return False
        # Rows put in this very transaction are of this file: those of another did not pass the check of its inode.
        return txn.has(user_prefix(self.entry.digest.value))

    def retry_outside(self, blobs: BlobStore) -> bool:
        """The blob was swept since it was linked: give the bytes a name again; or sync it, if that is what it lacks."""
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
        # An unnamed file that lost its only link cannot be linked again, so the bytes move to a new one.
        fresh = blobs.stage()
        try:
            self.staging.copy_into(fresh)
            self.added = blobs.add(fresh, self.entry.digest)
        except BaseException:
            fresh.close()
            raise
        self.staging.close()
        self.staging = fresh
        return True

    def after_fork_in_child(self) -> None:
        """In a forked child: give up the descriptors that it has inherited."""
        if self.staging is not None:
            self.staging.close_in_child()
        held, self.open_blob = self.open_blob, -1
        if held >= 0:
            os.close(held)

    def done(self, error: BaseException | None) -> None:
        """Free the staging file and the fill locks."""
        self.error = error
        if self.staging is not None:
            self.staging.close()
        held, self.open_blob = self.open_blob, -1
        if held >= 0:
            os.close(held)
        if self.on_done is not None:
            self.on_done(self)
        for lock in self.locks:
            lock.release()


def _is_later(one: Moment, other: Moment) -> bool:
    """By the boot clock, else by wall time; any is later than one from the future, which a clock set back leaves."""
    if one.boot == other.boot:
        return one.boot_ns > other.boot_ns
    return one.wall_ns > other.wall_ns or other.wall_ns > time.time_ns()


@dataclass(slots=True)
class TouchEntry:
    """An entry was used, or validated, or its blob synced; touched only where the row still names the same content."""

    entry: Entry
    validated: Moment | None = None
    used_hour: int | None = None
    synced_inode: Inode | None = None
    """The file that is on the disk now, as long as it is the blob."""

    def rows(self) -> Sequence[bytes]:
        """The entry."""
        return (self.entry.key.row_key,)

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        """Bring the row up to date."""
        current = current_entry(txn, self.entry.key)
        if current is None or not current.same_content(self.entry):
            return True
        if self.validated is not None and _is_later(self.validated, current.validated):
            current = replace(current, validated=self.validated)
        if self.used_hour is not None:
            current = replace(current, last_used_hour=max(current.last_used_hour, self.used_hour))
        if self.synced_inode is not None and blobs.inode(current.digest) == self.synced_inode:
            current = replace(current, written_on=0)
            row = blob_row(current.digest.value)
            txn.put(row, pack_blob(row, BlobRecord(current.size, 0)))
        txn.put(current.key.row_key, pack_entry(current))
        return True

    def retry_outside(self, blobs: BlobStore) -> bool:
        """Nothing to mend."""
        return False

    def done(self, error: BaseException | None) -> None:
        """Lost is lost: it will be learned again."""


@dataclass(slots=True)
class ChecksumVerdict:
    """A statement of a provider was checked against the blob: remember that it holds, or forget it."""

    checksum: ProviderChecksum
    record: ChecksumRecord | None

    def rows(self) -> Sequence[bytes]:
        """None."""
        return ()

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        """Set or drop the row."""
        if self.record is None:
            txn.delete(self.checksum.row_key)
        else:
            txn.put(self.checksum.row_key, pack_checksum(self.checksum.row_key, self.record))
        return True

    def retry_outside(self, blobs: BlobStore) -> bool:
        """Nothing to mend."""
        return False

    def done(self, error: BaseException | None) -> None:
        """Lost is lost: it will be proved again."""
