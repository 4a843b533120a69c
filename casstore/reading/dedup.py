"""What providers stated of bytes that were received, and what of it may be believed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.blobs.hashing import raw_hash
from casstore.format.checksums import ChecksumRecord, ProviderChecksum, unpack_checksum
from casstore.format.digest import Digest
from casstore.format.keys import blob_row
from casstore.format.records import unpack_blob
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.updates import ChecksumVerdict

PROVABLE: Final = {"md5": "md5", "etag-md5": "md5", "sha1": "sha1", "sha256": "sha256"}
"""Kinds of stated checksums that can be computed again, and how; others never link."""


class ChecksumDedup:
    """The checksum rows of one store in this process; thread-safe."""

    __slots__ = ("_blobs", "_committer", "_index", "_place")

    def __init__(self, index: Index, blobs: BlobStore, committer: Committer, place: int) -> None:
        self._index = index
        self._blobs = blobs
        self._committer = committer
        self._place = place

    def may_find(self, stated: Iterable[ProviderChecksum]) -> bool:
        """Whether `find` may find something: a look at the index, nothing opened or hashed."""
        return any(item.kind in PROVABLE and self._index.get(item.row_key) is not None for item in stated)

    def find_blob(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        """A blob that has the bytes a provider states, open; None where there is none. The descriptor is the caller's.

        Trust is earned here: before the first link by a statement, the blob is hashed by the provider's algorithm and
        must give what was stated. A blob that a power cut may have damaged proves nothing and is passed by.
        """
        for item in stated:
            record = self._index.get(item.row_key) if item.kind in PROVABLE else None
            found = None if record is None else unpack_checksum(item.row_key, record)
            if found is None:
                continue
            descriptor = self._open(found.digest, item.size)
            if descriptor is None:
                continue
            if found.verified or self._verify(item, found.digest, descriptor):
                return found.digest, descriptor
            os.close(descriptor)
        return None

    def _open(self, digest: Digest, size: int) -> int | None:
        row = blob_row(digest.value)
        record = self._index.get(row)
        known = None if record is None else unpack_blob(row, record)
        if known is None or known.size != size or known.written_on not in (0, self._place):
            return None
        try:
            return self._blobs.open(digest.value, known.size)
        except (FileNotFoundError, BlobModifiedError):
            return None

    def _verify(self, stated: ProviderChecksum, digest: Digest, descriptor: int) -> bool:
        try:
            is_proved = raw_hash(descriptor, PROVABLE[stated.kind]).hex() == stated.value
        except BaseException:
            os.close(descriptor)
            raise
        self._committer.submit(ChecksumVerdict(stated, ChecksumRecord(digest, True) if is_proved else None))
        return is_proved
