"""Group commit: write what one process learns to the index in batches, with one sync each.

A fill continues as soon as its blob is linked. The committer keeps its staging descriptor and fill locks until the row
is committed, so the next process that gets the lock finds the row. It is one thread per process, waits for no fill
lock, and has at most `MAX_FILLS` fills. Reads queue here what they learn (last use, a 304), and run no transaction.
While another process stalls the index, batches are dropped: the bytes are read, and downloaded again another time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import TYPE_CHECKING, Final

from casstore.blobs.blob_store import BlobStore
from casstore.errors import (
    CasstoreError,
    IndexDamagedError,
    IndexUnavailableError,
    LockTimeoutError,
    StoreFullError,
    StoreReadOnlyError,
)
from casstore.index.database import Index
from casstore.index.transactions import Txn
from casstore.index.updates import IndexUpdate, PublishEntry
from casstore.locks.mutex import TimedQueue, is_interrupted, new_mutex, refuse_wait, start_thread

if TYPE_CHECKING:
    import logging

WINDOW_WAITED: Final = 0.005
"""Seconds that a batch is open while a caller waits for it."""
WINDOW_QUIET: Final = 0.020
"""Seconds that a batch is open otherwise; shorter windows cost more wake-ups than they save."""
MAX_FILLS: Final = 64
"""Fills, with a staging descriptor or locks, before `submit` waits for room."""
MAX_TOUCHES: Final = 8192
"""Other updates: last uses, validations, checksums (4 MB). More of them in a window are dropped, and learned again."""
_ROOM_SECONDS: Final = 0.001
"""Seconds between two looks for room among the fills."""
_TRIES: Final = 5
_STORE_ERRORS: Final = (StoreFullError, StoreReadOnlyError, IndexUnavailableError, TimeoutError)
"""Errors that every update of a batch would get."""


def _logger() -> logging.Logger:
    import logging  # loads as slowly as the rest of this module

    return logging.getLogger(__name__)


class _Flush:
    """A caller that waits until what was queued before it is committed."""

    def __init__(self) -> None:
        self.done: TimedQueue[None] = TimedQueue()


class _Stop(_Flush):
    """A caller that waits until the thread has ended."""


class Committer:
    """The queue and its thread, for one store in one process. `close` ends the thread; the next use starts another."""

    def __init__(self, index: Index, blobs: BlobStore, on_start: Callable[[], None]) -> None:
        self._index = index
        self._blobs = blobs
        self._on_start = on_start
        self._pid = os.getpid()
        self._mutex = new_mutex()
        self._queue: SimpleQueue[IndexUpdate | _Flush] = SimpleQueue()
        self._hurry: TimedQueue[None] = TimedQueue()
        """Ends a batch's window early."""
        self._publications: set[PublishEntry] = set()
        """The fills that are queued or being committed."""
        self._thread = 0
        self._fills = 0
        self._is_stalled = False

    def submit(self, item: IndexUpdate) -> None:
        """Queue *item*. A fill waits while `MAX_FILLS` are queued; beyond `MAX_TOUCHES`, other updates are dropped.

        A signal handler does not wait: the thread that it interrupted may be what the commit waits for.
        """
        if self._pid != os.getpid():
            # A fork without hooks: the thread, and maybe the owner of the lock below, are the parent's.
            self._finish(item, IndexUnavailableError(errno.ECHILD, "forked without Python's fork hooks"))
            return
        if not isinstance(item, PublishEntry):
            if self._queue.qsize() - self._fills < MAX_TOUCHES:
                self._put(item)
            return
        while self._fills >= MAX_FILLS and not (is_interrupted() or self._index.locks.is_writing()):
            self._hurry.put(None)
            time.sleep(_ROOM_SECONDS)
        try:
            self._publications.add(item)
            self._put(item)
        except BaseException:
            if not item.is_queued:
                self._publications.discard(item)
            raise
        if self._fills >= MAX_FILLS:
            self._hurry.put(None)

    def _put(self, item: IndexUpdate | _Flush) -> None:
        """Queue *item* for the thread. Nothing can interrupt between the notes that it is queued, and its queueing."""
        with self._mutex:
            is_running = self._thread != 0 or self._start()
            if isinstance(item, PublishEntry):
                item.is_queued = True
                self._fills += 1
            self._queue.put(item)
        if is_running:
            if isinstance(item, IndexUpdate):
                self._on_start()
        else:
            # The interpreter is shutting down and starts no threads.
            self._run_batch(self._drain())

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything queued so far is committed or dropped; return False after *timeout* seconds.

        Raises ReentrantCallError in a signal handler that interrupted a write to the index.
        """
        if self._pid != os.getpid():
            return False
        if self._thread in (0, get_ident()):
            return True
        self._index.locks.refuse_reentry()
        refuse_wait(self._index.layout.index)
        marker = _Flush()
        self._put(marker)
        self._hurry.put(None)
        try:
            marker.done.get(timeout=timeout)
        except Empty:
            return False
        return True

    def close(self, timeout: float) -> None:
        """Flush, and wait for the thread to end, within *timeout* seconds in all."""
        deadline = time.monotonic() + timeout
        if not self.flush(timeout) or self._thread in (0, get_ident()):
            return
        marker = _Stop()
        self._put(marker)
        with contextlib.suppress(Empty):
            marker.done.get(timeout=max(0.0, deadline - time.monotonic()))

    def after_fork_in_child(self) -> None:
        """In a forked child: close the parent's staging descriptors; the parent commits its updates."""
        for item in self._publications:
            item.after_fork_in_child()

    def _start(self) -> bool:
        try:
            self._thread = -1
            start_thread(self._run, ())
        except RuntimeError:
            self._thread = 0
            return False
        return True

    def _run(self) -> None:
        self._thread = get_ident()
        while True:
            first = self._queue.get()
            if not isinstance(first, _Stop):
                self._wait_for_window()
            batch = [first, *self._drain()]
            self._run_batch(batch)
            if stops := [item for item in batch if isinstance(item, _Stop)]:
                with self._mutex:
                    self._thread = 0
                    if not self._queue.empty():
                        self._start()
                for stop in stops:
                    stop.done.put(None)
                return

    def _wait_for_window(self) -> None:
        """Let a batch fill up, unless it is full, or a caller waits for it."""
        began = time.monotonic()
        with contextlib.suppress(Empty):
            if self._fills < MAX_FILLS:
                self._hurry.get(timeout=WINDOW_QUIET)
            while self._fills < MAX_FILLS and (left := began + WINDOW_WAITED - time.monotonic()) > 0:
                self._hurry.get(timeout=left)
        with contextlib.suppress(Empty):
            while True:  # before the queue: what these wait for is in the batch
                self._hurry.get_nowait()

    def _drain(self) -> list[IndexUpdate | _Flush]:
        """Return what is queued."""
        batch: list[IndexUpdate | _Flush] = []
        with contextlib.suppress(Empty):
            while True:
                batch.append(self._queue.get_nowait())
        return batch

    def _run_batch(self, batch: Sequence[IndexUpdate | _Flush]) -> None:
        updates = [item for item in batch if isinstance(item, IndexUpdate)]
        publications = [item for item in updates if isinstance(item, PublishEntry)]
        try:
            if updates:
                self._commit(updates)
        except Exception as error:  # noqa: BLE001 (logged, and passed to each update)
            # No caller may wait for a dead thread. Finishing an update twice is harmless.
            _logger().exception("a commit failed")
            for item in updates:
                self._finish(item, error)
        finally:
            self._publications.difference_update(publications)
            with self._mutex:
                self._fills -= len(publications)
            for flush in batch:
                if isinstance(flush, _Flush) and not isinstance(flush, _Stop):
                    flush.done.put(None)

    def _commit(self, batch: list[IndexUpdate]) -> None:
        for _ in range(_TRIES):
            batch = self._try(batch)
            if not batch:
                return
        for item in batch:
            self._finish(item, CasstoreError("entry not recorded: the index or the blob kept changing"))

    def _try(self, batch: list[IndexUpdate]) -> list[IndexUpdate]:
        """Run one transaction over *batch*; return the updates to retry."""
        again: list[IndexUpdate] = []
        applied: list[IndexUpdate] = []

        def apply(txn: Txn) -> None:
            txn.prefetch([row for item in batch for row in item.rows()])
            for item in batch:
                (applied if item.apply(txn, self._blobs, self._index.generation) else again).append(item)

        try:
            self._index.write_once(apply)
        except IndexDamagedError:
            return batch
        except Exception as error:  # noqa: BLE001 (one bad update must not fail the others)
            if isinstance(error, LockTimeoutError):
                self._report_stall(error)
            if len(batch) > 1 and not isinstance(error, _STORE_ERRORS):
                for item in batch:
                    self._commit([item])
            else:
                for item in batch:
                    self._finish(item, error)
            return []
        self._is_stalled = False
        for item in applied:
            self._finish(item, None)
        return [item for item in again if self._can_retry(item)]

    def _report_stall(self, error: LockTimeoutError) -> None:
        """Log the first of the time-outs that follow each other."""
        if not self._is_stalled:
            self._is_stalled = True
            _logger().warning("%s; until then, the store records nothing that is read", error)

    def _can_retry(self, item: IndexUpdate) -> bool:
        try:
            if item.retry_outside(self._blobs):
                return True
            error: Exception = CasstoreError("entry not recorded: its blob was evicted meanwhile")
        except Exception as raised:  # noqa: BLE001 (as in `_try`)
            error = raised
        self._finish(item, error)
        return False

    @staticmethod
    def _finish(item: IndexUpdate, error: BaseException | None) -> None:
        try:
            item.done(error)
        except Exception:  # noqa: BLE001 (logged)
            # The owner's problem; the others in the batch have locks to release.
            _logger().exception("an update failed to finish after its commit")
