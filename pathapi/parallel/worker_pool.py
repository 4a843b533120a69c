"""A pool of threads that processes the objects of a tree.

The queue is bounded, so that a long listing needs little memory. After the first failure, no further item starts; the
pool waits for running items and raises the failure. An interrupt cancels running items at their next chunk.

The calling thread waits for its `PartThreads`, and keeps the counts: an interrupt of it is raised at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from queue import Empty
from typing import Final, Generic, Protocol, TypeVar

from pathapi.parallel.cancellation import INTERRUPT_SECONDS, CancelFlag, Cancelled, set_cancel_flag
from pathapi.parallel.part_threads import PartThreads
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
        self._pool: PartThreads[Progress | BaseException | None] = PartThreads(self.threads)
        self._flag = CancelFlag()
        self._is_stopping = False
        # The calling thread's alone:
        self._progress = Progress()
        self._failure: BaseException | None = None
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
                self._finish()
                self._raise_failure()  # it came first
                raise
            self._raise_failure()
            self._report(is_last=True)
        except Exception:
            raise
        except BaseException:
            self._flag.is_set = self._is_stopping = True
            self._finish(INTERRUPT_SECONDS)
            raise
        finally:
            self._pool.close()
        return self._progress

    def _process_all(self, items: Iterable[Item], *, first_alone: bool) -> None:
        for item in items:
            while self._pool.running >= 3 * self.threads and not self._is_stopping:
                self._look(PROGRESS_SECONDS)
            if self._is_stopping:
                break
            self._progress.total_files += self.count_of(item)
            self._progress.total_bytes += self.size_of(item)
            self._pool.submit(partial(self._do, item))
            while first_alone and self._pool.running:
                self._look(PROGRESS_SECONDS)
            first_alone = False
            self._look()
        self._progress.is_listing = False
        while self._pool.running:
            self._look(PROGRESS_SECONDS)

    def _finish(self, seconds: float = math.inf) -> None:
        """Wait until no item is running, for *seconds* at most."""
        end = time.monotonic() + seconds
        while self._pool.running and time.monotonic() < end:
            self._take(min(seconds, PROGRESS_SECONDS))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if self._progress.total_files > 1:
                self._failure.add_note("transfers in progress were completed; repeat the call to resume")
            raise self._failure

    def _look(self, seconds: float = 0.0) -> None:
        """Count the items that have ended, or end within *seconds*, and report the progress if it is due."""
        while self._take(seconds):
            seconds = 0.0
        self._report()

    def _take(self, seconds: float) -> bool:
        """Count an item that has ended; return whether one has after *seconds*."""
        try:
            ended = self._pool.poll(seconds)
        except Empty:
            return False
        now = self._progress
        if isinstance(ended, Progress):
            now.files += ended.files
            now.bytes += ended.bytes
            now.total_bytes = max(now.total_bytes, now.bytes)  # the size may be known only now
            now.held += ended.held
        else:
            self._failure = self._failure or ended
        return True

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

    def _do(self, item: Item) -> Progress | BaseException | None:
        """Process *item*, in a thread of the pool; return what to count, or the failure. None if it was cancelled."""
        before = set_cancel_flag(self._flag)  # this may be the calling thread, which goes on
        try:
            if self._is_stopping:
                return None
            is_held = self.process(item)
            return Progress(files=self.count_of(item), bytes=self.size_of(item), held=int(is_held))
        except Cancelled:
            return None  # `run` raises the interrupt
        except BaseException as error:  # noqa: BLE001 (raised by `run`)
            self._is_stopping = True
            return error
        finally:
            set_cancel_flag(before)
