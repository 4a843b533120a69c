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
from casstore.format.checksums import ProviderChecksum
from casstore.format.digest import Digest
from casstore.format.keys import Key, user_prefix
from casstore.format.records import Entry, Moment, Validator
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import IndexSnapshot, current_blob, current_entry, delete_entry, increment_write_count
from casstore.index.transactions import Txn
from casstore.index.updates import PublishEntry
from casstore.ingest.recent import RecentEntries
from casstore.leases.holder import LeaseHolder
from casstore.reading.blob_checker import BlobChecker
from casstore.root import Root

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
                prefix = user_prefix(digest.value)
                for row, encoded in txn.scan(prefix, prefix, _MOST_USERS):
                    entry = current_entry(txn, Key.parse(encoded))
                    if entry is not None and entry.digest == digest:
                        txn.delete(entry.key.row_key)
                    txn.delete(row)

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
