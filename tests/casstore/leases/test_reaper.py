"""What the dead leave behind goes, what the living use and what anybody wrote stays; killed anywhere, by any number."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casstore
from casstore import Condition, PendingState, Validator
from casstore.format.layout import LeaseLayout
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.generations import Generations
from casstore.leases import lease as leases
from casstore.leases import reaper, scan
from casstore.leases.lease import Lease
from casstore.leases.reaper import ReapResult, reap
from casstore.locks import lock_files
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.lock_files import create_locked
from tests.casstore.support.fill import (
    alone,
    eventually,
    fill,
    fork,
    fork_without_hooks,
    forked,
    hand_out,
    key_of,
    read,
    status_of,
)


def _reap(cache: casstore.Cache) -> ReapResult:
    return reap(cache.layout, cache.index, cache.blobs)


def _view(cache: casstore.Cache, name: str = "k", mode: str = "copy") -> Path:
    entry = fill(cache, key_of(name), b"bytes of " + name.encode())
    return hand_out(cache, entry, mode)


def _edit(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"mine")


def _leave(cache: casstore.Cache, work: Callable[[], object] = lambda: None) -> str:
    """A lease with a view whose process ended without a word, after *work*; its name."""
    before = set(os.listdir(cache.layout.leases))
    assert forked(lambda: [_view(cache), work()]) == 0
    (name,) = set(os.listdir(cache.layout.leases)) - before
    return name


@contextlib.contextmanager
def _living(cache: casstore.Cache, tmp_path: Path, stop: int = 0) -> Iterator[tuple[int, Path]]:
    """A process that has a view: its pid and the view's path. With *stop*, that signal is sent to it."""
    said = tmp_path / "its view"

    def live() -> None:
        path = _view(cache)
        (tmp_path / "saying").write_text(str(path))
        (tmp_path / "saying").rename(said)
        time.sleep(600)

    pid = fork(live)
    try:
        eventually(said.exists)
        if stop:
            os.kill(pid, stop)
        yield pid, Path(said.read_text())
    finally:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):  # a test may have done that already
            os.kill(pid, signal.SIGKILL)
            status_of(pid)


def _take_over_unasked(path: str) -> int:
    """`try_lock_existing` without asking the lock: what the tests below must catch."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


# --- who is dead ------------------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_the_lease_of_a_killed_process_goes_with_its_views(cache: casstore.Cache, tmp_path: Path) -> None:
    with _living(cache, tmp_path) as (pid, path):
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
        done = _reap(cache)
    assert (done.leases, done.kept, done.locks_exclude) == (1, (), True)
    assert done.bytes >= 4096
    assert not path.exists()
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.trash) == []
    assert read(cache, key_of("k")) == b"bytes of k"


@pytest.mark.needs_locks
@pytest.mark.parametrize("stop", [0, signal.SIGSTOP])
def test_a_living_process_keeps_its_lease_and_would_lose_it_were_the_lock_not_asked(
    cache: casstore.Cache, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _living(cache, tmp_path, stop) as (_, path):
        done = _reap(cache)
        assert [(kept.reason, kept.is_alive) for kept in done.kept] == [("its process is alive", True)]
        assert path.read_bytes() == b"bytes of k"
        monkeypatch.setattr(reaper, "try_lock_existing", _take_over_unasked)
        _reap(cache)
        assert not path.exists()


@pytest.mark.needs_locks
def test_a_forked_child_keeps_the_lease_of_its_killed_parent(cache: casstore.Cache, tmp_path: Path) -> None:
    said, child_pid = tmp_path / "said", tmp_path / "pid"

    def parent() -> None:
        path = _view(cache)
        child_pid.write_text(str(fork(lambda: time.sleep(600))))
        (tmp_path / "saying").write_text(str(path))
        (tmp_path / "saying").rename(said)
        time.sleep(600)

    pid = fork(parent)
    eventually(said.exists)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    path = Path(said.read_text())
    assert len(_reap(cache).kept) == 1
    assert path.read_bytes() == b"bytes of k"
    os.kill(int(child_pid.read_text()), signal.SIGKILL)
    eventually(lambda: not _reap(cache).kept)
    assert not path.exists()


@pytest.mark.needs_locks
def test_a_child_of_a_fork_without_hooks_keeps_the_lease_of_its_parent(cache: casstore.Cache, tmp_path: Path) -> None:
    release = tmp_path / "release"

    def parent() -> None:
        path = _view(cache)
        child = fork_without_hooks(lambda: eventually(release.exists))
        cache.lease.close()
        assert path.read_bytes() == b"bytes of k"
        release.touch()
        assert status_of(child) == 0

    assert alone(parent) == 0
    assert _reap(cache).leases == 1


def test_a_program_that_was_started_holds_no_lease_of_its_starter(cache: casstore.Cache) -> None:
    assert not os.get_inheritable(cache.lease._descriptor)


def test_ones_own_lease_is_left_alone(cache: casstore.Cache) -> None:
    path = _view(cache)
    done = reap(cache.layout, cache.index, cache.blobs, own_lease=cache.lease.name)
    assert done.kept == ()
    assert path.exists()


def test_where_locks_are_for_show_every_lease_counts_as_alive_and_that_is_said(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with _living(cache, tmp_path) as (_, path):
        os.mkdir(cache.layout.lease(f".new-{'0' * 16}"))
        done = _reap(cache)
        assert (done.leases, done.locks_exclude, len(done.kept)) == (0, False, 2)
        assert all("file locks do not work" in kept.reason and kept.is_alive for kept in done.kept)
        assert path.read_bytes() == b"bytes of k"
        # What the proof is for.
        monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)
        _reap(cache)
        assert not path.exists()


# --- birth ------------------------------------------------------------------------------------------------------------

MOMENTS = {"before its lock": (leases, "create_locked"), "before its name": (files, "rename")}


@pytest.mark.needs_locks
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_lease_whose_birth_is_reaped_starts_again(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    owner, name = MOMENTS[moment]
    real = getattr(owner, name)
    reaped: list[int] = []

    def interrupted(*arguments: str) -> object:
        if not reaped:
            reaped.append(0)
            reaped[0] = _reap(cache).leases
        return real(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    lease = Lease(cache.layout)
    # Once it has its lock, it is alive.
    assert reaped == [moment == "before its lock"]
    assert os.listdir(cache.layout.leases) == [lease.name]
    assert lease.exists()
    lease.close()


@pytest.mark.needs_locks
@pytest.mark.parametrize("finishes", [True, False])
def test_a_lease_whose_lock_the_reaper_is_quicker_to_take_starts_again(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    real = fcntl.flock
    taken: list[int | None] = []

    def beaten(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(None)
            (new,) = os.listdir(cache.layout.leases)
            taken[0] = lock_files.try_lock_existing(LeaseLayout(cache.layout.lease(new)).lock)
            if finishes:
                files.rename(cache.layout.lease(new), cache.layout.trashed(new))
                os.close(taken[0])  # type: ignore[arg-type]
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", beaten)
    lease = Lease(cache.layout)
    assert lease.exists()
    if not finishes:
        os.close(taken[0])  # type: ignore[arg-type]
    assert _reap(cache).leases == (not finishes)
    assert os.listdir(cache.layout.leases) == [lease.name]
    lease.close()


@pytest.mark.needs_locks
def test_a_lease_born_under_its_own_name_would_be_lost_at_once(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the two above: why a birth has a name of its own."""

    def naive(layout: object) -> tuple[str, int]:
        name = "0" * 16
        os.mkdir(cache.layout.lease(name))
        lock = LeaseLayout(cache.layout.lease(name)).lock
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        assert _reap(cache).leases == 1
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return name, descriptor

    monkeypatch.setattr(leases, "_create", naive)
    lease = Lease(cache.layout)
    assert not lease.exists()
    lease.abandon()


@pytest.mark.needs_locks
def test_births_that_were_cut_off_go(cache: casstore.Cache) -> None:
    os.mkdir(cache.layout.lease(f".new-{'1' * 16}"))
    os.mkdir(cache.layout.lease(f".new-{'2' * 16}"))
    os.close(create_locked(LeaseLayout(cache.layout.lease(f".new-{'2' * 16}")).lock))
    assert _reap(cache).leases == 2
    assert os.listdir(cache.layout.leases) == []


@pytest.mark.needs_locks
def test_processes_that_are_born_while_others_reap_have_their_leases(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Births, deaths and reapers at random; whoever lives finds its view."""
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)  # proved elsewhere, and slow

    def live() -> None:
        for _ in range(25):
            path = _view(cache)
            reap(cache.layout, cache.index, cache.blobs, own_lease=cache.lease.name)
            assert path.read_bytes() == b"bytes of k"
            cache.close()
        _view(cache)  # and is left behind

    assert [status_of(pid) for pid in [fork(live) for _ in range(4)]] == [0] * 4
    done = _reap(cache)
    assert (done.kept, os.listdir(cache.layout.leases)) == ((), [])


# --- what a user may want ---------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_an_edit_in_a_dead_lease_becomes_a_pending_write_and_the_lease_goes(cache: casstore.Cache) -> None:
    def edit() -> None:
        _edit(_view(cache, "edited"))
        _view(cache, "untouched")

    name = _leave(cache, edit)
    done = _reap(cache)
    (write,) = done.recorded
    assert (done.leases, done.kept, os.listdir(cache.layout.leases)) == (1, (), [])
    assert (write.uri, write.state, write.base) == ("s3://bucket/edited", PendingState.EDIT, Validator(15, "e1"))
    assert (write.condition, write.lease, write.name[:16]) == (Condition.MATCH, name, name)
    assert list(cache.pending.all()) == [write]
    assert Path(cache.pending.path(write)).read_bytes() == b"mine"
    assert _reap(cache).recorded == ()


@pytest.mark.needs_locks
def test_a_dead_lease_with_a_file_that_cannot_be_recorded_stays_whole_and_its_edits_are_recorded_once(
    cache: casstore.Cache,
) -> None:
    def edit() -> None:
        _edit(_view(cache, "edited"))
        path = _view(cache, "odd")
        path.unlink()
        path.symlink_to("edited")

    name, edited = _leave(cache, edit), ""
    for recorded in (["s3://bucket/edited"], []):
        done = _reap(cache)
        (kept,) = done.kept
        assert (done.leases, kept.name, kept.is_alive) == (0, name, False)
        (edited,) = kept.edited
        assert Path(edited).name == "odd"
        assert [write.uri for write in done.recorded] == recorded
    for write in cache.pending.all():
        cache.pending.discard(write)
    os.unlink(edited)
    done = _reap(cache)
    assert (done.leases, done.recorded) == (1, ()), "a record that was dealt with does not come again"


@pytest.mark.needs_locks
@pytest.mark.parametrize("where", ["views/0/s3/bucket/new.csv", "outbox/new.csv"])
def test_a_dead_lease_with_a_new_file_stays(cache: casstore.Cache, where: str) -> None:
    path = Path(cache.layout.lease(_leave(cache))) / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    assert [kept.edited for kept in _reap(cache).kept] == [(str(path),)]
    path.unlink()
    assert _reap(cache).leases == 1


@pytest.mark.needs_locks
def test_an_edit_between_the_looks_at_a_lease_saves_it(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    name = _leave(cache)
    (path,) = Path(cache.layout.lease(name)).rglob("k")
    real = scan.scan_lease
    looks = []

    def survey(lease: LeaseLayout) -> object:
        seen = real(lease)
        looks.append(1)
        if len(looks) == 1:
            _edit(path)
        return seen

    monkeypatch.setattr(reaper, "scan_lease", survey)
    assert [kept.edited for kept in _reap(cache).kept] == [(str(path),)]
    assert path.read_bytes() == b"mine"
    done = _reap(cache)
    assert ([write.source for write in done.recorded], done.leases) == ([str(path)], 1)


@pytest.mark.needs_locks
def test_staging_files_of_the_dead_go_with_their_lease(cache: casstore.Cache) -> None:
    def stage() -> None:
        os.makedirs(cache.lease.paths.staging, exist_ok=True)
        Path(cache.lease.paths.staging, "half").write_bytes(b"half")
        cache.lease.report_progress("n", 1)

    _leave(cache, stage)
    assert _reap(cache).leases == 1


@pytest.mark.needs_locks
def test_a_lease_without_its_lock_file_stays_and_is_reported(cache: casstore.Cache) -> None:
    name = _leave(cache)
    os.unlink(LeaseLayout(cache.layout.lease(name)).lock)
    (kept,) = _reap(cache).kept
    assert "its lock file is missing" in kept.reason
    assert os.path.isdir(cache.layout.lease(name))


@pytest.mark.needs_locks
def test_what_has_no_leases_name_is_not_touched(cache: casstore.Cache, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    for name, make in {
        "mine": os.mkdir,
        "0" * 16: lambda path: Path(path).touch(),
        "1" * 16: lambda path: os.symlink(elsewhere, path),
    }.items():
        make(cache.layout.lease(name))  # type: ignore[no-untyped-call]
    before = sorted(os.listdir(cache.layout.leases))
    assert _reap(cache).kept == ()
    assert sorted(os.listdir(cache.layout.leases)) == before
    assert (elsewhere / "lock").exists()


# --- the end of a process ---------------------------------------------------------------------------------------------


def test_a_process_that_ends_leaves_its_lease_to_a_child_that_still_has_it(
    cache: casstore.Cache, tmp_path: Path
) -> None:
    path = _view(cache)
    release = tmp_path / "release"

    def look_later() -> None:
        eventually(release.exists)
        assert path.read_bytes() == b"bytes of k"

    child = fork(look_later)
    cache.close()
    assert path.read_bytes() == b"bytes of k"
    release.touch()
    assert status_of(child) == 0


@pytest.mark.needs_locks
def test_a_process_whose_children_are_dead_leaves_no_lease(cache: casstore.Cache) -> None:
    path = _view(cache)
    assert forked(lambda: None) == 0
    cache.close()
    assert not path.exists()
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.trash) == []


def test_a_lease_that_is_closed_twice_is_no_trouble(cache: casstore.Cache) -> None:
    lease = cache.lease
    lease.close()
    lease.close()
    lease.abandon()


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
    done = _reap(cache)
    assert (done.generations, _generations(cache)) == (2, ["3"])
    assert done.bytes > 0
    assert read(cache, key_of("k")) is None
    fill(cache, key_of("k"), b"bytes")
    assert _reap(cache).generations == 0
    assert read(cache, key_of("k")) == b"bytes"


@pytest.mark.parametrize("hint", [None, b"", b"x", b"7", b"-1"])
def test_a_hint_of_no_use_takes_no_generation_away(cache: casstore.Cache, hint: bytes | None) -> None:
    fill(cache, key_of("k"), b"bytes")
    cache.index.close()
    os.unlink(cache.layout.current) if hint is None else Path(cache.layout.current).write_bytes(hint)
    os.mkdir(cache.layout.generation(2))  # of somebody who was killed before he named it as the next
    index = Index(cache.layout, ByteLocks(cache.layout), print)
    assert reap(cache.layout, index, cache.blobs).generations == 0
    assert read(cache, key_of("k")) == b"bytes"
    assert Path(cache.layout.current).read_bytes() == b"1"
    assert _reap(cache).generations == 0


def test_a_process_that_reads_a_generation_while_it_goes_moves_on(cache: casstore.Cache, tmp_path: Path) -> None:
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
    assert _reap(cache).generations == 1
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
    assert _reap(cache).generations == 1
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
        assert reap(cache.layout, index, cache.blobs).generations == 1
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
    _reap(cache)
    for place in places:
        left = set(os.listdir(place))
        assert {"0" * 16, "1" * 16, "a users"} & left == {"1" * 16, "a users"}


def test_a_reason_without_its_blob_goes_after_a_day(cache: casstore.Cache) -> None:
    for name in ("old.txt", "new.txt", "both", "both.txt"):
        Path(cache.layout.quarantined(name)).touch()
        if name != "new.txt":
            _age(cache.layout.quarantined(name))
    _reap(cache)
    assert sorted(os.listdir(cache.layout.quarantine)) == ["both", "both.txt", "new.txt"]


@pytest.mark.needs_locks
def test_lock_files_of_dead_writers_go_and_those_of_living_ones_stay(cache: casstore.Cache) -> None:
    alive = key_of("alive")
    os.close(os.open(cache.layout.write_lock(key_of("dead").name), os.O_CREAT))
    with cache.write_locks.acquire(alive):
        _reap(cache)
        assert os.listdir(cache.layout.write_locks) == [alive.name]


def test_the_trash_is_emptied_and_what_it_gave_back_is_counted(cache: casstore.Cache, tmp_path: Path) -> None:
    entry = fill(cache, key_of("k"), b"x" * 8192)
    tree = Path(cache.layout.trashed("tree")) / "a" / "b"
    tree.mkdir(parents=True)
    os.link(cache.blob_path(entry), tree / "other name of a blob")
    (tree / "link").symlink_to(tmp_path)
    Path(cache.layout.trashed("file")).write_bytes(b"x" * 65536)
    (tmp_path / "elsewhere").touch()
    done = _reap(cache)
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
    """Dead leases with a view each, as fast as files are made."""
    lease = cache.lease
    path = _view(cache, "k")
    for number in range(count):
        name = f"{number:016x}"
        new = Path(cache.layout.lease(name))
        (new / "views/0/s3/bucket").mkdir(parents=True)
        (new / "lock").touch()
        os.link(path, new / "views/0/s3/bucket/k")
        line = Path(lease.paths.views_list).read_text().splitlines(keepends=True)[0]
        (new / "views.list").write_text(line.replace(lease.name, name))


@pytest.mark.needs_locks
def test_reapers_at_once_take_each_lease_and_record_each_edit_once(cache: casstore.Cache, tmp_path: Path) -> None:
    _plant(cache, 40)
    edited = Path(cache.layout.lease(f"{7:016x}")) / "views/0/s3/bucket/k"
    edited.unlink()
    edited.write_bytes(b"mine")

    def work() -> None:
        done = _reap(cache)
        (tmp_path / f"{os.getpid()}").write_text(str(done.leases))

    pids = [fork(work) for _ in range(4)]
    assert [status_of(pid) for pid in pids] == [0] * 4
    assert sum(int((tmp_path / f"{pid}").read_text()) for pid in pids) == 40
    (write,) = cache.pending.all()
    assert Path(cache.pending.path(write)).read_bytes() == b"mine"
    assert os.listdir(cache.layout.leases) == [cache.lease.name]
    assert os.listdir(cache.layout.trash) == []


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
    _reap(cache)


@pytest.mark.needs_locks
def test_a_reaper_that_is_killed_anywhere_harms_nothing_and_the_next_one_finishes(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)  # proved elsewhere, and slow
    with _living(cache, tmp_path) as (_, path):
        mine = Path(cache.layout.lease("f" * 16)) / "views/0/mine"
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        (mine.parents[2] / "lock").touch()
        number, status = 0, -signal.SIGKILL
        while status == -signal.SIGKILL:
            number += 1
            _plant(cache, 3)
            edited = Path(cache.layout.lease(f"{2:016x}")) / "views/0/s3/bucket/k"
            edited.unlink()
            edited.write_bytes(b"edited")
            os.mkdir(cache.layout.lease(f".new-{'0' * 16}"))
            Path(cache.layout.trashed("file")).touch()
            Path(cache.layout.write_lock("dead")).touch()
            Path(cache.root, "0" * 16).touch()
            _age(f"{cache.root}/{'0' * 16}")
            assert forked(lambda: _supersede(cache)) == 0
            status = forked(lambda number=number: _reap_and_die(cache, number))  # type: ignore[misc]
            assert mine.read_bytes() == b"mine"
            assert path.read_bytes() == b"bytes of k"
            done = _reap(cache)
            assert {kept.name for kept in done.kept} == {path.parents[4].name, "f" * 16, cache.lease.name}
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
