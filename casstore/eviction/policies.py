"""The order of eviction: by last use, or the other way round if that performs badly.

``lru`` evicts the least recently used blob. That is right for most work, and wrong for passes over a dataset larger
than the store: it evicts everything just before it is read again. There, the most recently used blob is read last, and
evicting it (except the very newest) keeps as much as possible.

``adaptive``, the default, learns which of these two *experts* is right now, as in LeCaR (Vietri and others, HotStorage
2018). It records which expert evicted a blob. An expert that evicts a blob that is downloaded again gets regret, the
more the sooner that is. The expert with less regret chooses, and the other one every twentieth blob, so that it is
measured too. This costs a row for each evicted blob, in a table of fixed size, and nothing for a use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from casstore.index.eviction_history import LRU_EXPERT, NO_EXPERT, Scores

LRU: Final = "lru"
ADAPTIVE: Final = "adaptive"

_NEW_PART: Final = 20
"""One of so many, the newest, `MRU_EXPERT` does not evict: other processes may be about to use them."""

_TRY_EVERY: Final = 20
"""One of so many is chosen by the expert that is not the best."""


def eviction_order(order: Sequence[int], policy: str, scores: Scores) -> Iterator[tuple[int, int]]:
    """Yield the members of *order*, which is by last use, in the order of their eviction, each with its expert."""
    if policy == LRU:
        yield from ((member, NO_EXPERT) for member in order)
        return
    best = scores.best_expert()
    bottom, top = 0, len(order) - max(1, len(order) // _NEW_PART)
    new = top
    number = scores.evictions
    while bottom < top:
        number += 1
        expert = best if number % _TRY_EVERY else 1 - best
        if expert == LRU_EXPERT:
            yield order[bottom], expert
            bottom += 1
        else:
            top -= 1
            yield order[top], expert
    yield from ((member, LRU_EXPERT) for member in order[new:])
