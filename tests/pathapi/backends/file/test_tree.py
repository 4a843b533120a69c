"""What is particular to a directory tree: links, special files, names, in-place writers, other processes."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from casstore.fs import files
from pathapi.backend import ABSENT
from pathapi.backends.file import metadata as file_status
from pathapi.backends.file.backend import FileBackend
from pathapi.clouds.file import FileClient
from pathapi.exceptions import (
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotADirectoryError,
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidUriError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.testing import in_forked_child, keys, opened, read, write
from tests.casstore.support.fill import eventually, fork, status_of

UNHOLDABLE = ("", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", "a\0b", ".casstore-0123456789abcdef")


@pytest.fixture
def backend(tmp_path: Path) -> FileBackend:
    return FileBackend(str(tmp_path))


def wait_until_settled() -> None:
    time.sleep(2 * file_status.RACY_NS / 1e9)


@pytest.mark.parametrize("key", UNHOLDABLE)
def test_a_key_that_no_file_can_have_does_not_exist_and_changes_nothing(tmp_path: Path, key: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "a").write_bytes(b"outside")
    (root / "b").write_bytes(b"inside")
    backend = FileBackend(str(root))
    with pytest.raises(CloudPathFileNotFoundError):
        backend.read(key)
    with pytest.raises(CloudPathFileNotFoundError):
        backend.head(key)
    with pytest.raises(InvalidUriError):
        write(backend, key, b"mine")
    with pytest.raises(InvalidUriError):
        backend.copy("b", key)
    backend.delete([key])
    assert sorted(os.listdir(tmp_path)) == ["a", "root"]
    assert os.listdir(root) == ["b"]
    assert (tmp_path / "a").read_bytes() == b"outside"


@pytest.mark.parametrize("prefix", ["../", "..", "a/../", "/", "//", "a//", "./", "a\0"])
def test_a_prefix_never_leads_out_of_the_root(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"")
    assert keys(FileBackend(str(tmp_path / "root")), prefix) == []


def test_names_that_are_not_utf8_round_trip(backend: FileBackend, tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        Path(os.fsdecode(raw)).write_bytes(b"latin")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (key,) = keys(backend, "")
    assert read(backend, key) == b"latin"
    write(backend, key, b"again")
    assert Path(os.fsdecode(raw)).read_bytes() == b"again"
    with pytest.raises(CloudPathFileNotFoundError) as caught:
        backend.read(key + "x")
    str(caught.value).encode()  # A message can be printed.


def test_links_are_followed_and_loops_end(backend: FileBackend, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"a")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "real" / "self").symlink_to("self")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "dir").symlink_to("real")
    assert keys(backend, "") == ["dir/a", "file", "real/a"]
    assert keys(backend, "", delimited=True) == ["dir/", "file", "real/"]
    assert keys(backend, "real/", delimited=True) == ["real/a"]
    assert read(backend, "real/up/file") == b"a"
    with pytest.raises(CloudPathFileNotFoundError):
        backend.read("real/self")
    with pytest.raises(CloudPathFileNotFoundError):
        backend.read("dangling")


def test_writing_through_a_link_keeps_the_link(backend: FileBackend, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "link").symlink_to("a")
    write(backend, "link", b"second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"second"
    backend.delete(["link"])
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"second"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this platform")
def test_special_files_are_no_objects_and_block_nobody(backend: FileBackend, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        assert keys(backend, "") == []
        for key in ("fifo", "socket"):
            with pytest.raises(CloudPathFileNotFoundError):
                backend.read(key)


def test_an_object_cannot_take_the_name_of_a_directory_nor_lie_below_a_file(
    backend: FileBackend, tmp_path: Path
) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for expect in (None, ABSENT):
        with pytest.raises(CloudPathIsADirectoryError):
            write(backend, "dir", b"", expect)
        with pytest.raises(CloudPathNotADirectoryError):
            write(backend, "file/below", b"", expect)
    with pytest.raises(InvalidUriError):
        write(backend, "x" * 256, b"")
    assert sorted(os.listdir(tmp_path)) == ["dir", "file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_refused_file_is_a_permission_error_and_not_absent(backend: FileBackend, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "a").write_bytes(b"a")
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "a").chmod(0)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)

    def check() -> bool:
        os.setuid(65534)
        with pytest.raises(CloudPathPermissionError):
            backend.read("a")
        with pytest.raises(CloudPathPermissionError):
            backend.read("closed/a")
        with pytest.raises(CloudPathPermissionError):
            list(backend.list())
        with pytest.raises(CloudPathPermissionError):
            write(backend, "b", b"")
        # It cannot be told whether anything lies below; to hide it would say no.
        return keys(backend, "", delimited=True) == ["a", "closed/"]

    assert in_forked_child(check)


def test_a_version_just_written_may_change_unseen_and_is_always_sent(backend: FileBackend, tmp_path: Path) -> None:
    wait_until_settled()
    fresh = write(backend, "a", b"first").validator
    assert fresh.racy
    wait_until_settled()
    assert read(backend, "a", unless=fresh) == b"first"
    settled = backend.head("a").validator
    assert not settled.racy
    assert backend.read("a", unless=settled) is None


def test_a_change_in_place_that_restores_size_and_mtime_is_another_version(
    backend: FileBackend, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first")
    wait_until_settled()
    version = backend.head("a").validator
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(backend, "a", unless=version) == b"other"
    with pytest.raises(VersionMismatchError):
        backend.read("a", expect=version)


def test_rapid_replacements_of_equal_size_are_different_versions(
    backend: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel's own stamp may be that of the last tick, and an inode may come back within one.
    stamps = itertools.count(1_500_000_000_123_456_789)
    monkeypatch.setattr(time, "time_ns", lambda: next(stamps))
    seen = set()
    for number in range(50):
        validator = write(backend, "a", b"%04d" % number).validator
        assert validator.mtime_ns is not None
        assert 1_500_000_000_123_456_789 <= validator.mtime_ns < next(stamps)
        seen.add(validator.etag)
    assert len(seen) == 50


@pytest.mark.parametrize("change", ["in place", "append", "truncate"])
def test_a_file_that_changes_while_it_is_read_gives_an_error_and_no_mixture(
    backend: FileBackend, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1" * 100_000)
    body = opened(backend, "a")
    buffer = memoryview(bytearray(60_000))
    try:
        assert body.readinto(buffer) == 60_000
        with path.open("r+b") as file:
            if change == "truncate":
                file.truncate(70_000)
            else:
                file.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
                file.write(b"2" * 100_000)
        with pytest.raises((VersionMismatchError, TruncatedBodyError)):
            body.read()
    finally:
        body.close()


@pytest.mark.parametrize("change", ["replace", "delete"])
def test_a_file_that_loses_its_name_while_it_is_read_gives_the_old_bytes(
    backend: FileBackend, tmp_path: Path, change: str
) -> None:
    write(backend, "a", b"1" * 100_000)
    body = opened(backend, "a")
    try:
        found = bytearray(100_000)
        assert body.readinto(memoryview(found)[:60_000]) == 60_000
        if change == "replace":
            write(backend, "a", b"2" * 100_000)
        else:
            backend.delete(["a"])
        assert body.readinto(memoryview(found)[60_000:]) == 40_000
        assert bytes(found) == b"1" * 100_000
    finally:
        body.close()


@pytest.mark.needs_locks
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_processes_that_count_under_a_condition_lose_no_step(backend: FileBackend) -> None:
    write(backend, "n", b"0")

    def count() -> None:
        for _ in range(10):
            add_one(backend)

    children = [fork(count) for _ in range(4)]
    assert [status_of(child) for child in children] == [0] * 4
    assert read(backend, "n") == b"40"


@pytest.mark.needs_locks
@pytest.mark.parametrize("step", ["unlink", "replace", "link"])
def test_the_directory_is_locked_from_the_comparison_to_the_change(
    backend: FileBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Else a version that another process writes between the two would be deleted or replaced."""
    version = write(backend, "a", b"first").validator
    real = getattr(os, step)
    refused: list[BaseException] = []

    def change(*names: str) -> None:
        monkeypatch.setattr(os, step, real)
        with pytest.raises(BlockingIOError) as caught, files.opened(str(tmp_path), os.O_RDONLY) as directory:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused.append(caught.value)
        real(*names)

    monkeypatch.setattr(os, step, change)
    if step == "unlink":
        backend.delete(["a"], expect=version)
    elif step == "replace":
        write(backend, "a", b"second", version)
    else:
        write(backend, "b", b"second", ABSENT)
    assert len(refused) == 1


def add_one(backend: FileBackend) -> None:
    while True:
        body = opened(backend, "n")
        try:
            number = int(body.read())
        finally:
            body.close()
        try:
            write(backend, "n", str(number + 1).encode(), body.info.validator)
        except VersionMismatchError:
            continue
        return


@pytest.mark.needs_locks
@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_directory_that_another_process_has_locked_is_an_error_that_names_it(tmp_path: Path, kind: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    backend = FileBackend(str(folder), lambda: 0.05)
    write(backend, "a", b"first")

    def hold() -> None:
        fcntl.flock(os.open(folder, os.O_RDONLY), kind)
        (tmp_path / "held").touch()
        signal.pause()

    child = fork(hold)
    try:
        eventually((tmp_path / "held").exists)
        holder = rf"process {child} \(.+\)" if os.path.exists("/proc/locks") else "another process"
        calls: list[Callable[[], object]] = [
            lambda: write(backend, "a", b"second"),
            lambda: write(backend, "b", b"new", ABSENT),
            lambda: backend.copy("a", "b"),
            lambda: backend.delete(["a"]),
        ]
        for call in calls:
            with pytest.raises(CloudUnavailableError, match=rf"timed out after 0.05 s waiting for {holder}"):
                call()
        assert os.listdir(folder) == ["a"]
        assert read(backend, "a") == b"first"
    finally:
        os.kill(child, signal.SIGKILL)
        status_of(child)
    write(backend, "a", b"second")
    assert read(backend, "a") == b"second"


@pytest.mark.needs_locks
def test_a_write_to_a_locked_directory_ends_after_lock_timeout_and_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASSTORE_LOCK_TIMEOUT", "0.3")
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{tmp_path}/a")
    path.write_bytes(b"first")
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_SH)
        with pytest.raises(CloudUnavailableError, match=r"timed out after 0.3 s waiting for .*kept at"):
            path.write_bytes(b"second")
    finally:
        os.close(holder)
    assert (tmp_path / "a").read_bytes() == b"first"
    path.push()
    assert (tmp_path / "a").read_bytes() == b"second"


def test_a_source_that_ends_early_writes_nothing(backend: FileBackend, tmp_path: Path) -> None:
    write(backend, "a", b"first")
    with pytest.raises(TruncatedBodyError):
        backend.write("a", io.BytesIO(b"sho"), 5)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]


def test_unfinished_writes_are_hidden_and_modes_are_kept(backend: FileBackend, tmp_path: Path) -> None:
    (tmp_path / ".casstore-0123456789abcdef").write_bytes(b"debris of a killed process")
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "a").chmod(0o640)
    write(backend, "a", b"second")
    assert keys(backend, "") == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


class _Watching(io.BytesIO):
    """A source that notes the modes of all files in *folder* while it is read."""

    def __init__(self, data: bytes, folder: Path) -> None:
        super().__init__(data)
        self.folder = folder
        self.modes: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.modes |= {path.stat().st_mode & 0o777 for path in self.folder.iterdir()}
        return super().read(size)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_the_bytes_of_a_private_file_are_private_while_they_are_written(
    tmp_path: Path, backend: FileBackend, mode: int
) -> None:
    (tmp_path / "private").write_bytes(b"before")
    (tmp_path / "private").chmod(mode)
    source = _Watching(b"secret", tmp_path)
    backend.write("private", source, 6)
    assert source.modes == {mode, 0o600}
    assert (tmp_path / "private").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_copy_of_a_private_file_is_private(tmp_path: Path, backend: FileBackend, mode: int) -> None:
    for name in ("private", "public"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "private").chmod(mode)
    (tmp_path / "public").chmod(0o666)
    for condition in (None, ABSENT):
        backend.copy("private", "copy", over=condition)
        assert (tmp_path / "copy").stat().st_mode & 0o777 == mode
        (tmp_path / "copy").unlink()
    backend.copy("public", "private")
    assert (tmp_path / "private").stat().st_mode & 0o777 == mode
    assert (tmp_path / "private").read_bytes() == b"public"


def test_a_creation_replaces_no_file_of_a_program_that_asks_for_no_lock(
    backend: FileBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def create_and_link(source: str, target: str) -> None:
        Path(target).write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", create_and_link)
    with pytest.raises(VersionMismatchError):
        write(backend, "a", b"mine", ABSENT)
    assert (tmp_path / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("change", ["create", "replace", "delete"])
def test_a_change_is_on_the_disk_in_this_order(
    backend: FileBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The bytes before their name, and the name before the call returns."""
    version = write(backend, "a", b"first").validator
    steps: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            is_directory = name == "sync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            steps.append("sync directory" if is_directory else name)
            return call(*arguments)

        return note

    for name, called in {"sync": "fsync", "link": "link", "replace": "replace", "unlink": "unlink"}.items():
        monkeypatch.setattr(os, called, noting(name, getattr(os, called)))
    if change == "create":
        write(backend, "b", b"second", ABSENT)
        assert steps == ["sync", "link", "unlink", "sync directory", "unlink"], "of the temporary name, twice"
    elif change == "replace":
        write(backend, "a", b"second", version)
        assert steps[:3] == ["sync", "replace", "sync directory"]
    else:
        backend.delete(["a"], expect=version)
        assert steps == ["unlink", "sync directory"]


def test_the_status_of_a_file_is_taken_when_its_next_change_will_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first")

    def change(seconds: float) -> None:
        path.write_bytes(b"changed in the same tick")

    now = path.stat().st_ctime_ns + 1
    monkeypatch.setattr(file_status, "time", SimpleNamespace(time_ns=lambda: now, sleep=change))
    with files.opened(str(path), os.O_RDONLY) as descriptor:
        assert file_status.stat_settled(descriptor, "file:///a").st_size == len(b"changed in the same tick")
