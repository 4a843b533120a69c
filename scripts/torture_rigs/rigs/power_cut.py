"""The rig `cut`: shut down a small ext4 file system by ioctl during work, mount it again, and check the store.

What the journal does not contain is lost, in one of two ways. If the log is flushed first, names and sizes are on the
disk, but bytes may be missing. Otherwise both are as old as the last commit. The processes are stopped first, as by a
power cut. The buckets and the list of acknowledged writes are outside the image.

A real power cut changes the boot id. Here, the machine keeps running, and the kernel gives the new mount its old
number. So each life mounts another boot id over /proc, in a private mount namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Final

from torture_rigs.oracle.checker import Checker
from torture_rigs.oracle.promises import Writes, read_everything
from torture_rigs.report import Report
from torture_rigs.rigs.negative_controls import weaken
from torture_rigs.run_state import Run
from torture_rigs.workload.reads import scale_down
from torture_rigs.workload.workers import adopt_orphans, bear, kill_all, stop_all

WORKERS: Final = 2
_LIVES: Final = (0.05, 0.2, 0.6)
_IMAGE_BYTES: Final = 128 << 20
_SHUTDOWN: Final = 0x8004587D
"""``FS_IOC_SHUTDOWN`` of linux/fs.h."""
_FLUSH_LOG, _NO_FLUSH = 1, 2
_CLONE_NEWNS: Final = 0x20000
_PRIVATE: Final = 0x44000
"""``MS_REC | MS_PRIVATE``."""
_BIND: Final = 0x1000
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class NotPermittedError(Exception):
    """This system does not support power cuts; the message contains the reason."""


class Disk:
    """An ext4 image, mounted in a private mount namespace, which ends with this process."""

    def __init__(self, directory: Path) -> None:
        self._image, self.mount_point = directory / "image", directory / "disk"
        self._boot_id = directory / "boot-id"
        self.mount_point.mkdir()
        if sys.platform != "linux":
            raise NotPermittedError("only Linux has the shutdown ioctl")
        if os.geteuid() != 0:
            raise NotPermittedError("only root may mount")
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _PRIVATE, None):
            raise NotPermittedError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
        self.reboot()
        if libc.mount(os.fsencode(self._boot_id), _BOOT_ID.encode(), None, _BIND, None):
            raise NotPermittedError(f"nothing can be mounted over the boot id: {os.strerror(ctypes.get_errno())}")
        with open(self._image, "wb") as file:
            file.truncate(_IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def reboot(self) -> None:
        """Pretend that the machine has rebooted."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n", encoding="ascii")

    def mount(self, options: str) -> None:
        """Mount the file system, which replays the journal."""
        _run("mount", "-o", f"loop,{options}", str(self._image), str(self.mount_point))

    def unmount(self) -> None:
        """Unmount the file system; no process may use it."""
        _run("umount", str(self.mount_point))

    def sync(self) -> None:
        """Flush to the disk, as the kernel does from time to time."""
        descriptor = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        self._libc.syncfs(descriptor)
        os.close(descriptor)

    def cut(self, flag: int) -> None:
        """Cut the power: no later write reaches the image."""
        descriptor = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", flag))
        except OSError as error:
            raise NotPermittedError(f"the file system cannot be shut down: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def is_half_full(self) -> bool:
        """Whether to start with a new image."""
        space = os.statvfs(self.mount_point)
        return space.f_bavail * 2 < space.f_blocks


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotPermittedError(f"there is no {command[0]}") from error
    if done.returncode != 0:
        raise NotPermittedError(f"{' '.join(command)}: {done.stderr.strip()}")


class Cutter:
    """One run of `torture cut`."""

    def __init__(self, run: Run, seed: int, control: str | None) -> None:
        self._run, self._seed, self._control = run, seed, control
        self._random = random.Random(seed)
        self._writes = Writes(run)
        self._born = 0
        self.report = Report("cut", seed)

    def run(self, cuts: int | None, seconds: float | None) -> Report:
        """Run until so many cuts, for so long, or until the first violation."""
        report = self.report
        began = time.monotonic()
        adopt_orphans()
        scale_down()
        weaken(self._control)
        self._run.is_healthy = False
        disk = None
        try:
            disk = Disk(self._run.directory)
            self._run.store = str(disk.mount_point / "store")
            disk.mount("data=ordered")
            while not report.violations:
                if cuts is not None and report.counts["cuts"] >= cuts:
                    break
                if seconds is not None and time.monotonic() - began > seconds:
                    break
                self._live_and_cut(disk)
                self._check()
                if not report.violations and (self._random.random() < 0.05 or disk.is_half_full()):
                    self._writes.forget()
                    shutil.rmtree(self._run.store, ignore_errors=True)
                    shutil.rmtree(os.path.dirname(self._run.saved("")), ignore_errors=True)
                    report.counts["stores"] += 1
        except NotPermittedError as error:
            report.skipped = str(error)
        finally:
            kill_all()
            if disk is not None:
                with contextlib.suppress(NotPermittedError):  # not mounted
                    disk.unmount()
        report.counts.update(self._run.tally.totals())
        report.counts["kept promises"] = self._writes.kept
        return report

    def _live_and_cut(self, disk: Disk) -> None:
        chance = self._random
        groups = []
        for _ in range(WORKERS):
            self._born += 1
            groups.append(bear(self._run, self._born, f"{self._seed} {self._born}"))
        left = chance.uniform(0, chance.choice(_LIVES))
        if chance.random() < 0.5:
            time.sleep(left := left / 2)
            disk.sync()
            self.report.counts["syncs"] += 1
        time.sleep(left)
        stop_all(groups)
        disk.cut(chance.choice((_FLUSH_LOG, _FLUSH_LOG, _NO_FLUSH)))
        self.report.counts["cuts"] += 1
        kill_all()
        disk.unmount()
        disk.reboot()
        disk.mount(chance.choice(("data=ordered", "data=writeback")))

    def _check(self) -> None:
        report = self.report
        checker = Checker(self._run.store, self._run.ledgers, self._run.scratch, after_power_cut=True)
        checked = checker.check()
        for what in ("entries", "blobs", "damaged_blobs", "missing_blobs", "pending"):
            report.counts[f"checked {what}"] += getattr(checked, what)
        report.violations += checked.violations
        report.violations += self._writes.check()
        report.violations += self._run.violations()
        report.counts["checks"] += 1
        settles = self._random.random() < 0.5
        if not report.violations:
            report.violations += read_everything(self._run, is_strict=False, settles=settles)
            report.counts["settled"] += settles
        if not report.violations:
            report.violations += checker.check().violations
            report.violations += self._writes.check()
        if report.violations:
            report.kept = self._run.keep()
            return
        # What the dead left behind; the lists of views are those of an earlier life.
        shutil.rmtree(f"{self._run.store}/leases", ignore_errors=True)
