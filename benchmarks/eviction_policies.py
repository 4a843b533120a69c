"""Hit ratios of eviction policies in a store that is too small, for seven access patterns.

    python benchmarks/eviction_policies.py [--seeds 5] [--blobs 300]

Each pattern is replayed with what a store knows of its blobs: the time of the download, the hour of the last use, and
which evicted objects were requested again. Blobs are evicted in the order of `casstore.eviction.policies`, in small
batches as in a real collection. For comparison there are policies of the literature, which see every use, and Belady's
optimum, which sees the future. There is no store, no file and no clock: equal seeds give equal tables.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from casstore.eviction.inventory import recency_key
from casstore.eviction.policies import ADAPTIVE, LRU, eviction_order
from casstore.index.eviction_history import NO_EXPERT, Scores

Trace = Sequence[int]

EPOCHS: Final = 12
HOURS: Final = {"within an hour": 10**9, "an hour every blobs/2 uses": 0}
"""Uses per hour; 0 means half the number of blobs in the store."""

# --- patterns --------------------------------------------------------------------------------------------------------


def random_epochs(objects: int, epochs: int, chance: random.Random) -> list[int]:
    """Use every object once in each epoch, in a new random order."""
    trace: list[int] = []
    for _ in range(epochs):
        epoch = list(range(objects))
        chance.shuffle(epoch)
        trace += epoch
    return trace


def zipf(objects: int, uses: int, chance: random.Random) -> list[int]:
    """Use few objects often and most rarely (Zipf's law, exponent 0.9)."""
    return chance.choices(range(objects), [1 / (rank + 1) ** 0.9 for rank in range(objects)], k=uses)


def sliding_window(width: int, uses: int, chance: random.Random) -> list[int]:
    """Use a random one of *width* objects; the window moves by one object every four uses."""
    return [step // 4 + chance.randrange(width) for step in range(uses)]


def shared_jobs(objects: int, epochs: int, chance: random.Random) -> list[int]:
    """Interleave two jobs in random epochs over *objects* each, half of which they share."""
    one, other = (random_epochs(objects, epochs, chance) for _ in range(2))
    return [use for pair in zip(one, (item + objects // 2 for item in other), strict=True) for use in pair]


def changing(blobs: int, chance: random.Random) -> list[int]:
    """Use epochs, then a sliding window over other objects, then epochs over further ones."""
    size = blobs * 3 // 2
    window = [10**6 + item for item in sliding_window(blobs // 2, 8 * size, chance)]
    return [*random_epochs(size, 8, chance), *window, *(2 * 10**6 + item for item in random_epochs(size, 8, chance))]


PATTERNS: Final[dict[str, Callable[[int, random.Random], list[int]]]] = {
    "epochs over 1.5x": lambda blobs, chance: random_epochs(blobs * 3 // 2, EPOCHS, chance),
    "epochs over 3x": lambda blobs, chance: random_epochs(blobs * 3, EPOCHS, chance),
    "zipf over 10x": lambda blobs, chance: zipf(blobs * 10, blobs * 30, chance),
    "window of 0.5x": lambda blobs, chance: sliding_window(blobs // 2, blobs * 30, chance),
    "window of 2x": lambda blobs, chance: sliding_window(blobs * 2, blobs * 30, chance),
    "two jobs, half shared": lambda blobs, chance: shared_jobs(blobs, EPOCHS, chance),
    "epochs, window, epochs": changing,
}

# --- policies --------------------------------------------------------------------------------------------------------


def store_hits(trace: Trace, blobs: int, policy: str, per_hour: int) -> float:
    """Return the hit ratio of a store of *blobs* equal blobs under one of its own policies."""
    entries: dict[int, int] = {}
    filled: dict[int, int] = {}
    ghosts: dict[int, tuple[int, int]] = {}
    scores = Scores()
    hits = 0
    for now, item in enumerate(trace):
        hour = 1 + now // per_hour
        if item in entries:
            hits += 1
            # The store writes it at the first use in an hour only; later ones would not change it.
            entries[item] = recency_key(hour, filled[item])
            continue
        entries[item], filled[item] = recency_key(hour, now), now
        if item in ghosts:
            scores.record_return(*ghosts.pop(item))
        if len(entries) > blobs:
            scores.blobs = len(entries)
            order = sorted(entries, key=entries.__getitem__)
            victims = eviction_order(order, policy, scores)
            for victim, expert in [next(victims) for _ in range(1 + blobs // 100)]:
                del entries[victim]
                if expert != NO_EXPERT:
                    ghosts[victim] = expert, scores.record_eviction(expert)
    return hits / len(trace)


def true_lru_hits(trace: Trace, blobs: int) -> float:
    """Return the hit ratio of LRU that sees every use."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for item in trace:
        hits += item in held
        held[item] = None
        held.move_to_end(item)
        if len(held) > blobs:
            held.popitem(last=False)
    return hits / len(trace)


def random_hits(trace: Trace, blobs: int) -> float:
    """Return the hit ratio of random eviction."""
    chance = random.Random(0)
    held: list[int] = []
    places: dict[int, int] = {}
    hits = 0
    for item in trace:
        if item in places:
            hits += 1
        elif len(held) < blobs:
            places[item] = len(held)
            held.append(item)
        else:
            place = chance.randrange(blobs)
            del places[held[place]]
            held[place], places[item] = item, place
    return hits / len(trace)


def sieve_hits(trace: Trace, blobs: int) -> float:
    """Return the hit ratio of SIEVE (Zhang and others, NSDI 2024): a hand moves from old to new objects, and evicts the
    first that was not used since its last pass.
    """
    order: list[int] = []
    used: dict[int, bool] = {}
    hits = hand = 0
    for item in trace:
        if item in used:
            hits += 1
            used[item] = True
            continue
        if len(order) >= blobs:
            hand %= len(order)
            while used[order[hand]]:
                used[order[hand]] = False
                hand = (hand + 1) % len(order)
            del used[order.pop(hand)]
        order.append(item)
        used[item] = False
    return hits / len(trace)


class _S3Fifo:
    """S3-FIFO (Yang and others, SOSP 2023): a small queue for new objects, a main queue, and a ghost list."""

    def __init__(self, blobs: int) -> None:
        self._blobs = blobs
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, int] = {}

    def use(self, item: int) -> bool:
        if item in self._uses:
            self._uses[item] = min(3, self._uses[item] + 1)
            return True
        while len(self._uses) >= self._blobs:
            if len(self._small) >= max(1, self._blobs // 10):
                self._evict_small()
            else:
                self._evict_main()
        if item in self._ghosts:
            del self._ghosts[item]
            self._main.append(item)
        else:
            self._small.append(item)
        self._uses[item] = 0
        return False

    def _evict_small(self) -> None:
        item = self._small.popleft()
        if self._uses[item]:
            self._uses[item] = 0
            self._main.append(item)
            return
        del self._uses[item]
        self._ghosts[item] = None
        if len(self._ghosts) > self._blobs:
            self._ghosts.popitem(last=False)

    def _evict_main(self) -> None:
        item = self._main.popleft()
        if self._uses[item]:
            self._uses[item] -= 1
            self._main.append(item)
        else:
            del self._uses[item]


def s3_fifo_hits(trace: Trace, blobs: int) -> float:
    """Return the hit ratio of `_S3Fifo`."""
    cache = _S3Fifo(blobs)
    return sum(cache.use(item) for item in trace) / len(trace)


def belady_hits(trace: Trace, blobs: int) -> float:
    """Return the optimal hit ratio: evict the object whose next use is farthest away, even the new one."""
    following: list[int] = [0] * len(trace)
    seen: dict[int, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        following[place] = seen.get(trace[place], len(trace) + trace[place] + 1)
        seen[trace[place]] = place
    held: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    hits = 0
    for item, next_use in zip(trace, following, strict=True):
        hits += item in held
        held[item] = next_use
        heapq.heappush(farthest, (-next_use, item))
        while len(held) > blobs:
            key, victim = heapq.heappop(farthest)
            if held.get(victim) == -key:  # otherwise the object was used again since
                del held[victim]
    return hits / len(trace)


REFERENCES: Final[dict[str, Callable[[Trace, int], float]]] = {
    "true LRU": true_lru_hits,
    "random": random_hits,
    "SIEVE": sieve_hits,
    "S3-FIFO": s3_fifo_hits,
    "optimum": belady_hits,
}

# --- the table -------------------------------------------------------------------------------------------------------


def compare(blobs: int, seeds: Iterable[int], per_hour: int) -> dict[str, dict[str, list[float]]]:
    """Return the hit ratios by pattern and policy, one for each seed."""
    table: dict[str, dict[str, list[float]]] = {}
    for name, pattern in PATTERNS.items():
        row: dict[str, list[float]] = {}
        for seed in seeds:
            trace = pattern(blobs, random.Random(seed))
            for policy in (LRU, ADAPTIVE):
                row.setdefault(policy, []).append(store_hits(trace, blobs, policy, per_hour or blobs // 2))
            for reference, hits in REFERENCES.items():
                row.setdefault(reference, []).append(hits(trace, blobs))
        table[name] = row
    return table


def _cell(values: Sequence[float]) -> str:
    spread = max(values) - min(values)
    return f"{statistics.mean(values):.3f} ±{spread / 2:.3f}"


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--blobs", type=int, default=300, help="size of the store")
    options = parser.parse_args()
    policies = [LRU, ADAPTIVE, *REFERENCES]
    for title, per_hour in HOURS.items():
        print(f"\nHit ratios if everything happens {title}; ± half the spread over the seeds\n")
        print(f"| pattern | {' | '.join(policies)} | adaptive / optimum |")
        print(f"|---|{'---|' * len(policies)}---|")
        for name, row in compare(options.blobs, range(options.seeds), per_hour).items():
            part = statistics.mean(row[ADAPTIVE]) / statistics.mean(row["optimum"])
            print(f"| {name} | {' | '.join(_cell(row[policy]) for policy in policies)} | {part:.2f} |", flush=True)


if __name__ == "__main__":
    main()
