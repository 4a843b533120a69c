"""The history of evictions: rows of evicted blobs (ghosts), and the scores of the eviction orders."""

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
"""Eviction orders: least recently used first, most recently used first, and one that is not scored."""
_MEMORY_TURNOVERS: Final = 2  # scores fade by a factor e while this many times the store's blobs are evicted
_MIN_TRIALS: Final = 2  # evictions by `MRU_EXPERT` before it can be the best
_RETURN_DECAY: Final = 2.0
"""Regret for a blob that returns after as many evictions as the store has blobs: e to the minus this, a seventh."""
_SCORES: Final = struct.Struct("<BQQdddd")
_GHOST: Final = struct.Struct("<B6sBQ")
_VERSION: Final = 1


@dataclass(slots=True)
class Scores:
    """Scores of both orders after *evictions* from a store of *blobs*. *evicted* and *regret*, by expert, fade."""

    evictions: int = 0
    blobs: int = 0
    evicted: list[float] = field(default_factory=lambda: [0.0, 0.0])
    regret: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def best_expert(self) -> int:
        """Return the expert with less regret per eviction; if unsure, `LRU_EXPERT`."""
        if self.evicted[MRU_EXPERT] < _MIN_TRIALS:
            return LRU_EXPERT
        lru, mru = ((self.regret[expert] + 0.5) / (self.evicted[expert] + 1) for expert in (LRU_EXPERT, MRU_EXPERT))
        return LRU_EXPERT if lru <= mru else MRU_EXPERT

    def record_eviction(self, expert: int) -> int:
        """Count one eviction by *expert*; return its number for `record_return`."""
        fading = math.exp(-1 / (_MEMORY_TURNOVERS * max(1, self.blobs)))
        for values in (self.evicted, self.regret):
            values[:] = [value * fading for value in values]
        self.evictions += 1
        self.evicted[expert] += 1
        return self.evictions

    def record_return(self, expert: int, number: int) -> None:
        """Add regret: a blob evicted by *expert* as that *number* was downloaded again."""
        self.regret[expert] += math.exp(-_RETURN_DECAY * (self.evictions - number) / max(1, self.blobs))

    def pack(self) -> bytes:
        """Return the record, for the key `POLICY`."""
        return append_checksum(POLICY, _SCORES.pack(_VERSION, self.evictions, self.blobs, *self.evicted, *self.regret))

    @classmethod
    def unpack(cls, record: bytes | None) -> Scores:
        """Parse a record; return new scores if it is missing or damaged."""
        value = strip_checksum(POLICY, record)
        if value is None:
            return cls()
        _, evictions, blobs, *parts = _SCORES.unpack(value)
        return cls(evictions, blobs, parts[:2], parts[2:])


def read_scores(txn: Txn) -> Scores:
    return Scores.unpack(txn.get(POLICY))


def record_evictions(txn: Txn, evicted: Iterable[tuple[bytes, int]], blobs: int) -> None:
    """Record evicted blobs, each with its expert, of a store of *blobs*."""
    scores = read_scores(txn)
    scores.blobs = blobs
    before = scores.evictions
    for digest, expert in evicted:
        if expert != NO_EXPERT:
            row = ghost_row(digest)
            txn.put(
                row, append_checksum(row, _GHOST.pack(_VERSION, digest[2:8], expert, scores.record_eviction(expert)))
            )
    if scores.evictions != before:
        txn.put(POLICY, scores.pack())


def record_return(txn: Txn, digest: bytes, record: bytes) -> None:
    """Record that a blob was downloaded again. *record* is its `ghost_row`, which may be another blob's."""
    row = ghost_row(digest)
    value = strip_checksum(row, record)
    if value is None:
        txn.delete(row)
        return
    _, tag, expert, number = _GHOST.unpack(value)
    if tag != digest[2:8]:
        return
    txn.delete(row)
    scores = read_scores(txn)
    # A higher number was counted by scores that were damaged since: its age is unknown.
    if number <= scores.evictions:
        scores.record_return(expert, number)
        txn.put(POLICY, scores.pack())
