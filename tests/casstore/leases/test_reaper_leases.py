"""The reaper removes leases of dead processes, records their edits, and leaves those of living ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casstore
from casstore import Condition, PendingState, Validator
from casstore.format.layout import LeaseLayout
from casstore.fs import files
from casstore.leases import lease as leases
from casstore.leases import reaper, scan
from casstore.leases.lease import Lease
from casstore.leases.reaper import reap
from casstore.locks import lock_files
from casstore.locks.lock_files import LockedFile, create_locked
from tests.casstore.support.fill import alone, eventually, fork, fork_without_hooks, forked, key_of, read, status_of
from tests.casstore.support.reaping import living_process, make_view, reap_store


def _edit(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"mine")


def _leave(cache: casstore.Cache, work: Callable[[], object] = lambda: None) -> str:
    """A lease with a view whose process ended without a word, after *work*; its name."""
    before = set(os.listdir(cache.layout.leases))
    assert forked(lambda: [make_view(cache), work()]) == 0
    (name,) = set(os.listdir(cache.layout.leases)) - before
    return name


def _take_over_unasked(path: str) -> LockedFile:
    """`try_lock_existing` without asking the lock: what the tests below must catch."""
    return LockedFile(path, "r+")


# --- who is dead ------------------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_the_lease_of_a_killed_process_goes_with_its_views(cache: casstore.Cache, tmp_path: Path) -> None:
    with living_process(cache, tmp_path) as (pid, path):
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
        done = reap_store(cache)
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
    with living_process(cache, tmp_path, stop) as (_, path):
        done = reap_store(cache)
        assert [(kept.reason, kept.is_alive) for kept in done.kept] == [("its process is alive", True)]
        assert path.read_bytes() == b"bytes of k"
        monkeypatch.setattr(reaper, "try_lock_existing", _take_over_unasked)
        reap_store(cache)
        assert not path.exists()


@pytest.mark.needs_locks
def test_a_forked_child_keeps_the_lease_of_its_killed_parent(cache: casstore.Cache, tmp_path: Path) -> None:
    said, child_pid = tmp_path / "said", tmp_path / "pid"

    def parent() -> None:
        path = make_view(cache)
        child_pid.write_text(str(fork(lambda: time.sleep(600))))
        (tmp_path / "saying").write_text(str(path))
        (tmp_path / "saying").rename(said)
        time.sleep(600)

    pid = fork(parent)
    eventually(said.exists)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    path = Path(said.read_text())
    assert len(reap_store(cache).kept) == 1
    assert path.read_bytes() == b"bytes of k"
    os.kill(int(child_pid.read_text()), signal.SIGKILL)
    eventually(lambda: not reap_store(cache).kept)
    assert not path.exists()


@pytest.mark.needs_locks
def test_a_child_of_a_fork_without_hooks_keeps_the_lease_of_its_parent(cache: casstore.Cache, tmp_path: Path) -> None:
    release = tmp_path / "release"

    def parent() -> None:
        path = make_view(cache)
        child = fork_without_hooks(lambda: eventually(release.exists))
        cache.lease.close()
        assert path.read_bytes() == b"bytes of k"
        release.touch()
        assert status_of(child) == 0

    assert alone(parent) == 0
    assert reap_store(cache).leases == 1


def test_a_program_that_was_started_holds_no_lease_of_its_starter(cache: casstore.Cache) -> None:
    assert not os.get_inheritable(cache.lease._file.fileno())


def test_ones_own_lease_is_left_alone(cache: casstore.Cache) -> None:
    path = make_view(cache)
    done = reap(cache.layout, cache.index, cache.blobs, own_lease=cache.lease.name)
    assert done.kept == ()
    assert path.exists()


def test_where_locks_are_for_show_every_lease_counts_as_alive_and_that_is_said(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with living_process(cache, tmp_path) as (_, path):
        os.mkdir(cache.layout.lease(f".new-{'0' * 16}"))
        done = reap_store(cache)
        assert (done.leases, done.locks_exclude, len(done.kept)) == (0, False, 2)
        assert all("file locks do not work" in kept.reason and kept.is_alive for kept in done.kept)
        assert path.read_bytes() == b"bytes of k"
        # What the proof is for.
        monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)
        reap_store(cache)
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
            reaped[0] = reap_store(cache).leases
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
    taken: list[LockedFile | None] = []

    def beaten(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(None)
            (new,) = os.listdir(cache.layout.leases)
            taken[0] = lock_files.try_lock_existing(LeaseLayout(cache.layout.lease(new)).lock)
            if finishes:
                files.rename(cache.layout.lease(new), cache.layout.trashed(new))
                taken[0].close()  # type: ignore[union-attr]
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", beaten)
    lease = Lease(cache.layout)
    assert lease.exists()
    if not finishes:
        taken[0].close()  # type: ignore[union-attr]
    assert reap_store(cache).leases == (not finishes)
    assert os.listdir(cache.layout.leases) == [lease.name]
    lease.close()


@pytest.mark.needs_locks
def test_a_lease_born_under_its_own_name_would_be_lost_at_once(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the two above: why a birth has a name of its own."""

    def naive(layout: object) -> tuple[str, lock_files.LockedFile]:
        name = "0" * 16
        os.mkdir(cache.layout.lease(name))
        lock = lock_files.LockedFile(LeaseLayout(cache.layout.lease(name)).lock, "a+")
        assert reap_store(cache).leases == 1
        lock.wait(0)
        assert lock.is_locked
        return name, lock

    monkeypatch.setattr(leases, "_create", naive)
    lease = Lease(cache.layout)
    assert not lease.exists()
    lease.abandon()


@pytest.mark.needs_locks
def test_births_that_were_cut_off_go(cache: casstore.Cache) -> None:
    os.mkdir(cache.layout.lease(f".new-{'1' * 16}"))
    os.mkdir(cache.layout.lease(f".new-{'2' * 16}"))
    create_locked(LeaseLayout(cache.layout.lease(f".new-{'2' * 16}")).lock).close()
    assert reap_store(cache).leases == 2
    assert os.listdir(cache.layout.leases) == []


@pytest.mark.needs_locks
def test_processes_that_are_born_while_others_reap_have_their_leases(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Births, deaths and reapers at random; whoever lives finds its view."""
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)  # proved elsewhere, and slow

    def live() -> None:
        for _ in range(25):
            path = make_view(cache)
            reap(cache.layout, cache.index, cache.blobs, own_lease=cache.lease.name)
            assert path.read_bytes() == b"bytes of k"
            cache.close()
        make_view(cache)  # and is left behind

    assert [status_of(pid) for pid in [fork(live) for _ in range(4)]] == [0] * 4
    done = reap_store(cache)
    assert (done.kept, os.listdir(cache.layout.leases)) == ((), [])


# --- what a user may want ---------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_an_edit_in_a_dead_lease_becomes_a_pending_write_and_the_lease_goes(cache: casstore.Cache) -> None:
    def edit() -> None:
        _edit(make_view(cache, "edited"))
        make_view(cache, "untouched")

    name = _leave(cache, edit)
    done = reap_store(cache)
    (write,) = done.recorded
    assert (done.leases, done.kept, os.listdir(cache.layout.leases)) == (1, (), [])
    assert (write.uri, write.state, write.base) == ("s3://bucket/edited", PendingState.EDIT, Validator(15, "e1"))
    assert (write.condition, write.lease, write.name[:16]) == (Condition.MATCH, name, name)
    assert list(cache.pending.all()) == [write]
    assert Path(cache.pending.path(write)).read_bytes() == b"mine"
    assert reap_store(cache).recorded == ()


@pytest.mark.needs_locks
def test_a_dead_lease_with_a_file_that_cannot_be_recorded_stays_whole_and_its_edits_are_recorded_once(
    cache: casstore.Cache,
) -> None:
    def edit() -> None:
        _edit(make_view(cache, "edited"))
        path = make_view(cache, "odd")
        path.unlink()
        path.symlink_to("edited")

    name, edited = _leave(cache, edit), ""
    for recorded in (["s3://bucket/edited"], []):
        done = reap_store(cache)
        (kept,) = done.kept
        assert (done.leases, kept.name, kept.is_alive) == (0, name, False)
        (edited,) = kept.edited
        assert Path(edited).name == "odd"
        assert [write.uri for write in done.recorded] == recorded
    for write in cache.pending.all():
        cache.pending.discard(write)
    os.unlink(edited)
    done = reap_store(cache)
    assert (done.leases, done.recorded) == (1, ()), "a record that was dealt with does not come again"


@pytest.mark.needs_locks
@pytest.mark.parametrize("where", ["views/0/s3/bucket/new.csv", "outbox/new.csv"])
def test_a_dead_lease_with_a_new_file_stays(cache: casstore.Cache, where: str) -> None:
    path = Path(cache.layout.lease(_leave(cache))) / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    assert [kept.edited for kept in reap_store(cache).kept] == [(str(path),)]
    path.unlink()
    assert reap_store(cache).leases == 1


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
    assert [kept.edited for kept in reap_store(cache).kept] == [(str(path),)]
    assert path.read_bytes() == b"mine"
    done = reap_store(cache)
    assert ([write.source for write in done.recorded], done.leases) == ([str(path)], 1)


@pytest.mark.needs_locks
def test_a_touch_between_the_looks_at_a_lease_shows_that_a_process_works_there(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are still the store's; the next write may be an edit."""
    name = _leave(cache)
    (path,) = Path(cache.layout.lease(name)).rglob("k")
    real = scan.scan_lease

    def survey(lease: LeaseLayout) -> object:
        monkeypatch.setattr(reaper, "scan_lease", real)
        seen = real(lease)
        os.utime(path)
        return seen

    monkeypatch.setattr(reaper, "scan_lease", survey)
    assert [kept.reason for kept in reap_store(cache).kept] == ["another process is changing files in it"]
    assert path.read_bytes() == b"bytes of k"
    assert reap_store(cache).leases == 1


@pytest.mark.needs_locks
def test_staging_files_of_the_dead_go_with_their_lease(cache: casstore.Cache) -> None:
    def stage() -> None:
        os.makedirs(cache.lease.paths.staging, exist_ok=True)
        Path(cache.lease.paths.staging, "half").write_bytes(b"half")
        cache.lease.report_progress("n", 1)

    _leave(cache, stage)
    assert reap_store(cache).leases == 1


@pytest.mark.needs_locks
def test_a_lease_without_its_lock_file_stays_and_is_reported(cache: casstore.Cache) -> None:
    name = _leave(cache)
    os.unlink(LeaseLayout(cache.layout.lease(name)).lock)
    (kept,) = reap_store(cache).kept
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
    assert reap_store(cache).kept == ()
    assert sorted(os.listdir(cache.layout.leases)) == before
    assert (elsewhere / "lock").exists()


# --- the end of a process ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _child_that_looks_later(path: Path, release: Path) -> Iterator[None]:
    """Fork a child for the block, which reads *path* after the block."""

    def look() -> None:
        eventually(release.exists)
        assert path.read_bytes() == b"bytes of k"

    child = fork(look)
    try:
        yield
    finally:
        release.touch()
        assert status_of(child) == 0


def test_a_process_that_ends_leaves_its_lease_to_a_child_that_still_has_it(
    cache: casstore.Cache, tmp_path: Path
) -> None:
    path = make_view(cache)
    with _child_that_looks_later(path, tmp_path / "release"):
        cache.close()
        assert path.read_bytes() == b"bytes of k"


def test_a_process_that_forked_leaves_its_lease_where_locks_are_for_show(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    path, other = make_view(cache), make_view(cache, "other")
    with _child_that_looks_later(path, tmp_path / "release"):
        _edit(other)
        with pytest.warns(UserWarning, match="s3://bucket/other"):
            cache.close()
        assert path.read_bytes() == b"bytes of k"


@pytest.mark.needs_locks
def test_a_process_whose_children_are_dead_leaves_no_lease(cache: casstore.Cache) -> None:
    path = make_view(cache)
    assert forked(lambda: None) == 0
    cache.close()
    assert not path.exists()
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.trash) == []


def test_a_lease_that_is_closed_twice_is_no_trouble(cache: casstore.Cache) -> None:
    lease = cache.lease
    lease.close()
    lease.close()
    lease.abandon()
