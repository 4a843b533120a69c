"""Files that programs change through a mapping: the kernel sets their times at the first change only."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from casstore.fs import mounts
from pathapi import FileClient
from pathapi.backends.file import metadata
from pathapi.backends.file.backend import FileBackend
from pathapi.testing import read

pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux can tell")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(b"0" * 4096)
    return path


@pytest.fixture
def backend(tmp_path: Path) -> FileBackend:
    return FileBackend(str(tmp_path))


@pytest.fixture(params=["open", "closed"])
def mapping(file: Path, request: pytest.FixtureRequest) -> Iterator[mmap.mmap]:
    """The file in memory; its descriptor is open, or was closed since."""
    if request.param == "closed" and mounts.mount_of(str(file)).kind == "overlay":
        pytest.skip("overlayfs forgets that the file is mapped")
    descriptor = os.open(file, os.O_RDWR)
    memory = mmap.mmap(descriptor, 4096)
    if request.param == "closed":
        os.close(descriptor)
    yield memory
    memory.close()
    if request.param == "open":
        os.close(descriptor)


def settle() -> None:
    time.sleep(2 * metadata.RACY_NS / 1e9)


def test_what_a_program_writes_through_a_mapping_is_read_under_always(
    file: Path, mapping: mmap.mmap, tmp_path: Path
) -> None:
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{file}")
    mapping[0:1] = b"1"
    settle()
    before = file.stat()
    assert path.read_bytes()[:1] == b"1"
    mapping[0:1] = b"2"
    assert file.stat().st_mtime_ns == before.st_mtime_ns, "or this tests nothing"
    assert path.read_bytes()[:1] == b"2"
    mapping[0:1] = b"3"
    mapping.close()
    settle()
    assert path.read_bytes()[:1] == file.read_bytes()[:1] == b"3"


def test_a_file_that_no_program_writes_to_is_not_sent_again(file: Path, backend: FileBackend) -> None:
    settle()
    body = backend.read("a")
    assert body is not None
    body.close()
    version = body.info.validator
    assert not version.racy
    assert backend.read("a", unless=version) is None
    with file.open("rb"), open(os.open(file, os.O_RDONLY), "rb"):
        assert backend.read("a", unless=version) is None, "readers do not count"


def test_a_file_that_is_open_for_writing_is_sent_again_for_a_minute(
    file: Path, backend: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle()
    version = backend.head("a").validator
    with file.open("r+b"):
        assert read(backend, "a", unless=version) == b"0" * 4096
        monkeypatch.setattr(metadata, "WRITEBACK_NS", 0)
        assert backend.read("a", unless=version) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOLCK])
def test_a_young_file_is_sent_again_if_the_kernel_does_not_say(
    backend: FileBackend, file: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle()
    version = backend.head("a").validator
    call = fcntl.fcntl

    def refuse(descriptor: int, command: int, *arguments: Any) -> Any:
        if command == fcntl.F_SETLEASE:
            raise OSError(number, os.strerror(number))
        return call(descriptor, command, *arguments)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert read(backend, "a", unless=version) == b"0" * 4096
    monkeypatch.setattr(metadata, "WRITEBACK_NS", 0)
    assert backend.read("a", unless=version) is None


def test_a_program_that_opens_the_file_meanwhile_only_waits(
    backend: FileBackend, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another signal, the kernel would end this process."""
    started: list[subprocess.Popen[bytes]] = []
    call = fcntl.fcntl

    def hold(descriptor: int, command: int, *arguments: Any) -> Any:
        result = call(descriptor, command, *arguments)
        if (command, arguments) == (fcntl.F_SETLEASE, (fcntl.F_RDLCK,)):
            code = "import sys; open(sys.argv[1], 'r+b').close()"
            started.append(subprocess.Popen([sys.executable, "-S", "-c", code, str(file)]))
            time.sleep(0.5)
        return result

    monkeypatch.setattr(fcntl, "fcntl", hold)
    assert read(backend, "a") == b"0" * 4096
    (writer,) = started
    assert writer.wait() == 0


def test_the_look_at_a_file_makes_no_writer_wait(backend: FileBackend, file: Path) -> None:
    """A lease that is kept would block it until the reader has closed the file."""
    body = backend.read("a")
    assert body is not None
    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
    body.close()
