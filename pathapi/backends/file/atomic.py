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
from collections.abc import Iterator
from typing import Final

from pathapi.exceptions import VersionMismatchError

TEMPORARY: Final = re.compile(r"\.casstore-[0-9a-f]{16}")
"""Names of unfinished writes; they are no objects. Those of a killed process can be deleted."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


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


@contextlib.contextmanager
def directory_locked(directory: str) -> Iterator[None]:
    """Exclude every other writer of this backend, in any process, during a compare and a rename."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Explicitly: a child that another thread forked meanwhile has a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
