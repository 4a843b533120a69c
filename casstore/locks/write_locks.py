"""One writer of a URI at a time on this machine, from its opening to its close; readers take no part in it.

    locks/write/<uri hash>      flocked by the writer (filelock), who says in it who he is, and unlinks it at the end

A taker compares path and descriptor after locking, and starts again where the file was unlinked. Threads of one process
meet in a table first: the one that has the lock already, and asks for it again, is told so instead of waiting for
itself. Two writers that each want what the other has wait until the first one's patience ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from casstore.errors import LockTimeoutError, ReentrantWriteError
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.locks.byte_locks import ByteLock, ByteLocks
from casstore.locks.lock_files import POLL_FIRST, POLL_LAST

if TYPE_CHECKING:
    import filelock


class WriteLock:
    """The right to write one URI; given back by `release`, from any thread, once."""

    def __init__(self, locks: WriteLocks, key: Key, lock: filelock.BaseFileLock | None, where: str) -> None:
        self.key = key
        self.thread = threading.current_thread()  # not its number, which a later thread may get
        self.acquired_at = where
        self.on_reopen: Callable[[], object] | None = None
        """What a later writer of the same thread may call, in an interactive session, to have the lock given back."""
        self.is_ending = False
        """Whether it will be given back without this thread: then the thread may wait for it."""
        self._locks = locks
        self._lock = lock

    def release(self) -> None:
        """Let the next one in. A second call, and one in a forked child, do nothing."""
        self._locks.release(self, self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class WriteLocks:
    """The write locks that this process has in one store; thread-safe. A forked child makes its own."""

    def __init__(self, layout: Layout | None, timeout: float, queue: ByteLocks | None = None) -> None:
        """Without a *layout*, only the threads of this process take turns. By *queue*, whoever waits goes before
        whoever has just had it: by polling alone, one that writes in a loop would win nearly always.
        """
        self._layout = layout
        self._queue = queue
        self._timeout = timeout
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._held: dict[Key, WriteLock] = {}

    def acquire(self, key: Key, timeout: float | None = None, on_poll: Callable[[], object] | None = None) -> WriteLock:
        """Wait for *key*'s lock; *meanwhile* is called between two looks.

        Raises LockTimeoutError, which names the holder, after *timeout* seconds (the store's ``lock_timeout``; 0 looks
        once), ReentrantWriteError where this thread has it.
        """
        patience = self._timeout if timeout is None else timeout
        turn: ByteLock | None = None
        try:
            deadline = time.monotonic() + patience
            pause = POLL_FIRST
            while True:
                if on_poll is not None:
                    on_poll()
                self._refuse_reentry(key)
                if self._queue is not None and turn is None:
                    turn = self._queue.try_acquire(b"write\0" + key.encoded)
                lock = self._try_acquire(key) if turn is not None or self._queue is None else None
                if lock is not None:
                    return lock
                if time.monotonic() >= deadline:
                    raise self._timeout_error(key, patience)
                time.sleep(pause)
                pause = min(pause * 2, POLL_LAST)
        finally:
            if turn is not None:
                turn.release()

    def _timeout_error(self, key: Key, timeout: float) -> LockTimeoutError:
        return LockTimeoutError(
            f"{key.uri} is being written by {self._holder_of(key)} (waited {timeout:g} s); it is written by one at a "
            "time on a machine"
        )

    def _try_acquire(self, key: Key) -> WriteLock | None:
        if self._pid != os.getpid():
            # A fork that ran no hooks: what is held is the parent's.
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
        """Whether this process has it."""
        return self._pid == os.getpid() and key in self._held

    def _refuse_reentry(self, key: Key) -> None:
        """Raise where this thread would wait for itself."""
        with self._mutex:
            held = self._held.get(key)
        if held is None or held.is_ending or held.thread is not threading.current_thread() or self._pid != os.getpid():
            return
        if held.on_reopen is not None and is_interactive():
            # A cell that failed left its file open, and is run again.
            held.on_reopen()
            return
        raise ReentrantWriteError(
            f"{held.key.uri}: this thread already has it open for writing, since {held.acquired_at}: "
            "close that file first, or use a with block"
        )

    def release(self, lock: WriteLock, file_lock: filelock.BaseFileLock | None) -> None:
        """See `WriteLock.release`."""
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
            held = self._held.get(key)
        if held is not None:
            return f"another thread of this process, since {held.acquired_at}"
        if self._layout is not None:
            with contextlib.suppress(OSError), open(self._layout.write_lock(key.name), encoding="utf-8") as file:
                text = file.read(1000).strip()
                if text:
                    return text
        return "another process"


def _try_file(path: str) -> filelock.BaseFileLock | None:
    # Imported here: it takes longer to load than everything else in this package together, and readers need none.
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


def is_interactive() -> bool:
    """Whether a person types at this interpreter: a shell, IPython, a notebook."""
    return hasattr(sys, "ps1")


def _write_holder(path: str) -> None:
    """Say in the lock file whose it is; for people only."""
    program = " ".join(sys.argv[:1]) or "python"
    when = time.strftime("%H:%M:%S")
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        files.write_all(descriptor, f"process {os.getpid()} ({program}) since {when}".encode("utf-8", "replace"))
    finally:
        os.close(descriptor)


_OWN_PACKAGES: Final = frozenset(("casstore", "pathapi", "contextlib"))


def _caller_location() -> str:
    """File and line of the caller outside of these packages."""
    frame = sys._getframe(1)  # noqa: SLF001 (what `warnings` does to find whom to blame)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OWN_PACKAGES:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
