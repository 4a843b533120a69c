"""From the status of a file to `ObjectInfo`, and from an errno to an error."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time
from dataclasses import replace
from typing import Final

from casstore import Validator
from pathapi.backend import Absent, ObjectInfo
from pathapi.backends.file.atomic import TEMPORARY
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathPermissionError,
    CloudUnavailableError,
    VersionMismatchError,
)

RACY_NS: Final = 20_000_000
"""A file changed this recently can change again without a new time: a kernel tick is 1 to 10 ms. (Linux 6.13 and
later can have finer times; a program cannot find out on which file systems.)"""
TICK_NS: Final = 10_000_000
"""The longest tick, HZ=100. A read waits for its end, so that a change during the read shows in the times."""
WRITEBACK_NS: Final = 60 * 10**9
"""How long Linux takes at most, by default, to write a changed page to the disk: 35 s, and some time for the disk.

It sets the times of a file when a page that is mapped into memory (`mmap`) is changed for the first time. Until it has
written that page, further changes of it leave the times as they are.
"""
ABSENT_ERRNOS: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


def problem_of(key: str) -> str | None:
    """Return why no file can have this key; None if one can."""
    if "\0" in key:
        return "a file name cannot contain a NUL"
    parts = key.split("/")
    if "" in parts:
        return "a file's path cannot have an empty part, at its ends or between two slashes"
    if "." in parts or ".." in parts:
        return "'.' and '..' are directories in a file's path"
    if any(TEMPORARY.fullmatch(part) for part in parts):
        return "names of this form are reserved for unfinished writes"
    return None


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def stat_object(path: str, uri: str) -> os.stat_result:
    status = os.stat(path)
    _require_regular(status, uri)
    return status


def _require_regular(status: os.stat_result, uri: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise CloudPathFileNotFoundError(f"{uri} is a directory, not an object")
    if not stat.S_ISREG(status.st_mode):
        raise CloudPathFileNotFoundError(f"{uri}: only regular files are objects")


def stat_settled(descriptor: int, uri: str) -> os.stat_result:
    """Return the status of an open file, taken when its next change will show in its times."""
    status = os.fstat(descriptor)
    _require_regular(status, uri)
    age = time.time_ns() - status.st_ctime_ns
    if 0 <= age < TICK_NS:
        time.sleep((TICK_NS - age) / 1e9)
        status = os.fstat(descriptor)
    return status


def _may_be_written(descriptor: int) -> bool:
    """Return whether a program has the file open or mapped for writing, or the kernel does not say.

    The kernel grants a read lease if no program has. It ends at once: who opens the file for writing meanwhile waits
    for some microseconds, and the kernel sends this process a signal about it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default; SIGIO would end the process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def validator_of(status: os.stat_result) -> Validator:
    now = time.time_ns()
    times = (status.st_mtime_ns, status.st_ctime_ns)
    etag = f"{status.st_ino:x}-{status.st_size:x}-{times[0]:x}-{times[1]:x}"
    racy = any(abs(now - moment) < RACY_NS for moment in times)
    return Validator(size=status.st_size, etag=etag, mtime_ns=status.st_mtime_ns, granule_ns=1, racy=racy)


def info_of(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, validator_of(status))


def info_of_open(key: str, descriptor: int, status: os.stat_result) -> ObjectInfo:
    """Return what *status* says of an open file; its version is racy if a program may have mapped it for writing.

    A mapped file can change without a new time. Only Linux can tell; of another user's file only that it is old enough.
    """
    info = info_of(key, status)
    age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    if age <= WRITEBACK_NS and hasattr(fcntl, "F_SETLEASE") and _may_be_written(descriptor):
        return replace(info, validator=replace(info.validator, racy=True))
    return info


def mismatch(uri: str, expect: Validator | Absent) -> VersionMismatchError:
    if isinstance(expect, Absent):
        return VersionMismatchError(f"{uri}: the object already exists; nothing was changed: read it first")
    return VersionMismatchError(f"{uri}: the object is not the expected version; nothing was changed: read it again")


def translate(error: OSError, uri: str) -> CloudPathException:
    """Return the error for an errno."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP | errno.ENAMETOOLONG:
            return CloudPathFileNotFoundError(f"{uri} does not exist ({reason})")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return CloudPathPermissionError(
                f"{uri}: permission denied ({reason}): check its mode and those of its parents"
            )
        case errno.EISDIR:
            return CloudPathIsADirectoryError(f"{uri} is a directory")
        case errno.ENOSPC | errno.EDQUOT:
            return CloudUnavailableError(
                f"{uri}: the disk or quota is full ({reason}); nothing was written: free some space"
            )
        case _:
            return CloudUnavailableError(f"{uri}: the file system failed ({reason}): check its disk or mount")
