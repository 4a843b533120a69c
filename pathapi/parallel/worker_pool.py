"""Threads that do the objects of a tree, a few at a time.

What is to be done comes from an iterator (a listing, a directory), no faster than it gets done, so that memory is
bounded. After the first failure nothing more begins; what is under way ends, and then it is raised. An interrupt does
not wait for that: what is under way is given up at its next piece, and lets go of its locks.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Generic, Protocol, TypeVar

from pathapi.parallel.cancellation import Cancelled, set_cancel_event
from pathapi.parallel.progress import TELL_SECONDS, Progress, ProgressCallback

THREADS: Final = 8
"""Objects of one tree that are under way at a time."""

PATIENCE: Final = 2.0
"""Seconds that an interrupt waits for what is under way, which ends at its next piece; a silent server takes longer."""

Item = TypeVar("Item")


class InProgress(Protocol):
    """Bytes of unfinished downloads."""

    @property
    def received(self) -> int:
        """So far."""
        ...

    @property
    def expected(self) -> int:
        """In all."""
        ...


class WorkerPool(Generic[Item]):
    """Calls ``one(item)`` for every item, *threads* at a time; it says whether there was nothing to do.

    ``size_of(item)`` is its bytes and ``count_of(item)`` its objects, for *tell*; *downloads* says what is under way.
    """

    def __init__(
        self,
        one: Callable[[Item], bool],
        size_of: Callable[[Item], int],
        tell: ProgressCallback | None,
        *,
        threads: int = THREADS,
        count_of: Callable[[Item], int] = lambda _: 1,
        downloads: Callable[[], InProgress] | None = None,
    ) -> None:
        self._one = one
        self._size_of = size_of
        self._tell = tell
        self._threads = threads
        self._count_of = count_of
        self._downloads = downloads
        self._work: queue.Queue[Item | None] = queue.Queue(maxsize=2 * threads)
        self._mutex = threading.Lock()
        self._progress = Progress()
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._first_done = threading.Event()
        self._interrupted = threading.Event()
        self._told = 0.0

    def run(self, items: Iterable[Item], *, first_alone: bool = False) -> Progress:
        """Do them all; with *first_alone*, the others begin when the first one is done.

        Raises the first failure once nothing is under way any more. An interrupt is raised within `PATIENCE`.
        """
        workers: list[threading.Thread] = []
        try:
            for item in items:
                if self._is_stopping:
                    break
                with self._mutex:
                    self._progress.total_files += self._count_of(item)
                    self._progress.total_bytes += self._size_of(item)
                if len(workers) < self._threads:
                    workers.append(threading.Thread(target=self._drain, name="pathapi-tree", daemon=True))
                    workers[-1].start()
                self._put(item)
                if first_alone:
                    while not self._first_done.wait(TELL_SECONDS):
                        self._report()
            self._progress.is_listing = False
            for _ in workers:
                self._put(None)
            for worker in workers:
                while worker.is_alive():
                    worker.join(TELL_SECONDS)
                    self._report()
        except BaseException as error:
            is_interrupt = not isinstance(error, Exception)
            if is_interrupt:
                self._interrupted.set()
            self._stop(workers, PATIENCE if is_interrupt else None)
            if not is_interrupt:
                self._raise_failure()  # which came before this
            raise
        self._raise_failure()
        self._report(is_last=True)
        return self._progress

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if self._progress.total_files > 1:
                self._failure.add_note("what was under way beside it has ended; the same call again goes on from there")
            raise self._failure

    def _stop(self, workers: list[threading.Thread], patience: float | None) -> None:
        self._is_stopping = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()
        for _ in workers:
            self._work.put_nowait(None)
        end = None if patience is None else time.monotonic() + patience
        for worker in workers:
            worker.join(None if end is None else max(0.0, end - time.monotonic()))

    def _put(self, item: Item | None) -> None:
        while True:
            try:
                self._work.put(item, timeout=TELL_SECONDS)
            except queue.Full:
                self._report()
            else:
                break
        self._report()

    def _report(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self._tell is None or (now - self._told < TELL_SECONDS and not is_last):
            return
        self._told = now
        with self._mutex:
            state = replace(self._progress)
        if self._downloads is not None and not is_last:
            underway = self._downloads()
            state.underway = underway.received
            state.total_bytes = state.total_bytes or underway.expected
        self._tell(state)

    def _drain(self) -> None:
        set_cancel_event(self._interrupted)
        while (item := self._work.get()) is not None:
            try:
                if not self._is_stopping:
                    self._do(item)
            except Cancelled:
                pass  # `run` has raised the interrupt
            finally:
                self._first_done.set()

    def _do(self, item: Item) -> None:
        try:
            was_there = self._one(item)
        except Exception as error:  # noqa: BLE001 (raised by `run`)
            with self._mutex:
                self._failure = self._failure or error
                self._is_stopping = True
            return
        with self._mutex:
            done = self._progress
            done.files += self._count_of(item)
            done.bytes += self._size_of(item)
            done.total_bytes = max(done.total_bytes, done.bytes)  # one object's size may be known only now
            done.held += was_there
