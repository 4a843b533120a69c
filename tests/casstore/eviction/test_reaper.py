"""The reaper removes leases of dead processes, records their edits, and leaves those of living ones."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import Condition, PendingState, Validator
from casstore.eviction import reaper
from casstore.eviction.reaper import reap
from casstore.format.layout import LeaseLayout
from casstore.fs import files
from casstore.leases import lease as leases
from casstore.leases.lease import Lease
from casstore.locks import lock_files
from casstore.locks.lock_files import LockedFile, create_locked
from tests.casstore.support.fill import alone, eventually, fork, fork_without_hooks, forked, key_of, read, status_of
from tests.casstore.support.reaping import living_process, make_private, reap_store


def _leave(cache: casstore.Cache, work: Callable[[], object] = lambda: None) -> str:
    """A lease with a private path whose process ended without a word, after *work*; its name."""
    before = set(os.listdir(cache.layout.leases))
    assert forked(lambda: [make_private(cache), work()]) == 0
    (name,) = set(os.listdir(cache.layout.leases)) - before
    return name


def _take_over_unasked(path: str) -> LockedFile:
    """`try_lock_existing` without asking the lock: what the tests below must catch."""
    return LockedFile(path, "r+")


# --- who is dead ------------------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_the_lease_of_a_killed_process_goes_with_its_private_trees(cache: casstore.Cache, tmp_path: Path) -> None:
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
        path = make_private(cache)
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
        path = make_private(cache)
        child = fork_without_hooks(lambda: eventually(release.exists))
        cache.lease.close()
        assert path.read_bytes() == b"bytes of k"
        release.touch()
        assert status_of(child) == 0

    assert alone(parent) == 0
    assert reap_store(cache).leases == 1


def test_ones_own_lease_is_left_alone(cache: casstore.Cache) -> None:
    path = make_private(cache)
    done = reap(cache.layout, cache.index, cache.changes, own_lease=cache.lease.name)
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
    """Births, deaths and reapers at random; whoever lives finds its file."""
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)  # proved elsewhere, and slow

    def live() -> None:
        for _ in range(25):
            path = make_private(cache)
            reap(cache.layout, cache.index, cache.changes, own_lease=cache.lease.name)
            assert path.read_bytes() == b"bytes of k"
            cache.close()
        make_private(cache)  # and is left behind

    assert [status_of(pid) for pid in [fork(live) for _ in range(4)]] == [0] * 4
    done = reap_store(cache)
    assert (done.kept, os.listdir(cache.layout.leases)) == ((), [])


# --- what a user may want ---------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_a_change_in_a_dead_processs_private_tree_becomes_a_pending_write_and_the_tree_goes(
    cache: casstore.Cache,
) -> None:
    def edit() -> None:
        make_private(cache, "edited").write_bytes(b"mine")
        make_private(cache, "untouched")

    name = _leave(cache, edit)
    done = reap_store(cache)
    (write,) = done.recorded
    assert (done.leases, done.kept, os.listdir(cache.layout.local)) == (1, (), [])
    assert os.listdir(cache.layout.leases) == [cache.lease.name] != [name]
    assert (write.uri, write.state, write.base) == ("s3://bucket/edited", PendingState.INCOMPLETE, Validator(15, "e1"))
    assert (write.condition, write.outcome_unknown) == (Condition.MATCH, True)
    assert list(cache.pending.all()) == [write]
    assert Path(cache.pending.path(write)).read_bytes() == b"mine"
    assert reap_store(cache).recorded == ()


@pytest.mark.needs_locks
def test_a_dead_lease_stays_while_a_change_in_its_private_trees_cannot_be_recorded(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _leave(cache, lambda: make_private(cache, "edited").write_bytes(b"mine"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(files, "create_synced", full)
        (kept,) = reap_store(cache).kept
    assert (kept.name, kept.is_alive, "could not be recorded" in kept.reason) == (name, False, True)
    assert list(cache.pending.all()) == []
    done = reap_store(cache)
    assert ([write.uri for write in done.recorded], done.leases) == (["s3://bucket/edited"], 1)


@pytest.mark.needs_locks
@pytest.mark.parametrize("where", ["views/0/s3/bucket/k", "outbox/0/s3/bucket/new.csv", "edits/0/s3/bucket/k"])
def test_a_dead_lease_of_a_former_version_goes_unless_it_has_a_users_file(cache: casstore.Cache, where: str) -> None:
    path = Path(cache.layout.lease(_leave(cache))) / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    (kept,) = reap_store(cache).kept
    assert (kept.edited, "an earlier version" in kept.reason, path.read_bytes()) == ((str(path),), True, b"mine")
    if where.startswith("views"):
        os.utime(path, (1_500_000_000, 1_500_000_000))  # as the store dated its own
    else:
        path.unlink()
    assert reap_store(cache).leases == 1
    assert os.listdir(cache.layout.leases) == []


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


@pytest.mark.needs_locks
@pytest.mark.parametrize("are_for_show", [False, True])
def test_a_process_that_ends_leaves_its_lease_to_a_child_that_still_has_it(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_for_show: bool
) -> None:
    name = cache.lease.name
    child = fork(lambda: eventually((tmp_path / "release").exists))
    with monkeypatch.context() as patched:
        if are_for_show:
            patched.setattr(fcntl, "flock", lambda *_: None)
        cache.close()
        assert os.listdir(cache.layout.leases) == [name]
    assert [kept.is_alive for kept in reap_store(cache).kept] == [True]
    (tmp_path / "release").touch()
    assert status_of(child) == 0
    assert reap_store(cache).leases == 1


@pytest.mark.needs_locks
def test_a_process_whose_children_are_dead_leaves_no_lease(cache: casstore.Cache) -> None:
    path = make_private(cache)
    assert forked(lambda: None) == 0
    cache.close()
    assert not path.exists()
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.trash) == []
