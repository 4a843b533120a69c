"""The file system calls on which correctness hangs."""

from __future__ import annotations

import errno
import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from casstore.errors import StoreFullError
from casstore.fs import copying, files
from tests.casstore.support.fill import forked


def _unnamed(directory: Path, data: bytes) -> int:
    descriptor = files.open_unnamed(str(directory))
    if descriptor is None:
        pytest.skip("no O_TMPFILE here")
    files.write_all(descriptor, data)
    return descriptor


def test_an_unnamed_file_gets_its_name_with_all_its_bytes(tmp_path: Path) -> None:
    descriptor = _unnamed(tmp_path, b"bytes")
    assert os.listdir(tmp_path) == []
    files.link_descriptor(descriptor, str(tmp_path / "name"))
    assert (tmp_path / "name").read_bytes() == b"bytes"
    with pytest.raises(FileExistsError):
        files.link_descriptor(descriptor, str(tmp_path / "name"))
    os.close(descriptor)


def test_an_unnamed_file_that_lost_its_only_name_cannot_be_linked_again(tmp_path: Path) -> None:
    descriptor = _unnamed(tmp_path, b"bytes")
    files.link_descriptor(descriptor, str(tmp_path / "name"))
    os.unlink(tmp_path / "name")
    with pytest.raises(FileNotFoundError):
        files.link_descriptor(descriptor, str(tmp_path / "name"))
    os.close(descriptor)


def test_a_reopened_file_has_a_position_of_its_own(tmp_path: Path) -> None:
    descriptor = _unnamed(tmp_path, b"bytes")
    with open(files.reopen(descriptor), "rb") as file:
        assert file.read() == b"bytes"
    os.close(descriptor)


def _race(path: str, data: bytes) -> bool:
    return files.create_synced(path, data)


def test_one_of_many_creators_wins_and_its_file_is_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    contents = [bytes([65 + number]) * 100_000 for number in range(8)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        won = pool.starmap(_race, [(path, data) for data in contents])
    assert won.count(True) == 1
    assert Path(path).read_bytes() == contents[won.index(True)]
    assert os.listdir(tmp_path) == ["file"]


def test_a_created_file_exists_already_for_the_next(tmp_path: Path) -> None:
    assert files.create_synced(str(tmp_path / "f"), b"one")
    assert not files.create_synced(str(tmp_path / "f"), b"two")
    assert (tmp_path / "f").read_bytes() == b"one"
    files.replace_synced(str(tmp_path / "f"), b"three")
    assert (tmp_path / "f").read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["f"]


def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.replace_synced(str(tmp_path / "f"), b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        files.replace_synced(str(tmp_path / "f"), b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("other", [b"", b"a" * (1 << 20), b"a" * (2 << 20) + b"b", b"b" + b"a" * (2 << 20)])
def test_bytes_are_compared_to_the_last(tmp_path: Path, other: bytes) -> None:
    one, two, three = (_unnamed(tmp_path, data) for data in (b"a" * ((2 << 20) + 1), other, other))
    assert not copying.same_bytes(one, two)
    assert copying.same_bytes(two, three)
    for descriptor in (one, two, three):
        os.close(descriptor)


@pytest.mark.parametrize("has_sendfile", [True, False])
def test_a_copy_is_whole_and_moves_no_position(
    tmp_path: Path, has_sendfile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EINVAL, "no sendfile")

    data = os.urandom((3 << 20) + 7)
    source, target = _unnamed(tmp_path, data), _unnamed(tmp_path, b"")
    os.lseek(source, 5, os.SEEK_SET)
    if not has_sendfile:
        monkeypatch.setattr(os, "sendfile", refuse)
    assert copying.copy_bytes(source, target) == len(data)
    assert os.lseek(source, 0, os.SEEK_CUR) == 5
    assert os.pread(target, len(data) + 1, 0) == data
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_has_one_error(number: int) -> None:
    with pytest.raises(StoreFullError, match="/the/root") as caught, files.full_disk("/the/root"):
        raise OSError(number, "full")
    assert caught.value.errno == number


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), files.full_disk("/the/root"):
        raise PermissionError(errno.EACCES, "no")


def test_a_write_that_a_limit_cuts_short_is_a_full_disk(tmp_path: Path) -> None:
    import resource
    import signal

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        descriptor, _ = files.open_named(str(tmp_path))
        with pytest.raises(StoreFullError), files.full_disk("/the/root"):
            files.write_all(descriptor, b"x" * 2000)

    assert forked(work) == 0


def test_the_working_directory_is_no_place_for_temporary_files_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python falls back to it if no other directory is writable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", os.getcwd())
    with pytest.raises(FileNotFoundError, match="set TMPDIR"):
        files.temporary_directory()
    monkeypatch.setenv("TMPDIR", os.getcwd())
    assert files.temporary_directory() == os.getcwd()
