"""A pool of threads that processes the objects of a tree.

The queue is bounded, so that a long listing needs little memory. After the first failure, no further item starts; the
pool waits for running items and raises the failure. An interrupt cancels running items at their next chunk.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final, Generic, Protocol, TypeVar

from pathapi.parallel.cancellation import Cancelled, set_cancel_event
from pathapi.parallel.progress import PROGRESS_SECONDS, Progress, ProgressCallback

THREADS: Final = 8
"""Default number of threads."""

INTERRUPT_SECONDS: Final = 2.0
"""Seconds that an interrupt waits for running items; a server that does not answer takes longer."""

Item = TypeVar("Item")


class InProgress(Protocol):
    """The bytes of unfinished downloads, received and in total."""

    @property
    def received(self) -> int: ...
    @property
    def expected(self) -> int: ...


@dataclass(eq=False)
class WorkerPool(Generic[Item]):
    """Calls ``process(item)`` for every item in *threads* threads; it returns whether nothing had to be transferred.

    For *on_progress*, ``size_of(item)`` returns bytes, ``count_of(item)`` objects, and *downloads* unfinished bytes.
    """

    process: Callable[[Item], bool]
    size_of: Callable[[Item], int]
    on_progress: ProgressCallback | None
    _: KW_ONLY
    threads: int = THREADS
    count_of: Callable[[Item], int] = lambda _: 1
    downloads: Callable[[], InProgress] | None = None

    def __post_init__(self) -> None:
        self._work: queue.Queue[Item | None] = queue.Queue(maxsize=2 * self.threads)
        self._mutex = threading.Lock()
        self._progress = Progress()
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._first_done = threading.Event()
        self._interrupted = threading.Event()
        self._reported = 0.0

    def run(self, items: Iterable[Item], *, first_alone: bool = False) -> Progress:
        """Process all *items*; with *first_alone*, the others start after the first one.

        Raises the first failure after the running items have ended, and an interrupt within `INTERRUPT_SECONDS`.
        """
        workers: list[threading.Thread] = []
        try:
            for item in items:
                if self._is_stopping:
                    break
                with self._mutex:
                    self._progress.total_files += self.count_of(item)
                    self._progress.total_bytes += self.size_of(item)
                if len(workers) < self.threads:
                    workers.append(threading.Thread(target=self._drain, name="pathapi-tree", daemon=True))
                    workers[-1].start()
                self._put(item)
                if first_alone:
                    while not self._first_done.wait(PROGRESS_SECONDS):
                        self._report()
            self._progress.is_listing = False
            for _ in workers:
                self._put(None)
            for worker in workers:
                while worker.is_alive():
                    worker.join(PROGRESS_SECONDS)
                    self._report()
        except BaseException as error:
            if isinstance(error, Exception):
                self._stop(workers, None)
                self._raise_failure()  # it came first
            else:
                self._interrupted.set()
                self._stop(workers, INTERRUPT_SECONDS)
            raise
        self._raise_failure()
        self._report(is_last=True)
        return self._progress

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if self._progress.total_files > 1:
                self._failure.add_note("transfers in progress were completed; repeat the call to resume")
            raise self._failure

    def _stop(self, workers: list[threading.Thread], timeout: float | None) -> None:
        self._is_stopping = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()
        for _ in workers:
            self._work.put_nowait(None)
        end = None if timeout is None else time.monotonic() + timeout
        for worker in workers:
            worker.join(None if end is None else max(0.0, end - time.monotonic()))

    def _put(self, item: Item | None) -> None:
        is_queued = False
        while not is_queued:
            with contextlib.suppress(queue.Full):
                self._work.put(item, timeout=PROGRESS_SECONDS)
                is_queued = True
            self._report()

    def _report(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self.on_progress is None or (now - self._reported < PROGRESS_SECONDS and not is_last):
            return
        self._reported = now
        with self._mutex:
            state = replace(self._progress)
        if self.downloads is not None and not is_last:
            underway = self.downloads()
            state.underway = underway.received
            state.total_bytes = state.total_bytes or underway.expected
        self.on_progress(state)

    def _drain(self) -> None:
        set_cancel_event(self._interrupted)
        while (item := self._work.get()) is not None:
            try:
                if not self._is_stopping:
                    self._do(item)
            except Cancelled:
                pass  # `run` raises the interrupt
            finally:
                self._first_done.set()

    def _do(self, item: Item) -> None:
        try:
            was_held = self.process(item)
        except Exception as error:  # noqa: BLE001 (raised by `run`)
            with self._mutex:
                self._failure = self._failure or error
                self._is_stopping = True
            return
        with self._mutex:
            done = self._progress
            done.files += self.count_of(item)
            done.bytes += self.size_of(item)
            done.total_bytes = max(done.total_bytes, done.bytes)  # the size may be known only now
            done.held += was_held
