"""Two writers, a collector and a reader in every order over named points: no scene is left before its last order.

One writer fills a URI with the bytes of a blob that the collector plans to take; what the other one does is the scene.
Each protection has its negative control: without it, the same orders must show a violation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from casstore.eviction import collector, pins, removal
from casstore.eviction.pins import Pins
from casstore.format.keys import blob_row, user_prefix
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import updates as items
from casstore.index.database import Index
from casstore.index.transactions import Txn
from tests.casstore.support import replay as playing
from tests.casstore.support.scenes import SCENES, Passing, Scene, Stage
from tests.harness.scheduler import Step, explore, unplayed

pytestmark = pytest.mark.usefixtures("one_processor")


@pytest.fixture
def stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scene], Stage]:
    return partial(Stage, root, monkeypatch)


@pytest.mark.parametrize("name", SCENES)
def test_some_orders_of_two_writers_a_collector_and_a_reader_keep_every_promise(
    stage: Callable[[Scene], Stage], name: str
) -> None:
    assert len(list(explore(stage(SCENES[name]).play, most=15))) == 15


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_every_order_of_two_writers_a_collector_and_a_reader_keeps_every_promise(
    stage: Callable[[Scene], Stage], name: str
) -> None:
    scene = SCENES[name]
    runs = list(explore(stage(scene).play))
    orders = {tuple(step.chosen for step in steps) for steps in runs}
    assert unplayed(runs) == set()
    assert len(orders) == len(runs) == scene.orders
    pairs = _pairs(runs)
    passed = set().union(*pairs)
    assert passed == {(who, point) for who, (_, points) in enumerate(scene.parts) for point in points}
    assert {(first, then) for first, then in pairs if (then, first) not in pairs} == scene.only


def _pairs(runs: Sequence[Sequence[Step]]) -> set[tuple[Passing, Passing]]:
    """Of every two who take part, the points that they passed one after the other."""
    found = set()
    for steps in runs:
        passed = [(step.chosen, step.at) for step in steps if step.at != "the start"]
        found |= {(first, then) for first, then in combinations(passed, 2) if first[0] != then[0]}
    return found


# --- without a protection --------------------------------------------------------------------------------------------


def _pin_outside_of_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reads:
        def __init__(self, index: Index) -> None:
            self.write = index.read

    init = Pins.__init__

    def init_without(self: Any, layout: Layout, index: Index) -> None:
        init(self, layout, index)
        self._index = Reads(index)

    monkeypatch.setattr(Pins, "__init__", init_without)


def _pin_what_was_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "current_entry", lambda txn, key: key)


def _evict_whoever_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same(int):
        def __ne__(self, other: object) -> bool:
            return False

    monkeypatch.setattr(collector, "users_checksum", lambda users: Same())


def _give_up_what_was_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items.PublishEntry, "retry_outside", lambda self, blobs: False)


def _hand_out_whatever_was_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda one, other: True)


def _rename_after_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(self: removal.Removal[Any], digests: Sequence[bytes]) -> dict[bytes, os.stat_result | None]:
        layout = self.layout

        def delete(txn: Txn) -> list[bytes]:
            unused = [digest for digest in digests if not txn.has(user_prefix(digest))]
            for digest in unused:
                txn.delete(blob_row(digest))
            return unused

        unused = self.index.write_once(delete)
        for digest in unused:
            files.rename(layout.blob(digest), layout.trashed(digest.hex()))
            files.unlink_quietly(layout.trashed(digest.hex()))
        return dict.fromkeys(unused, os.stat(layout.blobs))

    monkeypatch.setattr(removal.Removal, "sweep_batch", sweep)


@pytest.mark.parametrize(
    ("skip", "name", "violation"),
    [
        (playing.skip_check_of_use, "fills another with the same bytes", "an entry has no blob"),
        (playing.skip_check_of_use, "links what is held", "an entry has no blob"),
        (playing.skip_inode_check, "fills another with the same bytes", "an entry has no blob"),
        (playing.skip_inode_check, "links what is held", "an entry has no blob"),
        (_rename_after_the_transaction, "fills another with the same bytes", "an entry has no blob"),
        (playing.skip_look_at_pins, "pins the entry", "what was pinned was evicted"),
        (_pin_outside_of_a_transaction, "pins the entry", "what was pinned was evicted"),
        (_pin_what_was_held, "pins the entry", "what was pinned was evicted"),
        (_evict_whoever_uses_it, "fills another with the same bytes", "filled since the plan was evicted"),
        (_give_up_what_was_swept, "replaces the entry", "filled since the plan was evicted"),
        (playing.skip_look_at_what_was_opened, "fills with other bytes of the same digest", "a reader got other bytes"),
        (_hand_out_whatever_was_linked, "is handed out a path while other bytes get the name", "has other bytes"),
    ],
)
def test_without_a_protection_the_same_orders_show_a_violation(
    stage: Callable[[Scene], Stage],
    monkeypatch: pytest.MonkeyPatch,
    skip: Callable[[pytest.MonkeyPatch], None],
    name: str,
    violation: str,
) -> None:
    skip(monkeypatch)
    with pytest.raises(AssertionError, match=violation):
        list(explore(stage(SCENES[name]).play, most=3000))
