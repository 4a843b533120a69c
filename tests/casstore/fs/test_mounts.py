"""What the kernel says of mounts and of this boot."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import pytest

from casstore.fs import mounts as machine


def test_network_file_systems_are_told_by_their_kind() -> None:
    for kind in ("nfs4", "cifs", "lustre", "fuse.sshfs", "fuse", "fuseblk"):
        assert machine.Mount(1, kind).is_shared
    for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "unknown"):
        assert not machine.Mount(1, kind).is_shared


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="Linux only")
def test_a_mount_is_found_by_path() -> None:
    assert machine.mount_of("/proc").kind == "proc"
    assert machine.mount_of("/proc").number != machine.mount_of("/").number


def test_the_boot_clock_goes_on_and_a_boot_has_one_name() -> None:
    before = machine.boot_clock_ns()
    assert machine.boot_clock_ns() >= before > 0
    assert machine.boot_id() == machine.boot_id()


def test_the_boot_of_a_mac_is_named_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __init__(self, name: None) -> None: ...

        def sysctlbyname(self, name: bytes, buffer: Any, size: Any, new: None, new_size: Any) -> int:
            assert (new, new_size.value) == (None, 0)
            if name != b"kern.bootsessionuuid":
                return -1
            buffer.value = b"8C4F1D9E-1B52-4D7C-9C0A-2F5B8E6A7D31"
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert machine._sysctl(b"kern.bootsessionuuid") == b"8C4F1D9E-1B52-4D7C-9C0A-2F5B8E6A7D31"
    assert machine._sysctl(b"kern.another") == b""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.boot_id() == b"8C4F1D9E-1B52-4D7C-9C0A-2F5B8E6A7D31"
