"""What this machine did to objects in the cloud, made known to the store: writes, copies, deletions."""

from __future__ import annotations

import abc
import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from casstore.blobs.blob_store import BlobStore, CollisionError
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.errors import BlobDamagedError, CasstoreError, StillBeingWrittenError, StoreFullError
from casstore.eviction.background import BackgroundEvictor
from casstore.format.checksums import ProviderChecksum
from casstore.format.digest import Digest
from casstore.format.keys import Key, blob_row, user_prefix
from casstore.format.records import Entry, Moment, Validator, unpack_blob
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import IndexSnapshot, current_entry, delete_entry, increment_write_count
from casstore.index.transactions import Txn
from casstore.index.updates import PublishEntry

if TYPE_CHECKING:
    from casstore.cache import Cache


class Recording(abc.ABC):
    """`casstore.cache.Cache` as far as that goes."""

    index: Index
    committer: Committer
    place: int
    trims: BackgroundEvictor

    @staticmethod
    @abc.abstractmethod
    def current_hour() -> int:
        """Hours since the epoch."""

    @abc.abstractmethod
    def _add_blob(self, staging: Staging, digest: Digest) -> AddedBlob:
        """See `casstore.fills.add_blob`."""

    @abc.abstractmethod
    def _forget_older(self, key: Key) -> None:
        """Nothing that was asked before now is to be seen of *key* any more."""

    def record_write(
        self,
        noted: IndexSnapshot,
        staging: Staging,
        validator: Validator,
        moment: Moment,
        stated: Sequence[ProviderChecksum] = (),
    ) -> Entry | None:
        """The cloud has accepted *staging*'s bytes as the new version: make them the entry, committed on return.

        *noted* is what this write started from, *moment* when its request was sent. Takes *staging* over. None where
        the bytes could not be stored; the object is then read again like any other.
        """
        digest = staging.digest()
        try:
            added = self._add_blob(staging, digest) if self.trims.admits(staging.size) else None
        except (CasstoreError, OSError):
            added = None
        if added is None:
            staging.close()
            self.record_delete(noted.key)
            return None
        entry = Entry(noted.key, digest, validator, moment, self.place, self.current_hour())
        done: list[PublishEntry] = []
        publication = PublishEntry(
            noted, entry, added, staging, [(item, False) for item in stated], is_local_write=True, on_done=done.append
        )
        self._forget_older(noted.key)
        self.committer.submit(publication)
        self.committer.flush()
        if added.is_new:
            self.trims.record_fill(added.size)
        if publication.error is not None:
            raise publication.error
        return entry if publication.applied else None

    def record_copy(
        self, noted: IndexSnapshot, digest: Digest, descriptor: int, validator: Validator, moment: Moment
    ) -> Entry | None:
        """The cloud now holds, under *noted*'s key, the bytes of a held blob: make it the entry, committed on return.

        *descriptor* is that blob, open; it stays the caller's. *noted* is of before the copy was asked for, *moment*
        when it was. None, and no entry, where the blob was evicted meanwhile or somebody else knows better.
        """
        status = os.fstat(descriptor)
        added = AddedBlob(digest, status.st_size, Inode.of(status), is_new=False)
        entry = Entry(noted.key, digest, validator, moment, self.place, self.current_hour())
        publication = PublishEntry(noted, entry, added, None, is_local_write=True, open_blob=os.dup(descriptor))
        self._forget_older(noted.key)
        self.committer.submit(publication)
        self.committer.flush()
        if publication.applied and publication.error is None:
            return entry
        # What was held of the key is of before the copy.
        self.record_delete(noted.key)
        return None

    def record_delete(self, *keys: Key) -> None:
        """The objects were deleted, or are about to be replaced, by this machine: forget the entries, in one commit."""
        for key in keys:
            self._forget_older(key)

        def forget(txn: Txn) -> None:
            for key in keys:
                increment_write_count(txn, key)
                entry = current_entry(txn, key)
                if entry is not None:
                    delete_entry(txn, entry)

        self.index.write(forget)


_MOST_USERS: Final = 10_000
"""Entries of one lost blob that one transaction drops."""


_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Not EFBIG: a limit on the size of one file is not met by removing others."""


def add_blob(cache: Cache, staging: Staging, digest: Digest) -> AddedBlob:
    """Link *staging* into the store; a blob of that name that turns out to be wrong is taken away first.

    Raises CollisionError, StoreFullError.
    """
    blobs: BlobStore = cache.blobs
    if not digest.is_cryptographic:
        _drop_orphans(cache, digest)
    for _ in range(3):
        try:
            return blobs.add(staging, digest, compare=digest.is_cryptographic and not _is_trusted(cache, digest))
        except CollisionError:
            raise
        except BlobDamagedError:
            try:
                cache.checks.quarantine_if_wrong(digest, "its bytes were wrong when the same bytes came again")
            except StillBeingWrittenError as error:
                raise CollisionError(
                    errno.EEXIST, "somebody is writing to the blob of this digest", str(digest)
                ) from error
        except StoreFullError as error:
            # A name can be one too many for its directory's last block.
            if error.errno not in _NO_ROOM or not cache.trims.make_room(1):
                raise
    return blobs.add(staging, digest, compare=True)


def _drop_orphans(cache: Cache, digest: Digest) -> None:
    """Drop the entries of a blob that is gone, before its name is given to bytes that may be others: somebody removed
    the file, or it was found damaged. A digest that can be made to collide does not say that they are the same.
    """

    def is_orphaned(txn: Txn) -> bool:
        return txn.has(user_prefix(digest.value)) and cache.blobs.inode(digest) is None

    def drop(txn: Txn) -> None:
        if is_orphaned(txn):
            prefix = user_prefix(digest.value)
            for row, whole in txn.scan(prefix, prefix, _MOST_USERS):
                entry = current_entry(txn, Key.parse(whole))
                if entry is not None and entry.digest == digest:
                    txn.delete(entry.key.row_key)
                txn.delete(row)

    while cache.index.read(is_orphaned):
        cache.index.write(drop)


def _is_trusted(cache: Cache, digest: Digest) -> bool:
    """Whether a blob's row vouches for a name that is taken: it has one, and no power cut can have come between."""
    if cache.settings.verify == "always":
        return False
    row = blob_row(digest.value)
    record = cache.index.get(row)
    known = None if record is None else unpack_blob(row, record)
    return known is not None and known.written_on in (0, cache.place)
