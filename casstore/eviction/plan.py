"""Plans of a collection: what is to go so that the store keeps its budget, and what holds the rest. Reads only.

What counts is what is really freed: a blob goes when all its users go, and one with other links (a view handed out as
a link) frees nothing and stays. Blobs without users go first, the rest by their newest use. A file that got its name a
moment ago and has no row may be a publication in flight: it counts as just used.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from casstore.blobs.staging import Inode
from casstore.eviction.budget import Budget, free_bytes
from casstore.eviction.inventory import FIRST_USE, MIXED_RULES, Inventory
from casstore.eviction.policies import eviction_order
from casstore.eviction.victims import Reason, VictimList
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.eviction_history import NO_EXPERT, read_scores

_SLACK: Final = 100
"""A hundredth more goes than has to, so that the next fill does not ask again."""


_STAYS, _GOES = 1, 2


@dataclass(frozen=True, slots=True)
class Retained:
    """A blob whose turn it was and that stays: it is pinned, or has other links and would free nothing.

    *holders* names those links; of a pin there are none.
    """

    digest: bytes
    size: int
    holders: tuple[str, ...]
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection will do. *stored* bytes lie in *blobs* files, the disk has *free* bytes left, *asked* bytes are
    to go for the *budget*, and *at_least* so many whatever it says; *doomed* are the blobs that do go, in this order,
    *held* those that cannot. By *overdue* bytes the sizes of rules are missed even so.
    """

    budget: Budget
    generation: int
    stored: int
    blobs: int
    free: int
    requested_bytes: int
    victims: VictimList
    retained: Sequence[Retained]
    at_least: int = 0
    rule_overrun: int = 0

    @property
    def reclaimable_bytes(self) -> int:
        """Bytes that it frees if nothing comes back into use."""
        return self.victims.bytes

    def shortfall(self, freed: int, beside: int = 0) -> int:
        """Bytes that still have to go once blobs of *freed* bytes have, and *beside* bytes that were no blobs."""
        over = 0 if self.budget.max_size is None else self.stored - freed - self.budget.max_size
        lack = max(self.budget.min_free - self.free, self.at_least) - freed - beside
        return max(0, over, lack)


def _wanted_bytes(limit: int, over: int, reserve: int, lack: int) -> int:
    """How much goes: a hundredth more than has to, and enough for a hundredth less than the budget."""
    return max(
        over + max(over, limit) // _SLACK if over > 0 else 0,
        lack + max(lack, reserve) // _SLACK if lack > 0 else 0,
    )


def make_plan(index: Index, layout: Layout, budget: Budget, at_least: int = 0) -> Plan:
    """See what there is and choose what goes. One reads-only pass over the rows and the names in ``blobs/``.

    What its age or the size of a rule takes goes first, and counts for the sizes of all.
    """
    survey = Inventory(index, layout, budget.max_age, budget.rules)
    scores = index.read(read_scores)
    free = free_bytes(layout.root)
    over = 0 if budget.max_size is None else survey.stored - budget.max_size
    lack = max(budget.min_free - free, at_least)
    order = sorted(survey.numbers(), key=survey.uses.__getitem__)
    choice = _Choice(layout, survey)
    overdue = choice.by_rules(order, budget) if budget.has_rules else 0
    front = bisect_left(order, FIRST_USE, key=survey.uses.__getitem__)
    turns = chain(
        ((number, NO_EXPERT) for number in order[:front]), eviction_order(order[front:], budget.policy, scores)
    )
    choice.by_size(turns, _wanted_bytes(budget.max_size or 0, over, budget.min_free, lack) - choice.doomed.bytes)
    asked = max(0, over, lack)
    return Plan(
        budget,
        survey.generation,
        survey.stored,
        survey.blobs,
        free,
        asked,
        choice.doomed,
        choice.held(),
        at_least,
        overdue,
    )


class _Choice:
    """What goes of a survey, blob by blob."""

    def __init__(self, layout: Layout, survey: Inventory) -> None:
        self._layout = layout
        self._survey = survey
        self._looked = bytearray(len(survey.digests))
        self._linked: list[tuple[bytes, os.stat_result]] = []
        self._pinned: list[Retained] = []
        # Rows without a file and without users: nothing to lose.
        self.doomed = VictimList()
        for number in survey.stale_rows:
            self.doomed.add(survey.digests[number])

    def held(self) -> tuple[Retained, ...]:
        """Whose turn it was and who stays."""
        return (*_name_holders(self._layout, self._linked), *self._pinned)

    def by_rules(self, order: Sequence[int], budget: Budget) -> int:
        """Take what is past its age, and what a rule's size has no room for; by how many bytes those are missed."""
        survey, now = self._survey, time.time()
        if survey.due:
            for number in order:
                if survey.due[number] < now and not survey.is_pinned(number):
                    self._take(number, Reason.AGE)
        return self._by_rule_sizes(order, budget)

    def _by_rule_sizes(self, order: Sequence[int], budget: Budget) -> int:
        rules = self._survey.rules
        sizes = [0] * (MIXED_RULES + 1)
        for number in order:
            if self._looked[number] != _GOES:
                sizes[rules[number]] += self._survey.sizes[number]
        missed, wanted = [0] * (MIXED_RULES + 1), [0] * (MIXED_RULES + 1)
        for rule, limit in enumerate((rule.max_size for rule in budget.rules), 1):
            if limit is not None and sizes[rule] > limit:
                missed[rule] = sizes[rule] - limit
                wanted[rule] = _wanted_bytes(limit, missed[rule], 0, 0)
        for number in order if any(wanted) else ():
            rule = rules[number]
            if wanted[rule] > 0 and not self._looked[number]:
                freed = self._take(number, Reason.RULE)
                wanted[rule] -= freed
                missed[rule] -= freed
        return sum(max(0, over) for over in missed)

    def by_size(self, turns: Iterable[tuple[int, int]], wanted: int) -> None:
        """Take what comes first, each by its way, until *wanted* bytes are found."""
        for number, way in turns:
            if wanted <= 0:
                break
            if not self._looked[number]:
                wanted -= self._take(number, Reason.SIZE, way)

    def _take(self, number: int, why: Reason, way: int = NO_EXPERT) -> int:
        """The bytes that this frees: 0 for what stays."""
        survey = self._survey
        digest = survey.digests[number]
        self._looked[number] = _STAYS
        if survey.is_pinned(number):
            self._pinned.append(Retained(digest, survey.sizes[number], (), is_pinned=True))
            return 0
        status = files.lstat_regular(self._layout.blob(digest))
        if status is None:
            return 0  # taken by another collector
        size = status.st_size
        if status.st_nlink > 1:
            self._linked.append((digest, status))
            return 0
        if size:
            self._looked[number] = _GOES
            used, users = survey.uses[number], survey.users[number]
            self.doomed.add(digest, size, used, users, status.st_ino, status.st_ctime_ns, why, way)
        return size


def _name_holders(layout: Layout, linked: Sequence[tuple[bytes, os.stat_result]]) -> tuple[Retained, ...]:
    if not linked:
        return ()
    names: dict[tuple[int, int], list[str]] = {(status.st_dev, status.st_ino): [] for _, status in linked}
    for device, inode, path in _views(layout):
        found = names.get((device, inode))
        if found is not None and path not in found and Inode.at(path) == Inode(device, inode):
            found.append(path)
    return tuple(
        Retained(digest, status.st_size, tuple(names[status.st_dev, status.st_ino]) or ("links outside of the store",))
        for digest, status in linked
    )


def _views(layout: Layout) -> Iterator[tuple[int, int, str]]:
    """Device, inode and path of every view that any lease has in its list."""
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.leases) as leases:
        for lease in leases:
            with contextlib.suppress(OSError), open(LeaseLayout(lease.path).views_list, "rb") as lines:
                for line in lines:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        view = json.loads(line)
                        yield view["device"], view["inode"], view["path"]
