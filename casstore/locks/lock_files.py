"""Lock files: flocks that one process holds at a time, and proof that locks exclude other processes here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

from casstore.fs import files

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


class LockFile:
    """A file or directory that one process locks at a time, to save work; thread-safe."""

    def __init__(self, path: str, *, is_directory: bool = False) -> None:
        """A lock file is created if it is missing; a directory is not."""
        self._path = path
        self._is_directory = is_directory
        self._flags = os.O_CLOEXEC | (os.O_RDONLY | os.O_DIRECTORY if is_directory else os.O_RDWR | os.O_CREAT)
        self._descriptors: set[int] = set()

    @contextlib.contextmanager
    def acquire(self, timeout: float) -> Iterator[bool]:
        """Lock it for the block, and yield True; yield False if another process has it for *timeout* seconds.

        Yields False for a directory that cannot be locked. Raises FileNotFoundError if the directory is missing.
        """
        descriptor = os.open(self._path, self._flags, 0o600)
        self._descriptors.add(descriptor)
        try:
            yield self._lock(descriptor, time.monotonic() + timeout)
        finally:
            # In a child that was forked inside the block, `after_fork_in_child` has closed it already.
            if descriptor in self._descriptors:
                self._descriptors.discard(descriptor)
                os.close(descriptor)

    def _lock(self, descriptor: int, deadline: float) -> bool:
        for _ in polls_until(deadline):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in BUSY:
                    if self._is_directory:
                        return False
                    raise
            else:
                return True
        return False

    def after_fork_in_child(self) -> None:
        """Close the inherited descriptors. The parent keeps its lock: closing does not unlock it."""
        descriptors, self._descriptors = self._descriptors, set()
        for descriptor in descriptors:
            os.close(descriptor)


def create_locked(path: str) -> int:
    """Create and lock *path*; return its descriptor, to be kept open. Raises: BlockingIOError if a process has it."""
    # Never unlocked: that would unlock it for every process that inherited it. A forked child that still has the
    # descriptor keeps the lease alive, which errs on the safe side.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def try_lock_existing(path: str) -> int | None:
    """Lock the lock file of a dead process and return its descriptor; None if a process has the lock.

    Proves a death only if `locks_are_exclusive`. Raises: FileNotFoundError if the file is missing, or was replaced
    before it was locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
            raise FileNotFoundError(errno.ENOENT, "the lock file was replaced", path)
    except OSError as error:
        os.close(descriptor)
        if error.errno in BUSY:
            return None
        raise
    return descriptor


def locks_are_exclusive(directory: str) -> bool:
    """Return whether a lock on a file in *directory* excludes every later opener of it; False if that fails.

    On file systems where it does not, no process can be proved dead. Locks belong to open files, not to processes, so
    two open files of this process prove it. Needs no second process: see docs/decisions/0013.
    """
    try:
        descriptor, path = files.open_named(directory)
    except OSError:
        return False
    second = -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return second >= 0 and error.errno in BUSY
    finally:
        files.unlink_quietly(path)
        for opened in (second, descriptor):
            if opened >= 0:
                os.close(opened)
    return False
