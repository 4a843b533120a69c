"""The history of evictions: rows of evicted blobs, and the score of each eviction order."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from casstore.format.keys import POLICY, ghost_row
from casstore.format.records import seal, unseal
from casstore.index.transactions import Txn

OLDEST, NEWEST, NO_WAY = 0, 1, 2
"""Ways: what was used longest ago; what was used last; one that nobody is to learn from."""


_MEMORY: Final = 2
"""What was learned fades to a third while so many times the store's blobs are evicted."""


_TRIED: Final = 2
"""So many must have gone by the way `NEWEST` before it can be the best."""


_FADING: Final = 2.0
"""Blame for what comes back after as many evictions as the store has blobs is e to the minus this: a seventh."""


_SCORES: Final = struct.Struct("<BQQdddd")


_GHOST: Final = struct.Struct("<B6sBQ")


_VERSION: Final = 1


@dataclass(slots=True)
class Scores:
    """How the two ways did lately. *evictions* so far, of a store that had *blobs* when it was last planned for.

    *taken* and *blame* are by way, and fade as the store's content is replaced.
    """

    evictions: int = 0
    blobs: int = 0
    taken: list[float] = field(default_factory=lambda: [0.0, 0.0])
    blame: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def best(self) -> int:
        """The way with less blame for what it took; in doubt `OLDEST`."""
        if self.taken[NEWEST] < _TRIED:
            return OLDEST
        oldest, newest = ((self.blame[way] + 0.5) / (self.taken[way] + 1) for way in (OLDEST, NEWEST))
        return OLDEST if oldest <= newest else NEWEST

    def took(self, way: int) -> int:
        """One was evicted that way; its number, for `came_back`."""
        fading = math.exp(-1 / (_MEMORY * max(1, self.blobs)))
        for of in (self.taken, self.blame):
            of[:] = [value * fading for value in of]
        self.evictions += 1
        self.taken[way] += 1
        return self.evictions

    def came_back(self, way: int, number: int) -> None:
        """The blob that went that way as that *number* was downloaded again."""
        self.blame[way] += math.exp(-_FADING * (self.evictions - number) / max(1, self.blobs))

    def pack(self) -> bytes:
        """Its record, under the key `POLICY`."""
        return seal(POLICY, _SCORES.pack(_VERSION, self.evictions, self.blobs, *self.taken, *self.blame))

    @classmethod
    def unpack(cls, record: bytes | None) -> Scores:
        """The inverse; fresh ones where there is none or it is damaged."""
        value = None if record is None else unseal(POLICY, record)
        if value is None:
            return cls()
        _, evictions, blobs, *parts = _SCORES.unpack(value)
        return cls(evictions, blobs, parts[:2], parts[2:])


def read_scores(txn: Txn) -> Scores:
    """As this transaction sees them."""
    return Scores.unpack(txn.get(POLICY))


def note_evictions(txn: Txn, evicted: Iterable[tuple[bytes, int]], blobs: int) -> None:
    """These blobs went, each by its way, of a store of so many *blobs*."""
    scores = read_scores(txn)
    scores.blobs = blobs
    before = scores.evictions
    for digest, way in evicted:
        if way != NO_WAY:
            row = ghost_row(digest)
            txn.put(row, seal(row, _GHOST.pack(_VERSION, digest[2:8], way, scores.took(way))))
    if scores.evictions != before:
        txn.put(POLICY, scores.pack())


def note_return(txn: Txn, digest: bytes, record: bytes) -> None:
    """A blob was downloaded, and *record* is what its `ghost_row` says, which may be of another one."""
    row = ghost_row(digest)
    value = unseal(row, record)
    if value is None:
        txn.delete(row)
        return
    _, tag, way, number = _GHOST.unpack(value)
    if tag != digest[2:8]:
        return
    txn.delete(row)
    scores = read_scores(txn)
    # An eviction that is still to come was counted by scores that were damaged since, and nobody knows how long ago.
    if number <= scores.evictions:
        scores.came_back(way, number)
        txn.put(POLICY, scores.pack())
