"""Group commit: write what one process learns to the index in batches, with one sync each.

A fill continues as soon as its blob is linked. The committer keeps its staging descriptor and fill locks until the row
is committed, so the next process that gets the lock finds the row. It is one thread per process, waits for no fill
lock, and has at most `MAX_FILLS` fills. Reads queue here what they learn (last use, a 304), and run no transaction.
While another process stalls the index, batches are dropped: the bytes are read, and downloaded again another time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from casstore.blobs.blob_store import BlobStore
from casstore.errors import (
    CasstoreError,
    IndexDamagedError,
    IndexUnavailableError,
    LockTimeoutError,
    StoreFullError,
    StoreReadOnlyError,
    printable,
)
from casstore.index.database import Index
from casstore.index.updates import IndexUpdate, PublishEntry

WINDOW_WAITED: Final = 0.005
"""Seconds that a batch is open while a caller waits for it."""
WINDOW_QUIET: Final = 0.020
"""Seconds that a batch is open otherwise; shorter windows cost more wake-ups than they save."""
MAX_FILLS: Final = 64
"""Fills, with a staging descriptor or locks, before `submit` waits for room."""
MAX_TOUCHES: Final = 8192
"""Other updates: last uses, validations, checksums (4 MB). More of them in a window are dropped, and learned again."""
_TRIES: Final = 5
_STORE_ERRORS: Final = (StoreFullError, StoreReadOnlyError, IndexUnavailableError, TimeoutError)
"""Errors that every update of a batch would get."""


def _log_exception(message: str) -> None:
    """Log an error that no caller waits for."""
    import logging  # loads as slowly as the rest of this module

    logging.getLogger(__name__).exception(printable(message))  # noqa: LOG004 (called inside handlers only)


class Committer:
    """The queue and its thread, for one store in one process. `close` ends the thread; the next use starts another."""

    def __init__(self, index: Index, blobs: BlobStore, on_start: Callable[[], None]) -> None:
        self._index = index
        self._blobs = blobs
        self._on_start = on_start
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._items: list[IndexUpdate] = []
        self._batch: list[IndexUpdate] = []
        self._opened = 0.0
        self._fills = 0
        self._waiters = 0
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._is_stalled = False

    def submit(self, item: IndexUpdate) -> None:
        """Queue *item*. A fill waits while `MAX_FILLS` are queued; beyond `MAX_TOUCHES`, other updates are dropped."""
        if self._pid != os.getpid():
            # A fork without hooks: the thread, and maybe the owner of the lock below, are the parent's.
            self._finish(item, IndexUnavailableError(errno.ECHILD, "forked without Python's fork hooks"))
            return
        is_fill = isinstance(item, PublishEntry)
        with self._changed:
            while is_fill and self._fills >= MAX_FILLS:
                self._wait()
            if not is_fill and len(self._items) - self._fills >= MAX_TOUCHES:
                return
            if not self._items:
                self._opened = time.monotonic()
            self._items.append(item)
            self._fills += is_fill
            if len(self._items) == 1 or self._fills >= MAX_FILLS:
                self._changed.notify_all()
            is_running = self._thread is not None or self._start()
        if is_running:
            self._on_start()
        else:
            # The interpreter is shutting down and starts no threads.
            self._run_batch()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything queued so far is committed or dropped; return False after *timeout* seconds."""
        if self._pid != os.getpid():
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._items or self._batch:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._wait(left)
        return True

    def close(self, timeout: float) -> None:
        """Flush, and wait for the thread to end, within *timeout* seconds in all."""
        deadline = time.monotonic() + timeout
        self.flush(timeout)
        if self._pid == os.getpid():
            with self._changed:
                thread = self._thread
                self._stopping = True
                self._changed.notify_all()
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def after_fork_in_child(self) -> None:
        """In a forked child: close the parent's staging descriptors; the parent commits its updates."""
        for item in (*self._items, *self._batch):
            if isinstance(item, PublishEntry):
                item.after_fork_in_child()

    def _wait(self, timeout: float | None = None) -> None:
        self._waiters += 1
        self._changed.notify_all()
        try:
            self._changed.wait(timeout)
        finally:
            self._waiters -= 1

    def _start(self) -> bool:
        self._stopping = False
        thread = threading.Thread(target=self._run, name="casstore-committer", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        while self._is_batch_ready():
            self._run_batch()

    def _run_batch(self) -> None:
        with self._changed:
            batch, self._items = self._items, []
            self._batch = batch
        try:
            self._commit(batch)
        except Exception as error:  # noqa: BLE001 (logged, and passed to each update)
            # No caller may wait for a dead thread. Finishing an update twice is harmless.
            _log_exception("a commit failed")
            for item in batch:
                self._finish(item, error)
        finally:
            with self._changed:
                self._batch = []
                self._fills -= sum(isinstance(item, PublishEntry) for item in batch)
                self._changed.notify_all()

    def _is_batch_ready(self) -> bool:
        """Wait until a window has closed; return False if the thread must end."""
        with self._changed:
            while not self._items:
                if self._stopping:
                    self._thread = None
                    return False
                self._changed.wait()
            while not self._stopping and self._fills < MAX_FILLS:
                window = WINDOW_WAITED if self._waiters else WINDOW_QUIET
                left = self._opened + window - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return True

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
        try:
            with self._index.writing() as txn:
                txn.prefetch([row for item in batch for row in item.rows()])
                for item in batch:
                    (applied if item.apply(txn, self._blobs, self._index.generation) else again).append(item)
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
            import logging

            logging.getLogger(__name__).warning("%s; until then, the store records nothing that is read", error)

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
            _log_exception("an update failed to finish after its commit")
