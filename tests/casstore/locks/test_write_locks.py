"""One writer of a URI at a time, and errors instead of deadlocks."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from casstore import LockTimeoutError, ReentrantWriteError
from casstore.format.layout import Layout
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.write_locks import WriteLock, WriteLocks
from tests.casstore.support.fill import alone, fork, fork_without_hooks, forked, key_of, status_of
from tests.casstore.support.threads import acquired

KEY, OTHER = key_of("k"), key_of("other")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    os.makedirs(layout.write_locks)
    return layout


@pytest.mark.needs_locks
@pytest.mark.parametrize("queues", [True, False], ids=["in a queue", "by polling alone"])
def test_one_that_writes_in_a_loop_does_not_starve_another(layout: Layout, queues: bool) -> None:
    """Whoever waits goes before whoever has just had it. Without the queue (the negative control) he does not."""
    context = multiprocessing.get_context("fork")
    waits, is_asked = context.Event(), context.Event()

    def take(meanwhile: Callable[[], object] | None = None, timeout: float = 60) -> WriteLock:
        return acquired(WriteLocks(layout, 60, ByteLocks(layout) if queues else None), KEY, timeout, meanwhile)

    def wait_for_it() -> None:
        looks = 0

        def stand_still_while_waiting() -> None:
            nonlocal looks
            looks += 1
            if looks == 2:  # the first look has found it taken
                waits.set()
                assert is_asked.wait(1_000)

        take(stand_still_while_waiting).release()

    lock = take()
    other = fork(wait_for_it)
    assert waits.wait(1_000)
    lock.release()
    if queues:
        with pytest.raises(LockTimeoutError):
            take(timeout=0)
    else:
        take(timeout=0).release()
    is_asked.set()
    assert status_of(other) == 0
    take().release()


@pytest.fixture
def locks(layout: Layout) -> WriteLocks:
    return WriteLocks(layout, 60)


@pytest.mark.needs_locks
def test_writers_of_one_uri_take_turns_and_lose_no_line(layout: Layout) -> None:
    target = Path(layout.root) / "lines"
    target.write_text("")

    def work() -> None:
        locks = WriteLocks(layout, 60)
        for _ in range(20):
            with acquired(locks, KEY):
                text = target.read_text()
                time.sleep(0.0002)
                target.write_text(text + f"{os.getpid()}\n")

    assert [status_of(pid) for pid in [fork(work) for _ in range(4)]] == [0] * 4
    assert len(target.read_text().splitlines()) == 80
    assert os.listdir(layout.write_locks) == []


def test_threads_take_turns(locks: WriteLocks) -> None:
    inside: list[int] = []

    def work() -> None:
        for _ in range(20):
            with acquired(locks, KEY):
                inside.append(1)
                assert len(inside) == 1
                time.sleep(0.0001)
                inside.clear()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == []


@pytest.mark.needs_locks
def test_a_writer_that_waits_too_long_is_told_who_holds_it(locks: WriteLocks, layout: Layout) -> None:
    me, program = os.getpid(), sys.argv[0]
    with acquired(locks, KEY):

        def work() -> None:
            with pytest.raises(LockTimeoutError) as caught:
                acquired(WriteLocks(layout, 0.05), KEY)
            assert f"s3://bucket/k: process {me} ({program}) since" in str(caught.value)

        assert forked(work) == 0
    with acquired(locks, KEY):
        pass


def test_another_thread_that_waits_too_long_is_told_where_it_is_held(locks: WriteLocks) -> None:
    errors: list[str] = []

    def work() -> None:
        with pytest.raises(LockTimeoutError) as caught:
            acquired(locks, KEY, 0.05)
        errors.append(str(caught.value))

    with locks.request(KEY) as lock, lock:
        lock.acquire()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert __file__ in errors[0] and "another thread of this process" in errors[0]


def test_a_thread_that_asks_again_gets_an_error_at_once(locks: WriteLocks) -> None:
    with locks.request(KEY) as lock, acquired(locks, OTHER):
        lock.acquire()
        with pytest.raises(ReentrantWriteError, match=r"already has it open for writing, since .*test_write_l"):
            acquired(locks, KEY)
    with acquired(locks, KEY):
        pass


def test_at_a_prompt_a_forgotten_file_gives_way_to_the_next(locks: WriteLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook cell that failed left its file open; running it again must not wait for it."""
    forgotten = acquired(locks, KEY)
    forgotten.on_reopen = forgotten.release
    with pytest.raises(ReentrantWriteError):
        acquired(locks, KEY)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with acquired(locks, KEY) as mine:
        assert mine is not forgotten
        forgotten.release()
        with pytest.raises(ReentrantWriteError):
            acquired(locks, KEY)


def test_a_thread_waits_for_what_became_of_a_file_that_it_lost(locks: WriteLocks) -> None:
    """The finaliser ran in this thread, and another one is keeping the bytes: no reason for an error."""
    lost = acquired(locks, KEY)
    lost.is_ending = True
    threading.Timer(0.05, lost.release).start()
    with acquired(locks, KEY) as mine:
        assert mine is not lost


@pytest.mark.needs_locks
def test_two_processes_that_want_what_the_other_has_do_not_wait_for_ever(layout: Layout) -> None:
    """Each takes two locks, in opposite orders: one of them gives up, and the other goes on."""
    barrier_one, barrier_two = os.pipe(), os.pipe()

    def work(first: object, second: object, mine: int, theirs: int, patience: float) -> None:
        locks = WriteLocks(layout, patience)
        with acquired(locks, first):  # type: ignore[arg-type]
            os.write(mine, b"x")
            os.read(theirs, 1)
            with acquired(locks, second):  # type: ignore[arg-type]
                pass

    one = fork(lambda: work(KEY, OTHER, barrier_one[1], barrier_two[0], 0.2))
    two = fork(lambda: work(OTHER, KEY, barrier_two[1], barrier_one[0], 60))
    assert (status_of(one), status_of(two)) == (1, 0)


def test_a_killed_writer_keeps_nobody_out(locks: WriteLocks, layout: Layout) -> None:
    def work() -> None:
        acquired(WriteLocks(layout, 60), KEY)
        os.kill(os.getpid(), 9)

    assert forked(work) == -9
    with acquired(locks, KEY, 5):
        pass


@pytest.mark.needs_locks
def test_a_forked_child_neither_has_its_parents_lock_nor_frees_it(locks: WriteLocks, layout: Layout) -> None:
    with acquired(locks, KEY) as lock:

        def work() -> None:
            lock.release()
            with pytest.raises(LockTimeoutError):
                acquired(WriteLocks(layout, 0.05), KEY)

        assert forked(work) == 0
        assert os.path.exists(layout.write_lock(KEY.name))


def test_the_directory_of_the_locks_is_made_where_somebody_removed_it(locks: WriteLocks, layout: Layout) -> None:
    os.rmdir(layout.write_locks)
    with acquired(locks, KEY):
        pass


def test_without_files_threads_exclude_each_other_all_the_same() -> None:
    locks = WriteLocks(None, 60)
    failures: list[BaseException] = []

    def take() -> None:
        try:
            acquired(locks, KEY, 0).release()
        except LockTimeoutError as error:
            failures.append(error)

    with acquired(locks, KEY):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert len(failures) == 1
    take()
    assert len(failures) == 1


def test_a_child_of_a_fork_without_hooks_has_locks_of_its_own_and_none_of_its_parent(layout: Layout) -> None:
    def parent() -> None:
        locks = WriteLocks(layout, 60)
        mine = acquired(locks, KEY)

        def child() -> None:
            assert not locks.is_held(KEY)
            mine.release()
            with acquired(locks, OTHER):
                assert locks.is_held(OTHER)
            assert not locks.is_held(OTHER)

        assert status_of(fork_without_hooks(child)) == 0
        assert locks.is_held(KEY) and os.path.exists(layout.write_lock(KEY.name))
        mine.release()

    assert alone(parent) == 0


@pytest.mark.needs_locks
def test_a_lock_file_that_was_unlinked_before_it_was_locked_is_left_for_the_new_one(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def unlink_and_lock(file: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        os.unlink(layout.write_lock(KEY.name))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", unlink_and_lock)
    with acquired(WriteLocks(layout, 60), KEY):
        assert fcntl.flock is flock
        with pytest.raises(LockTimeoutError):
            acquired(WriteLocks(layout, 60), KEY, 0.05)


def test_a_second_release_frees_nothing_of_the_next_writer(layout: Layout) -> None:
    locks = WriteLocks(layout, 60)
    first = acquired(locks, KEY)
    first.release()
    with acquired(locks, KEY):
        first.release()
        assert locks.is_held(KEY)
        assert os.path.exists(layout.write_lock(KEY.name))
    assert not locks.is_held(KEY)
