"""Lock files: locks that live as long as their process, and proof that locks exclude."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from typing import Final

from casstore.fs import files

POLL_FIRST: Final = 0.0005
"""Seconds between the first two tries for a lock; doubled up to `POLL_LAST`. Measured: shared/filelock's fixed 50 ms
made eight processes that want the same objects 1.45 times as slow as one."""


POLL_LAST: Final = 0.010


_BUSY: Final = frozenset((errno.EAGAIN, errno.EACCES))


def create_locked(path: str) -> int:
    """Create *path* and lock it; the descriptor, to be kept open for as long as the process lives.

    Raw and close-on-exec: a forked child that still has it keeps the lease alive, which errs on the safe side. Nobody
    ever unlocks it: unlocking in one process would unlock it for all that inherited it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def directory_lock(directory: str, timeout: float) -> Iterator[None]:
    """Have *directory*'s own lock in the block; or, after *patience* seconds or where it has none, not.

    Raises FileNotFoundError where there is no such directory.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in _BUSY or time.monotonic() > deadline:
                    break
            time.sleep(POLL_FIRST)
        yield
    finally:
        os.close(descriptor)


def try_lock_existing(path: str) -> int | None:
    """The lock file of somebody who is dead, locked; None while anybody holds it. The descriptor is the caller's.

    Proves a death only where `locks_are_exclusive`. Raises FileNotFoundError where the file is gone, or is another one
    by the time that it is locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
            raise FileNotFoundError(errno.ENOENT, "the lock file was replaced", path)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _BUSY:
            return None
        raise
    return descriptor


_SECOND: Final = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(100)
"""
"""The other of two processes: leaves with this status if it is kept out, with 0 if it gets the lock as well."""


_KEPT_OUT: Final = 100


def locks_are_exclusive(directory: str) -> bool:
    """Whether a second process is kept out of a lock that this one holds on a file in *directory*.

    It is not on file systems where locks are for show, and then nobody can be told to be dead. Starts a process, some
    20 ms; False where it cannot be started.
    """
    import subprocess  # only for whoever is about to take something away

    try:
        descriptor, path = files.open_named(directory)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Isolated, so that nothing of the surroundings gets a say; not a fork, whose child would share this very lock.
        command = [sys.executable, "-I", "-S", "-c", _SECOND, path]
        done = subprocess.run(  # noqa: S603 (this very interpreter)
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        return done.returncode == _KEPT_OUT
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    finally:
        files.unlink_quietly(path)
        os.close(descriptor)
