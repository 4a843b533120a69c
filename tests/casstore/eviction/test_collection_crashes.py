"""`kill -9` at every step of what takes away: no entry without its blob, nothing lost that cannot be fetched again, and
the next collection, or clearing, finishes.

A run without a kill finds the steps: see `tests.harness.crash_points`. Protections have their negative controls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

import casstore
from casstore import Cache, PendingState, PendingWrite, Place
from casstore.eviction import clear as clearing
from casstore.eviction import collector, reaper
from casstore.eviction.collector import CollectResult
from casstore.fs import files
from casstore.index.database import Index
from casstore.local.changes import ChangeRecorder
from tests.casstore.pending.test_store import keep
from tests.casstore.support.damage import change
from tests.casstore.support.fill import fill, forked, key_of, read, replace_in
from tests.casstore.support.local_edits import held, in_place, outbox_of, view_of
from tests.casstore.support.stores import add_orphan, dangling, stored
from tests.harness.crash_points import Steps, crash
from tests.harness.sampling import sampled

# Without locks that exclude, nobody can tell that a process is dead.
pytestmark = [pytest.mark.needs_locks]

CONTENTS = {name: name.encode() * 100 for name in ("a", "b", "c", "pinned", "wrong")} | {"twin": b"a" * 100}
ROOM = 100
"""Bytes that the budget leaves: those of the pinned entry go beyond it."""
LOST = {
    ("edited", PendingState.EDIT, b"mine"),
    ("made", PendingState.INCOMPLETE, b"made"),
    ("private", PendingState.INCOMPLETE, b"private"),
}
"""What the dead process had not told of."""
TOLD = ("k", PendingState.FAILED, b"told")


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes by the hundred are killed, and none of them loses its power. That locks exclude is known."""
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda directory: True)
    # Nothing is on its way here, however young it is.
    monkeypatch.setattr(clearing, "IN_FLIGHT_SECONDS", -1)


# --- a store with one of everything ----------------------------------------------------------------------------------


def _furnish(root: Path) -> None:
    cache = casstore.open(root)
    for name, data in CONTENTS.items():
        fill(cache, key_of(name), data)
    cache.pin(key_of("pinned").uri)
    keep(cache, b"told")
    add_orphan(cache, b"nobody's")
    Path(cache.layout.trashed("old")).write_bytes(b"swept, and never unlinked")
    wrong = next(iter(cache.entries_of(key_of("wrong").uri)))
    change(Path(cache.blob_path(wrong)), lambda path: path.write_bytes(b"WRONG" * 100))

    def leave() -> None:
        in_place(view_of(cache, "edited"))
        view_of(cache, "clean")
        outbox_of(cache, "made").write_bytes(b"made")
        private = cache.local.private_path(Place(key_of("private"), "bucket", "private"), None)
        Path(private).write_bytes(b"private")

    assert forked(leave) == 0
    cache.close()


Act = Callable[[Cache], object]


def _collect(cache: Cache) -> CollectResult:
    return cache.execute(cache.plan(max_size=ROOM, min_free=0))


def _evict(cache: Cache) -> CollectResult:
    return cache.evict(lambda entry: True)


def _repair(cache: Cache) -> object:
    return cache.verify(repair=True)


def _clear(cache: Cache) -> object:
    return cache.clear()


def _steps_of(act: Act, root: Path, last: int | None, breaks: Callable[[], None] | None) -> list[str]:
    def work(steps: Steps) -> None:
        cache = casstore.open(root)
        if breaks is not None:
            breaks()
        steps.wrap_system_calls()
        steps.wrap_transactions(Index, "write_once")
        steps.begin()
        act(cache)
        steps.say("done")

    run = crash(work, root.with_name(f"{root.name}.log"), last)
    assert (run.status, run.said) == ((0, ["done"]) if last is None else (-9, []))
    return run.points


def _kills(
    act: Act, directory: Path, quick: int | None = None, breaks: Callable[[], None] | None = None, every: int = 1
) -> Iterator[tuple[str, int]]:
    """Kill at one of *every* so many points (without ``--full``: a sample of *quick* of them); the name of each and the
    status of a look at what is left.
    """
    whole = directory / "whole"
    _furnish(whole)
    points = _steps_of(act, whole, None, breaks)
    assert len(points) > 10, "the enumeration misses most points"
    for number in sampled(range(0, len(points), every), quick or len(points), directory.name):
        root = directory / str(number)
        _furnish(root)
        # Random names give directories another order: what has been done by the same point may differ.
        assert _steps_of(act, root, number, breaks)[-1:]
        yield points[number], forked(partial(_look, root, _clear if act is _clear else _collect))


def _look(root: Path, finish: Act) -> None:
    """What must hold after a kill, and after *finish*, in a process of its own; raises AssertionError."""
    cache = casstore.open(root)
    assert dangling(cache) == [], "an entry has no blob"
    for name, data in CONTENTS.items():
        if name != "wrong":
            assert read(cache, key_of(name)) in (data, None), "a reader got wrong bytes"
    assert read(cache, key_of("pinned")) == CONTENTS["pinned"], "a pinned entry is gone"
    finish(cache)
    kept = [(uri.rpartition("/")[2], state, data) for uri, state, data in held(cache)]
    assert set(kept) == {TOLD, *LOST}, "something that cannot be fetched again was lost"
    assert len(kept) == 4, "and is there once"
    # A clearing leaves the version that an edit started from, unless it was gone before.
    left = {entry.uri.rpartition("/")[2]: entry.size for entry in cache.entries()}
    assert set(left) - ({"edited"} if finish is _clear else set()) == {"pinned"}
    assert stored(cache) <= sum(left.values())
    assert os.listdir(cache.layout.trash) == []
    assert set(os.listdir(cache.layout.leases)) <= {cache.lease.name}
    assert cache.verify().is_sound


@pytest.mark.parametrize("act", [_collect, _evict, _repair, _clear])
def test_what_is_killed_while_it_takes_away_leaves_a_sound_store_and_the_next_collection_finishes(
    tmp_path: Path, act: Act
) -> None:
    assert [point for point, status in _kills(act, tmp_path, quick=5) if status] == []


# --- negative controls -----------------------------------------------------------------------------------------------


def _sweep_before_the_rows_go() -> None:
    drop = collector.PlanRemoval.drop

    def sweep_first(self: Any, batch: Any) -> Any:
        for blob in batch:
            files.rename(self.layout.blob(blob.digest), self.layout.trashed(blob.digest.hex()))
        return drop(self, batch)

    replace_in(collector, _is_file_as_planned=lambda layout, blob: True)
    replace_in(collector.PlanRemoval, drop=sweep_first)


def _sweep_before_the_rows_of_a_clearing_go() -> None:
    drop = clearing.Clearing.drop

    def sweep_first(self: Any, rows: Any) -> Any:
        for digest in self.index.read(lambda txn: self.select(txn, rows)).uris:
            if os.path.exists(self.layout.blob(digest)):
                files.rename(self.layout.blob(digest), self.layout.trashed(os.urandom(8).hex()))
        return drop(self, rows)

    replace_in(clearing.Clearing, drop=sweep_first)


def _record_changes_after_their_tree_has_gone() -> None:
    remove = ChangeRecorder.remove_private

    def move_first(self: ChangeRecorder, tree: str) -> list[PendingWrite]:
        layout = self.paths.layout
        files.rename(layout.local_path(tree), layout.trashed(tree))
        files.rename(layout.trashed(tree), layout.local_path(tree))
        return remove(self, tree)

    replace_in(ChangeRecorder, remove_private=move_first)


def _pass_pins_by() -> None:
    replace_in(collector, is_pinned=lambda layout, name: False)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("breaks", "act", "what"),
    [
        (_sweep_before_the_rows_go, _collect, "an entry has no blob"),
        (
            _record_changes_after_their_tree_has_gone,
            _collect,
            "something that cannot be fetched again was lost",
        ),
        (_pass_pins_by, _evict, "a pinned entry is gone"),
        (_record_changes_after_their_tree_has_gone, _clear, "something that cannot be fetched again was lost"),
        (_sweep_before_the_rows_of_a_clearing_go, _clear, "an entry has no blob"),
    ],
)
def test_without_a_protection_the_same_kills_find_a_loss(
    tmp_path: Path, breaks: Callable[[], None], act: Act, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert any(status for _, status in _kills(act, tmp_path, breaks=breaks, every=3))
    assert what in capfd.readouterr().err
