"""Find blobs by the checksums that providers state, and verify those checksums."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.format.digest import Digest, raw_hash
from casstore.format.records import ChecksumRecord, ProviderChecksum, unpack_checksum
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import current_blob
from casstore.index.updates import ChecksumVerdict
from casstore.reading.blob_checker import BlobChecker
from casstore.root import Root

PROVABLE: Final = {"md5": "md5", "etag-md5": "md5", "sha1": "sha1", "sha256": "sha256"}
"""Kinds of checksums that can be computed from a blob, and how; others never link."""

_COLLISION_FREE: Final = frozenset(("sha256",))


class ChecksumDedup:
    """Finds blobs by the checksums that providers state; thread-safe."""

    def __init__(self, root: Root, index: Index, blobs: BlobStore, committer: Committer, checker: BlobChecker) -> None:
        self._settings, self._boot_mount = root.settings, root.boot_mount
        self._index, self._blobs, self._committer, self._checker = index, blobs, committer, checker

    def may_find(self, stated: Iterable[ProviderChecksum]) -> bool:
        """Whether `find_blob` may find something: reads the index, opens and hashes nothing."""
        return any(item.kind in PROVABLE and self._index.get(item.row_key) is not None for item in stated)

    def find_blob(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        """Return a blob with the bytes that a provider states, and its descriptor, the caller's; None without one.

        Before the first link by a checksum, the blob is hashed by the provider's algorithm and must give that checksum.
        A blob that a power cut may have damaged proves nothing and is skipped.
        """
        found = self._find(stated)
        if found is None or self._settings.verify != "always" or self._blobs.verify(found[1], found[0]):
            return found
        try:
            self._checker.quarantine(found[0], "its bytes are not those of its name", found[1])
        finally:
            os.close(found[1])
        return None

    def _find(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        for item in stated:
            record = self._index.get(item.row_key) if item.kind in PROVABLE else None
            found = None if record is None else unpack_checksum(item.row_key, record)
            if found is None:
                continue
            descriptor = self._open(found.digest, item.size)
            if descriptor is None:
                continue
            # An earlier proof is remembered by the digest, and another blob may have an equal one by now.
            is_proved = found.verified and (found.digest.is_cryptographic or item.kind not in _COLLISION_FREE)
            if is_proved or self._verify(item, found.digest, descriptor):
                return found.digest, descriptor
            os.close(descriptor)
        return None

    def _open(self, digest: Digest, size: int) -> int | None:
        known = current_blob(self._index, digest.value)
        if known is None or known.size != size or known.written_on not in (0, self._boot_mount):
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
