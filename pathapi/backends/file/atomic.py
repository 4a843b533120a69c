"""How a file gets its name in one step: filled under a hidden name, then linked or renamed under a directory's lock.

The lock stands in for a server's condition. It keeps out every writer of this backend and nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from typing import Final

from pathapi.exceptions import VersionMismatchError

if sys.platform != "win32":
    import fcntl

TEMPORARY: Final = re.compile(r"\.casstore-[0-9a-f]{16}")
"""Names of unfinished writes; they are no objects. What a killed process left of them may be deleted by anybody."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_process_lock: Final = threading.Lock()


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def temporary_in(directory: str) -> Iterator[tuple[int, str]]:
    """A file to fill and then rename: its descriptor and path. What is still there at the end is removed."""
    path = os.path.join(directory, f".casstore-{secrets.token_hex(8)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def link_new(temporary: str, path: str, uri: str) -> bool:
    """Give the file its name if nobody else has it; False where the file system has no links."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise VersionMismatchError(f"{uri} exists already; nothing was changed") from error
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


if sys.platform == "win32":

    @contextlib.contextmanager
    def directory_locked(directory: str) -> Iterator[None]:  # noqa: ARG001 (one signature on all platforms)
        """Keep out this process's other threads. A directory has no lock here that other processes would meet."""
        with _process_lock:
            yield

    def sync_directory(directory: str) -> None:
        """A directory cannot be synced here."""

else:

    @contextlib.contextmanager
    def directory_locked(directory: str) -> Iterator[None]:
        """Keep out every other writer of this backend, in any process; held for a compare and a rename only."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Explicitly: a child forked by another thread meanwhile holds a copy of the descriptor.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def sync_directory(directory: str) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
