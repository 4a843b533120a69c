"""Places as they are found in the field, made for real: small disks, full ones, read-only ones. For root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(what: str, at: Path, *options: str) -> Iterator[Path]:
    """*what* mounted at *at*, which is made; skips where this machine does not permit it."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, what, str(at)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")
    try:
        yield at
    finally:
        # Lazily: whatever the code under test left open there fails its own test, not the ones after it.
        subprocess.run(["umount", "-l", str(at)], check=True)


@contextmanager
def small_disk(at: Path, size: str = "4m") -> Iterator[Path]:
    """A tmpfs with room for little."""
    with mounted("tmpfs", at, "-t", "tmpfs", "-o", f"size={size}") as disk:
        yield disk


@contextmanager
def breakable_disk(at: Path, image: Path) -> Iterator[tuple[Path, Path]]:
    """A loop-mounted ext4, and the file of the kernel's that makes it fail: it is read-only then, whoever uses it."""
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(str(image), at, "-o", "loop,errors=remount-ro") as disk:
        device = subprocess.run(["findmnt", "-no", "SOURCE", str(at)], capture_output=True, text=True, check=True)
        trigger = Path("/sys/fs/ext4", Path(device.stdout.strip()).name, "trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel has no trigger_fs_error")
        yield disk, trigger


def fill_up(directory: Path) -> Path:
    """Take all the room that is left; the file that took it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def let_others_in(path: Path) -> None:
    """Let other users reach *path*, which pytest made for this one alone."""
    for directory in (path, *path.parents):
        if directory.stat().st_mode & 0o777 == 0o700:
            directory.chmod(0o711)


def become_nobody() -> None:
    """In a child: another user for good."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
