"""Files of this machine on their way into a cloud."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from casstore import opened
from pathapi.backend import ObjectInfo
from pathapi.exceptions import StaleReadError
from pathapi.metadata.location import Location
from pathapi.transfer.objects import has_bytes, upload
from pathapi.writing.conditional_put import WriteBase

HEAD_FROM: Final = 8 << 20
"""Bytes from which a target is looked up before it is uploaded to: a refusal after that many costs more."""

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK  # not blocking: a pipe would wait for its writer


def upload_file(target: Location, path: str, base: WriteBase) -> None:
    """Upload the file at *path* as it was at one moment. The caller has the target's write lock.

    Raises StaleReadError if the file was written to in the meantime, and what writing raises.
    """
    with opened(path, _OPEN_FLAGS) as descriptor:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise ValueError(f"{path} is not a regular file; only regular files and directories are uploaded")

        def check() -> None:
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise StaleReadError(f"{path} is still being written; nothing was uploaded, try again when it is done")

        upload(target, descriptor, base, lambda: before.st_mtime_ns, check)


def has_arrived(target: Location, path: str, there: ObjectInfo) -> bool:
    """Return whether the object *there* certainly has the bytes of the file at *path*; downloads nothing."""
    with opened(path, _OPEN_FLAGS) as descriptor:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and has_bytes(target, there, descriptor)


def files_below(
    directory: str, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, str]]:
    """List the regular files below *directory*, links followed: each path, and *prefix* and the name from there.

    *above* identifies the directories that it is in.
    """
    status = os.stat(directory)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return  # a link to a directory above itself
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from files_below(entry.path, f"{prefix}{entry.name}/", above | {identity})
        elif entry.is_file():
            yield entry.path, prefix + entry.name
