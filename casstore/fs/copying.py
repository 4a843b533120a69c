"""Copy a file's bytes: as a reflink, else by the kernel, else by reading and writing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Final

from casstore.fs import files, permissions

_FICLONE: Final = 0x40049409
"""``FICLONE`` of linux/fs.h: share all extents of one file with another."""
_NO_SENDFILE: Final = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW, errno.ENOTSOCK, errno.EOPNOTSUPP))


def clone(source: int, target: int) -> bool:
    """Share *source*'s extents with *target*, a new file; return False if the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def copy_bytes(source: int, target: int) -> int:
    """Copy all of *source* to *target* from their starts; return the byte count. *source*'s position does not move."""
    offset = 0
    while True:
        try:
            count = os.sendfile(target, source, offset, 1 << 24)
        except OSError as error:
            if error.errno not in _NO_SENDFILE or offset:
                raise
            while data := os.pread(source, 1 << 20, offset):
                files.write_all(target, data)
                offset += len(data)
            return offset
        if count == 0:
            return offset
        offset += count


def copy_out(source: int, target: str, *, durable: bool = False) -> None:
    """Make the file *target* a copy of the open file *source*, replaced as a whole.

    A new file gets its mode from the umask; one that is replaced keeps its own, and no other user can read the copy
    meanwhile. Follows symbolic links; writes into a device or a pipe. With *durable*, the copy is on the disk on
    return, so the caller may delete the original.
    """
    target = os.path.realpath(target)
    if os.path.lexists(target) and not os.path.isfile(target):
        with files.opened(target, os.O_WRONLY) as device:
            copy_bytes(source, device)
        return
    directory = os.path.dirname(target)
    temporary = f"{directory}/.{os.urandom(8).hex()}.part"
    mode = permissions.PRIVATE if os.path.lexists(target) else 0o666
    # Unnamed until it is complete, if possible: then a killed process leaves nothing.
    unnamed = files.open_unnamed(directory, mode)
    is_named = unnamed is None
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode) if unnamed is None else unnamed
    try:
        try:
            if not clone(source, descriptor):
                copy_bytes(source, descriptor)
            with contextlib.suppress(FileNotFoundError):
                permissions.copy_permissions(descriptor, target)
            if durable:
                files.sync(descriptor)
            if not is_named:
                try:
                    files.link_descriptor(descriptor, target)
                except FileExistsError:
                    with contextlib.suppress(FileNotFoundError):
                        permissions.copy_permissions(descriptor, target)
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
    """Create the directory *path* and its missing parents; with *durable*, they are on the disk on return.

    Raises: FileExistsError if a file has one of the names.
    """
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path) or "."
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        if not os.path.isdir(directory):
            raise FileExistsError(errno.EEXIST, "a file has this name: remove it, or choose another path", directory)
    if durable:
        for directory in missing:
            files.sync_directory(os.path.dirname(directory) or ".")


def same_bytes(one: int, other: int) -> bool:
    offset = 0
    while True:
        left = os.pread(one, 1 << 20, offset)
        if left != os.pread(other, 1 << 20, offset):
            return False
        if not left:
            return True
        offset += len(left)
