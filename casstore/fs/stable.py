"""Reading of files that other programs may be writing to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from typing import Final

from casstore.errors import StillBeingWrittenError
from casstore.fs import files

OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Do not follow links, nor wait for a pipe, that a user put in place of a file."""
_TICK_NS: Final = 20_000_000
"""Resolution of kernels' mtimes (1 to 10 ms), doubled: two closer writes may leave the same mtime."""


OPEN_MTIME: Final = -1
"""Stands for the mtime of a file that a program may change later without changing its mtime."""


@contextlib.contextmanager
def stable_read(path: str) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Open the file at *path* and yield it, its size, mtime and ctime, which must be the same at the end of the block.

    A write through a memory map changes the mtime only if the page was clean. So the mtime is `OPEN_MTIME` while a
    program has the file open for writing. Raises: StillBeingWrittenError if the file changes, OSError if it is not a
    regular file.
    """
    with files.opened(path, OPEN_FLAGS) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file: it cannot be recorded", path)
        age = time.time_ns() - status.st_mtime_ns
        if 0 <= age < _TICK_NS:
            # A write of the same size in this tick would not change the mtime.
            time.sleep((_TICK_NS - age) / 1e9)
        # Before it is read: a program that opens the file later changes the mtime with its first write.
        mtime_ns = OPEN_MTIME if may_be_written(descriptor, unknown=False) else status.st_mtime_ns
        yield descriptor, (status.st_size, mtime_ns, ctime_of(status))
        with contextlib.suppress(FileNotFoundError):
            if _state(os.stat(path, follow_symlinks=False)) == _state(status):
                return
        raise StillBeingWrittenError(errno.EBUSY, "the file is still being written: try again later", path)


def ctime_of(status: os.stat_result | None) -> int:
    """Return the ctime in nanoseconds, which programs cannot set back; 0 for a link, as other names change it."""
    return status.st_ctime_ns if status is not None and status.st_nlink == 1 else 0


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def may_be_written(descriptor: int, *, unknown: bool = True) -> bool:
    """Return whether a program has the file open or mapped for writing; *unknown* if the kernel does not say.

    Only Linux tells, and only the owner of the file: it grants a read lease if no program has. The lease ends at once:
    who opens the file for writing meanwhile waits for some microseconds, and the kernel sends this process a signal.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return unknown
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default; SIGIO would end the process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return unknown or error.errno == errno.EAGAIN
    finally:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
