"""Plan a collection: what to evict to stay within the budget, and what prevents the rest. Reads only.

What counts is what is really freed: a blob is evicted with all its users, and one with other links (a local path that
is in use) would free nothing and stays. Unused copies at local paths go first, then blobs without users, and
the rest by their newest use. A new file without a row may be a publication in flight: it counts as just used.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from casstore.blobs.staging import Inode
from casstore.eviction.budget import Budget, free_bytes
from casstore.eviction.inventory import FIRST_USE, MIXED_RULES, Inventory
from casstore.eviction.local_copies import LocalCopy, LocalInventory
from casstore.eviction.policies import eviction_order
from casstore.eviction.victims import Reason, Victim, VictimList
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.eviction_history import NO_EXPERT, read_scores

_SLACK: Final = 100
"""Evict a hundredth more than necessary, so that the next fill does not collect again."""

_STAYS, _EVICTED = 1, 2


@dataclass(frozen=True, slots=True)
class Retained:
    """A blob that stays although it was its turn: it is pinned, or has other links and would free nothing.

    *holders* are the paths of those links, if they are known; a pinned one has none.
    """

    digest: bytes
    size: int
    holders: tuple[str, ...]
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection will do. *stored* bytes are in *blobs* files and local copies, the disk has *free* bytes left;
    the *budget* requires *requested_bytes*, and the caller *at_least* so many. *copies* are removed, and *victims*
    evicted, in this order; *retained* cannot be. The sizes of rules are missed by *rule_overrun* bytes even so.
    """

    budget: Budget
    generation: int
    stored: int
    blobs: int
    free: int
    requested_bytes: int
    victims: VictimList
    retained: Sequence[Retained]
    copies: Sequence[LocalCopy] = ()
    at_least: int = 0
    rule_overrun: int = 0

    @property
    def reclaimable_bytes(self) -> int:
        """Bytes that it frees unless blobs come back into use."""
        return self.victims.bytes + sum(copy.size for copy in self.copies)

    @property
    def can_suffice(self) -> bool:
        """Whether there is room for *at_least* bytes once all of it is carried out."""
        return self.at_least <= self.free + self.reclaimable_bytes

    def shortfall(self, freed: int, beside: int = 0) -> int:
        """Return the bytes still missing once blobs of *freed* bytes are evicted, and other files of *beside* bytes."""
        over = 0 if self.budget.max_size is None else self.stored - freed - self.budget.max_size
        lack = max(self.budget.min_free - self.free, self.at_least) - freed - beside
        return max(0, over, lack)


def _with_slack(missed: int, limit: int) -> int:
    """Return how much to evict if *limit* is missed by so much: a hundredth more than necessary, or than the limit."""
    return missed + max(missed, limit) // _SLACK if missed > 0 else 0


def make_plan(index: Index, layout: Layout, budget: Budget, at_least: int = 0) -> Plan:
    """Choose what to evict, in one pass over the rows and the names in ``blobs/``; reads only.

    What exceeds an age, or the size of a rule, comes first, and counts for the budget.
    """
    inventory = Inventory(index, layout, budget.max_age, budget.rules)
    local = LocalInventory(layout, budget.grace)
    stored = inventory.stored + local.bytes
    scores = index.read(read_scores)
    free = free_bytes(layout.root)
    over = 0 if budget.max_size is None else stored - budget.max_size
    lack = max(budget.min_free - free, at_least)
    order = sorted(inventory.numbers(), key=inventory.uses.__getitem__)
    choice = _Choice(layout, inventory, local)
    overrun = choice.by_rules(order, budget) if budget.has_rules else 0
    front = bisect_left(order, FIRST_USE, key=inventory.uses.__getitem__)
    turns = chain(
        ((number, NO_EXPERT) for number in order[:front]), eviction_order(order[front:], budget.policy, scores)
    )
    wanted = max(_with_slack(over, budget.max_size or 0), _with_slack(lack, budget.min_free))
    copies = local.chosen(wanted - choice.victims.bytes) if wanted > 0 or choice.victims.bytes else []
    choice.by_size(turns, wanted - choice.victims.bytes - sum(copy.size for copy in copies))
    return Plan(
        budget,
        inventory.generation,
        stored,
        inventory.blobs,
        free,
        max(0, over, lack),
        choice.victims,
        choice.retained(),
        copies,
        at_least,
        overrun,
    )


class _Choice:
    """The choice of victims, blob by blob."""

    def __init__(self, layout: Layout, inventory: Inventory, local: LocalInventory) -> None:
        self._layout, self._local = layout, local
        self._inventory = inventory
        self._looked = bytearray(len(inventory.digests))
        self._linked: list[tuple[bytes, os.stat_result]] = []
        self._pinned: list[Retained] = []
        # Rows without a file and without users: nothing to lose.
        self.victims = VictimList()
        for number in inventory.stale_rows:
            self.victims.add(Victim(inventory.digests[number]))

    def retained(self) -> tuple[Retained, ...]:
        """Return the blobs that stay although it was their turn."""
        paths: dict[Inode, list[str]] = {}
        for copy in self._local.copies if self._linked else ():
            paths.setdefault(copy.inode, []).append(self._layout.local_path(copy.file.name))
        outside = ("links outside of the store",)
        linked = (
            Retained(digest, status.st_size, tuple(paths.get(Inode.of(status), outside)))
            for digest, status in self._linked
        )
        return (*linked, *self._pinned)

    def by_rules(self, order: Sequence[int], budget: Budget) -> int:
        """Choose what exceeds an age or the size of a rule; return by how many bytes the sizes are missed."""
        inventory, rules, now = self._inventory, self._inventory.rules, time.time()
        for number in order if inventory.due else ():
            if inventory.due[number] < now and not inventory.is_pinned(number):
                self._choose(number, Reason.AGE)
        sizes = [0] * (MIXED_RULES + 1)
        for number in order:
            if self._looked[number] != _EVICTED:
                sizes[rules[number]] += inventory.sizes[number]
        missed, wanted = [0] * (MIXED_RULES + 1), [0] * (MIXED_RULES + 1)
        for rule, limit in enumerate((rule.max_size for rule in budget.rules), 1):
            if limit is not None and sizes[rule] > limit:
                missed[rule] = sizes[rule] - limit
                wanted[rule] = _with_slack(missed[rule], limit)
        for number in order if any(wanted) else ():
            rule = rules[number]
            if wanted[rule] > 0 and not self._looked[number]:
                freed = self._choose(number, Reason.RULE)
                wanted[rule] -= freed
                missed[rule] -= freed
        return sum(max(0, over) for over in missed)

    def by_size(self, turns: Iterable[tuple[int, int]], wanted: int) -> None:
        """Choose what comes first, each by its expert, until *wanted* bytes are found."""
        for number, expert in turns:
            if wanted <= 0:
                break
            if not self._looked[number]:
                wanted -= self._choose(number, Reason.SIZE, expert)

    def _choose(self, number: int, reason: Reason, expert: int = NO_EXPERT) -> int:
        """Choose a blob; return the bytes that this frees, 0 if it stays."""
        inventory = self._inventory
        digest = inventory.digests[number]
        self._looked[number] = _STAYS
        if inventory.is_pinned(number):
            self._pinned.append(Retained(digest, inventory.sizes[number], (), is_pinned=True))
            return 0
        status = files.lstat_regular(self._layout.blob(digest))
        if status is None:
            return 0  # another collector removed it
        size, links = status.st_size, status.st_nlink - 1
        if links and links != self._local.links[Inode.of(status)]:
            self._linked.append((digest, status))
            return 0
        if size:
            self._looked[number] = _EVICTED
            used, users = inventory.uses[number], inventory.users[number]
            ctime_ns = 0 if links else status.st_ctime_ns
            self.victims.add(Victim(digest, size, used, users, status.st_ino, ctime_ns, reason, expert))
        return size
