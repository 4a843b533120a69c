"""Enumerations of many points: whole with ``--full``, and by a seeded sample in the quick pass.

`sampled` chooses inside of a test; ``@pytest.mark.sampled(N)`` keeps N cases of a parametrized test, of a class or of a
module (as its ``pytestmark``). The seed is ``CASSTORE_TEST_SEED``, else the commit's: a run can be repeated, and each
commit tries other points.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeVar

import pytest

T = TypeVar("T")

SEED_VARIABLE: Final = "CASSTORE_TEST_SEED"

_state = {"is_full": False, "is_torture": False}


def configure(*, is_full: bool, is_torture: bool) -> None:
    """Say how much this run has time for; before the tests are collected."""
    _state.update(is_full=is_full, is_torture=is_torture)


@cache
def seed() -> int:
    """Return the seed of all samples."""
    given = os.environ.get(SEED_VARIABLE)
    if given is not None:
        return int(given)
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return int(answer.stdout[:8], 16) if answer.returncode == 0 else 0


def by_pass(quick: T, full: T, torture: T | None = None) -> T:
    """Return the one that is for this run."""
    if _state["is_torture"] and torture is not None:
        return torture
    return full if _state["is_full"] else quick


def sampled(points: Iterable[T], quick: int, name: str) -> list[T]:
    """Return all *points* with ``--full``, else *quick* of them in their order; *name* makes samples differ."""
    everything = list(points)
    return draw(everything, by_pass(quick, len(everything)), name)


def draw(points: Sequence[T], count: int, name: str) -> list[T]:
    """Return *count* of *points* in their order, or all where there are no more."""
    chosen = random.Random(f"{seed()} {name}").sample(range(len(points)), min(count, len(points)))
    return [points[number] for number in sorted(chosen)]


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the sample, except where the tests were named one by one."""
    if _state["is_full"] or config.getoption("keyword") or any("::" in argument for argument in config.args):
        return
    groups: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("skip") is not None:
            continue
        for node, mark in item.iter_markers_with_node("sampled"):
            # A mark of a function is one of each of its cases: they are told apart by what is before the bracket.
            groups.setdefault((node.nodeid.partition("[")[0], mark.args[0]), []).append(item)
            break
    left_out: set[pytest.Item] = set()
    for (name, count), group in groups.items():
        left_out |= set(group) - set(draw(sorted(group, key=attrgetter("nodeid")), count, name))
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
