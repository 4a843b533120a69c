"""Write locks: one writer of a URI at a time on this machine, from opening to close. Readers ignore them.

    locks/write/<uri hash>      flocked by the writer (filelock), describes it, and unlinked by it at the end

After locking, filelock compares path and descriptor, and starts again if the file was unlinked. Threads of a process
first check a table: a thread that already has the lock gets an error instead of waiting for itself. Two writers that
each want the other's URI wait until one times out.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from casstore.errors import LockTimeoutError, ReentrantWriteError
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.locks.byte_locks import ByteLock, ByteLocks
from casstore.locks.lock_files import polls_until

if TYPE_CHECKING:
    import filelock


@dataclass(eq=False, slots=True)
class WriteLock:
    """The right to write one URI, from any thread."""

    _locks: WriteLocks
    key: Key
    _lock: filelock.BaseFileLock | None
    acquired_at: str
    thread: threading.Thread = field(default_factory=threading.current_thread)  # a number could be reused
    on_reopen: Callable[[], object] | None = None
    """Called to release the lock if the same thread opens the URI again in an interactive session."""
    is_ending: bool = False
    """Whether another thread will release it, so that this thread may wait for it."""

    def release(self) -> None:
        """Release the lock. Does nothing a second time, or in a forked child."""
        self._locks.release(self, self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class WriteLocks:
    """The write locks of this process in one store; thread-safe. A forked child makes its own."""

    def __init__(self, layout: Layout | None, timeout: float, queue: ByteLocks | None = None) -> None:
        """Without a *layout*, exclude only other threads. With a *queue*, waiting writers precede the last one."""
        self._layout = layout
        # By polling alone, a process that writes in a loop would nearly always win.
        self._queue = queue
        self._timeout = timeout
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._held: dict[Key, WriteLock] = {}

    def acquire(self, key: Key, timeout: float | None = None, on_poll: Callable[[], object] | None = None) -> WriteLock:
        """Wait for *key*'s lock; call *on_poll* before each try.

        Raises: LockTimeoutError that names the owner, after *timeout* seconds (default: the store's ``lock_timeout``; 0
        tries once). ReentrantWriteError if this thread has the lock.
        """
        timeout = self._timeout if timeout is None else timeout
        queue_lock: ByteLock | None = None
        try:
            for _ in polls_until(time.monotonic() + timeout):
                if on_poll is not None:
                    on_poll()
                self._refuse_reentry(key)
                if self._queue is not None and queue_lock is None:
                    queue_lock = self._queue.try_acquire(b"write\0" + key.encoded)
                lock = self._try_acquire(key) if queue_lock is not None or self._queue is None else None
                if lock is not None:
                    return lock
            raise LockTimeoutError(
                f"{key.uri}: {self._holder_of(key)} is writing it (waited {timeout:g} s): only one process per "
                "machine can write an object at a time; try again later"
            )
        finally:
            if queue_lock is not None:
                queue_lock.release()

    def _try_acquire(self, key: Key) -> WriteLock | None:
        if self._pid != os.getpid():
            # A fork without hooks: the locks are the parent's.
            self._pid, self._mutex, self._held = os.getpid(), threading.Lock(), {}
        with self._mutex:
            if key in self._held:
                return None
            lock = None
            if self._layout is not None:
                lock = _try_file(self._layout.write_lock(key.name))
                if lock is None:
                    return None
            mine = self._held[key] = WriteLock(self, key, lock, _caller_location())
        if self._layout is not None:
            with contextlib.suppress(OSError):
                _write_holder(self._layout.write_lock(key.name))
        return mine

    def is_held(self, key: Key) -> bool:
        """Return whether this process has *key*'s lock."""
        return self._pid == os.getpid() and key in self._held

    def _refuse_reentry(self, key: Key) -> None:
        """Raise if this thread would wait for itself."""
        with self._mutex:
            lock = self._held.get(key)
        if lock is None or lock.is_ending or lock.thread is not threading.current_thread() or self._pid != os.getpid():
            return
        if lock.on_reopen is not None and hasattr(sys, "ps1"):
            # In a shell, IPython or a notebook: a cell failed, left its file open, and runs again.
            lock.on_reopen()
            return
        raise ReentrantWriteError(
            f"{lock.key.uri}: this thread already has it open for writing, since {lock.acquired_at}: "
            "close that file first, or use a with block"
        )

    def release(self, lock: WriteLock, file_lock: filelock.BaseFileLock | None) -> None:
        if self._pid != os.getpid():
            return
        with self._mutex:
            if self._held.get(lock.key) is not lock:
                return
            del self._held[lock.key]
            if self._layout is not None and file_lock is not None:
                files.unlink_quietly(self._layout.write_lock(lock.key.name))
                file_lock.release()

    def _holder_of(self, key: Key) -> str:
        with self._mutex:
            lock = self._held.get(key)
        if lock is not None:
            return f"another thread of this process, since {lock.acquired_at}"
        if self._layout is not None:
            with contextlib.suppress(OSError), open(self._layout.write_lock(key.name), encoding="utf-8") as file:
                text = file.read(1000).strip()
                if text:
                    return text
        return "another process"


def _try_file(path: str) -> filelock.BaseFileLock | None:
    # Imported here: it loads slower than the rest of this package, and readers do not need it.
    import filelock

    lock = filelock.FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        return None
    return lock


def _write_holder(path: str) -> None:
    """Describe this process in the lock file, for error messages only."""
    program = " ".join(sys.argv[:1]) or "python"
    when = time.strftime("%H:%M:%S")
    with files.opened(path, os.O_WRONLY | os.O_NOFOLLOW) as descriptor:
        files.write_all(descriptor, f"process {os.getpid()} ({program}) since {when}".encode("utf-8", "replace"))


_OWN_PACKAGES: Final = frozenset(("casstore", "pathapi", "contextlib"))


def _caller_location() -> str:
    """Return file and line of the caller outside of these packages."""
    frame = sys._getframe(1)  # noqa: SLF001 (as `warnings` does)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OWN_PACKAGES:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
