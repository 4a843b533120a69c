"""Write locks: one writer of a URI at a time on this machine, from opening to close. Readers ignore them.

    locks/write/<uri hash>      flocked by the writer, describes it, and unlinked by it at the end

After locking, a writer compares path and open file, and tries again if the file was unlinked. Threads of a process
first check a table: a thread that already has the lock gets an error instead of waiting for itself. Two writers that
each want the other's URI wait until one times out.

The library filelock is of no use here: an interrupt between its system calls leaves a locked descriptor that nothing
closes (measured: 54 of 1,229 points of one write).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from casstore.errors import LockTimeoutError, ReentrantWriteError
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.lock_files import LockedFile, open_private, polls_until
from casstore.locks.mutex import refuse_wait


class WriteLock:
    """The right to write one URI, from any thread. It exists before it is acquired: use it twice in one ``with``, and
    acquire it inside (`casstore.locks.mutex` says why).
    """

    def __init__(self, locks: WriteLocks, key: Key) -> None:
        self._locks = locks
        self._file: LockedFile | None = None
        self.key = key
        self.acquired_at = _caller_location()
        self.thread = threading.current_thread()  # a number could be reused
        self.on_reopen: Callable[[], object] | None = None
        """Called to release the lock if the same thread opens the URI again in an interactive session."""
        self.is_ending = False
        """Whether another thread will release it, so that this thread may wait for it."""

    def acquire(self, timeout: float | None = None, on_poll: Callable[[], object] | None = None) -> None:
        """Wait for the lock; call *on_poll* before each try.

        Raises: LockTimeoutError that names the owner, after *timeout* seconds (default: the store's ``lock_timeout``; 0
        tries once). ReentrantWriteError if this thread has the lock.
        """
        self._locks.wait(self, timeout, on_poll)

    def try_file(self, path: str) -> bool:
        """Lock the file at *path*, and describe this process in it; return False if another process has it."""
        try:
            file = self._file = LockedFile(path, "a+", opener=open_private)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            return False
        file.wait(0)
        if file.is_locked and not _is_still(file, path):
            file.is_locked = False  # unlinked since: another file may have the name
        if file.is_locked:
            with contextlib.suppress(OSError):  # for error messages only
                file.truncate(0)
                file.write(_describe_process())
        return file.is_locked

    def unlink_and_close(self, path: str) -> None:
        """Unlock the file; only its owner may unlink it."""
        file = self._file
        if file is not None and not file.closed:
            if file.is_locked:
                files.unlink_quietly(path)
                fcntl.flock(file, fcntl.LOCK_UN)  # in a child of a fork without hooks it may stay open
            file.close()

    def close_file(self) -> None:
        """Close the file, in a forked child."""
        if self._file is not None:
            self._file.close()

    def release(self) -> None:
        """Release the lock. Does nothing a second time, or in a forked child."""
        self._locks.release(self)

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
        self._held: dict[Key, WriteLock] = {}

    def request(self, key: Key) -> WriteLock:
        """Return *key*'s lock, which is not acquired yet: `WriteLock.acquire` it inside a block that releases it."""
        return WriteLock(self, key)

    def wait(self, lock: WriteLock, timeout: float | None, on_poll: Callable[[], object] | None) -> None:
        refuse_wait(lock.key.uri)
        timeout, key, queue_lock = self._timeout if timeout is None else timeout, lock.key, None
        try:
            for _ in polls_until(time.monotonic() + timeout):
                if on_poll is not None:
                    on_poll()
                self._refuse_reentry(key)
                if self._queue is not None and queue_lock is None:
                    queue_lock = self._queue.try_acquire(b"write\0" + key.encoded)
                if (queue_lock is not None or self._queue is None) and self._try_acquire(lock):
                    if queue_lock is not None:
                        queue_lock.release()
                    return
            raise LockTimeoutError(
                f"{key.uri}: {self._holder_of(key)} is writing it (waited {timeout:g} s): only one process per "
                "machine can write an object at a time; try again later"
            )
        except BaseException:
            lock.release()
            if queue_lock is not None:
                queue_lock.release()
            raise

    def _try_acquire(self, lock: WriteLock) -> bool:
        if self._pid != os.getpid():
            # A fork without hooks: the locks are the parent's.
            self._pid, self._held = os.getpid(), {}
        if self._held.setdefault(lock.key, lock) is not lock:
            return False
        if self._layout is None or lock.try_file(self._layout.write_lock(lock.key.name)):
            return True
        lock.release()
        return False

    def after_fork_in_child(self) -> None:
        """Close the inherited files, which are the parent's."""
        for lock in list(self._held.values()):
            lock.close_file()

    def is_held(self, key: Key) -> bool:
        """Return whether this process has *key*'s lock."""
        return self._pid == os.getpid() and key in self._held

    def _refuse_reentry(self, key: Key) -> None:
        """Raise if this thread would wait for itself."""
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

    def release(self, lock: WriteLock) -> None:
        # An interrupt leaves something that a second call releases: the entry goes last.
        if self._pid == os.getpid() and self._held.get(lock.key) is lock:
            if self._layout is not None:
                lock.unlink_and_close(self._layout.write_lock(lock.key.name))
            del self._held[lock.key]

    def _holder_of(self, key: Key) -> str:
        lock = self._held.get(key)
        if lock is not None:
            return f"another thread of this process, since {lock.acquired_at}"
        if self._layout is not None:
            with contextlib.suppress(OSError), open(self._layout.write_lock(key.name), encoding="utf-8") as file:
                text = file.read(1000).strip()
                if text:
                    return text
        return "another process"


def _is_still(file: LockedFile, path: str) -> bool:
    status = files.lstat_or_none(path)
    return status is not None and os.path.samestat(os.fstat(file.fileno()), status)


def _describe_process() -> bytes:
    program = " ".join(sys.argv[:1]) or "python"
    return f"process {os.getpid()} ({program}) since {time.strftime('%H:%M:%S')}".encode("utf-8", "replace")


_OWN_PACKAGES: Final = frozenset(("casstore", "pathapi", "contextlib"))


def _caller_location() -> str:
    """Return file and line of the caller outside of these packages."""
    frame = sys._getframe(1)  # noqa: SLF001 (as `warnings` does)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OWN_PACKAGES:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
