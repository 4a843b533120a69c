"""Hashes: the names of blobs, the checksum of index records and the fixed-length form of long names.

The only module that knows a hash function. `Digest` names bytes; `new_hasher` makes what computes one. The default is
XXH3-128: it is not cryptographic, so equal digests of unequal bytes can be made on purpose, and whoever links bytes
under a name that is taken compares them (`Digest.is_cryptographic`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import xxhash

from casstore.errors import CasstoreError

MTIME_EPOCH: Final = 1_000_000_000
"""Seconds; a blob's mtime is this plus its digest modulo 2**29 (up to the year 2018), so that it needs no record."""


class Hasher(Protocol):
    """What `hashlib` gives, as far as the store needs it. Thread-compatible, not thread-safe."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take in *data*."""
        ...

    def digest(self) -> bytes:
        """The hash of everything taken in so far."""
        ...


def _new_from_hashlib(algorithm: str) -> Hasher:
    import hashlib  # OpenSSL takes 3 ms to load, and most stores need none of it

    return hashlib.new(algorithm, usedforsecurity=False)


def _new_blake3() -> Hasher:
    try:
        import blake3
    except ImportError as error:
        message = "this store names its blobs by BLAKE3: pip install 'casstore[blake3]'"
        raise CasstoreError(message) from error
    return blake3.blake3()


@dataclass(frozen=True, slots=True)
class _Algorithm:
    number: int
    length: int
    new: Callable[[], Hasher]
    is_cryptographic: bool


_ALGORITHMS: Final = {
    "xxh3-128": _Algorithm(1, 16, xxhash.xxh3_128, is_cryptographic=False),
    "sha256": _Algorithm(2, 32, lambda: _new_from_hashlib("sha256"), is_cryptographic=True),
    "blake3": _Algorithm(3, 32, _new_blake3, is_cryptographic=True),
}
_BY_NUMBER: Final = {algorithm.number: name for name, algorithm in _ALGORITHMS.items()}
_LENGTHS: Final = {algorithm.number: algorithm.length for algorithm in _ALGORITHMS.values()}
ALGORITHMS: Final = tuple(_ALGORITHMS)
"""Names that a store can be created with; the first is the default."""
LENGTHS: Final = frozenset(_LENGTHS.values())
"""How many bytes their hashes have."""


@dataclass(frozen=True, slots=True)
class Digest:
    """Algorithm and hash of a blob's bytes; ``str()`` gives ``xxh3-128:<hex>``."""

    algorithm: str
    value: bytes

    def __post_init__(self) -> None:
        known = _ALGORITHMS.get(self.algorithm)
        if known is None:
            raise ValueError(f"unknown digest algorithm {self.algorithm!r}: one of {', '.join(ALGORITHMS)}")
        if len(self.value) != known.length:
            raise ValueError(f"a digest of {self.algorithm} has {known.length} bytes, not {len(self.value)}")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The inverse of ``str()``. Raises ValueError."""
        algorithm, _, value = text.partition(":")
        return cls(algorithm, bytes.fromhex(value))

    @property
    def number(self) -> int:
        """The algorithm as the byte that index records hold."""
        return _ALGORITHMS[self.algorithm].number

    @property
    def is_cryptographic(self) -> bool:
        """Whether equal digests prove equal bytes against somebody who wants them to collide."""
        return _ALGORITHMS[self.algorithm].is_cryptographic

    @property
    def mtime(self) -> int:
        """Seconds since the epoch that a blob of this name carries as its mtime."""
        return digest_mtime(self.value)


def digest_mtime(value: bytes) -> int:
    """`Digest.mtime` of a bare hash, for the path that opens a blob and has no time for objects."""
    return MTIME_EPOCH + (int.from_bytes(value[-4:], "big") & 0x1FFF_FFFF)


def algorithm_of(number: int) -> str:
    """The name behind a record's byte. Raises KeyError."""
    return _BY_NUMBER[number]


def algorithm_length(number: int) -> int:
    """How many bytes a hash of this algorithm has. Raises KeyError."""
    return _LENGTHS[number]


def new_hasher(algorithm: str) -> Hasher:
    """A fresh hasher of a store's algorithm, or of a provider's: ``md5``, ``sha1`` and ``sha256`` too.

    Raises ValueError for one that is not known, CasstoreError where its package is missing.
    """
    known = _ALGORITHMS.get(algorithm)
    if known is not None:
        return known.new()
    if algorithm in ("md5", "sha1"):
        return _new_from_hashlib(algorithm)
    raise ValueError(f"unknown digest algorithm {algorithm!r}: one of {', '.join(ALGORITHMS)}")


record_checksum: Final = xxhash.xxh3_64_intdigest
"""64 bits over an index record and its key: against flipped bits, which LMDB does not notice."""

name_hash: Final = xxhash.xxh3_128_digest
"""16 bytes that stand for a name which is too long or too strange for a key or a file name."""

name_hash_hex: Final = xxhash.xxh3_128_hexdigest
"""`name_hash` as 32 hex digits."""
