"""Hash a file's bytes without moving its offset."""

from __future__ import annotations

import os

from casstore.format.digest import Digest, new_hasher


def hash_descriptor(descriptor: int, algorithm: str) -> Digest:
    """The digest of an open file's bytes, from its start, leaving its position alone."""
    return Digest(algorithm, raw_hash(descriptor, algorithm))


def raw_hash(descriptor: int, algorithm: str) -> bytes:
    """The bare hash, by any algorithm that `new_hasher` knows."""
    hasher = new_hasher(algorithm)
    buffer = memoryview(bytearray(1 << 20))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()
