"""Threads for the parts of one transfer, which never keep their caller from leaving.

The caller waits on a `TimedQueue`: an interrupt is raised at once, and leaves no lock behind. The threads are daemons,
so that no exit waits for a server that does not answer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import get_ident, main_thread
from typing import Any, Final, Generic, TypeVar

from casstore import TimedQueue, start_thread
from pathapi.parallel.cancellation import INTERRUPT_SECONDS, CancelToken

CANCEL_SECONDS: Final = 0.1
"""Seconds between two looks at the cancel flag of a caller that waits."""

ResultT = TypeVar("ResultT")


class PartThreads(Generic[ResultT]):
    """Up to *threads* threads that make calls for one other thread; with 0, that thread makes them itself.

    *on_late* is called, in its thread, after each call that ends after `close`.
    """

    def __init__(self, threads: int, on_late: Callable[[], object] | None = None) -> None:
        self._limit, self._on_late = threads, on_late
        self._calls: SimpleQueue[Callable[[], ResultT] | None] = SimpleQueue()
        self._ended: TimedQueue[Callable[[], ResultT]] = TimedQueue()  # each returns the result, or raises the error
        self._threads = 0
        self._is_closed = False
        self._stop = CancelToken()
        self.running = 0
        """Calls that were submitted, and whose end `result` has not returned yet."""

    def submit(self, call: Callable[[], ResultT]) -> None:
        """Make *call* in one of the threads; here if none can be started, as at the interpreter's exit."""
        if self._threads < min(self._limit, self.running + 1):
            # Counted first: an interrupt of `start` does not tell whether the thread runs.
            self._threads += 1
            try:
                start_thread(self._run, ())
            except RuntimeError:
                self._threads -= 1
        self.running += 1
        if self._threads:
            self._calls.put(call)
        else:
            self._ended.put(outcome(call))

    def result(self) -> ResultT:
        """Wait for the next end of a call; return its result, or raise its error. Raises: Cancelled."""
        return self._next()()

    def poll(self, seconds: float) -> ResultT:
        """Do the same within *seconds*, cancelled or not. Raises: queue.Empty."""
        ended = self._ended.get(timeout=seconds)
        self.running -= 1
        return ended()

    def drain(self) -> None:
        """Wait until no call is running; calls that have not begun are dropped. Raises: Cancelled."""
        with contextlib.suppress(Empty):
            while True:
                self._calls.get_nowait()
                self.running -= 1
        while self.running:
            self._next()

    def close(self) -> None:
        """End the threads after their current calls, without waiting; calls that have not begun are dropped."""
        self._is_closed = True
        self._calls.put(None)  # for all threads: each puts it back

    def _next(self) -> Callable[[], ResultT]:
        while True:
            self._stop.check()
            with contextlib.suppress(Empty):
                ended = self._ended.get(timeout=CANCEL_SECONDS)
                self.running -= 1
                return ended

    def _run(self) -> None:
        while (call := self._calls.get()) is not None and not self._is_closed:
            self._ended.put(outcome(call))
            del call  # `get` may wait for long
            self._call_late()
        self._calls.put(None)

    def _call_late(self) -> None:
        if self._is_closed and self._on_late is not None:
            with contextlib.suppress(Exception):
                self._on_late()


def outcome(call: Callable[[], ResultT]) -> Callable[[], ResultT]:
    """Make *call*; return a function that returns its result, or raises its error."""
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 (raised in the other thread)
        failure = error

        def fail() -> ResultT:
            raise failure

        return fail
    return lambda: result


class _CallThread:
    """A thread that makes the calls of the main thread, one after the other."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Callable[[], Any], TimedQueue[Any]] | None] = SimpleQueue()
        start_thread(self._run, ())

    def _run(self) -> None:
        while (item := self.calls.get()) is not None:
            call, ended = item
            ended.put(outcome(call))
            del item, call, ended  # `get` may wait for long


_idle: _CallThread | None = None
"""The one that has no call now; an interrupted call keeps its own, which ends with it."""


def _forget_idle() -> None:
    global _idle
    _idle = None


os.register_at_fork(after_in_child=_forget_idle)


def heard(call: Callable[[], ResultT]) -> ResultT:
    """Return what *call* returns; raise Ctrl-C at once, also while *call* looks for no signals, but never inside of it.

    Only the main thread gets them, so it waits for another; after an interrupt, the result is dropped.
    """
    global _idle
    if get_ident() != main_thread().ident:
        return call()
    thread, _idle = _idle, None
    ended: TimedQueue[Callable[[], ResultT]] = TimedQueue()  # hears a signal that came just before the wait, too
    try:
        thread = thread or _CallThread()
        thread.calls.put((call, ended))
        result = ended.get()
    except RuntimeError:  # no more threads can be started
        return call()
    except BaseException:
        if thread is not None:
            thread.calls.put(None)
        raise
    _idle = thread
    return result()


@contextlib.contextmanager
def undone_on_error(undo: Callable[[], object]) -> Iterator[None]:
    """Call *undo* if the block raises; errors of *undo* are ignored.

    After an interrupt it is called in another thread, and `INTERRUPT_SECONDS` are waited for it: it is a request to a
    server that may not answer.
    """
    try:
        yield
    except Exception:
        with contextlib.suppress(Exception):
            undo()
        raise
    except BaseException:
        call_briefly(undo)
        raise


def call_briefly(call: Callable[[], object]) -> None:
    """Make *call* in another thread, and wait for its end for `INTERRUPT_SECONDS` at most; its errors are ignored."""
    threads: PartThreads[object] = PartThreads(1)
    with contextlib.suppress(Exception):
        threads.submit(call)
        threads.poll(INTERRUPT_SECONDS)
    threads.close()
