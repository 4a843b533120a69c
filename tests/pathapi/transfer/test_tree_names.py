"""Whole trees: which names they take, and what is in the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import pathapi
from casstore import Validator
from pathapi import FileClient, FilePath, S3Path
from pathapi.backend import ObjectInfo
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathIsADirectoryError,
    CloudPathLocalPathTraversalError,
    CloudPathNotADirectoryError,
    CloudPathNotExistsError,
    DirectoryNotEmptyError,
    InvalidConfigurationException,
)
from pathapi.transfer import tree_items
from pathapi.transfer.tree_items import TreeItem, check_names
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.trees import TREE, local, plant, planted

# --- what is copied ---------------------------------------------------------------------------------------------------


def test_what_is_to_be_ignored_is_asked_of_each_directory(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path
) -> None:
    plant(ground, at + "from/", TREE | {"a/x.tmp": b"", "c.tmp/y": b"", "deep": b"a file of that name"})
    asked: dict[str, list[str]] = {}
    ignore = shutil.ignore_patterns("*.tmp", "er")

    def note(directory: str, names: list[str]) -> set[str]:
        asked[directory] = sorted(names)
        return ignore(directory, names)

    kept = {name: data for name, data in TREE.items() if "/er/" not in name} | {"deep": b"a file of that name"}
    (root / "from").copytree(f"{root}/to/", ignore=note)
    assert planted(ground, at + "to/") == kept
    top = (root / "from")._no_prefix_no_drive
    assert asked[top] == ["a", "b", "c.tmp", "deep"]
    assert set(asked) == {top, f"{top}/a", f"{top}/b", f"{top}/a/deep", f"{top}/b/deep"}
    (root / "from").copytree(tmp_path / "to", ignore=shutil.ignore_patterns("*.tmp", "er"))
    assert local(tmp_path / "to") == kept


def test_objects_that_mark_directories_become_directories(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, files: FilePath
) -> None:
    plant(ground, at + "from/", {"": b"", "empty/": b"", "full/": b"", "full/x": b"x"})
    (root / "from").download_to(tmp_path / "to")
    assert sorted(str(p.relative_to(tmp_path / "to")) for p in (tmp_path / "to").rglob("*")) == [
        "empty",
        "full",
        "full/x",
    ]
    (root / "from").copytree(files / "to")
    assert local(tmp_path / "tree/to") == {"full/x": b"x"}
    (root / "from").copytree(root / "to")
    assert planted(ground, at + "to/")["full/x"] == b"x"
    (root / "from").move(tmp_path / "moved")
    assert planted(ground, at + "from/") == {}
    assert (tmp_path / "moved" / "empty").is_dir()


def test_an_upload_takes_a_uri_as_its_source(
    root: S3Path, ground: S3RawBucket, at: str, files: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "one").write_bytes(b"1")
    (files / "d/two").write_bytes(b"2")
    monkeypatch.setitem(pathapi.client._default_clients, FileClient, files.client)
    assert (root / "up").upload_from(str(files)) == root / "up"
    assert (root / "one").upload_from(f"{files}/one") == root / "one"
    assert (root / "two").upload_from(f"{root}/up/d/two") == root / "two"
    assert planted(ground, at) == {"up/one": b"1", "up/d/two": b"2", "one": b"1", "two": b"2"}
    for source in (3, None, b"bytes"):
        with pytest.raises(TypeError):
            root.upload_from(source)  # type: ignore[arg-type]


def test_odd_keys_arrive_as_themselves(root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path) -> None:
    tree = {"a space": b"1", "50%": b"2", "ümläut/日本語": b"3", "#?&": b"4", ".hidden/..twodots": b"5", "-rf": b"6"}
    plant(ground, at + "from/", tree)
    (root / "from").copytree(root / "to")
    (root / "to").download_to(tmp_path / "to")
    assert planted(ground, at + "to/") == local(tmp_path / "to") == tree
    (root / "up").upload_from(tmp_path / "to")
    assert planted(ground, at + "up/") == tree
    (root / "up").rmtree()
    assert planted(ground, at + "up/") == {}


ODD: list[tuple[list[str], str]] = [
    (["a/../../etc/passwd"], "elsewhere"),
    ([".."], "elsewhere"),
    (["a/./b"], "elsewhere"),
    (["a//b"], "two in a row"),
    (["/etc/passwd"], "starts"),
    (["nul\0"], "NUL"),
    (["x" * 256], "256 bytes"),
    (["\ud800"], "half a character"),
    (["a", "a/b"], "file and a directory"),
    (["a/b/c", "a/b"], "file and a directory"),
]


@pytest.mark.parametrize(("keys", "why"), ODD, ids=repr)
def test_a_key_that_no_file_below_can_have_is_refused(files: FilePath, keys: list[str], why: str) -> None:
    leaves = [TreeItem(key, ObjectInfo(key, Validator(1)), (files / "x").location) for key in ["fine", *keys]]
    with pytest.raises(CloudPathLocalPathTraversalError, match=why):
        check_names(leaves)


@pytest.mark.parametrize("way", ["download_to", "copy", "move", "copytree"])
def test_nothing_is_written_where_one_key_would_lead_out(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.plant(at + "fine", b"")
    ground.plant(at + "evil", b"")
    backend = root.client.backend(root.bucket)
    listed = list(backend.list(at))
    object.__setattr__(listed[0], "key", at + "../../evil")  # SeaweedFS keeps no such key
    monkeypatch.setattr(backend, "list", lambda *arguments, **options: iter(listed))
    with pytest.raises(CloudPathLocalPathTraversalError, match=r"\.\./\.\./evil"):
        getattr(root.client.CloudPath(f"{root}/"), way)(tmp_path / "in" / "here")
    assert not (tmp_path / "in").exists()
    assert ground.content(at + "fine") == b""


# --- what is in the way -----------------------------------------------------------------------------------------------


def test_files_and_directories_are_told_apart(root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path) -> None:
    ground.plant(at + "file", b"f")
    plant(ground, at + "dir/")
    (tmp_path / "file").write_bytes(b"f")
    file, directory = root / "file", root / "dir"
    for target in (root / "x", tmp_path / "x"):
        with pytest.raises(CloudPathNotADirectoryError, match="file"):
            file.copytree(target)
        with pytest.raises(CloudPathNotExistsError, match="missing"):
            (root / "missing").copytree(target)
    for taken in (file, tmp_path / "file", str(tmp_path / "file")):
        for way in (directory.copytree, directory.copy, directory.move):
            with pytest.raises(CloudPathFileExistsError, match="file"):
                way(taken)
    for call in (file.rmtree, file.rmdir):
        with pytest.raises(CloudPathNotADirectoryError, match="file"):
            call()
    with pytest.raises(DirectoryNotEmptyError):
        directory.rmdir()
    with pytest.raises(CloudPathIsADirectoryError):
        directory.unlink()
    (root / "missing").rmdir()
    ground.plant(at + "empty/", b"")
    (root / "empty").rmdir()
    assert not (root / "empty").exists()
    assert planted(ground, at) == {"file": b"f"} | {f"dir/{name}": data for name, data in TREE.items()}


def test_an_object_that_is_a_directory_too_is_copied_as_one_once_its_parent_was_listed(
    root: S3Path, ground: S3RawBucket, at: str
) -> None:
    ground.plant(at + "both", b"an object")
    plant(ground, at + "both/")
    assert len(list(root.iterdir())) == 2
    (root / "both").copytree(root / "to")
    assert planted(ground, at + "to/") == TREE


def test_a_local_directory_or_pipe_where_a_file_is_to_be_is_an_error(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path
) -> None:
    plant(ground, at)
    (tmp_path / "one/a/0").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/a").write_bytes(b"a file")
    (tmp_path / "three/a").mkdir(parents=True)
    os.mkfifo(tmp_path / "three/a/0")
    for name in ("one", "two", "three"):
        with pytest.raises(FileExistsError):
            root.download_to(tmp_path / name)
    assert (tmp_path / "two/a").read_bytes() == b"a file"


def test_a_tree_is_not_copied_into_itself(root: S3Path, ground: S3RawBucket, at: str, files: FilePath) -> None:
    plant(ground, at + "dir/")
    for way in (S3Path.copytree, S3Path.copy, S3Path.move):
        with pytest.raises(InvalidConfigurationException, match="into itself"):
            way(root / "dir", root / "dir" / "a")
        assert way(root / "dir", f"{root}/dir/")
    assert planted(ground, at + "dir/") == TREE


def test_a_tree_moves_up_unless_it_would_meet_itself(root: S3Path, ground: S3RawBucket, at: str) -> None:
    plant(ground, at + "d/d/", {"x": b"1", "y/z": b"2"})
    (root / "d" / "d").move(f"{root}/d/")
    assert planted(ground, at) == {"d/x": b"1", "d/y/z": b"2"}
    plant(ground, at + "e/e/", {"e/x": b"1", "x": b"2"})
    with pytest.raises(InvalidConfigurationException, match="another directory"):
        (root / "e" / "e").move(f"{root}/e/")
    assert planted(ground, at + "e/") == {"e/e/x": b"1", "e/x": b"2"}


def test_two_keys_that_a_file_system_takes_for_one_name_are_refused(
    files: FilePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS; on Linux the two are files of their own."""
    for name in ("e\u0301.txt", "\u00c9.txt"):
        (files / name).write_bytes(name.encode())
    monkeypatch.setattr(tree_items, "_FOLDS", True)
    with pytest.raises(CloudPathLocalPathTraversalError, match="files of one name here"):
        files.download_to(tmp_path / "local")
    assert not (tmp_path / "local").exists()
    monkeypatch.setattr(tree_items, "_FOLDS", False)
    files.download_to(tmp_path / "local")
    assert len(os.listdir(tmp_path / "local")) == 2
