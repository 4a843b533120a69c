"""Lock files: flocks that one process holds at a time, and proof that locks exclude other processes here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, Self, TypeVar

from casstore.fs import files

Opened = TypeVar("Opened")

POLL_FIRST: Final = 0.0005
"""Seconds between the first two tries for a lock; doubled up to `POLL_LAST`. Measured: a fixed 50 ms made eight
processes that want the same objects 1.45 times as slow as one.
"""

POLL_LAST: Final = 0.010
BUSY: Final = frozenset((errno.EAGAIN, errno.EACCES))


def polls_until(deadline: float) -> Iterator[None]:
    """Yield at once and after each of ever longer pauses, until *deadline* (of `time.monotonic`) has passed."""
    pause = POLL_FIRST
    while True:
        yield
        if time.monotonic() >= deadline:
            return
        time.sleep(pause)
        pause = min(pause * 2, POLL_LAST)


open_private: Final = functools.partial(os.open, mode=0o600)


class LockedFile(io.FileIO):
    """An open lock file, for ``with``: an interrupt at the end of the block cannot leave it locked."""

    is_locked = False
    """Whether this process has the lock; it ends when the file is closed."""

    __del__ = io.FileIO.close  # without a warning: what an interrupt drops has no other end

    def wait(self, timeout: float) -> None:
        """Lock it within *timeout* seconds, if no other process has it for longer."""
        self.is_locked = _lock(self, timeout)


def open_lock_file(path: str) -> LockedFile:
    """Open *path*, created if it is missing, with its directory: a file that closes itself if an interrupt drops it."""
    # Append mode only creates it: nothing is written, and FileIO opens it in one step.
    return in_directory(path, lambda: LockedFile(path, "a+", opener=open_private))


def in_directory(path: str, opening: Callable[[], Opened]) -> Opened:
    """Return what *opening* makes at *path*; make its directory first if it is missing."""
    try:
        return opening()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        return opening()


class LockFile:
    """A file that one process locks at a time, to save work; thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Without callbacks: an interrupt that meets one is lost.
        self._open: list[weakref.ref[LockedFile]] = []

    def acquire(self, timeout: float) -> LockedFile:
        """Open the file, created if it is missing, and try for *timeout* seconds to lock it until it is closed."""
        file = LockedFile(self._path, "a+", opener=open_private)
        try:
            self._open = [*(known for known in self._open if known() is not None), weakref.ref(file)]
            file.wait(timeout)
            return file
        except BaseException:
            file.close()
            raise

    def after_fork_in_child(self) -> None:
        """Close the inherited files. The parent keeps its lock: closing does not unlock it."""
        for reference in self._open:
            file = reference()
            if file is not None:
                file.close()


class DirectoryLock:
    """Locks a directory for a block that uses it twice (`casstore.locks.mutex` says why), if it can be locked within
    *timeout* seconds.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._descriptor = -1
        self.is_locked = False

    def __enter__(self) -> Self:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_CLOEXEC | os.O_RDONLY | os.O_DIRECTORY)
                with contextlib.suppress(OSError):  # a file system without locks
                    self.is_locked = _lock(self._descriptor, self._timeout)
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _lock(file: io.FileIO | int, timeout: float) -> bool:
    for _ in polls_until(time.monotonic() + timeout):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in BUSY:
                raise
        else:
            return True
    return False


def create_locked(path: str) -> LockedFile:
    """Create and lock *path*; return it open, to be kept. Raises: BlockingIOError if a process has it."""
    # Never unlocked: that would unlock it for every process that inherited it. A forked child that still has the
    # descriptor keeps the lease alive, which errs on the safe side.
    file = LockedFile(path, "a+", opener=open_private)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BaseException:
        file.close()
        raise


def try_lock_existing(path: str) -> LockedFile | None:
    """Lock the lock file of a dead process and return it, open, for ``with``; None if a process has the lock.

    Proves a death only if `locks_are_exclusive`. Raises: FileNotFoundError if the file is missing, or was replaced
    before it was locked.
    """
    file = LockedFile(path, "r+", opener=_open_itself)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path, follow_symlinks=False)):
            raise FileNotFoundError(errno.ENOENT, "the lock file was replaced", path)
        return file
    except BaseException as error:
        file.close()
        if isinstance(error, OSError) and error.errno in BUSY:
            return None
        raise


def _open_itself(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def locks_are_exclusive(directory: str) -> bool:
    """Return whether a lock on a file in *directory* excludes every later opener of it; False if that fails.

    On file systems where it does not, no process can be proved dead. Locks belong to open files, not to processes, so
    two open files of this process prove it. Needs no second process: see docs/decisions/0014.
    """
    with contextlib.suppress(OSError), files.temporary_file(directory) as (first, path):
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with files.opened(path, os.O_RDWR) as second:
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno in BUSY
    return False
