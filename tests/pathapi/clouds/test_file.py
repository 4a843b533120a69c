"""`FilePath`: its text is a URI, whose percent signs stand for other characters."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from pathapi import FileClient, FilePath

NAMES = ["my file ü.txt", "a%20b", "100%", "50%25", "what?#1", "caf\udce9", "+", "%zz"]


@pytest.fixture
def client(tmp_path: Path) -> FileClient:
    return FileClient(local_cache_dir=tmp_path / "store")


@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_naming_a_file_reads_it(name: str, client: FileClient, tmp_path: Path) -> None:
    local = tmp_path / "d" / name
    local.parent.mkdir()
    local.write_text("text")
    path = client.CloudPath(local.as_uri())
    directory = client.CloudPath(local.parent.as_uri())
    others = [directory / name, directory.joinpath(name), client.CloudPath(str(path)), client.CloudPath(path.as_url())]
    others += [client.CloudPath(str(directory), name), directory.with_segments(*local.parts[1:]), *directory.iterdir()]
    others += [
        (directory / "x").with_name(name),
        pickle.loads(pickle.dumps(path)),
        *directory.glob("*"),
        path / "../" / name,
    ]
    others += [client.CloudPath(local.as_uri().replace("file://", "file://localhost"))]
    assert {str(other) for other in others} == {str(path)}
    assert (path.name, path.key) == (name, str(local)[1:])
    assert [other.read_text() for other in others] == ["text"] * len(others)
    assert os.path.basename(path.fspath) == name


def test_writes_and_edits_of_a_name_with_percent_signs_reach_that_file(client: FileClient, tmp_path: Path) -> None:
    path = client.CloudPath(tmp_path.as_uri()) / "d" / "a%20b.txt"
    path.write_text("one")
    assert os.listdir(tmp_path / "d") == ["a%20b.txt"]
    Path(path.fspath).write_text("two")
    path.parent.push()
    assert (tmp_path / "d" / "a%20b.txt").read_text() == path.read_text() == "two"
    beside = Path(path.fspath).parent / "c%20d.txt"
    beside.write_text("made by a tool")
    path.parent.push()
    assert (tmp_path / "d" / "c%20d.txt").read_text() == "made by a tool"
    offline = FileClient(local_cache_dir=tmp_path / "store", freshness="offline").CloudPath(str(path.parent))
    assert path in list(offline.iterdir())
    path.parent.rmtree()
    assert not (tmp_path / "d").exists() or os.listdir(tmp_path / "d") == []


def test_freshness_by_prefix_is_found_for_a_name_with_percent_signs(tmp_path: Path) -> None:
    (tmp_path / "50%").mkdir()
    prefix = f"{FilePath((tmp_path / '50%').as_uri())}/"
    client = FileClient(local_cache_dir=tmp_path / "store", freshness={prefix: "immutable"})
    path = client.CloudPath(prefix) / "k"
    path.write_text("one")
    assert path.read_text() == "one"
    (tmp_path / "50%" / "k").write_text("another")
    assert path.read_text() == "one"
    assert path.location.policy is client.policy.of(str(path))
