"""The kernel's facts about this machine: boot id, boot clock, mounts."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, NamedTuple

from casstore.fs import files

_REMOTE: Final = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "lustre", "gpfs", "ceph", "9p", "afs", "beegfs", "orangefs")
    + ("ocfs2", "gfs2", "glusterfs", "virtiofs")
)
"""File systems whose shared memory or locks do not suffice for LMDB (lmdb.h, Caveats)."""
_LINKLESS: Final = frozenset(("vfat", "msdos", "exfat"))


def boot_clock_ns() -> int:
    """Return nanoseconds since boot, suspended time included; equal for all processes of a boot."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_id() -> bytes:
    """Return an identifier of this boot; empty if it cannot be found out."""
    if sys.platform == "darwin":
        return _sysctl(b"kern.bootsessionuuid")
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno not in files.NO_PROC:
            raise  # for example, too many open files; a wrong answer would be kept
        return b""


def time_namespace() -> bytes:
    """Return an identifier of this process's time namespace, in which the boot clock may be ahead; empty without."""
    try:
        return os.fsencode(os.readlink("/proc/self/ns/time"))
    except OSError as error:
        if error.errno not in files.NO_PROC:
            raise
        return b""


def _sysctl(name: bytes) -> bytes:
    """Return the kernel's string *name*; empty if there is none."""
    import ctypes  # takes a while to load

    buffer = ctypes.create_string_buffer(_LONGEST_SYSCTL)
    size = ctypes.c_size_t(len(buffer))
    failed = ctypes.CDLL(None).sysctlbyname(name, buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return b"" if failed else buffer.value


_LONGEST_SYSCTL: Final = 256


class Mount(NamedTuple):
    """A mount: the kernel's *number* and the file system's type *kind* (``ext4``)."""

    number: int
    kind: str

    @property
    def is_linkless(self) -> bool:
        """Whether files cannot have a second name there."""
        return self.kind in _LINKLESS

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use it or a user-space program serves it, so that LMDB cannot be used."""
        return self.kind in _REMOTE or self.kind.startswith("fuse")


def mount_of(path: str) -> Mount:
    """Return the mount of *path*, which exists. Its kind is ``unknown`` if there is no ``/proc``."""
    if not sys.platform.startswith("linux"):
        return Mount(os.stat(path).st_dev, "unknown")
    with files.opened(path, os.O_PATH) as descriptor:
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
                number = next((int(line[7:]) for line in file if line.startswith(b"mnt_id:")), 0)
            with open("/proc/self/mountinfo", "rb") as file:
                for line in file:
                    if line.startswith(b"%d " % number):
                        _, _, rest = line.partition(b" - ")
                        return Mount(number, rest.split(b" ", 1)[0].decode("ascii", "replace"))
        except OSError as error:
            if error.errno not in files.NO_PROC:
                raise  # must not pass for a local disk because no file can be opened now
            return Mount(os.stat(path).st_dev, "unknown")
    return Mount(number, "unknown")
