"""What a commit leaves behind: after a failure of the store, an interrupt, beside uploads of living processes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from casstore import Cache, Condition, PendingState, WriteLock
from pathapi import FileClient, FilePath
from pathapi.exceptions import OverwriteNewerLocalError, PendingWriteError
from pathapi.testing.intercepting_backend import interpose
from pathapi.writing import opening, writer
from tests.casstore.support.fill import forked
from tests.casstore.support.reaping import living_process


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The object."""
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket" / "object"


@pytest.fixture
def path(tmp_path: Path, file: Path) -> Iterator[FilePath]:
    client = FileClient(local_cache_dir=tmp_path / "store")
    yield client.FilePath(file.as_uri())
    client.cache.close()


def test_after_a_write_that_the_store_cannot_record_the_version_before_it_is_not_served(
    path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"before")
    with monkeypatch.context() as patched:
        patched.setattr(Cache, "record_write", fail)
        path.write_bytes(b"after")
    assert path.read_bytes(freshness="immutable") == b"after"
    assert path.pending == []


def test_a_second_interrupt_while_a_write_gives_up_its_lock_leaves_it_unlocked(
    path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, releases = WriteLock.release, []

    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    def interrupt_first(lock: WriteLock) -> None:
        releases.append(lock)
        if len(releases) == 1:
            interrupt()
        release(lock)

    monkeypatch.setattr(opening, "write_base", interrupt)
    monkeypatch.setattr(WriteLock, "release", interrupt_first)
    with pytest.raises(KeyboardInterrupt):
        path.open("wb")
    assert not path.client.cache.write_locks.is_held(path.location.store_key)


def test_an_upload_that_was_interrupted_after_it_arrived_is_recognised_by_a_push(path: FilePath, file: Path) -> None:
    wire = interpose(path.client, path.uri.bucket)

    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    wire.after["write"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        path.write_bytes(b"mine")
    del wire.after["write"]
    assert file.read_bytes() == b"mine"
    (write,) = path.pending
    assert (write.state, write.outcome_unknown) == (PendingState.FAILED, True)
    path.push()
    assert path.pending == []
    assert path.read_bytes() == b"mine"


def test_a_read_during_an_upload_of_its_own_process_gets_the_version_before_it(path: FilePath) -> None:
    path.write_bytes(b"before")
    seen: list[bytes] = []
    wire = interpose(path.client, path.uri.bucket)
    wire.before["write"] = lambda: seen.append(path.read_bytes())
    path.write_bytes(b"after")
    assert seen == [b"before"]
    assert path.read_bytes() == b"after"


@pytest.mark.needs_locks
def test_an_upload_of_a_living_process_is_left_to_it(path: FilePath, file: Path, tmp_path: Path) -> None:
    """Though this process has the write lock: it may have been removed by hand."""
    cache = path.client.cache
    with living_process(cache, tmp_path):
        lease = next(name for name in os.listdir(cache.layout.leases) if name != cache.lease.name)
        staging = cache.stage()
        staging.write(b"theirs")
        key = path.client.store_key(path.uri)
        record = cache.pending.record(
            key, staging, PendingState.UPLOADING, Condition.ABSENT, None, lease=lease, why="it is being uploaded"
        )
        staging.close()
        with pytest.raises(PendingWriteError, match="another process is uploading it"):
            path.push()
        assert path.pending == [record]
        assert not file.exists()
    path.push()  # its process is dead
    assert file.read_bytes() == b"theirs"


def test_a_local_copy_that_changes_while_its_edit_is_pushed_is_an_edit_again(path: FilePath, file: Path) -> None:
    path.write_bytes(b"before")
    view = Path(path.fspath)
    replace_file(view, b"first edit")
    with pytest.raises(OverwriteNewerLocalError):
        path.read_bytes()
    wire = interpose(path.client, path.uri.bucket)
    wire.after["write"] = lambda: replace_file(view, b"second edit")
    path.push()
    del wire.after["write"]
    assert file.read_bytes() == b"first edit"
    with pytest.raises(OverwriteNewerLocalError):
        path.read_bytes()
    assert path.read_bytes(read_pending=True) == b"second edit"


def replace_file(path: Path, data: bytes) -> None:
    """As an editor does."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.replace(path)


def test_a_text_file_that_lost_a_part_of_its_text_is_not_uploaded(
    path: FilePath, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer above forgets what it could not write."""
    text = path.open("w")
    with monkeypatch.context() as patched:
        patched.setattr(writer, "with_room", fail)
        with pytest.raises(OSError, match="Input/output"):
            text.write("lost" * 100_000)
    text.write("and more")
    with pytest.raises(OSError, match="some text is missing"):
        text.close()
    assert not file.exists()
    assert [write.state for write in path.pending] in ([], [PendingState.INCOMPLETE])
    path.write_text("the lock is free")


def test_an_interrupt_of_a_write_is_not_replaced_by_an_error_of_the_close(
    path: FilePath, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    text = path.open("w")
    with pytest.raises(KeyboardInterrupt) as caught, monkeypatch.context() as patched:  # noqa: PT012 (as a script does)
        try:
            patched.setattr(writer, "with_room", interrupt)
            text.write("lost" * 100_000)
        finally:
            patched.undo()
            text.close()
    assert "some text is missing, and nothing was uploaded" in caught.value.__notes__[0]
    assert not file.exists()
    path.write_text("the lock is free")


@pytest.mark.parametrize(("step", "event"), [("__enter__", "c_return"), ("__exit__", "call")])
def test_an_interrupt_in_what_is_between_an_edit_and_its_block_releases_the_object(
    path: FilePath, file: Path, step: str, event: str
) -> None:
    def interrupt(frame: FrameType, met: str, _: object) -> None:
        generator = getattr(frame.f_locals.get("self"), "gen", None)
        if (frame.f_code.co_name, met) == (step, event) and getattr(generator, "__name__", "").endswith("edit"):
            raise KeyboardInterrupt

    file.write_bytes(b"before")
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught, path.edit() as copy:
            Path(copy).write_bytes(b"after")
    finally:
        sys.setprofile(None)
    assert caught.value.__traceback__ is not None  # it keeps the frames, as in a notebook
    assert file.read_bytes() == b"before"
    path.write_text("the lock is free")


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(("mode", "data"), [("w", "lost"), ("wb", b"lost")], ids=["text", "binary"])
def test_a_file_whose_last_bytes_cannot_be_written_is_not_uploaded(
    path: FilePath, file: Path, monkeypatch: pytest.MonkeyPatch, mode: str, data: str | bytes
) -> None:
    opened: Any = path.open(mode)
    opened.write(data)
    with monkeypatch.context() as patched:
        patched.setattr(writer, "with_room", fail)
        with pytest.raises(OSError, match="Input/output"):
            opened.close()
    assert not file.exists()
    path.write_text("the lock is free")


def test_a_forked_child_uploads_nothing_of_its_parents_file(path: FilePath, file: Path) -> None:
    with path.open("wb") as binary:
        binary.write(b"mine")
        binary.flush()
        assert forked(binary.close) == 0
        assert not file.exists()
    assert file.read_bytes() == b"mine"
