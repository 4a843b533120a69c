"""The history of evictions: rows of evicted blobs, and the score of each eviction order."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from casstore.format.keys import POLICY, ghost_row
from casstore.format.records import append_checksum, strip_checksum
from casstore.index.transactions import Txn

LRU_EXPERT, MRU_EXPERT, NO_EXPERT = 0, 1, 2
"""Ways: what was used longest ago; what was used last; one that nobody is to learn from."""


_MEMORY_TURNOVERS: Final = 2
"""What was learned fades to a third while so many times the store's blobs are evicted."""


_MIN_TRIALS: Final = 2
"""So many must have gone by the way `MRU_EXPERT` before it can be the best."""


_RETURN_DECAY: Final = 2.0
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
    evicted: list[float] = field(default_factory=lambda: [0.0, 0.0])
    regret: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def best_expert(self) -> int:
        """The way with less blame for what it took; in doubt `LRU_EXPERT`."""
        if self.evicted[MRU_EXPERT] < _MIN_TRIALS:
            return LRU_EXPERT
        oldest, newest = ((self.regret[way] + 0.5) / (self.evicted[way] + 1) for way in (LRU_EXPERT, MRU_EXPERT))
        return LRU_EXPERT if oldest <= newest else MRU_EXPERT

    def record_eviction(self, expert: int) -> int:
        """One was evicted that way; its number, for `came_back`."""
        fading = math.exp(-1 / (_MEMORY_TURNOVERS * max(1, self.blobs)))
        for of in (self.evicted, self.regret):
            of[:] = [value * fading for value in of]
        self.evictions += 1
        self.evicted[expert] += 1
        return self.evictions

    def record_return(self, expert: int, number: int) -> None:
        """The blob that went that way as that *number* was downloaded again."""
        self.regret[expert] += math.exp(-_RETURN_DECAY * (self.evictions - number) / max(1, self.blobs))

    def pack(self) -> bytes:
        """Its record, under the key `POLICY`."""
        return append_checksum(POLICY, _SCORES.pack(_VERSION, self.evictions, self.blobs, *self.evicted, *self.regret))

    @classmethod
    def unpack(cls, record: bytes | None) -> Scores:
        """The inverse; fresh ones where there is none or it is damaged."""
        value = None if record is None else strip_checksum(POLICY, record)
        if value is None:
            return cls()
        _, evictions, blobs, *parts = _SCORES.unpack(value)
        return cls(evictions, blobs, parts[:2], parts[2:])


def read_scores(txn: Txn) -> Scores:
    """As this transaction sees them."""
    return Scores.unpack(txn.get(POLICY))


def record_evictions(txn: Txn, evicted: Iterable[tuple[bytes, int]], blobs: int) -> None:
    """These blobs went, each by its way, of a store of so many *blobs*."""
    scores = read_scores(txn)
    scores.blobs = blobs
    before = scores.evictions
    for digest, way in evicted:
        if way != NO_EXPERT:
            row = ghost_row(digest)
            txn.put(row, append_checksum(row, _GHOST.pack(_VERSION, digest[2:8], way, scores.record_eviction(way))))
    if scores.evictions != before:
        txn.put(POLICY, scores.pack())


def record_return(txn: Txn, digest: bytes, record: bytes) -> None:
    """A blob was downloaded, and *record* is what its `ghost_row` says, which may be of another one."""
    row = ghost_row(digest)
    value = strip_checksum(row, record)
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
        scores.record_return(way, number)
        txn.put(POLICY, scores.pack())
