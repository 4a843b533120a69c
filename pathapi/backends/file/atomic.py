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
from threading import get_ident
from typing import ClassVar, Final, Self

from casstore import ReentrantCallError, polls_until
from pathapi.exceptions import CloudUnavailableError, VersionMismatchError

TEMPORARY: Final = re.compile(r"\.casstore-[0-9a-f]{16}")
"""Names of unfinished writes; they are no objects. Those of a killed process can be deleted."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})


class Temporary:
    """A file in *directory* to write and then rename; if it still has that name at the end, it is deleted.

    For a block that uses it twice (`casstore.locks.mutex` says why). The umask limits *mode*.
    """

    def __init__(self, directory: str, mode: int) -> None:
        self._path = os.path.join(directory, f".casstore-{secrets.token_hex(8)}")
        self._mode, self._process = mode, os.getpid()
        self._descriptor = -1
        self._may_exist = False

    def __enter__(self) -> tuple[int, str]:
        """Create the file; return its descriptor and path."""
        try:
            if self._descriptor < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._may_exist = True
                self._descriptor = os.open(self._path, flags, self._mode)
        except BaseException:
            self.__exit__()  # an interrupt may come between the file and its descriptor
            raise
        return self._descriptor, self._path

    def __exit__(self, *exc: object) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        if self._may_exist and os.getpid() == self._process:  # not in a child that a signal handler forked
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._may_exist = False


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

    _blocks: ClassVar[dict[tuple[str, int], DirectoryLock]] = {}
    """By directory and thread. Noted before it is locked, until it is unlocked: a handler may run at any point."""

    def __init__(self, directory: str, uri: str, timeout: float) -> None:
        self._directory, self._uri, self._timeout = directory, uri, timeout
        self._block = directory, get_ident()
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Lock the directory.

        Raises: CloudUnavailableError that names the holder, after *timeout* seconds: each user who can read a directory
        can lock it. ReentrantCallError in a signal handler that interrupted this thread inside the block.
        """
        try:
            if self._blocks.setdefault(self._block, self) is not self:
                raise ReentrantCallError(
                    f"{self._uri}: {self._directory} is locked by what a signal handler "
                    "interrupted: let the handler set a flag, and write after it"
                )
            if self._descriptor < 0:
                self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
                _lock(self._descriptor, self._directory, self._uri, self._timeout)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        descriptor = self._descriptor
        if descriptor >= 0:
            # Explicitly: a child that another thread forked meanwhile has a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            self._descriptor = -1
            os.close(descriptor)
        if self._blocks.get(self._block) is self:
            del self._blocks[self._block]


def _lock(descriptor: int, directory: str, uri: str, timeout: float) -> None:
    for _ in polls_until(time.monotonic() + timeout):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
        else:
            return
    raise CloudUnavailableError(
        f"{uri}: timed out after {timeout:g} s waiting for {_holder_of(descriptor)}, which has locked the directory "
        f"{directory}; nothing was changed: end that process, or try again later"
    )


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


os.register_at_fork(after_in_child=DirectoryLock._blocks.clear)  # noqa: SLF001 (this module's own)
