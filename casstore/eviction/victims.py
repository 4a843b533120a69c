"""The blobs that a plan evicts, and why. A million of them take some 100 MB."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, overload

from casstore.index.eviction_history import NO_EXPERT


class Reason(StrEnum):
    """Why a blob is removed."""

    SIZE = "size"
    """`Budget.max_size` or `min_free`."""
    AGE = "age"
    """None of its users was used within its `max_age`."""
    RULE = "rule"
    """The `max_size` of the rule of all its users."""
    CLEARED = "cleared"
    """The store, or its prefix, was cleared."""


class Victim(NamedTuple):
    """A blob to evict, as it was seen.

    *size* bytes are freed; 0 for a row without a file. *used* orders by last use (`recency_key`). *users* is a checksum
    over the entries that use it, which changes with any of them. *inode* and *ctime_ns* are those of the file: a new
    link changes the second, which is 0 if local paths are links that go first. *expert* is the policy's.
    """

    digest: bytes
    size: int = 0
    used: int = 0
    users: int = 0
    inode: int = 0
    ctime_ns: int = 0
    reason: Reason = Reason.SIZE
    expert: int = NO_EXPERT


_NUMBERS: Final = struct.Struct("<QQQQqBB")
_REASONS: Final = tuple(Reason)
_NUMBER_OF: Final = {reason: number for number, reason in enumerate(_REASONS)}


class VictimList(Sequence[Victim]):
    """Blobs in the order of their eviction, each made when it is accessed; *bytes* is their sum."""

    __slots__ = ("_digests", "_packed", "bytes")

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._packed = bytearray()
        self.bytes = 0

    def add(self, victim: Victim) -> None:
        """Append a blob."""
        digest, *numbers, reason, expert = victim
        self._digests.append(digest)
        self._packed += _NUMBERS.pack(*numbers, _NUMBER_OF[reason], expert)
        self.bytes += victim.size

    def __len__(self) -> int:
        return len(self._digests)

    @overload
    def __getitem__(self, index: int) -> Victim: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Victim]: ...
    def __getitem__(self, index: int | slice) -> Victim | Sequence[Victim]:
        if isinstance(index, slice):
            return tuple(self._at(number) for number in range(*index.indices(len(self))))
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[Victim]:
        return map(self._at, range(len(self)))

    def _at(self, number: int) -> Victim:
        size, used, users, inode, ctime_ns, reason, expert = _NUMBERS.unpack_from(self._packed, number * _NUMBERS.size)
        return Victim(self._digests[number], size, used, users, inode, ctime_ns, _REASONS[reason], expert)
