"""Hashes: names of blobs, checksums of index records, fixed-length forms of long names.

No other module calls a hash function. The default, XXH3-128, is not cryptographic: unequal bytes with equal digests can
be made on purpose. So the store compares the bytes before it links them to an existing blob.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import xxhash

from casstore.errors import CasstoreError

MTIME_EPOCH: Final = 1_000_000_000
"""Seconds. A blob's mtime is this plus its digest modulo 2**29 (up to the year 2018), so it needs no record."""


class Hasher(Protocol):
    """The part of a `hashlib` hash that the store uses. Not thread-safe."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Add *data*."""

    def digest(self) -> bytes:
        """Return the hash of all data so far."""


def _new_from_hashlib(algorithm: str) -> Hasher:
    import hashlib  # loads OpenSSL, 3 ms; most stores need none of it

    return hashlib.new(algorithm, usedforsecurity=False)


def _new_blake3() -> Hasher:
    try:
        import blake3
    except ImportError as error:
        message = "BLAKE3, which names this store's blobs, is not installed: pip install 'casstore[blake3]'"
        raise CasstoreError(message) from error
    return blake3.blake3()


class _Algorithm(NamedTuple):
    number: int
    length: int
    new: Callable[[], Hasher]
    is_cryptographic: bool


_ALGORITHMS: Final = {
    "xxh3-128": _Algorithm(1, 16, xxhash.xxh3_128, is_cryptographic=False),
    "sha256": _Algorithm(2, 32, lambda: _new_from_hashlib("sha256"), is_cryptographic=True),
    "blake3": _Algorithm(3, 32, _new_blake3, is_cryptographic=True),
}
ALGORITHM_OF: Final = {algorithm.number: name for name, algorithm in _ALGORITHMS.items()}
"""The algorithm's name, by its byte in index records."""
LENGTH_OF: Final = {algorithm.number: algorithm.length for algorithm in _ALGORITHMS.values()}
"""The length of its hash in bytes, by the same."""
ALGORITHMS: Final = tuple(_ALGORITHMS)
"""Digest algorithms of a store; the first is the default."""


def _unknown(algorithm: str) -> str:
    return f"unknown digest algorithm {algorithm!r}: use one of {', '.join(ALGORITHMS)}"


@dataclass(frozen=True, slots=True)
class Digest:
    """Algorithm and hash of a blob's bytes; ``str()`` gives ``xxh3-128:<hex>``."""

    algorithm: str
    value: bytes

    def __post_init__(self) -> None:
        known = _ALGORITHMS.get(self.algorithm)
        if known is None:
            raise ValueError(_unknown(self.algorithm))
        if len(self.value) != known.length:
            raise ValueError(f"digest of {self.algorithm}: {len(self.value)} bytes given, {known.length} bytes needed")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse the form that ``str()`` gives. Raises: ValueError."""
        algorithm, _, value = text.partition(":")
        return cls(algorithm, bytes.fromhex(value))

    @property
    def number(self) -> int:
        """The algorithm's byte in index records."""
        return _ALGORITHMS[self.algorithm].number

    @property
    def is_cryptographic(self) -> bool:
        """Whether equal digests prove equal bytes, even against an attacker."""
        return _ALGORITHMS[self.algorithm].is_cryptographic

    @property
    def mtime(self) -> int:
        """The mtime of a blob with this digest, in seconds since the epoch."""
        return digest_mtime(self.value)


def digest_mtime(value: bytes) -> int:
    """Return `Digest.mtime` for a bare hash; the warm path makes no `Digest`."""
    return MTIME_EPOCH + (int.from_bytes(value[-4:], "big") & 0x1FFF_FFFF)


def new_hasher(algorithm: str) -> Hasher:
    """Return a new hasher for a store's algorithm, or for a provider's: ``md5``, ``sha1``, ``sha256``.

    Raises: ValueError for an unknown algorithm, CasstoreError if its package is not installed.
    """
    known = _ALGORITHMS.get(algorithm)
    if known is not None:
        return known.new()
    if algorithm in ("md5", "sha1"):
        return _new_from_hashlib(algorithm)
    raise ValueError(_unknown(algorithm))


record_checksum: Final = xxhash.xxh3_64_intdigest
"""64 bits over an index record and its key. LMDB does not detect flipped bits."""

name_hash: Final = xxhash.xxh3_128_digest
"""16 bytes in place of a name that is too long or unsafe for a key or file name."""

name_hash_hex: Final = xxhash.xxh3_128_hexdigest
"""`name_hash` as 32 hex digits."""


def hash_descriptor(descriptor: int, algorithm: str) -> Digest:
    return Digest(algorithm, raw_hash(descriptor, algorithm))


def strong_digest(descriptor: int) -> Digest:
    """Return a digest of an open file that proves its bytes, even against an attacker."""
    return hash_descriptor(descriptor, "sha256")


def raw_hash(descriptor: int, algorithm: str) -> bytes:
    """Return the bare hash, by any algorithm of `new_hasher`."""
    hasher = new_hasher(algorithm)
    buffer = memoryview(bytearray(1 << 20))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()
