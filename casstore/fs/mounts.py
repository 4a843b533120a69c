"""What the kernel says of this machine: its boot, its clocks, and what a path lies on."""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass
from typing import Final

_REMOTE: Final = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "lustre", "gpfs", "ceph", "9p", "afs", "beegfs", "orangefs")
    + ("ocfs2", "gfs2", "glusterfs", "virtiofs")
)
"""File systems on which LMDB's shared memory or locks are not what they are on a local disk (lmdb.h, Caveats)."""
_LINKLESS: Final = frozenset(("vfat", "msdos", "exfat"))
_NO_PROC: Final = frozenset((errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR))


def boot_clock_ns() -> int:
    """Nanoseconds since boot, suspended time included: the same clock for every process of this boot."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_id() -> bytes:
    """What tells this boot from every other; empty where the platform does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno not in _NO_PROC:
            raise  # too many open files, say: a wrong answer would outlast it
        return b""


@dataclass(frozen=True, slots=True)
class Mount:
    """What a path lies on: the kernel's number for the mount, and the file system's type (``ext4``)."""

    number: int
    kind: str

    @property
    def is_linkless(self) -> bool:
        """Whether no file can have a second name there."""
        return self.kind in _LINKLESS

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use it, or a program in user space serves it: no place for LMDB."""
        return self.kind in _REMOTE or self.kind.startswith("fuse")


def mount_of(path: str) -> Mount:
    """The mount that *path*, which exists, lies on. Kind is ``unknown`` where there is no ``/proc``."""
    if not sys.platform.startswith("linux"):
        return Mount(os.stat(path).st_dev, "unknown")
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            number = next((int(line[7:]) for line in file if line.startswith(b"mnt_id:")), 0)
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                if line.startswith(b"%d " % number):
                    _, _, rest = line.partition(b" - ")
                    return Mount(number, rest.split(b" ", 1)[0].decode("ascii", "replace"))
    except OSError as error:
        if error.errno not in _NO_PROC:
            raise  # not to be taken for a local disk because files cannot be opened just now
        return Mount(os.stat(path).st_dev, "unknown")
    finally:
        os.close(descriptor)
    return Mount(number, "unknown")
