"""Threads of one transfer: results and errors reach the caller, and an interrupt leaves it at once."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from pathapi.parallel.cancellation import INTERRUPT_SECONDS, CancelFlag, Cancelled, CancelToken, set_cancel_flag
from pathapi.parallel.part_threads import PartThreads, undone_on_error
from pathapi.parallel.worker_pool import WorkerPool
from tests.casstore.support.fill import eventually
from tests.casstore.support.threads import threads_in


def test_results_and_errors_reach_the_caller() -> None:
    pool: PartThreads[int] = PartThreads(3)

    def divide(number: int) -> int:
        return 12 // number

    for number in (1, 2, 3, 0):
        pool.submit(partial(divide, number))
    found, errors = [], 0
    while pool.running:
        try:
            found.append(pool.result())
        except ZeroDivisionError:
            errors += 1
    pool.close()
    assert sorted(found) == [4, 6, 12]
    assert errors == 1
    eventually(lambda: not threads_in(PartThreads._run))


@pytest.fixture
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the exit of the interpreter."""

    def fail(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("pathapi.parallel.part_threads.start_thread", fail)


@pytest.mark.usefixtures("_no_threads")
def test_the_caller_makes_the_calls_itself_if_no_thread_can_be_started() -> None:
    pool: PartThreads[int] = PartThreads(3)
    for _ in range(2):
        pool.submit(threading.get_ident)
    assert [pool.result(), pool.result()] == [threading.get_ident()] * 2
    callers: list[int] = []

    def process(_: int) -> bool:
        callers.append(threading.get_ident())
        return False

    WorkerPool(process, lambda _: 1, None).run(range(20))
    assert callers == [threading.get_ident()] * 20


@pytest.mark.usefixtures("_no_threads")
def test_an_interrupt_without_threads_cancels_no_later_transfer() -> None:
    def interrupt(_: int) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WorkerPool(interrupt, lambda _: 1, None).run([1])
    CancelToken().check()


def test_closing_waits_for_nothing_and_drops_what_has_not_begun() -> None:
    released, late, begun = threading.Event(), threading.Event(), []

    def call(number: int) -> None:
        begun.append(number)
        released.wait()

    pool: PartThreads[None] = PartThreads(2, late.set)
    for number in range(5):
        pool.submit(partial(call, number))
    eventually(lambda: len(begun) == 2)
    pool.close()
    assert not late.is_set()
    released.set()
    assert late.wait(300)
    eventually(lambda: not threads_in(PartThreads._run))
    assert sorted(begun) == [0, 1]


def test_draining_waits_for_running_calls_and_drops_the_others() -> None:
    ended: list[int] = []

    def call(number: int) -> None:
        time.sleep(0.1)
        ended.append(number)

    pool: PartThreads[None] = PartThreads(2)
    for number in range(9):
        pool.submit(partial(call, number))
    pool.drain()
    assert pool.running == 0
    count = len(ended)
    assert count < 9
    pool.close()
    time.sleep(0.3)
    assert len(ended) == count


def test_a_caller_that_is_cancelled_waits_no_longer() -> None:
    flag, released, errors = CancelFlag(), threading.Event(), []

    def transfer() -> None:
        set_cancel_flag(flag)
        pool: PartThreads[bool] = PartThreads(1)
        pool.submit(released.wait)
        try:
            pool.result()
        except Cancelled as error:
            errors.append(error)
        pool.close()

    thread = threading.Thread(target=transfer)
    thread.start()
    flag.is_set = True
    thread.join()
    assert len(errors) == 1
    released.set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_undoes_and_an_interrupt_does_so_without_waiting_for_a_server(error: type[BaseException]) -> None:
    released, undone = threading.Event(), threading.Event()

    def undo() -> None:
        undone.set()
        if error is KeyboardInterrupt:
            released.wait()
        raise OSError("the server is away")

    with pytest.raises(error), undone_on_error(undo):  # the error of the undoing is not seen
        raise error
    assert undone.is_set()
    released.set()
    assert INTERRUPT_SECONDS < 1
