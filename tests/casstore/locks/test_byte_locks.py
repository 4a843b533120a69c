"""Locks exclude, are freed by death, and belong to the process that took them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import casstore
from casstore.errors import LockTimeoutError
from casstore.format.layout import Layout
from casstore.locks import byte_locks as locks
from casstore.locks import lock_files
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.lock_files import create_locked, locks_are_exclusive, try_lock_existing
from tests.casstore.support.fill import alone, eventually, fork, fork_without_hooks, forked, run, status_of

pytestmark = pytest.mark.needs_locks


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    os.makedirs(layout.write_locks)
    return layout


@pytest.fixture(params=["bytes", "files"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Locks on byte ranges, and the fallback of platforms without."""
    if request.param == "files":
        monkeypatch.setattr(locks, "_HAS_BYTE_LOCKS", False)
    elif not locks._HAS_BYTE_LOCKS:
        pytest.skip("no open-file-description locks here")
    return str(request.param)


def _is_free_elsewhere(layout: Layout, name: bytes) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ByteLocks(layout).try_acquire(name) is not None else 1)
    return status_of(pid) == 0


def test_a_name_is_held_by_one_process(layout: Layout, kind: str) -> None:
    lock = ByteLocks(layout).try_acquire(b"name")
    assert lock is not None
    assert not _is_free_elsewhere(layout, b"name")
    assert _is_free_elsewhere(layout, b"other")
    lock.release()
    assert _is_free_elsewhere(layout, b"name")


def test_a_name_is_held_by_one_thread(layout: Layout, kind: str) -> None:
    ours = ByteLocks(layout)
    got = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        got.append(ours.try_acquire(b"name"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lock is not None for lock in got) == 1


def test_a_killed_holder_frees_its_lock(layout: Layout, kind: str) -> None:
    ours = ByteLocks(layout)

    def hold() -> None:
        assert ByteLocks(layout).try_acquire(b"name")
        (Path(layout.root) / "held").touch()
        time.sleep(60)

    pid = fork(hold)
    eventually((Path(layout.root) / "held").exists)
    assert ours.try_acquire(b"name") is None
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    assert ours.try_acquire(b"name") is not None


def test_a_forked_child_neither_has_nor_frees_its_parents_locks(layout: Layout, kind: str) -> None:
    ours = ByteLocks(layout)
    lock = ours.try_acquire(b"name")
    assert lock is not None

    def work() -> None:
        ours.after_fork_in_child()
        assert ours.try_acquire(b"name") is None
        lock.release()
        assert ours.try_acquire(b"name") is None

    assert forked(work) == 0
    assert not _is_free_elsewhere(layout, b"name")


def test_a_child_of_a_fork_without_hooks_neither_has_nor_frees_its_parents_locks(layout: Layout, kind: str) -> None:
    def parent() -> None:
        ours = ByteLocks(layout)
        lock = ours.try_acquire(b"name")
        assert lock is not None

        def child() -> None:
            lock.release()
            assert ours.try_acquire(b"name") is None

        assert status_of(fork_without_hooks(child)) == 0
        assert not _is_free_elsewhere(layout, b"name")

    assert alone(parent) == 0


def test_a_child_of_a_fork_without_hooks_excludes_its_parent(layout: Layout, kind: str) -> None:
    held = Path(layout.root) / "held"

    def parent() -> None:
        ours = ByteLocks(layout)
        assert ours.try_acquire(b"name") is not None  # the file is open from here on

        def child() -> None:
            assert ours.try_acquire(b"other") is not None
            held.touch()
            time.sleep(60)

        pid = fork_without_hooks(child)
        try:
            eventually(held.exists)
            assert ours.try_acquire(b"other") is None
        finally:
            os.kill(pid, signal.SIGKILL)
            status_of(pid)
        assert ours.try_acquire(b"other") is not None

    assert alone(parent) == 0


def test_a_second_release_does_not_free_the_next_holders_lock(layout: Layout, kind: str) -> None:
    ours = ByteLocks(layout)
    first = ours.try_acquire(b"name")
    assert first is not None
    first.release()
    assert ours.try_acquire(b"name") is not None
    first.release()
    assert ours.try_acquire(b"name") is None
    assert not _is_free_elsewhere(layout, b"name")


def test_names_that_share_a_fallback_file_do_not_wait_for_each_other_in_one_process(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_HAS_BYTE_LOCKS", False)
    monkeypatch.setattr(locks, "_FALLBACK_FILES", 1)
    ours = ByteLocks(layout)
    one, other = ours.try_acquire(b"one"), ours.try_acquire(b"other")
    assert one is not None
    assert other is not None
    turn = ours.acquire_writer(0.0)
    turn.release()
    one.release()
    assert not _is_free_elsewhere(layout, b"third")
    other.release()
    assert _is_free_elsewhere(layout, b"third")


def test_a_writers_turn_that_does_not_come_is_an_error(layout: Layout, kind: str) -> None:
    turn = ByteLocks(layout).acquire_writer(0.0)
    with pytest.raises(LockTimeoutError, match=f"process {os.getpid()} "):
        ByteLocks(layout).acquire_writer(0.05)
    turn.release()
    ByteLocks(layout).acquire_writer(0.05).release()


def test_a_writer_that_hangs_is_named_and_given_up_once(
    layout: Layout, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ByteLocks(layout)

    def hang() -> None:
        ByteLocks(layout).acquire_writer(0.0)
        (Path(layout.root) / "writing").touch()
        time.sleep(600)

    pid = fork(hang)
    try:
        eventually((Path(layout.root) / "writing").exists)
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(locks, "STALL_SECONDS", 0.1)
        with pytest.raises(LockTimeoutError, match=rf"process {pid} \(.*, host .*\) since ..:..:.., .*kill -CONT"):
            ours.acquire_writer(1e6)
        # From now on this writer is known: no later call waits as long as the first.
        monkeypatch.setattr(locks, "STALL_SECONDS", 1e6)
        for _ in range(3):
            with pytest.raises(LockTimeoutError, match=f"process {pid} "):
                ours.acquire_writer(1e6)
    finally:
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
    ours.acquire_writer(1e6).release()
    # The next one that hangs is another one.
    turn = ByteLocks(layout).acquire_writer(0.0)
    assert not ours.has_given_up_on(ours.description(locks._WRITER_BYTE))
    turn.release()


def test_a_process_that_hangs_while_it_waits_to_write_is_named(
    layout: Layout, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "STALL_SECONDS", 0.1)
    theirs = ByteLocks(layout)
    turn = theirs.acquire_writer(0.0)

    def hang() -> None:
        theirs.after_fork_in_child()
        monkeypatch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGSTOP))
        ByteLocks(layout).acquire_writer(1e6)

    pid = fork(hang)
    try:
        os.waitpid(pid, os.WUNTRACED)
        turn.release()
        with pytest.raises(LockTimeoutError, match=f"process {pid} "):
            ByteLocks(layout).acquire_writer(1e6)
    finally:
        os.kill(pid, signal.SIGKILL)
        status_of(pid)


def test_the_time_of_a_waiting_writer_starts_again_with_each_that_writes(
    layout: Layout, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six seconds pass between two looks, in which another process has written; after ten of them it is our turn.
    looks, turns = itertools.count(), itertools.count(1)
    theirs = ByteLocks(layout)
    turn = theirs.acquire_writer(0.0)

    def write(_: float) -> None:
        theirs.describe(locks._WRITER_BYTE)
        if next(turns) == 10:
            turn.release()

    clock = SimpleNamespace(monotonic=lambda: 6.0 * next(looks), time_ns=time.time_ns)
    monkeypatch.setattr(locks, "time", clock)
    monkeypatch.setattr(lock_files, "time", SimpleNamespace(monotonic=time.monotonic, sleep=write))
    ByteLocks(layout).acquire_writer(1e6).release()
    assert next(turns) == 11


@pytest.mark.parametrize("failures", [1, 2])
def test_a_lock_that_cannot_be_freed_keeps_nobody_waiting_for_ever(
    layout: Layout, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks._HAS_BYTE_LOCKS:
        pytest.skip("no open-file-description locks here")
    ours, real, left = ByteLocks(layout), fcntl.fcntl, [errno.EIO] * failures

    def fail_to_unlock(descriptor: int, command: int, argument: bytes) -> object:
        if locks._FLOCK.unpack(argument)[0] == fcntl.F_UNLCK and left:
            raise OSError(left.pop(), "for a test")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", fail_to_unlock)
    if failures == 1:
        ours.acquire_writer(0.0).release()
        ByteLocks(layout).acquire_writer(0.0).release()
    else:
        # The other of a writer's two locks must not be held by nobody.
        with pytest.raises(OSError, match="for a test"):
            ours.acquire_writer(0.0)
    ours.acquire_writer(0.0).release()
    ByteLocks(layout).acquire_writer(0.0).release()


def test_a_writer_comes_after_those_that_wait_already(layout: Layout, kind: str) -> None:
    waiting = ByteLocks(layout).try_byte(locks._QUEUE_BYTE)
    assert waiting is not None
    with pytest.raises(LockTimeoutError):
        ByteLocks(layout).acquire_writer(0.0)
    waiting.release()
    ByteLocks(layout).acquire_writer(0.0).release()


def test_a_busy_writer_lets_others_in(layout: Layout, kind: str) -> None:
    ours = ByteLocks(layout)

    def write_all_the_time() -> None:
        theirs = ByteLocks(layout)
        (Path(layout.root) / "writing").touch()
        while not (Path(layout.root) / "enough").exists():
            turn = theirs.acquire_writer(60)
            time.sleep(0.002)
            turn.release()

    pid = fork(write_all_the_time)
    try:
        eventually((Path(layout.root) / "writing").exists)
        for _ in range(50):
            ours.acquire_writer(60).release()
    finally:
        (Path(layout.root) / "enough").touch()
    assert status_of(pid) == 0


def test_a_lost_lock_directory_is_made_again(tmp_path: Path, kind: str) -> None:
    assert ByteLocks(Layout(tmp_path / "gone")).try_acquire(b"name") is not None


def test_a_lock_for_life_is_held_until_the_process_is_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")

    def hold() -> None:
        with create_locked(path):
            (tmp_path / "held").touch()
            time.sleep(60)

    pid = fork(hold)
    eventually((tmp_path / "held").exists)
    with pytest.raises(BlockingIOError):
        create_locked(path)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    create_locked(path).close()


def test_a_lock_is_taken_over_from_the_dead_and_not_from_the_living(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    holder = create_locked(path)
    assert try_lock_existing(path) is None
    holder.close()
    taken = try_lock_existing(path)
    assert taken is not None
    assert try_lock_existing(path) is None
    assert not os.get_inheritable(taken.fileno())
    taken.close()


@pytest.mark.parametrize("by", ["another", "nothing"])
def test_a_lock_file_that_is_replaced_while_its_lock_is_taken_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    path = tmp_path / "lock"
    create_locked(str(path)).close()
    real = fcntl.flock

    def replaced(descriptor: int, operation: int) -> None:
        path.unlink()
        if by == "another":
            path.touch()
        real(descriptor, operation)

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(fcntl, "flock", replaced)
    with pytest.raises(FileNotFoundError):
        try_lock_existing(str(path))
    assert len(os.listdir("/dev/fd")) == before


def test_no_link_is_taken_for_a_lock_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        try_lock_existing(str(tmp_path / "lock"))


def _other_process_is_excluded(path: Path) -> bool:
    """What `locks_are_exclusive` stands for."""
    file = create_locked(str(path))
    try:
        code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        tried = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
        return "BlockingIOError" in tried.stderr
    finally:
        file.close()


def test_two_locks_of_one_file_prove_that_other_processes_are_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _other_process_is_excluded(tmp_path / "lock")
    (tmp_path / "lock").unlink()
    assert locks_are_exclusive(str(tmp_path))
    assert os.listdir(tmp_path) == []
    before = len(os.listdir("/dev/fd"))
    for failure in (None, OSError(errno.ENOLCK, "no locks"), OSError(errno.ENOSYS, "no locks")):

        def flock(*_: object, error: OSError | None = failure) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(fcntl, "flock", flock)
        assert not locks_are_exclusive(str(tmp_path))
        monkeypatch.undo()
    assert not locks_are_exclusive(str(tmp_path / "gone"))
    assert len(os.listdir("/dev/fd")) == before


def test_no_program_is_started_to_collect(cache: casstore.Cache, tmp_path: Path) -> None:
    """In a frozen or embedding program, ``sys.executable`` is the program."""
    code = f"""
import sys
import casstore
cache = casstore.open({cache.root!r})
cache.lease
sys.frozen, sys.executable = True, {str(tmp_path / "app")!r}
cache.collect(cache.plan())
"""
    (tmp_path / "app").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "app").chmod(0o755)
    killed = "import os, sys, casstore; casstore.open(sys.argv[1]).lease; os.kill(os.getpid(), 9)"
    run(killed, cache.root)
    assert len(os.listdir(cache.layout.leases)) == 1
    done = run(code, cache.root)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "started").exists()
    assert os.listdir(cache.layout.leases) == []


def test_a_byte_that_was_locked_when_an_interrupt_came_is_unlocked(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks, lock = ByteLocks(layout), ByteLocks._lock

    def lock_and_interrupt(self: ByteLocks, byte: int) -> bool:
        lock(self, byte)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ByteLocks, "_lock", lock_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            locks.try_acquire(b"name")
    for others in (ByteLocks(layout), locks):
        again = others.try_acquire(b"name")
        assert again is not None
        again.release()


@pytest.mark.parametrize(("is_known", "limit"), [(False, locks.STALL_SECONDS), (True, 0.1)])
def test_a_writer_that_this_process_has_given_up_on_is_waited_for_briefly(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, is_known: bool, limit: float
) -> None:
    now = [100.0]
    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    mine = ByteLocks(layout)
    monkeypatch.setattr(mine, "description", lambda _: b"a writer")
    monkeypatch.setattr(mine, "has_given_up_on", lambda _: is_known)
    wait = locks._Wait(mine, 60.0)
    assert not wait._is_stalled()
    now[0] += limit - 0.05
    assert not wait._is_stalled()
    now[0] += 0.1
    assert wait._is_stalled()
