"""A queue for finalisers: a thread does later what a finaliser must not do itself.

A finaliser may run in the middle of anything, even while its own thread has a lock: it may take none.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from casstore import new_mutex, start_thread

ItemT = TypeVar("ItemT")

_MOMENT: Final = 0.005
"""Seconds until an item that was too early is handled again."""


class FinalizerQueue(Generic[ItemT]):
    """Items of this process, and the daemon thread that handles them; a forked child starts with none.

    ``handle(item, is_last)`` returns False if the item is too early: it is handled again. It may not raise.
    """

    def __init__(self, handle: Callable[[ItemT, bool], bool]) -> None:
        self._handle = handle
        self._begin_process()
        os.register_at_fork(after_in_child=self._begin_process)

    def _begin_process(self) -> None:
        self._items: SimpleQueue[ItemT] = SimpleQueue()
        self._mutex = new_mutex()
        self._started_in = 0

    def start(self) -> None:
        """Start the thread if it does not run; before the first item, since a finaliser cannot."""
        if self._started_in not in (0, os.getpid()):
            self._begin_process()  # a fork that ran no hooks
        with self._mutex:
            if not self._started_in:
                pid = os.getpid()
                with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                    self._started_in = pid
                    start_thread(self._run, (self._items,))

    def put(self, item: ItemT) -> None:
        """Queue *item*, which keeps it alive until it is handled. Takes no lock."""
        self._items.put(item)

    def drain(self, *, is_last: bool = False) -> None:
        """Handle what is queued now, in this thread; at exit with *is_last*, also what is too early."""
        early = []
        with contextlib.suppress(Empty):
            while True:
                item = self._items.get_nowait()
                if not self._handle(item, is_last):
                    early.append(item)
        for item in early:
            self._items.put(item)

    def _run(self, items: SimpleQueue[ItemT]) -> None:
        while True:
            item = items.get()
            if not self._handle(item, False):
                time.sleep(_MOMENT)
                items.put(item)
            del item  # `get` may wait for long
