"""A local change that only opening the blob shows: a reader raises, and does not download over it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from casstore import PendingState
from pathapi import FileClient, FilePath
from pathapi.exceptions import OverwriteNewerLocalError
from pathapi.testing.edit_suite import in_place
from tests.casstore.support.fill import eventually, fork, status_of


@pytest.fixture
def path(tmp_path: Path) -> FilePath:
    """A cached object whose blob another process changes through a view of its own."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "a").write_bytes(b"theirs")
    os.utime(bucket / "a", (1, 1))
    client = FileClient(local_cache_dir=tmp_path / "store", views="link", freshness="immutable")
    path = client.CloudPath(f"file://{bucket}/a")
    assert path.read_bytes() == b"theirs"
    client.cache.flush()

    def edit() -> None:
        in_place(Path(path.fspath))
        (tmp_path / "edited").touch()
        time.sleep(60)

    pid = fork(edit)
    eventually((tmp_path / "edited").exists)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    return path


@pytest.mark.parametrize("way", ["read_bytes", "open", "fspath"])
def test_an_edit_that_opening_the_blob_shows_is_an_error(path: FilePath, way: str) -> None:
    with pytest.raises(OverwriteNewerLocalError, match="The bytes are at"):
        path.fspath if way == "fspath" else getattr(path, way)()
    assert [write.state for write in path.pending] == [PendingState.EDIT]
    assert path.read_bytes(force_overwrite_from_cloud=True) == b"theirs"


def test_a_reader_that_takes_the_servers_version_meets_no_edit(path: FilePath) -> None:
    assert path.read_bytes(force_overwrite_from_cloud=True) == b"theirs"
