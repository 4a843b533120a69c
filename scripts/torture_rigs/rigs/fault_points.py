"""How each system call can fail, and all failures of a program."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from torture_rigs.workload.programs import Program

_READING: Final = (
    "read",
    "pread64",
    "readv",
    "preadv",
    "preadv2",
    "lseek",
    "getdents64",
    "sendfile",
    "copy_file_range",
)
_WRITING: Final = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate")
_SYNCING: Final = ("fsync", "fdatasync", "sync_file_range", "syncfs", "msync")
_OPENING: Final = ("open", "openat", "openat2", "creat", "dup", "dup3", "pipe2", "close")
_LOOKING: Final = (
    *("stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs"),
    *("access", "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd"),
)
_NAMING: Final = (
    *("link", "linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "utimensat", "chmod", "fchmod", "fchmodat", "fchmodat2"),
)
_LOCKING: Final = ("fcntl", "flock", "ioctl")
FAILURES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(_READING, ("EIO", "EINTR")),
    **dict.fromkeys(_WRITING, ("EIO", "ENOSPC", "EINTR")),
    **dict.fromkeys(_SYNCING, ("EIO", "ENOSPC", "EINTR")),
    **dict.fromkeys(_OPENING, ("EIO", "ENOSPC", "EMFILE", "EACCES", "EINTR")),
    **dict.fromkeys(_LOOKING, ("EIO", "EACCES")),
    **dict.fromkeys(_NAMING, ("EIO", "ENOSPC", "EACCES")),
    **dict.fromkeys(_LOCKING, ("EIO", "EACCES", "EINTR")),
    **dict.fromkeys(("lseek", "close"), ("EIO",)),
    "clone": ("EAGAIN",),
    "clone3": ("EAGAIN",),
}
"""How each call can fail, of EIO, ENOSPC, EMFILE, EACCES and EINTR, by its manual page; and how threads run out.

Memory does not: where a new thread gets none, CPython's `Thread.start` waits for it for ever.
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One failure. *how* is an error's name or KILL; *lasting* means that all later calls fail, too."""

    program: str
    call: str
    number: int
    how: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.program}: {self.call} {self.number}{' and on' if self.lasting else ''} {self.how}"

    @property
    def way(self) -> str:
        """Return its name as an option."""
        return self.how + ("+" if self.lasting else "")

    @property
    def injection(self) -> str:
        """Return strace's argument."""
        what = "signal=SIGKILL" if self.how == "KILL" else f"error={self.how}"
        return f"{self.call}:{what}:when={self.number}{'+' if self.lasting else ''}"


def points_of(program: Program, counts: Counter[str]) -> list[Point]:
    """Return all failures of a program with so many calls of each kind."""
    found = []
    for call, count in sorted(counts.items()):
        errors = () if call in program.spares else FAILURES.get(call, ())
        for number in range(1, count + 1):
            for error in errors:
                found.append(Point(program.name, call, number, error, lasting=False))
                # An interrupted call, and one that finds a lock busy, is repeated as long as that lasts.
                if error != "EINTR" and (call, error) not in (("fcntl", "EACCES"), ("flock", "EACCES")):
                    found.append(Point(program.name, call, number, error, lasting=True))
            if errors:
                found.append(Point(program.name, call, number, "KILL", lasting=False))
    return found
