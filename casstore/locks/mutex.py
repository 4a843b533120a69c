"""What the threads of a process exclude each other with, so that no interrupt, handler or fork leaves it locked.

CPython runs signal handlers, and raises what they raise, after calls, at the beginning of functions and at backward
jumps. ``with mutex:`` has no such point between locking and the block, nor between the block and unlocking. The
classes of `threading` (Condition, Event, Semaphore), `queue.Queue` and thread pools have: an interrupt in one of them
leaves its inner lock locked. So the packages use these instead:

- `new_mutex` and ``with``. The same thread may lock it again: a signal handler may run inside of a block, and call the
  library. In a forked child it is unlocked.
- `queue.SimpleQueue`, to wait: `put` and `get` are one step each; to wait with a time-out, `TimedQueue`.
- `start_thread`, of C: `Thread.start` waits for an Event. Nothing can interrupt between a note that the thread runs,
  made just before, and its start. `TaskThreads` make calls, whose results the caller fetches one by one.

What must be released, a lock, an entry of a table, has an owner that exists before it is acquired, and whose release
does nothing twice. ``with owner, owner:`` releases it twice: an interrupt may be raised inside the first release.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar, cast

from casstore.errors import ReentrantCallError

_short: Final[set[weakref.ref[Any]]] = set()
_long: Final[set[weakref.ref[Any]]] = set()
"""Plain sets, which are copied in one step: other threads make mutexes meanwhile."""

start_thread: Final = _thread.start_new_thread
"""Call a function with a tuple of arguments in a new daemon thread. Raises RuntimeError if none can be started."""


def new_mutex(*, may_wait: bool = False) -> threading.RLock:
    """Return an unlocked mutex, for ``with`` only. *may_wait*: its blocks may wait for other threads."""
    mutex = threading.RLock()
    known = _long if may_wait else _short
    known.add(weakref.ref(mutex, known.discard))
    return mutex


def mutexes() -> list[threading.RLock]:
    """Return the mutexes of this process."""
    return [mutex for reference in (*_short, *_long) if (mutex := reference()) is not None]


def is_interrupted() -> bool:
    """Return whether this thread runs a signal handler that interrupted it in the block of a mutex: other threads may
    wait for that mutex, so the handler must not wait for them.
    """
    mutexes = (reference() for reference in list(_short))
    return any(mutex is not None and mutex._is_owned() for mutex in mutexes)  # noqa: SLF001 (as below)


def refuse_wait(what: object) -> None:
    """Raise ReentrantCallError, about *what*, if `is_interrupted`."""
    if is_interrupted():
        raise ReentrantCallError(
            f"{what}: a signal handler interrupted this thread inside of the store, and would wait for itself: call "
            "it again, or let the handler set a flag and do the work after it"
        )


def _after_fork_in_child() -> None:
    for mutex in mutexes():
        # The forking thread unlocks what it has itself: a signal handler may fork inside of a block.
        if not mutex._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 (as `threading.Condition` does)
            mutex._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 (as the standard library does)
    if "tempfile" in sys.modules:
        # It tries directories inside of its lock.
        sys.modules["tempfile"]._once_lock._at_fork_reinit()  # noqa: SLF001 (it has no hook of its own)


if hasattr(os, "register_at_fork"):
    for _ in range(2):  # again, since `os.fork` discards an interrupt that ends a hook
        os.register_at_fork(after_in_child=_after_fork_in_child)


ItemT = TypeVar("ItemT")

_LONGEST: Final = 0.25
"""Seconds until a waiting thread looks for itself: an interrupt may come between an item and the wake-up for it."""


class TimedQueue(Generic[ItemT]):
    """Items in the order in which they were put, for several threads; no interrupt leaves a lock locked.

    `queue.SimpleQueue.get(timeout=...)` may wait without end (CPython 3.11 and 3.12): if the time runs out between two
    of its steps, on a busy machine or while a signal handler runs, the rest is negative.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[ItemT] = SimpleQueue()
        # A binary semaphore, which no thread owns: unlocked once there may be an item to look for.
        self._wakeup = _thread.allocate_lock()
        self._wakeup.acquire()

    def put(self, item: ItemT) -> None:
        self._items.put(item)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is unlocked
            self._wakeup.release()

    def get(self, timeout: float | None = None) -> ItemT:
        """Remove and return the first item; wait for one. Raises: queue.Empty after *timeout* seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(Empty):
                return self._items.get_nowait()
            left = _LONGEST if deadline is None else min(deadline - time.monotonic(), _LONGEST)
            if left <= 0:
                raise Empty
            if self._wakeup.acquire(timeout=left) and self._items.qsize() > 1:
                self._wake()  # another thread that waits

    def get_nowait(self) -> ItemT:
        """Remove and return the first item. Raises: queue.Empty."""
        return self._items.get_nowait()

    def qsize(self) -> int:
        return self._items.qsize()


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
