"""Which other users can put a file of theirs in the place of one of this user's.

A mode of 0700 does not protect a directory: the writers of the directory above can rename it, and make another one.
Root and this user are trusted. So is a group that only this user is in: with a umask of 002, it may write to all files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
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
    """Return the id of the other user who owns *path*; None if this user does, or if it cannot be seen."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, PermissionError):
        return None
    return None if status.st_uid == os.geteuid() else status.st_uid


def find_writers(directory: str, status: os.stat_result) -> Intruder | None:
    """Return the users whom the mode of a *directory* allows to create and rename files in it; None if no others."""
    if status.st_mode & stat.S_IWOTH:
        return Intruder("every user", directory)
    if status.st_mode & stat.S_IWGRP and not _is_private_group(directory, status.st_gid):
        return Intruder(_group(status.st_gid), directory)
    return None


def find_changers(path: str) -> Intruder | None:
    """Return the users who own *path* and are not trusted, or who can write to this directory; None if no others.

    None of what this user cannot see: it is below what only its owner may look into.
    """
    try:
        return _changers(path, os.stat(path))
    except (FileNotFoundError, PermissionError):
        return None


def _changers(path: str, status: os.stat_result) -> Intruder | None:
    if not _is_trusted(status.st_uid):
        return Intruder(_user(status.st_uid), path)
    return find_writers(path, status) if stat.S_ISDIR(status.st_mode) else None


def is_tolerated(intruder: Intruder) -> bool:
    """Return whether a warning about *intruder* is enough.

    So it is for root, and in a container for a volume of root's that all may write to: the user of the first process is
    the only one there.
    """
    uid = os.geteuid()
    if not uid:
        return True
    with contextlib.suppress(OSError):
        is_container = os.stat("/proc/1").st_uid == uid
        return is_container and os.stat(intruder.path).st_uid == 0 and os.path.ismount(intruder.path)
    return False


def gravest(intruders: Iterable[Intruder]) -> Intruder | None:
    """Return the first who is not tolerated, else the first; None without any."""
    found = list(intruders)
    return next((one for one in found if not is_tolerated(one)), found[0] if found else None)


def find_movers(path: str) -> Iterator[Intruder]:
    """Yield the users who can rename *path*, a directory above, or a link that leads to it.

    In a sticky directory, only its owner and a file's own may rename the file. *path* may be missing.
    """
    for directory, entry in _steps(path):
        try:
            above = os.stat(directory)
        except OSError:
            return  # all below is missing
        writers = _changers(directory, above)
        if writers is None:
            continue
        if not _is_trusted(above.st_uid) or not above.st_mode & stat.S_ISVTX:
            yield writers
        elif (status := files.lstat_or_none(entry)) is not None and not _is_trusted(status.st_uid):
            yield Intruder(_user(status.st_uid), entry)


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
