"""Which local paths processes use: as long as somebody has them, whoever forks, closes, or is killed."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from casstore import Cache
from casstore.local.uses import LocalUse, UsesOfAll
from tests.casstore.support.fill import eventually, fork, forked, key_of, status_of


def _used(cache: Cache, *names: str) -> list[str]:
    found = UsesOfAll(cache.layout)
    return [name for name in names if found.include([name])]


def test_a_path_is_used_until_its_last_use_ends(cache: Cache) -> None:
    uses = cache.local.uses
    assert not UsesOfAll(cache.layout).has_processes
    one, two, other = uses.begin("one"), uses.begin("one"), uses.begin("other")
    assert UsesOfAll(cache.layout).has_processes
    del one
    uses.settle()
    assert _used(cache, "one", "other", "third") == ["one", "other"]
    del two
    uses.settle()
    assert _used(cache, "one", "other") == ["other"]
    del other
    uses.begin("third")
    assert _used(cache, "one", "other") == []


def test_planning_an_eviction_settles_what_has_ended(cache: Cache) -> None:
    use = cache.local.use(key_of("k"))
    del use
    cache.plan(max_size=0)
    assert not any(UsesOfAll(cache.layout)._tables[0])


def test_with_the_old_promise_a_path_is_used_for_the_life_of_the_process(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(cache.settings, "local_paths", "keep")
    use = cache.local.use(key_of("k"))
    del use
    cache.local.uses.settle()
    assert any(UsesOfAll(cache.layout)._tables[0])


def test_uses_go_on_in_the_next_lease_after_a_close_or_when_the_lease_was_removed(cache: Cache) -> None:
    import shutil

    use = cache.local.uses.begin("one")
    cache.close()
    assert _used(cache, "one") == []
    other = cache.local.uses.begin("other")
    assert _used(cache, "one", "other") == ["one", "other"]
    shutil.rmtree(cache.lease.paths.path)
    third = cache.local.uses.begin("third")
    assert _used(cache, "one", "other", "third") == ["one", "other", "third"]
    del use, other, third
    cache.local.uses.settle()
    assert _used(cache, "one", "other", "third") == []


@pytest.mark.needs_locks
def test_a_killed_process_uses_nothing(cache: Cache, tmp_path: Path) -> None:
    kept: list[LocalUse] = []

    def work() -> None:
        kept.append(cache.local.uses.begin("one"))
        (tmp_path / "said").touch()
        signal.pause()

    pid = fork(work)
    eventually((tmp_path / "said").exists)
    assert _used(cache, "one") == ["one"]
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    assert _used(cache, "one") == []
    assert not UsesOfAll(cache.layout).has_processes


def test_where_locks_do_not_exclude_every_process_counts(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        cache.local.uses.begin("one")
        os._exit(0)

    assert forked(work) == 0
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert _used(cache, "one") == ["one"]
    assert UsesOfAll(cache.layout).has_processes


@pytest.mark.needs_locks
def test_a_forked_childs_uses_are_its_own_and_those_that_it_inherits(cache: Cache, tmp_path: Path) -> None:
    uses, go = [cache.local.uses.begin("inherited")], tmp_path / "go"

    def child() -> None:
        uses.append(cache.local.uses.begin("its own"))
        (tmp_path / "said").touch()
        eventually(go.exists)

    pid = fork(child)
    eventually((tmp_path / "said").exists)
    uses.clear()
    cache.local.uses.settle()
    assert _used(cache, "inherited", "its own") == ["inherited", "its own"]
    go.touch()
    assert status_of(pid) == 0
    assert _used(cache, "inherited", "its own") == []


@pytest.mark.needs_locks
def test_a_child_that_outlives_its_parent_keeps_what_the_parent_used(cache: Cache, tmp_path: Path) -> None:
    go, kept = tmp_path / "go", list[LocalUse]()

    def parent() -> None:
        kept.append(cache.local.uses.begin("one"))
        fork(lambda: eventually(go.exists))
        cache.close()

    assert forked(parent) == 0
    assert _used(cache, "one") == ["one"]
    go.touch()
    eventually(lambda: _used(cache, "one") == [])


def test_no_descriptor_stays_open(cache: Cache) -> None:
    cache.lease.exists()
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        cache.local.uses.begin("one")
        cache.local.uses.close()
    assert len(os.listdir("/dev/fd")) == before
