"""In which order blobs make way for others: by last use, and, where that does badly, the other way round.

``lru`` takes what was used longest ago. That is right for most work, and the worst there is for passes over a dataset
that is larger than the store: it takes everything just before its turn comes. There, what was used a moment ago is used
last of all, and taking that (but for the very newest) keeps as much as can be kept.

``adaptive``, the default, finds out which of the two is right now. It notes what it took by which *way*. Who takes a
blob that is then downloaded again is blamed, the more so the sooner that is; the way with less blame for what it took
goes on, and every twentieth blob goes by the other one, so that it is known how that would do. It costs a row per blob
evicted and nothing per use: the table of them has a fixed size, and the latest with one place in it stays. The idea is
LeCaR's (Vietri and others, HotStorage 2018): two experts, and regret for what they evicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from casstore.index.eviction_history import LRU_EXPERT, NO_EXPERT, Scores

LRU: Final = "lru"
ADAPTIVE: Final = "adaptive"


_NEW_PART: Final = 20
"""This part of all, the newest, is not taken by the way `MRU_EXPERT`: others who work beside us may be about to use it.
"""


_TRY_EVERY: Final = 20
"""One of so many goes by the way that is not the best."""


def eviction_order(order: Sequence[int], policy: str, scores: Scores) -> Iterator[tuple[int, int]]:
    """The members of *order*, which go from the one used longest ago to the newest, as they are to go, each with its
    way.
    """
    if policy == LRU:
        yield from ((member, NO_EXPERT) for member in order)
        return
    best = scores.best_expert()
    bottom, top = 0, len(order) - max(1, len(order) // _NEW_PART)
    new = top
    number = scores.evictions
    while bottom < top:
        number += 1
        way = best if number % _TRY_EVERY else 1 - best
        if way == LRU_EXPERT:
            yield order[bottom], way
            bottom += 1
        else:
            top -= 1
            yield order[top], way
    yield from ((member, LRU_EXPERT) for member in order[new:])
