"""What sends no request, or is about clients: equality, hashes, constructors, default clients, caches."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath

import pytest

from tests.pathapi.drop_in.rigs import Rig


def test_a_path_is_not_its_text(rig: Rig) -> None:
    path = rig.root / "k"
    assert path != str(path)
    assert hash(path) != hash(str(path))
    assert path == rig.client.CloudPath(str(path)) and hash(path) == hash(rig.client.CloudPath(str(path)))
    assert len({path, str(path)}) == 2


def test_validate_takes_v(rig: Rig) -> None:
    kind = type(rig.root)
    assert kind.validate(v=f"{kind.cloud_prefix}b/k") == kind(f"{kind.cloud_prefix}b/k")


def test_paths_have_their_parts(rig: Rig) -> None:
    path = rig.root / "d/a.tar.gz"
    assert (path.name, path.stem, path.suffix, path.suffixes) == ("a.tar.gz", "a.tar", ".gz", [".tar", ".gz"])
    assert str(path.parent).rstrip("/") == str(rig.root / "d")
    assert path.with_name("b.txt").name == "b.txt" and path.with_suffix(".zip").name == "a.tar.zip"
    assert path.relative_to(rig.root) == PurePosixPath("d/a.tar.gz")
    assert path.is_relative_to(rig.root) and path.match("*.gz") and path.is_absolute()
    assert path.joinpath("x", "y") == path / "x" / "y"
    assert sorted([rig.root / "b", rig.root / "a"]) == [rig.root / "a", rig.root / "b"]
    assert path.as_uri() == str(path) and repr(path) == f"{type(path).__name__}('{path}')"


def test_the_base_class_chooses_by_scheme(rig: Rig) -> None:
    assert type(rig.api.CloudPath(str(rig.root))) is type(rig.root)
    with pytest.raises(rig.api.exceptions.InvalidPrefixError):
        rig.api.CloudPath("unknown://b/k")


def test_a_client_can_be_the_default(rig: Rig) -> None:
    assert type(rig.client).get_default_client() is rig.client
    assert rig.api.CloudPath(str(rig.root)).client is rig.client
    other = rig.make()
    other.set_as_default_client()
    assert rig.api.CloudPath(str(rig.root)).client is other


def test_a_path_can_be_pickled(rig: Rig) -> None:
    path = rig.root / "k"
    assert pickle.loads(pickle.dumps(path)) == path


@pytest.mark.parametrize("mode", ["tmp_dir", "close_file", "cloudpath_object", "persistent"])
def test_every_cache_mode_reads_and_writes(rig: Rig, mode: str, tmp_path: Path) -> None:
    client = rig.make(file_cache_mode=mode, local_cache_dir=tmp_path / "cache")
    path = client.CloudPath(str(rig.root / "a.txt"))
    path.write_text("one")
    with path.open() as file:
        assert file.read() == "one"
    rig.tick()
    path.write_text("two")
    assert path.read_text() == "two"
