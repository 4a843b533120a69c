"""Copy a file's bytes: as a reflink where the file system can, else by the kernel, else by hand."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Final

from casstore.fs import files

_FICLONE: Final = 0x40049409
"""``FICLONE`` of linux/fs.h: share all extents of one file with another."""
_NO_SENDFILE: Final = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW, errno.ENOTSOCK, errno.EOPNOTSUPP))


def clone(source: int, target: int) -> bool:
    """Share *source*'s extents with *target*, a new file; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def copy_bytes(source: int, target: int) -> int:
    """Copy all of *source* to *target* from their starts, without moving *source*'s position; bytes copied."""
    offset = 0
    while True:
        try:
            count = os.sendfile(target, source, offset, 1 << 24)
        except OSError as error:
            if error.errno not in _NO_SENDFILE or offset:
                raise
            return _copy_by_reading(source, target)
        if count == 0:
            return offset
        offset += count


def _copy_by_reading(source: int, target: int) -> int:
    offset = 0
    while data := os.pread(source, 1 << 20, offset):
        files.write_all(target, data)
        offset += len(data)
    return offset


def copy_out(source: int, target: str, *, durable: bool = False) -> None:
    """Make the file *target* a copy of the open file *source*; at any moment it is the old one or all of the new.

    Its mode is by the umask. Follows symbolic links. What is no regular file (a device, a pipe) is written into. With
    *durable* it is on the disk on return, for whoever then takes the original away.
    """
    target = os.path.realpath(target)
    if os.path.lexists(target) and not os.path.isfile(target):
        descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            copy_bytes(source, descriptor)
        finally:
            os.close(descriptor)
        return
    directory = os.path.dirname(target)
    temporary = f"{directory}/.{os.urandom(8).hex()}.part"
    # Without a name until it is whole, where that can be: a process that is killed leaves nothing then.
    unnamed = files.open_unnamed(directory, 0o666)
    is_named = unnamed is None
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666) if unnamed is None else unnamed
    try:
        try:
            if not clone(source, descriptor):
                copy_bytes(source, descriptor)
            if durable:
                files.sync(descriptor)
            if not is_named:
                try:
                    files.link_descriptor(descriptor, target)
                except FileExistsError:
                    files.link_descriptor(descriptor, temporary)
                    is_named = True
        finally:
            os.close(descriptor)
        if is_named:
            os.rename(temporary, target)
        if durable:
            files.sync_directory(directory)
    except BaseException:
        files.unlink_quietly(temporary)
        raise


def make_directories(path: str, *, durable: bool = False) -> None:
    """Make the directory *path* and those above it, as far as they are missing; with *durable* they are on the disk."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path) or "."
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        if not os.path.isdir(directory):
            raise FileExistsError(errno.EEXIST, "is a file, where a directory is to be", directory)
    if durable:
        for directory in missing:
            files.sync_directory(os.path.dirname(directory) or ".")


def same_bytes(one: int, other: int) -> bool:
    """Whether two open files hold the same bytes."""
    offset = 0
    while True:
        left = os.pread(one, 1 << 20, offset)
        if left != os.pread(other, 1 << 20, offset):
            return False
        if not left:
            return True
        offset += len(left)
