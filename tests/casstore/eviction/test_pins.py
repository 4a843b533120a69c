"""Pins: what is pinned is never evicted, whatever the budget, whoever races and whenever somebody is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

import casstore
from casstore import Cache, NotHeldError
from casstore.cli.main import run
from casstore.eviction import clear as clearing
from casstore.eviction import removal
from casstore.fs import files
from casstore.index.database import Index
from tests.casstore.support import replay as playing
from tests.casstore.support.fill import eventually, fill, fork, key_of, read, status_of
from tests.casstore.support.stores import HOUR, dangling, stored, used_at
from tests.harness.scheduler import Points, Step, explore

A = "s3://bucket/a"


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Three objects of 1000 bytes, the first used longest ago."""
    for hour, name in enumerate(("a", "b", "d/c")):
        used_at(cache, fill(cache, key_of(name), name[-1:].encode() * 1000), HOUR + hour)
    return cache


def _uris(cache: Cache) -> list[str]:
    return [entry.uri for entry in cache.entries()]


def _empty(cache: Cache) -> casstore.CollectResult:
    return cache.execute(cache.plan(max_size=0, min_free=0))


# --- what a pin is ---------------------------------------------------------------------------------------------------


def test_what_is_pinned_survives_a_collection_and_the_plan_says_what_pins_hold(filled: Cache) -> None:
    (pin,) = filled.pin(A)
    assert pin.key == key_of("a")
    plan = filled.plan(max_size=0, min_free=0)
    assert [(held.size, held.is_pinned, held.holders) for held in plan.retained] == [(1000, True, ())]
    assert plan.shortfall(plan.reclaimable_bytes) == 1000
    freed = filled.execute(plan)
    assert (freed.bytes, freed.shortfall, [held.is_pinned for held in freed.retained]) == (2000, 1000, [True])
    assert (_uris(filled), read(filled, key_of("a")), stored(filled)) == ([A], b"a" * 1000, 1000)


def test_where_the_budget_is_met_before_their_turn_pins_hold_nothing(filled: Cache) -> None:
    filled.pin("s3://bucket/d/c")
    assert filled.plan(max_size=2500, min_free=0).retained == ()


def test_what_is_pinned_survives_an_eviction_that_names_it(filled: Cache) -> None:
    filled.pin(A)
    freed = filled.evict(lambda _: True)
    assert (freed.entries, _uris(filled), read(filled, key_of("a"))) == (2, [A], b"a" * 1000)


def test_a_blob_stays_for_all_who_share_it_while_one_of_them_is_pinned(filled: Cache) -> None:
    fill(filled, key_of("a2"), b"a" * 1000)
    filled.pin("s3://bucket/a2")
    _empty(filled)
    assert _uris(filled) == [A, "s3://bucket/a2"]


def test_what_is_unpinned_goes_with_the_next_collection(filled: Cache) -> None:
    filled.pin(A)
    assert [pin.uri for pin in filled.unpin(A)] == [A]
    assert (list(filled.pins()), os.listdir(filled.layout.pins)) == ([], [])
    _empty(filled)
    assert _uris(filled) == []


def test_a_prefix_pins_what_is_held_below_it_now_and_nothing_later(filled: Cache) -> None:
    fill(filled, key_of("d/e"), b"e")
    assert [pin.uri for pin in filled.pin("s3://bucket/d/")] == ["s3://bucket/d/c", "s3://bucket/d/e"]
    fill(filled, key_of("d/later"), b"later")
    _empty(filled)
    assert _uris(filled) == ["s3://bucket/d/c", "s3://bucket/d/e"]
    assert [pin.uri for pin in filled.unpin("s3://bucket/d/")] == ["s3://bucket/d/c", "s3://bucket/d/e"]


def test_a_name_without_a_slash_at_its_end_is_that_object_alone(filled: Cache) -> None:
    fill(filled, key_of("a/below"), b"below")
    fill(filled, key_of("ab"), b"beside")
    assert [pin.uri for pin in filled.pin(A)] == [A]
    with pytest.raises(NotHeldError, match="not cached"):
        filled.pin("s3://bucket/d")


def test_a_name_that_is_not_held_is_an_error_that_says_how_to_get_it_and_nothing_is_pinned(filled: Cache) -> None:
    with pytest.raises(NotHeldError, match="casstore get s3://bucket/none"):
        filled.pin(A, "s3://bucket/none")
    with pytest.raises(NotHeldError, match="casstore prefetch s3://bucket/none/"):
        filled.pin("s3://bucket/none/")
    with pytest.raises(FileNotFoundError):
        filled.unpin(A)
    assert list(filled.pins()) == []


def test_one_uri_of_two_origins_is_two_pins(cache: Cache) -> None:
    fill(cache, key_of("a", "s3"), b"one")
    fill(cache, key_of("a", "s3@elsewhere"), b"two")
    assert [pin.key.origin for pin in cache.pin(A)] == ["s3", "s3@elsewhere"]
    assert len(os.listdir(cache.layout.pins)) == 2


def test_a_long_uri_can_be_pinned(cache: Cache) -> None:
    key = key_of("x" * 1024)
    fill(cache, key, b"long")
    fill(cache, key_of("x" * 1023 + "y"), b"other")
    cache.pin(key.uri)
    plan = cache.plan(max_size=0, min_free=0)
    assert (len(plan.victims), [held.is_pinned for held in plan.retained]) == (1, [True])
    cache.execute(plan)
    cache.evict(lambda _: True)
    assert (_uris(cache), [pin.key for pin in cache.pins()]) == ([key.uri], [key])


def test_pinning_twice_is_one_pin_and_keeps_its_time(filled: Cache) -> None:
    filled.pin(A)
    (before,) = filled.pins()
    filled.pin(A, A)
    assert list(filled.pins()) == [before]


# --- what a pin is of ------------------------------------------------------------------------------------------------


def test_a_pin_follows_the_uri_to_its_new_version_and_lets_the_old_one_go(filled: Cache) -> None:
    filled.pin(A)
    fill(filled, key_of("a"), b"n" * 500, "e2")
    _empty(filled)
    assert (read(filled, key_of("a")), stored(filled)) == (b"n" * 500, 500)


def test_a_pin_outlives_its_entry_and_holds_for_what_comes_back(filled: Cache) -> None:
    filled.pin(A)
    filled.record_delete(key_of("a"))
    assert [pin.uri for pin in filled.pins()] == [A]
    fill(filled, key_of("a"), b"again", "e3")
    _empty(filled)
    assert read(filled, key_of("a")) == b"again"


def test_pins_outlive_the_index(filled: Cache) -> None:
    filled.pin(A)
    filled.index._supersede(filled.index.generation, "for a test")
    filled.index.close()
    with pytest.warns(UserWarning, match="index was damaged"):
        fill(filled, key_of("a"), b"a" * 1000)
    _empty(filled)
    assert read(filled, key_of("a")) == b"a" * 1000


def test_a_pin_whose_contents_are_of_another_uri_is_unreadable(filled: Cache) -> None:
    filled.pin(A)
    path = Path(filled.layout.pin(key_of("b").name))
    path.write_bytes(Path(filled.layout.pin(key_of("a").name)).read_bytes())
    assert [pin.uri for pin in filled.pins()] == [A]
    assert filled.unreadable_pins() == [str(path)]


def test_a_pin_that_cannot_be_read_holds_and_is_told(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    filled.pin(A)
    path = Path(filled.layout.pin(key_of("a").name))
    path.write_bytes(b"")
    _empty(filled)
    assert (_uris(filled), list(filled.pins()), filled.unreadable_pins()) == ([A], [], [str(path)])
    assert run(["--dir", filled.root, "pin"]) == 0
    assert str(path) in capsys.readouterr().err


def test_where_it_cannot_be_told_whether_a_uri_is_pinned_nothing_goes(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = filled.plan(max_size=0, min_free=0)
    lstat = os.lstat

    def fail(path: str) -> os.stat_result:
        if path.startswith(filled.layout.pins):
            raise OSError(5, os.strerror(5), path)
        return lstat(path)

    with monkeypatch.context() as failing:
        failing.setattr(os, "lstat", fail)
        with pytest.raises(OSError, match="Input/output"):
            filled.execute(plan)
    assert len(_uris(filled)) == 3


def test_a_store_without_its_directory_of_pins_collects_all_the_same(filled: Cache) -> None:
    os.rmdir(filled.layout.pins)
    _empty(filled)
    assert _uris(filled) == []


# --- trims -----------------------------------------------------------------------------------------------------------


def test_a_trim_while_filling_and_one_for_a_full_disk_pass_pins_by(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_MAX_SIZE", "2500")
    cache = casstore.open(root)
    used_at(cache, fill(cache, key_of("a"), b"a" * 1000), HOUR)
    cache.pin(A)
    for name in ("b", "c", "d", "e"):
        fill(cache, key_of(name), name.encode() * 1000)
        eventually(lambda: not cache.background._is_running)
    assert (read(cache, key_of("a")), stored(cache)) == (b"a" * 1000, 2000)
    assert cache.background.make_room(1) is True
    assert _uris(cache) == [A]


# --- races -----------------------------------------------------------------------------------------------------------


class _Stage:
    """A store in which somebody pins while somebody evicts, step by step."""

    def __init__(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        playing.hurry(monkeypatch)
        cache.close()
        self.cache = cache
        self.points = Points(monkeypatch)
        self.points.wrap_lock(Index, "write_once")
        self.points.wrap(Index, "read", after=True)
        self.points.wrap(files, "link")
        self.points.wrap(files, "rename")

    def play(self, evict: Callable[[], object], choices: Sequence[int]) -> list[Step]:
        for pin in list(self.cache.pins()):
            self.cache.unpin(pin.uri)
        fill(self.cache, key_of("a"), b"a" * 1000)
        pinned: list[bool] = []

        def pin_it() -> None:
            try:
                self.cache.pin(A)
                pinned.append(True)
            except NotHeldError:
                pinned.append(False)

        steps = self.points.run([pin_it, evict], choices)
        is_held = read(self.cache, key_of("a")) == b"a" * 1000
        assert pinned == [is_held], "what was pinned was evicted"
        assert len(os.listdir(self.cache.layout.pins)) == is_held
        return steps


_WAYS: dict[str, Callable[[Cache], object]] = {
    "a plan": _empty,
    "by hand": lambda cache: cache.evict(lambda _: True),
    # Without reaping, which starts a process each time.
    "clearing": lambda cache: clearing.Clearing(cache.index, cache.layout, "", 0).clear(None),
}


@pytest.mark.parametrize("how", _WAYS)
def test_a_pin_against_an_eviction_in_any_order_is_refused_or_holds(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stage = _Stage(cache, monkeypatch)
    evict = partial(_WAYS[how], cache)
    outcomes = set()
    for _ in explore(partial(stage.play, evict), preemptions=2, most=150):
        outcomes.add(bool(_uris(cache)))
    assert outcomes == {True, False}  # each of the two was first at times


@pytest.mark.parametrize("how", _WAYS)
def test_without_the_look_inside_the_transaction_the_same_orders_lose_a_pin(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    playing.skip_look_at_pins(monkeypatch)
    stage = _Stage(cache, monkeypatch)
    evict = partial(_WAYS[how], cache)
    with pytest.raises(AssertionError, match="what was pinned was evicted"):
        list(explore(partial(stage.play, evict), preemptions=2, most=150))


def test_a_pin_named_in_a_transaction_that_was_lost_with_its_index_goes_again(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = files.link

    def link_and_replace(source: str, target: str) -> None:
        link(source, target)
        filled.index._supersede(filled.index.generation, "for a test")

    monkeypatch.setattr(files, "link", link_and_replace)
    with pytest.warns(UserWarning, match="index was damaged"), pytest.raises(NotHeldError):
        filled.pin(A)
    assert os.listdir(filled.layout.pins) == []


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "when", "is_pinned"),
    [
        ("open_named", "after", False),
        ("sync", "after", False),
        ("link", "before", False),
        ("link", "after", True),
        ("sync_directory", "before", True),
        ("sync_directory", "after", True),
    ],
)
def test_whoever_pins_and_is_killed_leaves_a_whole_pin_or_none(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, name: str, when: str, *, is_pinned: bool
) -> None:
    real = getattr(files, name)

    def killed(*arguments: object) -> object:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def pin_and_die() -> None:
        monkeypatch.setattr(files, name, killed)
        filled.pin(A)

    assert status_of(fork(pin_and_die)) == -signal.SIGKILL
    assert [pin.uri for pin in filled.pins()] == [A] * is_pinned
    assert filled.unreadable_pins() == []
    _empty(filled)
    assert _uris(filled) == [A] * is_pinned
    if is_pinned:
        filled.unpin(A)
    assert dangling(filled) == []


@pytest.mark.parametrize(("when", "is_pinned"), [("before", True), ("after", False)])
def test_whoever_unpins_and_is_killed_leaves_a_whole_pin_or_none(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, when: str, *, is_pinned: bool
) -> None:
    filled.pin(A)
    real = files.unlink_quietly

    def killed(path: str) -> None:
        if when == "after":
            real(path)
        os.kill(os.getpid(), signal.SIGKILL)

    def unpin_and_die() -> None:
        monkeypatch.setattr(files, "unlink_quietly", killed)
        filled.unpin(A)

    assert status_of(fork(unpin_and_die)) == -signal.SIGKILL
    _empty(filled)
    assert _uris(filled) == [A] * is_pinned


def test_a_collector_killed_between_its_two_transactions_has_not_touched_what_is_pinned(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.pin(A)

    def collect_and_die() -> None:
        monkeypatch.setattr(removal.Removal, "sweep", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        _empty(filled)

    assert status_of(fork(collect_and_die)) == -signal.SIGKILL
    assert (_uris(filled), stored(filled)) == ([A], 3000)
    _empty(filled)
    assert (read(filled, key_of("a")), stored(filled)) == (b"a" * 1000, 1000)


# --- the command -----------------------------------------------------------------------------------------------------


def _run(cache: Cache, *arguments: str) -> int:
    return run(["--dir", cache.root, *arguments])


def test_the_command_pins_lists_and_unpins(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(filled, "pin") == 0
    assert capsys.readouterr().out == "nothing is pinned\n"
    assert _run(filled, "pin", A, "s3://bucket/d/") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["pinned", "1.0", "KiB", "now", A],
        ["pinned", "1.0", "KiB", "now", "s3://bucket/d/c"],
    ]
    filled.record_delete(key_of("d/c"))
    assert _run(filled, "pin", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(fact["uri"], fact["is_held"], fact["size"]) for fact in listed] == [
        (A, True, 1000),
        ("s3://bucket/d/c", False, None),
    ]
    assert _run(filled, "unpin", A, "s3://bucket/d/") == 0
    assert _run(filled, "pin", "--json") == 0
    assert list(filled.pins()) == []


def test_a_name_that_fails_does_not_stop_the_others(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(filled, "pin", "s3://bucket/none", A) == 1
    captured = capsys.readouterr()
    assert "casstore get s3://bucket/none" in captured.err
    assert [pin.uri for pin in filled.pins()] == [A]
    assert _run(filled, "unpin") == 2
    assert _run(filled, "unpin", "s3://bucket/none") == 1


def test_gc_names_what_pins_hold_only_where_the_budget_is_missed(
    filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.pin(A)
    assert _run(filled, "gc", "--max-size", "2500", "--min-free", "0", "--dry-run") == 0
    assert "pinned" not in capsys.readouterr().out
    assert _run(filled, "gc", "--max-size", "500", "--min-free", "0", "--yes") == 1
    captured = capsys.readouterr()
    assert f"{A}: pinned" in captured.out
    assert "1.0 KiB in 1 blobs are pinned (`casstore unpin URI` removes a pin)" in captured.err
    assert _run(filled, "gc", "--max-size", "500", "--min-free", "0", "--yes", "--json") == 1
    (held,) = json.loads(capsys.readouterr().out)["held"]
    assert (held["uris"], held["is_pinned"], held["linked_from"]) == ([A], True, [])
