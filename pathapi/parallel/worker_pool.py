"""A pool of threads that processes the objects of a tree.

The queue is bounded, so that a long listing needs little memory. After the first failure, no further item starts; the
pool waits for running items and raises the failure. An interrupt cancels running items at their next chunk.

The calling thread waits for messages of the workers on a `TimedQueue`, and keeps the counts: an interrupt of it is
raised at once, and leaves no lock behind.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Final, Generic, Protocol, TypeVar

from casstore import TimedQueue, start_thread
from pathapi.parallel.cancellation import INTERRUPT_SECONDS, CancelFlag, Cancelled, set_cancel_flag
from pathapi.parallel.progress import PROGRESS_SECONDS, Progress, ProgressCallback

THREADS: Final = 8
"""Default number of threads."""

Item = TypeVar("Item")


class InProgress(Protocol):
    """The bytes of unfinished downloads, received and in total."""

    @property
    def received(self) -> int: ...
    @property
    def expected(self) -> int: ...


class _Event(Enum):
    """What a worker tells the calling thread."""

    HELD = auto()
    """An item is done; nothing had to be transferred."""
    TRANSFERRED = auto()
    FAILED = auto()
    ENDED = auto()
    """The worker ends."""


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
        self._work: SimpleQueue[Item | None] = SimpleQueue()
        self._messages: TimedQueue[tuple[_Event, int, int, BaseException | None]] = TimedQueue()
        self._flag = CancelFlag()
        self._is_stopping = False
        # The calling thread's alone:
        self._progress = Progress()
        self._failure: BaseException | None = None
        self._workers = self._begun = self._done = 0
        self._reported = 0.0

    def run(self, items: Iterable[Item], *, first_alone: bool = False) -> Progress:
        """Process all *items*; with *first_alone*, the others start after the first one.

        Raises the first failure after the running items have ended, and an interrupt within `INTERRUPT_SECONDS`.
        """
        try:
            try:
                self._process_all(items, first_alone=first_alone)
            except Exception:
                self._is_stopping = True
                self._end_workers()
                self._raise_failure()  # it came first
                raise
            self._raise_failure()
            self._report(is_last=True)
        except Exception:
            raise
        except BaseException:
            self._flag.is_set = self._is_stopping = True
            self._end_workers(INTERRUPT_SECONDS)
            raise
        return self._progress

    def _process_all(self, items: Iterable[Item], *, first_alone: bool) -> None:
        for item in items:
            while self._begun - self._done >= 3 * self.threads and not self._is_stopping:
                self._wait()
            if self._is_stopping:
                break
            self._progress.total_files += self.count_of(item)
            self._progress.total_bytes += self.size_of(item)
            self._begun += 1
            self._work.put(item)
            if self._workers < self.threads:
                self._start_worker()
            while first_alone and not self._done:
                self._wait()
            self._look()
        self._progress.is_listing = False
        while self._begun > self._done:
            self._wait()
        self._end_workers()

    def _start_worker(self) -> None:
        # Counted first: an interrupt of `start` does not tell whether the thread runs.
        self._workers += 1
        try:
            start_thread(self._drain, ())
        except RuntimeError:  # no more threads can be started
            self._workers -= 1
            if not self._workers:
                raise

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if self._progress.total_files > 1:
                self._failure.add_note("transfers in progress were completed; repeat the call to resume")
            raise self._failure

    def _end_workers(self, timeout: float | None = None) -> None:
        """Wait until the workers have ended, for *timeout* seconds at most."""
        self._work.put(None)  # for all workers: each puts it back
        end = None if timeout is None else time.monotonic() + timeout
        with contextlib.suppress(Empty):
            while self._workers:
                left = None if end is None else max(0.0, end - time.monotonic())
                self._handle(*self._messages.get(timeout=left))

    def _wait(self) -> None:
        """Wait for a message, or until progress is to be reported."""
        with contextlib.suppress(Empty):
            self._handle(*self._messages.get(timeout=PROGRESS_SECONDS))
        self._look()

    def _look(self) -> None:
        """Handle the messages that have arrived, and report the progress if it is due."""
        with contextlib.suppress(Empty):
            while True:
                self._handle(*self._messages.get_nowait())
        self._report()

    def _handle(self, event: _Event, count: int, size: int, error: BaseException | None) -> None:
        if event is _Event.ENDED:
            self._workers -= 1
            return
        self._done += 1
        if event is _Event.FAILED:
            self._failure = self._failure or error
            return
        now = self._progress
        now.files += count
        now.bytes += size
        now.total_bytes = max(now.total_bytes, now.bytes)  # the size may be known only now
        now.held += event is _Event.HELD

    def _report(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self.on_progress is None or (now - self._reported < PROGRESS_SECONDS and not is_last):
            return
        self._reported = now
        state = replace(self._progress)
        if self.downloads is not None and not is_last:
            underway = self.downloads()
            state.underway = underway.received
            state.total_bytes = state.total_bytes or underway.expected
        self.on_progress(state)

    # --- in the workers ----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        set_cancel_flag(self._flag)
        try:
            while (item := self._work.get()) is not None:
                self._messages.put(self._do(item))
                del item  # `get` may wait for long
        finally:
            self._work.put(None)
            self._messages.put((_Event.ENDED, 0, 0, None))

    def _do(self, item: Item) -> tuple[_Event, int, int, BaseException | None]:
        if self._is_stopping:
            return _Event.FAILED, 0, 0, None
        try:
            event = _Event.HELD if self.process(item) else _Event.TRANSFERRED
            return event, self.count_of(item), self.size_of(item), None
        except Cancelled:
            return _Event.FAILED, 0, 0, None  # `run` raises the interrupt
        except BaseException as error:  # noqa: BLE001 (raised by `run`)
            self._is_stopping = True
            return _Event.FAILED, 0, 0, error
