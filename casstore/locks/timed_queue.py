"""A queue whose `get` has a time-out that holds, and in which no interrupt leaves a lock locked.

`queue.SimpleQueue.get(timeout=...)` does not (CPython 3.11 and 3.12). If the time runs out between two of its steps, on
a busy machine or while a signal handler runs, the rest is negative, and that means without end.
"""

from __future__ import annotations

import _thread
import contextlib
import time
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

ItemT = TypeVar("ItemT")

_LONGEST: Final = 0.25
"""Seconds until a waiting thread looks for itself: an interrupt may come between an item and the wake-up for it."""


class TimedQueue(Generic[ItemT]):
    """Items in the order in which they were put, for several threads."""

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
