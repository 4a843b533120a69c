"""Leases: locked from their first moment, and gone with their process and its children."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

import casstore
from casstore.format.layout import LeaseLayout
from casstore.fs import files
from tests.casstore.support.fill import alone, fork, fork_without_hooks, forked, run, status_of


@pytest.mark.needs_locks
def test_a_lease_is_born_locked_and_nobody_sees_it_before(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = files.rename

    def look(source: str, target: str) -> None:
        seen.append((os.path.basename(source)[:5], os.listdir(source), _is_locked(source)))
        rename(source, target)

    monkeypatch.setattr(files, "rename", look)
    lease = cache.lease
    assert seen == [(".new-", ["lock"], True)]
    assert _is_locked(lease.paths.path)
    assert os.listdir(cache.layout.leases) == [lease.name]


def _is_locked(lease: str) -> bool:
    with open(LeaseLayout(lease).lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.needs_locks
def test_a_killed_process_leaves_its_lease_unlocked(cache: casstore.Cache) -> None:
    assert forked(lambda: cache.lease) == 0
    (name,) = os.listdir(cache.layout.leases)
    assert not _is_locked(cache.layout.lease(name))


def test_a_normal_exit_leaves_no_lease(root: Path) -> None:
    done = run("import sys, casstore; print(casstore.open(sys.argv[1]).lease.paths.path)", str(root))
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(done.stdout.strip())
    assert os.listdir(casstore.open(root).layout.leases) == []


def test_a_closed_cache_takes_its_lease_along_and_one_with_private_trees_stays(cache: casstore.Cache) -> None:
    name = cache.lease.name
    os.mkdir(f"{cache.layout.local}/e{name}-{'0' * 16}")
    cache.lease.close()
    assert os.listdir(cache.layout.leases) == [name]
    assert not _is_locked(cache.layout.lease(name))
    shutil.rmtree(cache.layout.lease(name))
    assert cache.lease.name != name, "it is another one then"
    cache.close()
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.trash) == []


def test_a_forked_child_has_a_lease_of_its_own_and_its_exit_leaves_the_parents_alone(cache: casstore.Cache) -> None:
    name = cache.lease.name

    def work() -> None:
        assert cache.lease.name != name
        cache.close()

    assert forked(work) == 0
    assert os.listdir(cache.layout.leases) == [name]


def test_a_lease_or_a_store_that_somebody_removed_is_taken_anew(cache: casstore.Cache) -> None:
    before = len(os.listdir("/dev/fd"))
    names = set()
    for path in [cache.root, *[""] * 20]:
        names.add(cache.lease.name)
        shutil.rmtree(path or cache.lease.paths.path)
    assert cache.lease.exists()
    assert len(names) == 21
    assert len(os.listdir("/dev/fd")) <= before + 1


def test_a_child_of_a_fork_without_hooks_does_not_end_its_parents_lease(cache: casstore.Cache) -> None:
    def parent() -> None:
        lease = cache.lease

        def child() -> None:
            assert not lease.abandon()

        assert status_of(fork_without_hooks(child)) == 0
        assert lease.abandon()

    assert alone(parent) == 0


def test_many_processes_take_and_leave_leases(cache: casstore.Cache) -> None:
    def work() -> None:
        for _ in range(20):
            assert cache.lease.exists()
            cache.close()

    assert [status_of(pid) for pid in [fork(work) for _ in range(4)]] == [0] * 4


def test_a_lease_that_is_closed_twice_is_no_trouble(cache: casstore.Cache) -> None:
    lease = cache.lease
    lease.close()
    lease.close()
    lease.abandon()


def test_a_program_that_was_started_has_no_lease_of_its_starter(cache: casstore.Cache) -> None:
    assert not os.get_inheritable(cache.lease._file.fileno())
