"""Hash a file's bytes without moving its position."""

from __future__ import annotations

import os

from casstore.format.digest import Digest, new_hasher


def hash_descriptor(descriptor: int, algorithm: str) -> Digest:
    return Digest(algorithm, raw_hash(descriptor, algorithm))


def raw_hash(descriptor: int, algorithm: str) -> bytes:
    """Return the bare hash, by any algorithm of `new_hasher`."""
    hasher = new_hasher(algorithm)
    buffer = memoryview(bytearray(1 << 20))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()
