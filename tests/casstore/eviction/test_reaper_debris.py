"""The reaper removes old generations and debris; so do many reapers at once, and after one was killed anywhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore
from casstore import Condition, Pending, PendingState, Place
from casstore.eviction import reaper
from casstore.eviction.reaper import reap
from casstore.format.layout import LeaseLayout
from casstore.fs import files
from casstore.index import database
from casstore.index.database import Index
from casstore.index.generations import Generations
from casstore.locks import lock_files
from casstore.locks.byte_locks import ByteLocks
from tests.casstore.support.fill import eventually, fill, fork, forked, key_of, read, status_of
from tests.casstore.support.reaping import lease_of, living_process, reap_store
from tests.casstore.support.threads import acquired
from tests.harness.sampling import by_pass, seed

# --- generations of the index -----------------------------------------------------------------------------------------


def _supersede(cache: casstore.Cache) -> None:
    """As another process does that finds the index damaged."""
    other = Index(cache.layout, ByteLocks(cache.layout), print)
    with other._opening:
        other._supersede(other.generations.newest(), "a test")
    other.get(b"E")
    other.close()


def _generations(cache: casstore.Cache) -> list[str]:
    return sorted(name for name in os.listdir(cache.layout.index) if name.isdecimal())


def test_generations_that_were_left_behind_go(cache: casstore.Cache) -> None:
    fill(cache, key_of("k"), b"bytes")
    for _ in range(2):
        assert forked(lambda: _supersede(cache)) == 0
    done = reap_store(cache)
    assert (done.generations, _generations(cache)) == (2, ["3"])
    assert done.bytes > 0
    assert read(cache, key_of("k")) is None
    fill(cache, key_of("k"), b"bytes")
    assert reap_store(cache).generations == 0
    assert read(cache, key_of("k")) == b"bytes"


@pytest.mark.parametrize("hint", [None, b"", b"x", b"7", b"-1"])
def test_a_hint_of_no_use_takes_no_generation_away(cache: casstore.Cache, hint: bytes | None) -> None:
    fill(cache, key_of("k"), b"bytes")
    cache.index.close()
    os.unlink(cache.layout.current) if hint is None else Path(cache.layout.current).write_bytes(hint)
    os.mkdir(cache.layout.generation(2))  # of somebody who was killed before he named it as the next
    index = Index(cache.layout, ByteLocks(cache.layout), print)
    assert reap(cache.layout, index, cache.changes).generations == 0
    assert read(cache, key_of("k")) == b"bytes"
    assert Path(cache.layout.current).read_bytes() == b"1"
    assert reap_store(cache).generations == 0


def test_a_process_that_reads_a_generation_while_it_goes_moves_on(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "HINT_SECONDS", 0.05)
    fill(cache, key_of("k"), b"bytes")
    gone = tmp_path / "gone"

    def work() -> None:
        row = key_of("k").row_key

        def hold(txn: object) -> None:
            (tmp_path / "inside").touch()
            eventually(gone.exists)
            assert cache.index.generation == 1
            assert txn.get(row) is not None  # type: ignore[attr-defined]

        cache.index.read(hold)
        eventually(lambda: cache.index.get(row) is None)
        fill(cache, key_of("k"), b"bytes")
        assert cache.index.generation == 2

    pid = fork(work)
    eventually((tmp_path / "inside").exists)
    assert forked(lambda: _supersede(cache)) == 0
    assert reap_store(cache).generations == 1
    gone.touch()
    assert status_of(pid) == 0
    assert read(cache, key_of("k")) == b"bytes"
    assert _generations(cache) == ["2"]


def test_a_commit_into_a_generation_that_goes_meanwhile_is_done_again(cache: casstore.Cache, tmp_path: Path) -> None:
    cache.index.get(b"E")
    inside, gone = tmp_path / "inside", tmp_path / "gone"
    generations = []

    def work(txn: object) -> None:
        generations.append(cache.index.generation)
        txn.put(b"Ek", b"record")  # type: ignore[attr-defined]
        inside.touch()
        eventually(gone.exists)

    def write() -> None:
        cache.index.write(work)
        assert generations == [1, 2]

    writer = fork(write)
    eventually(inside.exists)
    assert forked(lambda: _supersede(cache)) == 0
    assert reap_store(cache).generations == 1
    gone.touch()
    assert status_of(writer) == 0
    assert cache.index.get(b"Ek") == b"record"


def test_a_process_that_lags_behind_makes_no_old_generation_anew(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, key_of("k"), b"bytes")
    cache.index.close()
    assert forked(lambda: _supersede(cache)) == 0
    index = Index(cache.layout, ByteLocks(cache.layout), print)
    real = Generations._start

    def late(_: Generations) -> int:
        """Read before the generation went, and used after."""
        monkeypatch.setattr(Generations, "_start", real)
        number = 1
        assert reap(cache.layout, index, cache.changes).generations == 1
        return number

    monkeypatch.setattr(Generations, "_start", late)
    assert index.get(b"E") is None
    assert index.generation == 2
    index.close()
    assert _generations(cache) == ["2"]
    assert Path(cache.layout.current).read_bytes() == b"2"


def test_a_temporary_name_that_looks_like_a_number_is_no_generation(cache: casstore.Cache) -> None:
    Path(cache.layout.index, "1" * 16).touch()
    assert cache.index.get(b"E") is None
    assert cache.index.generation == 1


def test_a_generation_that_is_named_and_not_there_is_made(cache: casstore.Cache) -> None:
    fill(cache, key_of("k"), b"bytes")
    cache.index.close()
    files.create_synced(cache.layout.successor(1), b"2")
    index = Index(cache.layout, ByteLocks(cache.layout), print)
    assert index.get(b"E") is None
    assert index.generation == 2
    index.close()


# --- debris -----------------------------------------------------------------------------------------------------------


def _age(path: str) -> None:
    os.utime(path, (1_500_000_000, 1_500_000_000))


def test_temporary_names_go_after_a_day(cache: casstore.Cache) -> None:
    cache.index.get(b"E")
    layout = cache.layout
    places = (layout.root, layout.index, layout.generation(1), layout.locks, layout.pins, layout.quarantine)
    for place in places:
        for name in ("0" * 16, "1" * 16, "a users"):
            Path(place, name).touch()
        _age(f"{place}/{'0' * 16}")
        _age(f"{place}/a users")
    reap_store(cache)
    for place in places:
        left = set(os.listdir(place))
        assert {"0" * 16, "1" * 16, "a users"} & left == {"1" * 16, "a users"}


def test_a_reason_without_its_blob_goes_after_a_day(cache: casstore.Cache) -> None:
    for name in ("old.txt", "new.txt", "both", "both.txt"):
        Path(cache.layout.quarantined(name)).touch()
        if name != "new.txt":
            _age(cache.layout.quarantined(name))
    reap_store(cache)
    assert sorted(os.listdir(cache.layout.quarantine)) == ["both", "both.txt", "new.txt"]


@pytest.mark.needs_locks
def test_lock_files_of_dead_writers_go_and_those_of_living_ones_stay(cache: casstore.Cache) -> None:
    alive = key_of("alive")
    os.close(os.open(cache.layout.write_lock(key_of("dead").name), os.O_CREAT))
    with acquired(cache.write_locks, alive):
        reap_store(cache)
        assert os.listdir(cache.layout.write_locks) == [alive.name]


def test_the_trash_is_emptied_and_what_it_gave_back_is_counted(cache: casstore.Cache, tmp_path: Path) -> None:
    entry = fill(cache, key_of("k"), b"x" * 8192)
    tree = Path(cache.layout.trashed("tree")) / "a" / "b"
    tree.mkdir(parents=True)
    os.link(cache.blob_path(entry), tree / "other name of a blob")
    (tree / "link").symlink_to(tmp_path)
    Path(cache.layout.trashed("file")).write_bytes(b"x" * 65536)
    (tmp_path / "elsewhere").touch()
    done = reap_store(cache)
    assert os.listdir(cache.layout.trash) == []
    assert 65536 <= done.bytes < 65536 + 8192 * 5
    assert (tmp_path / "elsewhere").exists()
    assert read(cache, key_of("k")) == b"x" * 8192


def test_the_proof_that_locks_exclude_leaves_nothing(cache: casstore.Cache) -> None:
    before = sorted(os.listdir(cache.layout.locks))
    lock_files.locks_are_exclusive(cache.layout.locks)
    assert sorted(os.listdir(cache.layout.locks)) == before


# --- many, and killed -------------------------------------------------------------------------------------------------


def _plant(cache: casstore.Cache, count: int) -> None:
    """Dead leases with a private path each, as fast as files are made; that of the last one is edited."""
    entry, path = fill(cache, key_of("k"), b"bytes of k"), ""
    for number in range(count):
        name = f"{number:016x}"
        os.mkdir(cache.layout.lease(name))
        Path(LeaseLayout(cache.layout.lease(name)).lock).touch()
        with open(cache.blob_path(entry), "rb") as blob:
            path = cache.local.private_path(
                Place(entry.key, "bucket", "k"), entry.validator, blob.fileno(), f"e{name}-{number:016x}"
            )
    Path(path).write_bytes(b"edited")


@pytest.mark.needs_locks
def test_reapers_at_once_take_each_lease_and_record_each_edit_once(cache: casstore.Cache, tmp_path: Path) -> None:
    _plant(cache, 40)

    def work() -> None:
        done = reap_store(cache)
        (tmp_path / f"{os.getpid()}").write_text(str(done.leases))
        cache.close()

    pids = [fork(work) for _ in range(4)]
    assert [status_of(pid) for pid in pids] == [0] * 4
    assert sum(int((tmp_path / f"{pid}").read_text()) for pid in pids) == 40
    (write,) = cache.pending.all()
    assert Path(cache.pending.path(write)).read_bytes() == b"edited"
    assert os.listdir(cache.layout.leases) == [cache.lease.name]
    assert os.listdir(cache.layout.trash) == os.listdir(cache.layout.local) == []


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}


def _reap_and_die(cache: casstore.Cache, number: int) -> None:
    """Reap, and be killed before a directory is changed for the *number*th time."""
    left = [number]

    def hook(event: str, _: object) -> None:
        if event in _CHANGES:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    reap_store(cache)


@pytest.mark.needs_locks
def test_a_reaper_that_is_killed_anywhere_harms_nothing_and_the_next_one_finishes(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)  # proved elsewhere, and slow
    with living_process(cache, tmp_path) as (_, path):
        mine = Path(cache.layout.lease("f" * 16)) / "views/0/mine"  # of a former version
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        (mine.parents[2] / "lock").touch()
        # Of three points one, another for each commit.
        number, status = by_pass(quick=seed() % 3 - 2, full=0), -signal.SIGKILL
        while status == -signal.SIGKILL:
            number += by_pass(quick=3, full=1)
            _plant(cache, 3)
            os.mkdir(cache.layout.lease(f".new-{'0' * 16}"))
            Path(cache.layout.trashed("file")).touch()
            Path(cache.layout.write_lock("dead")).touch()
            Path(cache.root, "0" * 16).touch()
            _age(f"{cache.root}/{'0' * 16}")
            assert forked(lambda: _supersede(cache)) == 0
            status = forked(lambda number=number: _reap_and_die(cache, number))  # type: ignore[misc]
            assert mine.read_bytes() == b"mine"
            assert path.read_bytes() == b"bytes of k"
            done = reap_store(cache)
            assert {kept.name for kept in done.kept} == {lease_of(path), "f" * 16, cache.lease.name}
            assert os.listdir(cache.layout.local) == [path.parts[-4]]
            assert os.listdir(cache.layout.trash) == os.listdir(cache.layout.write_locks) == []
            assert len(_generations(cache)) == 1
            assert not os.path.exists(f"{cache.root}/{'0' * 16}")
            (write,) = cache.pending.all()
            assert Path(cache.pending.path(write)).read_bytes() == b"edited"
            assert [left for left, _ in cache.pending.orphans() if left.endswith((".data", ".json"))] == []
            cache.pending.discard(write)
            fill(cache, key_of("k"), b"bytes of k")
            assert read(cache, key_of("k")) == b"bytes of k"
        assert status == 0
        assert number > 20


@pytest.mark.needs_locks
@pytest.mark.parametrize("kind", [".data", ".json"])
def test_a_pending_write_that_is_completed_before_its_lease_is_locked_stays(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def record() -> None:
        staging = cache.stage()
        staging.write(b"mine")
        cache.pending.record(
            key_of("k"), staging, PendingState.FAILED, Condition.ABSENT, None, lease=cache.lease.name, why="a test"
        )

    assert forked(record) == 0  # and dies
    (write,) = cache.pending.of(key_of("k"))
    paths = {".data": cache.pending.path(write), ".json": cache.pending.record_path(write)}
    half = paths.pop(kind)
    (rest,) = paths.values()
    os.rename(rest, f"{cache.root}/rest")
    orphans = Pending.orphans

    def look_and_complete(self: Pending) -> Iterator[tuple[str, str]]:
        found = list(orphans(self))
        os.rename(f"{cache.root}/rest", rest)
        assert [path for path, _ in found] == [half]
        return iter(found)

    monkeypatch.setattr(Pending, "orphans", look_and_complete)
    reap_store(cache)
    assert cache.pending.of(key_of("k")) == [write]


@pytest.mark.needs_locks
def test_half_a_pending_write_of_a_living_process_stays(cache: casstore.Cache, tmp_path: Path) -> None:
    with living_process(cache, tmp_path):
        (lease,) = os.listdir(cache.layout.leases)
        path = f"{cache.layout.pending(key_of('k').name)}/{lease}-{'0' * 16}.data"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(b"mine")
        reap_store(cache)
        assert os.path.exists(path)
    reap_store(cache)
    assert not os.path.exists(path)


@pytest.mark.needs_locks
def test_halves_of_records_go_with_their_makers_and_living_ones_keep_theirs(cache: casstore.Cache) -> None:
    name = cache.lease.name
    assert forked(lambda: cache.lease) == 0
    (dead,) = set(os.listdir(cache.layout.leases)) - {name}
    directory = Path(cache.layout.pending(key_of("k").name))
    directory.mkdir()
    for maker in (name, dead, gone := "1" * 16):
        (directory / f"{maker}-{'0' * 16}.data").touch()
        (directory / f"{maker}-{'1' * 16}.json").touch()
    (directory / "temporary").touch()
    os.mkdir(cache.layout.pending("empty"))
    reap(cache.layout, cache.index, cache.changes, own_lease=name)
    left = sorted(path.name[:16] for path in directory.iterdir())
    assert left == sorted([name, name, gone, gone, "temporary"])
    assert not os.path.exists(cache.layout.pending("empty"))
