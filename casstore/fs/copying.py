"""Copy a file's bytes, as a reflink, else by the kernel, else by reading and writing; and who may read the copy."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import Final

from casstore.fs import files

_FICLONE: Final = 0x40049409
"""``FICLONE`` of linux/fs.h: share all extents of one file with another."""
_NO_SENDFILE: Final = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW, errno.ENOTSOCK, errno.EOPNOTSUPP))
PRIVATE: Final = 0o600
"""The mode of a file that will replace another, until it has the permissions of that one."""
_ACL: Final = "system.posix_acl_access"
_NO_ACL: Final = frozenset((errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS))


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
    mode = PRIVATE if os.path.lexists(target) else 0o666
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
                copy_permissions(descriptor, target)
            if durable:
                files.sync(descriptor)
            if not is_named:
                try:
                    files.link_descriptor(descriptor, target)
                except FileExistsError:
                    with contextlib.suppress(FileNotFoundError):
                        copy_permissions(descriptor, target)
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


def copy_permissions(descriptor: int, source: str | int, *, owner: bool = True) -> None:
    """Give an open file the group, mode and ACL of *source*, and with *owner* its owner, as far as this user may.

    What cannot be given is left out: if the group or the ACL cannot, the group gets what all others have. The bits for
    set-user-ID and set-group-ID are not copied. Raises: FileNotFoundError if *source* is missing.
    """
    status, own = os.stat(source), os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    is_complete = True
    if owner and status.st_uid != own.st_uid:
        with contextlib.suppress(OSError):
            os.fchown(descriptor, status.st_uid, -1)
    if status.st_gid != own.st_gid:
        try:
            os.fchown(descriptor, -1, status.st_gid)
        except OSError:  # EPERM, or EINVAL for a group that the user namespace does not map
            is_complete = False
    if not _copy_acl(source, descriptor):
        is_complete = False
    os.fchmod(descriptor, mode if is_complete else mode & ~0o070 | (mode & 0o007) << 3)


def _copy_acl(source: str | int, descriptor: int) -> bool:
    """Replace the ACL of *descriptor*, which may come from its directory, by that of *source*; False if impossible."""
    if not hasattr(os, "getxattr"):
        return True  # macOS: no access control list limits the group
    try:
        try:
            os.setxattr(descriptor, _ACL, os.getxattr(source, _ACL))
        except OSError as error:
            if error.errno not in _NO_ACL:
                raise
            os.removexattr(descriptor, _ACL)
    except OSError as error:
        return error.errno in _NO_ACL
    return True
