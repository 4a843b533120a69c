"""What this machine did to objects in the cloud, made known to the store: writes, copies, deletions."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence

from casstore.blobs import Added, Inode, Staging
from casstore.committer import Committer
from casstore.digest import Digest
from casstore.errors import CasstoreError
from casstore.index import Index, Txn
from casstore.items import Noted, Publication, current_entry, drop_entry, raise_count
from casstore.records import (
    Entry,
    Key,
    Moment,
    Validator,
)
from casstore.stated import Stated
from casstore.trims import Trims


class Recording(abc.ABC):
    """`casstore.cache.Cache` as far as that goes."""

    index: Index
    committer: Committer
    place: int
    trims: Trims

    @staticmethod
    @abc.abstractmethod
    def hour() -> int:
        """Hours since the epoch."""

    @abc.abstractmethod
    def _add_blob(self, staging: Staging, digest: Digest) -> Added:
        """See `casstore.fills.add_blob`."""

    @abc.abstractmethod
    def _forget_older(self, key: Key) -> None:
        """Nothing that was asked before now is to be seen of *key* any more."""

    def record_write(
        self, noted: Noted, staging: Staging, validator: Validator, moment: Moment, stated: Sequence[Stated] = ()
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
        entry = Entry(noted.key, digest, validator, moment, self.place, self.hour())
        done: list[Publication] = []
        publication = Publication(
            noted, entry, added, staging, [(item, False) for item in stated], base_moved=True, on_done=done.append
        )
        self._forget_older(noted.key)
        self.committer.submit(publication)
        self.committer.flush()
        if added.is_new:
            self.trims.filled(added.size)
        if publication.error is not None:
            raise publication.error
        return entry if publication.applied else None

    def record_copy(
        self, noted: Noted, digest: Digest, descriptor: int, validator: Validator, moment: Moment
    ) -> Entry | None:
        """The cloud now holds, under *noted*'s key, the bytes of a held blob: make it the entry, committed on return.

        *descriptor* is that blob, open; it stays the caller's. *noted* is of before the copy was asked for, *moment*
        when it was. None, and no entry, where the blob was evicted meanwhile or somebody else knows better.
        """
        status = os.fstat(descriptor)
        added = Added(digest, status.st_size, Inode.of(status), is_new=False)
        entry = Entry(noted.key, digest, validator, moment, self.place, self.hour())
        publication = Publication(noted, entry, added, None, base_moved=True, held=os.dup(descriptor))
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
                raise_count(txn, key)
                entry = current_entry(txn, key)
                if entry is not None:
                    drop_entry(txn, entry)

        self.index.write(forget)
