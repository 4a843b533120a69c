"""Run a command as user nobody, who may not be able to reach this checkout or its Python: root and Linux only.

``python nobody.py PATH... -- COMMAND...`` makes each PATH reachable for the command alone: in a mount namespace of its
own, every directory above that nobody may not enter is covered by an empty one, with the paths that are wanted mounted
in it. (A Python below ``/root`` is usual in containers.) Exits with `REFUSED` where this system allows none of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import stat
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

REFUSED: Final = 75
"""EX_TEMPFAIL of sysexits.h: no status of pytest or of Python itself."""

_CLONE_NEWNS: Final = 0x20000
_MS_BIND: Final = 0x1000
_MS_REC_PRIVATE: Final = 0x44000


def main(arguments: list[str]) -> NoReturn:
    """Become nobody, and then the command."""
    split = arguments.index("--")
    paths, command = arguments[:split], arguments[split + 1 :]
    os.umask(0o022)
    try:
        nobody = pwd.getpwnam("nobody")
        _uncover([os.path.realpath(path) for path in paths], nobody.pw_uid)
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        _check_readable([*paths, command[0]])
    except (OSError, KeyError, AttributeError) as error:
        print(f"cannot run as nobody: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    os.execv(command[0], command)


def _uncover(paths: Sequence[str], uid: int) -> None:
    hidden = {path: above for path in paths if (above := _first_closed(path, uid)) is not None}
    if not hidden:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(None, b"/", None, _MS_REC_PRIVATE, None), "mount --make-rprivate /")
    # Held from before the covering: afterwards their names lead into the cover.
    held = {path: os.open(path, os.O_PATH) for path in hidden}
    for above in sorted(set(hidden.values())):
        _check(libc.mount(b"nobody", os.fsencode(above), b"tmpfs", 0, b"mode=755"), f"mount {above}")
    for path, descriptor in held.items():
        os.makedirs(path, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        _check(libc.mount(source, os.fsencode(path), None, _MS_BIND, None), f"mount {path}")
        os.close(descriptor)


def _first_closed(path: str, uid: int) -> str | None:
    """The topmost directory on the way to *path* that others may not enter, or None."""
    parts = path.strip("/").split("/")
    for number in range(len(parts)):
        at = "/" + "/".join(parts[: number + 1])
        status = os.stat(at)
        if stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_IXOTH and status.st_uid != uid:
            return at
    return None


def _check_readable(paths: Sequence[str]) -> None:
    for path in paths:
        if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
