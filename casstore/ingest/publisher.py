"""Make bytes, and what this machine did to objects, known to the store: fills, writes, copies and deletions."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from casstore import clock
from casstore.blobs.blob_store import BlobStore, CollisionError
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.counters import Counters
from casstore.errors import BlobDamagedError, CasstoreError, StillBeingWrittenError, StoreFullError
from casstore.eviction.background import BackgroundEvictor
from casstore.format.digest import Digest
from casstore.format.keys import Key, count_row, user_prefix
from casstore.format.records import Entry, Moment, ProviderChecksum, Validator, unpack_entry
from casstore.fs import mounts
from casstore.index import entries
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import (
    IndexSnapshot,
    current_blob,
    current_entry,
    delete_entry,
    drop_users,
    increment_write_count,
)
from casstore.index.transactions import Txn
from casstore.index.updates import PublishEntry
from casstore.leases.holder import LeaseHolder
from casstore.locks.mutex import new_mutex
from casstore.reading.blob_checker import BlobChecker
from casstore.root import Root


class RecentEntries:
    """The uncommitted entries of one process, over its index; thread-safe. A forked child begins with none."""

    def __init__(self, index: Index, counters: Counters) -> None:
        self._index = index
        self._counters = counters
        self._mutex = new_mutex()
        self._entries: dict[Key, tuple[Entry, Inode]] = {}
        self._written: dict[bytes, int] = {}

    def has(self, key: Key) -> bool:
        """Whether *key* has an uncommitted entry."""
        return key in self._entries

    def lookup(self, key: Key) -> Entry | None:
        """Return the entry of *key*, committed or not; None without one."""
        recent = self._entries.get(key)
        if recent is not None:
            return recent[0]
        record = self._index.get(key.row_key)
        if record is None:
            return None
        entry = unpack_entry(key.row_key, record, key)
        if entry is None:
            self._counters.increment("damaged_rows")
        return entry

    def snapshot(self, key: Key, moment: Moment) -> IndexSnapshot:
        """Return what the index says of *key*, or will say once this process's results are committed."""
        recent = self._entries.get(key)  # first: what is committed meanwhile is found in the index
        found = entries.snapshot(self._index, key, moment)
        return found if recent is None else found._replace(entry=recent[0])

    def is_blob_of(self, entry: Entry, descriptor: int) -> bool:
        """Whether the opened name is still this entry's: else the blob may have been evicted since *entry* was looked
        up, and its name given to other bytes of the same digest.
        """
        recent = self._entries.get(entry.key)
        if recent is not None and recent[0] is entry:
            return Inode.of(os.fstat(descriptor)) == recent[1]
        current = entries.current_entry(self._index, entry.key)
        return current is not None and current.digest == entry.digest

    def remember(self, entry: Entry, inode: Inode) -> None:
        """Show *entry*, whose blob is *inode*, to this process."""
        with self._mutex:
            # The index will refuse the result of a request from before a local write, and so does this.
            if self._written.get(count_row(entry.key), -1) < entry.validated.boot_ns:
                self._entries[entry.key] = entry, inode

    def forget(self, publication: PublishEntry) -> None:
        """Forget an entry that is committed, or dropped: the index knows better now."""
        with self._mutex:
            recent = self._entries.get(publication.entry.key)
            if recent is not None and recent[0] is publication.entry:
                del self._entries[publication.entry.key]

    def forget_older(self, key: Key) -> None:
        """Forget, and refuse from now on, what was requested of *key* before this moment."""
        with self._mutex:
            self._written[count_row(key)] = mounts.boot_clock_ns()
            self._entries.pop(key, None)


NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Not EFBIG: evicting blobs does not help against a limit on the size of one file."""

_MOST_USERS: Final = 10_000
"""Entries of one lost blob that one transaction drops."""


class DownloadProgress(NamedTuple):
    """Bytes of the downloads that this process has begun and not finished: *received* of *expected*."""

    received: int
    expected: int


class RunningFill(Protocol):
    """A download, as far as its progress and a fork are concerned."""

    received: int
    expected: int

    def after_fork_in_child(self) -> None:
        """Close the inherited descriptors."""
        ...


class Publisher:
    """Publishes blobs and entries for one process; thread-safe. A forked child makes its own."""

    def __init__(
        self,
        root: Root,
        index: Index,
        blobs: BlobStore,
        committer: Committer,
        checker: BlobChecker,
        leases: LeaseHolder,
        background: BackgroundEvictor,
        counters: Counters,
    ) -> None:
        self.layout, self.committer, self.leases = root.layout, committer, leases
        self.background, self.counters = background, counters
        self.recent = RecentEntries(index, counters)
        self.fills: set[RunningFill] = set()
        self._root, self._index, self._blobs, self._checker = root, index, blobs, checker

    def progress(self) -> DownloadProgress:
        """Add up the running downloads; small ones report none."""
        fills = list(self.fills)  # in one step, while others begin and end
        return DownloadProgress(sum(fill.received for fill in fills), sum(fill.expected for fill in fills))

    def snapshot(self, key: Key) -> IndexSnapshot:
        """Return what the index says of *key*; call it before the request whose result shall apply."""
        return self.recent.snapshot(key, clock.now(self._root.boot))

    def entry(self, key: Key, digest: Digest, validator: Validator, moment: Moment) -> Entry:
        """Make the entry of bytes that the server had at *moment*."""
        return Entry(key, digest, validator, moment, self._root.boot_mount, clock.current_hour())

    def link(
        self,
        noted: IndexSnapshot,
        digest: Digest,
        descriptor: int,
        validator: Validator,
        moment: Moment,
        *,
        is_local_write: bool = False,
    ) -> PublishEntry:
        """Make the publication of a cached blob, open as *descriptor*, which stays the caller's."""
        status = os.fstat(descriptor)
        added = AddedBlob(digest, status.st_size, Inode.of(status), is_new=False)
        entry = self.entry(noted.key, digest, validator, moment)
        # The caller may close the descriptor before the commit, and its inode's number could be another file's then.
        open_blob = os.dup(descriptor)
        return PublishEntry(noted, entry, added, None, is_local_write=is_local_write, open_blob=open_blob)

    # --- blobs -------------------------------------------------------------------------------------------------------

    def add_blob(self, staging: Staging, digest: Digest) -> AddedBlob | None:
        """Link *staging* into the store; None if its size is not admitted.

        A blob of that name whose bytes are wrong is quarantined first. Raises CollisionError, StoreFullError.
        """
        if not self.background.admits(staging.size):
            return None
        if not digest.is_cryptographic:
            self._drop_orphans(digest)
        for _ in range(3):
            try:
                compare = digest.is_cryptographic and not self._is_trusted(digest)
                return self._blobs.add(staging, digest, compare=compare)
            except CollisionError:
                raise
            except BlobDamagedError:
                try:
                    self._checker.quarantine_if_wrong(digest, "its bytes were wrong when the same bytes came again")
                except StillBeingWrittenError as error:
                    reason = "another process is writing to the blob of this digest"
                    raise CollisionError(errno.EEXIST, reason, str(digest)) from error
            except StoreFullError as error:
                # A name can be one too many for its directory's last block.
                if error.errno not in NO_ROOM or not self.background.make_room(1):
                    raise
        return self._blobs.add(staging, digest, compare=True)

    def _drop_orphans(self, digest: Digest) -> None:
        """Drop the entries of a blob that was removed or found damaged, before other bytes may get its name: a digest
        that can be made to collide does not prove that they are the same.
        """

        def is_orphaned(txn: Txn) -> bool:
            return txn.has(user_prefix(digest.value)) and self._blobs.inode(digest) is None

        def drop(txn: Txn) -> None:
            if is_orphaned(txn):
                drop_users(txn, digest.value, _MOST_USERS)

        while self._index.read(is_orphaned):
            self._index.write(drop)

    def _is_trusted(self, digest: Digest) -> bool:
        """Whether the row of a blob vouches for its file: it exists, and no power cut can have come between."""
        if self._root.settings.verify == "always":
            return False
        known = current_blob(self._index, digest.value)
        return known is not None and known.written_on in (0, self._root.boot_mount)

    # --- what this machine did to objects ----------------------------------------------------------------------------

    def record_write(
        self,
        noted: IndexSnapshot,
        staging: Staging,
        validator: Validator,
        moment: Moment,
        stated: Sequence[ProviderChecksum] = (),
    ) -> Entry | None:
        """Make *staging*'s bytes, which the server has accepted as *validator*, the entry; committed on return.

        *noted* is what this write started from, *moment* when its request was sent. Takes *staging* over. None if the
        bytes could not be stored; the object is then read like any other.
        """
        digest = staging.digest()
        try:
            added = self.add_blob(staging, digest)
        except (CasstoreError, OSError):
            added = None
        if added is None:
            staging.close()
            self.record_delete(noted.key)
            return None
        entry = self.entry(noted.key, digest, validator, moment)
        publication = PublishEntry(noted, entry, added, staging, stated, is_local_write=True)
        self._commit_local(publication)
        if added.is_new:
            self.background.record_fill(added.size)
        if publication.error is not None:
            raise publication.error
        return entry if publication.applied else None

    def record_copy(
        self, noted: IndexSnapshot, digest: Digest, descriptor: int, validator: Validator, moment: Moment
    ) -> Entry | None:
        """Make the bytes of a cached blob, which the server has now at *noted*'s key, the entry; committed on return.

        *descriptor* is that blob, open; it stays the caller's. *noted* and *moment* are from before the request. None,
        and no entry, if the blob was evicted meanwhile or if the index has learned something else.
        """
        publication = self.link(noted, digest, descriptor, validator, moment, is_local_write=True)
        self._commit_local(publication)
        if publication.applied and publication.error is None:
            return publication.entry
        # The entry is of before the copy.
        self.record_delete(noted.key)
        return None

    def _commit_local(self, publication: PublishEntry) -> None:
        self.recent.forget_older(publication.entry.key)
        self.committer.submit(publication)
        self.committer.flush()

    def record_delete(self, *keys: Key) -> None:
        """Forget, in one commit, the entries of objects that this machine deleted or is about to replace."""
        for key in keys:
            self.recent.forget_older(key)

        def forget(txn: Txn) -> None:
            for key in keys:
                increment_write_count(txn, key)
                entry = current_entry(txn, key)
                if entry is not None:
                    delete_entry(txn, entry)

        self._index.write(forget)
