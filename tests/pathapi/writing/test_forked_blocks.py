"""A child that is forked in the block of a private local path: however it ends, the files and the upload are the
parent's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pathapi import FileClient, FilePath
from tests.casstore.support.fill import fork, status_of


@pytest.fixture
def path(tmp_path: Path) -> FilePath:
    (tmp_path / "bucket").mkdir()
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{tmp_path}/bucket/shape.shp")
    path.write_bytes(b"old")
    (path.parent / "shape.shx").write_bytes(b"index")
    return path


def end_in_child(block: Any, *error: Any) -> None:
    """Fork, and let the child end *block*, as a ``with`` statement around the fork does."""
    assert status_of(fork(lambda: block.__exit__(*error) if error else block.__exit__(None, None, None))) == 0


ENDS: list[Any] = [(), (SystemExit, SystemExit(), None)]


@pytest.mark.parametrize("error", ENDS, ids=["its end", "an exit"])
@pytest.mark.parametrize("way", ["edit", "writing"])
def test_a_child_that_leaves_the_block_uploads_and_removes_nothing(path: FilePath, way: str, error: Any) -> None:
    made = getattr(path, way)()
    with made as local:
        Path(local).write_bytes(b"half")
        end_in_child(made, *error)
        assert path.with_name("shape.shp").read_bytes(freshness="always") == b"old"
        with open(local, "ab") as file:
            file.write(b" and half")
    assert path.read_bytes() == b"half and half"


@pytest.mark.parametrize("error", ENDS, ids=["its end", "an exit"])
def test_a_child_that_leaves_the_block_leaves_the_siblings_to_its_parent(path: FilePath, error: Any) -> None:
    made = path.local(siblings=True)
    with made as local:
        end_in_child(made, *error)
        assert Path(local).read_bytes() == b"old"
        assert Path(local).with_suffix(".shx").read_bytes() == b"index"
    assert not os.path.exists(local)


@pytest.mark.parametrize("way", ["edit", "writing"])
def test_a_child_that_drops_the_block_removes_nothing(path: FilePath, way: str) -> None:
    made = [getattr(path, way)()]
    local = made[0].__enter__()
    Path(local).write_bytes(b"new")
    assert status_of(fork(made.clear)) == 0
    made[0].__exit__(None, None, None)
    assert path.read_bytes() == b"new"
