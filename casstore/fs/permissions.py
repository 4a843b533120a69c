"""Who may read a file that replaces another one, and who can rename what is in a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

PRIVATE: Final = 0o600
"""The mode of a file that will replace another, until it has the permissions of that one."""
_ACL: Final = "system.posix_acl_access"
_NO_ACL: Final = frozenset((errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS))


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
