"""Calls in other threads, whose results the caller fetches one by one; see `casstore.locks.mutex` for why no pool."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

from casstore.locks.mutex import start_thread
from casstore.locks.timed_queue import TimedQueue

Result = TypeVar("Result")

_POLL_SECONDS = 1.0


class Task(Generic[Result]):
    """One call, and its result or error."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._ended: TimedQueue[None] = TimedQueue()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._is_done = False

    def run(self) -> None:
        """Make the call, in any thread."""
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 (raised by `result`)
            self._error = error
        self._is_done = True
        self._ended.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until the call has ended; return whether it has after *seconds*."""
        if not self._is_done:
            with contextlib.suppress(Empty):
                self._ended.get(timeout=seconds)
        return self._is_done

    def result(self) -> Result:
        """Wait until the call has ended; return its result, or raise its error."""
        while not self.wait(_POLL_SECONDS):
            pass
        if self._error is not None:
            raise self._error
        return cast("Result", self._result)


class TaskThreads:
    """Up to *limit* daemon threads that make calls in the order of `submit`, which one thread calls."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: SimpleQueue[Task[object] | None] = SimpleQueue()
        self._ended: TimedQueue[None] = TimedQueue()
        self._threads = 0
        self.is_closed = False
        """Whether calls that have not begun are dropped."""

    def submit(self, call: Callable[[], Result]) -> Task[Result]:
        """Make *call* in one of the threads, or here if no thread can be started."""
        task = Task(call)
        if self._threads < self._limit:
            self._threads += 1  # first: an interrupt does not tell whether the thread runs
            try:
                start_thread(self._run, ())
            except RuntimeError:
                self._threads -= 1
        if self._threads:
            self._tasks.put(cast("Task[object]", task))
        else:
            task.run()
        return task

    def close(self, seconds: float = math.inf) -> None:
        """End the threads after their current calls, and wait for *seconds* at most."""
        self.is_closed = True
        for _ in range(self._threads):
            self._tasks.put(None)
        with contextlib.suppress(Empty):
            while self._threads:
                self._ended.get(timeout=None if seconds == math.inf else seconds)
                self._threads -= 1

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self.is_closed:
                task.run()
            del task  # `get` may wait for long
        self._ended.put(None)
