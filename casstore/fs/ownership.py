"""Which other users can put a file of theirs in the place of one of this user's.

A mode of 0700 does not protect a directory: the writers of the directory above can rename it, and make another one.
Root and this user are trusted. So is a group that only this user is in: with a umask of 002, it may write to all files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from casstore.fs import files

_ACL: Final = "system.posix_acl_access"
_MOST_LINKS: Final = 40
"""The most symbolic links in a path, as in Linux."""
_UNMAPPED: Final = 65534
"""The user id that a user namespace shows for all users outside of it."""


class Intruder(NamedTuple):
    """Other users, by a *name* for messages, and the *path* that they own or may write to."""

    name: str
    path: str


def find_owner(path: str) -> int | None:
    """Return the id of the other user who owns *path*; None if this user does, or if it cannot be reached."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return None if status.st_uid == os.geteuid() else status.st_uid


def find_writers(directory: str, status: os.stat_result | None = None) -> Intruder | None:
    """Return the users whom the mode of a *directory* allows to create and rename files in it; None if no others."""
    status = os.stat(directory) if status is None else status
    if status.st_mode & stat.S_IWOTH:
        return Intruder("every user", directory)
    if status.st_mode & stat.S_IWGRP and not _is_private_group(directory, status.st_gid):
        return Intruder(_group(status.st_gid), directory)
    return None


def find_movers(path: str) -> Intruder | None:
    """Return the users who can rename *path*, a directory above, or a link that leads to it; None if no others.

    In a sticky directory, only its owner and a file's own may rename the file. *path* may be missing.
    """
    for directory, entry in _steps(path):
        try:
            above = os.stat(directory)
        except OSError:
            return None  # all below is missing
        if not _is_trusted(above.st_uid):
            return Intruder(_user(above.st_uid), directory)
        writers = find_writers(directory, above)
        if writers is not None and not above.st_mode & stat.S_ISVTX:
            return writers
        status = files.lstat_or_none(entry) if writers is not None else None
        if status is not None and not _is_trusted(status.st_uid):
            return Intruder(_user(status.st_uid), entry)
    return None


def _steps(path: str) -> Iterator[tuple[str, str]]:
    """Yield each directory on the way to *path*, through symbolic links, with the path of the next entry in it."""
    at, links = "", 0
    left = os.path.abspath(path).split("/")[::-1]
    while left and links <= _MOST_LINKS:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = at.rpartition("/")[0]
            continue
        entry = f"{at}/{name}"
        yield at or "/", entry
        try:
            target = os.readlink(entry)
        except OSError:  # no link, or missing
            at = entry
        else:
            links += 1
            at = "" if target.startswith("/") else at
            left += target.split("/")[::-1]


def _is_trusted(uid: int) -> bool:
    return uid in (0, os.geteuid()) or (uid == _UNMAPPED and _is_namespace())


def _is_namespace() -> bool:
    """Whether this is a user namespace that does not have all users of the machine, such as root."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return file.read().split() != [b"0", b"0", b"4294967295"]
    except OSError:
        return False


def _is_private_group(directory: str, gid: int) -> bool:
    import grp  # few directories are writable for a group
    import pwd

    with contextlib.suppress(OSError, AttributeError):
        if _ACL in os.listxattr(directory):
            return False  # the group's bits are then the most that any user on the list may do
    try:
        group, own = grp.getgrgid(gid), pwd.getpwuid(os.geteuid() if gid else 0).pw_name
    except KeyError:
        return False
    return group.gr_mem in ([], [own]) and (gid == 0 or group.gr_name == own)


def _user(uid: int) -> str:
    import pwd

    with contextlib.suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"user {uid}"


def _group(gid: int) -> str:
    import grp

    with contextlib.suppress(KeyError):
        return f"group {grp.getgrgid(gid).gr_name} (gid {gid})"
    return f"group {gid}"
