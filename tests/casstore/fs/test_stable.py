"""Reading of files that others may be writing to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from casstore.errors import StillBeingWrittenError
from casstore.fs.stable import OPEN_MTIME, may_be_written, stable_read
from tests.casstore.support.local_edits import by_rename


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"mine")
    return tmp_path / "file"


def test_a_file_is_read_only_when_another_write_to_it_would_leave_another_mtime(path: Path) -> None:
    for _ in range(5):
        path.write_bytes(b"mine")
        with stable_read(str(path)) as (descriptor, (size, mtime_ns, _)):
            assert (os.read(descriptor, 10), size) == (b"mine", 4)
            assert time.time_ns() - mtime_ns >= 10_000_000


@pytest.mark.parametrize(
    "change", [os.utime, os.unlink, lambda path: by_rename(path, b"MINE"), lambda path: path.write_bytes(b"MINE")]
)
def test_a_file_that_changes_meanwhile_is_still_being_written(path: Path, change: Callable[[Path], object]) -> None:
    with pytest.raises(StillBeingWrittenError, match=f"still being written.*{path}"), stable_read(str(path)):
        change(path)
    assert issubclass(StillBeingWrittenError, OSError)


@pytest.mark.parametrize("plant", [os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/hostname", path), lambda _: None])
def test_what_is_no_file_is_not_read_nor_waited_for(tmp_path: Path, plant: Callable[[str], None]) -> None:
    plant(str(tmp_path / "odd"))
    with pytest.raises(OSError, match="odd"), stable_read(str(tmp_path / "odd")):
        raise AssertionError


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux tells")
def test_a_program_that_has_a_file_open_for_writing_is_known_and_one_that_reads_is_not(path: Path) -> None:
    with path.open("rb") as reader, path.open("rb"):
        assert not may_be_written(reader.fileno())
        with path.open("r+b"):
            assert may_be_written(reader.fileno(), unknown=False)
            with stable_read(str(path)) as (_, (_, mtime_ns, _)):
                assert mtime_ns == OPEN_MTIME
        assert not may_be_written(reader.fileno())


def test_where_the_kernel_does_not_say_a_file_may_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("fcntl.F_SETLEASE", raising=False)
    with path.open("rb") as reader:
        assert may_be_written(reader.fileno())
        assert not may_be_written(reader.fileno(), unknown=False)
