"""Unequal bytes with one XXH3 digest, which are easily made, are never taken for each other where writes are kept."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import PendingState
from casstore.cli.main import run
from casstore.format.digest import hash_descriptor
from pathapi import FileClient
from pathapi.exceptions import OverwriteNewerCloudError, OverwriteNewerLocalError, PendingWriteError
from tests.casstore.support.fill import forked


def _made(one: int, other: int) -> bytes:
    """512 bytes of which two lanes are multiplied by zero, so that only their sum counts."""
    data = bytearray(512)
    data[0:8] = struct.pack("<II", 0x396CFEB8, one)
    data[64:72] = struct.pack("<II", 0x2C81017C, other)
    return bytes(data)


A, B, C = _made(7, 9), _made(8, 8), _made(9, 7)


@pytest.fixture(params=["copy", "link"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FileClient:
    return FileClient(local_cache_dir=tmp_path / "store", views=request.param)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


@pytest.fixture
def path(client: FileClient, bucket: Path) -> Any:
    (bucket / "a").write_bytes(A)
    return client.CloudPath(f"{bucket.as_uri()}/a")


def replaced(path: str, data: bytes) -> None:
    """Change a local copy as editors do: a new file takes its name."""
    Path(path + "~").write_bytes(data)
    os.replace(path + "~", path)


def create(path: Any, data: bytes) -> None:
    with pytest.raises(FileExistsError), path.open("xb") as file:
        file.write(data)


def pending_bytes(path: Any) -> dict[PendingState, bytes]:
    """Return the bytes of the pending writes, each of another state."""
    found = {write.state: Path(path.client.cache.pending.path(write)).read_bytes() for write in path.pending}
    assert len(found) == len(path.pending)
    return found


def test_the_digests_are_equal(tmp_path: Path) -> None:
    digests = set()
    for data in (A, B, C):
        (tmp_path / "data").write_bytes(data)
        with (tmp_path / "data").open("rb") as file:
            digests.add(hash_descriptor(file.fileno(), "xxh3-128"))
    assert A != B and len(digests) == 1


def test_an_edit_of_a_local_copy_is_noticed(path: Any, bucket: Path) -> None:
    replaced(path.fspath, B)
    (write,) = path.pending
    assert write.state is PendingState.EDIT
    with pytest.raises(OverwriteNewerLocalError):
        path.read_bytes()
    path.push()
    assert (bucket / "a").read_bytes() == B == path.read_bytes()
    assert Path(path.fspath).read_bytes() == B
    replaced(path.fspath, A)
    assert [write.state for write in path.pending] == [PendingState.EDIT]


def test_a_second_edit_replaces_the_record_of_the_first(path: Any) -> None:
    local = path.fspath
    for data in (B, C):
        replaced(local, data)
        assert len(path.pending) == 1
        assert path.read_bytes(read_pending=True) == data


@pytest.mark.needs_locks  # they prove its death
def test_an_edit_of_a_process_that_was_killed_is_recorded(path: Any, client: FileClient, tmp_path: Path) -> None:
    def edit() -> None:
        replaced(path.fspath, B)
        os._exit(0)

    assert forked(edit) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = casstore.open(tmp_path / "store")
        cache.execute(cache.plan(max_size=None))
    assert [write.state for write in path.pending] == [PendingState.EDIT]
    assert path.read_bytes(read_pending=True) == B


def test_of_two_creations_that_came_too_late_both_are_kept(path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (A, B, A, B):
        create(path, data)
    assert len(path.pending) == 2
    with pytest.raises(PendingWriteError, match="2 different writes"):
        path.save_pending("/nowhere")
    root = path.client.cache.root
    assert run(["--dir", root, "drop", "--save-to", f"{root}-saved", str(path)]) == 2
    assert "2 different writes" in capsys.readouterr().err
    assert len(path.pending) == 2


def test_a_push_leaves_the_other_bytes_pending(path: Any, bucket: Path) -> None:
    for data in (A, B):
        create(path, data)
    path.push(path.pending[0], force_overwrite_to_cloud=True)
    assert (bucket / "a").read_bytes() == A
    assert pending_bytes(path) == {PendingState.INCOMPLETE: B}


def test_a_failed_edit_block_keeps_its_bytes(path: Any, bucket: Path) -> None:
    create(path, A)

    def edit() -> None:
        with path.edit() as local:
            replaced(local, B)
            (bucket / "a").write_bytes(b"theirs")

    with pytest.raises(OverwriteNewerCloudError):
        edit()
    assert pending_bytes(path) == {PendingState.INCOMPLETE: A, PendingState.FAILED: B}
