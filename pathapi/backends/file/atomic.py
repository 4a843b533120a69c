"""How a file gets its name in one step: written under a hidden name, then linked or renamed under a directory's lock.

The lock replaces a server's condition. It excludes every writer of this backend, and no other program.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from threading import get_ident
from typing import ClassVar, Final, Self

from casstore import ReentrantCallError
from pathapi.exceptions import CloudUnavailableError, VersionMismatchError

TEMPORARY: Final = re.compile(r"\.casstore-[0-9a-f]{16}")
"""Names of unfinished writes; they are no objects. Those of a killed process can be deleted."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})
_POLL_FIRST: Final = 0.0005  # seconds until the second try for a lock; doubled up to the last
_POLL_LAST: Final = 0.010


@contextlib.contextmanager
def temporary_in(directory: str, mode: int) -> Iterator[tuple[int, str]]:
    """Create a file to write and then rename; yield its descriptor and path. If it still has that name, delete it.

    The umask limits *mode*.
    """
    path = os.path.join(directory, f".casstore-{secrets.token_hex(8)}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def link_new(temporary: str, path: str, uri: str) -> bool:
    """Give the file its name; False if the file system has no links. Raises VersionMismatchError if the name exists."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise VersionMismatchError(f"{uri}: the object already exists; nothing was changed: read it first") from error
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


class DirectoryLock:
    """Excludes every other writer of this backend, in any process, during a compare and a rename.

    For a block that uses it twice (`casstore.locks.mutex` says why).
    """

    _threads: ClassVar[dict[str, int]] = {}
    """By locked directory: the thread of this process that has locked it."""

    def __init__(self, directory: str, uri: str, timeout: float) -> None:
        self._directory, self._uri, self._timeout = directory, uri, timeout
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Lock the directory.

        Raises: CloudUnavailableError that names the holder, after *timeout* seconds: each user who can read a directory
        can lock it. ReentrantCallError in a signal handler that interrupted this thread inside the block.
        """
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
                if self._threads.get(self._directory) == get_ident():
                    raise ReentrantCallError(
                        f"{self._uri}: {self._directory} is locked by what a signal handler "
                        "interrupted: let the handler set a flag, and write after it"
                    )
                _lock(self._descriptor, self._directory, self._uri, self._timeout)
                self._threads[self._directory] = get_ident()
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._descriptor >= 0:
            self._threads.pop(self._directory, None)
            self._close()

    def _close(self) -> None:
        descriptor = self._descriptor
        if descriptor >= 0:
            # Explicitly: a child that another thread forked meanwhile has a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            self._descriptor = -1
            os.close(descriptor)


def _lock(descriptor: int, directory: str, uri: str, timeout: float) -> None:
    deadline, pause = time.monotonic() + timeout, _POLL_FIRST
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
        else:
            return
        if time.monotonic() >= deadline:
            raise CloudUnavailableError(
                f"{uri}: timed out after {timeout:g} s waiting for {_holder_of(descriptor)}, which has locked the "
                f"directory {directory}; nothing was changed: end that process, or try again later"
            )
        time.sleep(pause)
        pause = min(2 * pause, _POLL_LAST)


def _holder_of(descriptor: int) -> str:
    """Name a process that has a `flock` on the open file; only Linux tells."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii", errors="replace") as locks:
        for line in locks:
            match line.split():
                case [_, "FLOCK", _, _, pid, locked, *_] if locked == file and pid.isdigit():
                    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", errors="replace") as name:
                        return f"process {pid} ({name.read().strip()})"
                    return f"process {pid}"
    return "another process"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DirectoryLock._threads.clear)  # noqa: SLF001 (this module's own)
