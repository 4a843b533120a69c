"""Whole trees: what they cost, which names they take, whose versions survive, and what an error leaves of them."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pathapi
from casstore import Validator
from pathapi import FileClient, FilePath, Progress, S3Client, S3Path
from pathapi.backend import ObjectInfo
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathIsADirectoryError,
    CloudPathLocalPathTraversalError,
    CloudPathNotADirectoryError,
    CloudPathNotExistsError,
    CloudPathPermissionError,
    DirectoryNotEmptyError,
    InvalidConfigurationException,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from pathapi.testing import interpose
from pathapi.transfer.tree_items import TreeItem, check_names
from tests.harness.faults import Answer, Call, Fault, Stall
from tests.harness.proxy import Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3Ground
from tests.pathapi.support.traffic import kinds_of

TREE = {f"{'ab'[n % 2]}/{'deep/er/' if n % 3 else ''}{n}": b"%d" % n * (n + 1) for n in range(12)}


@pytest.fixture
def root(client: S3Client, ground: S3Ground, at: str) -> S3Path:
    """The test's "directory"."""
    return client.S3Path(f"s3://{ground.bucket}/{at.removesuffix('/')}")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FilePath]:
    """A ``file://`` bucket with the store of `client`."""
    client = FileClient(local_cache_dir=tmp_path / "store")
    (tmp_path / "tree").mkdir()
    yield client.FilePath(f"file://{tmp_path}/tree")
    client.cache.close()


def plant(ground: S3Ground, prefix: str, tree: dict[str, bytes] | None = None) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: ground.plant(prefix + item[0], item[1]), (TREE if tree is None else tree).items()))


def planted(ground: S3Ground, prefix: str) -> dict[str, bytes | None]:
    pages = ground.client.get_paginator("list_objects_v2").paginate(Bucket=ground.bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip((key[len(prefix) :] for key in keys), pool.map(ground.content, keys), strict=True))


def make_local(directory: Path, tree: dict[str, bytes] | None = None) -> Path:
    for name, data in (TREE if tree is None else tree).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def local(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# --- what it costs --------------------------------------------------------------------------------------------------


def test_a_download_of_twelve_files_is_thirteen_requests(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at)
    path = root.client.CloudPath(f"{root}/")
    assert path.download_to(tmp_path / "a") == tmp_path / "a"
    assert kinds_of(proxy) == {"LIST": 1, "GET": 12}
    assert local(tmp_path / "a") == TREE
    root.download_to(str(tmp_path / "b"))
    assert kinds_of(proxy) == {"GET": 1, "LIST": 1}, "the store has them; only what the path names was to be found out"
    assert local(tmp_path / "b") == TREE


def test_a_download_leaves_what_is_there_with_the_same_bytes(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at)
    there = make_local(tmp_path / "there")
    (there / "a/0").write_bytes(b"?" * len(TREE["a/0"]))
    (there / "mine").write_bytes(b"stays")
    before = {path: path.stat().st_ino for path in there.rglob("*") if path.is_file()}
    told: list[Progress] = []
    root.client.CloudPath(f"{root}/").download_to(there, progress=told.append)
    assert kinds_of(proxy) == {"LIST": 1, "GET": 1}
    assert local(there) == TREE | {"mine": b"stays"}
    assert {path.name for path, inode in before.items() if path.stat().st_ino != inode} == {"0"}
    assert (told[-1].files, told[-1].held, told[-1].total_files) == (12, 11, 12)
    assert told[-1].bytes == told[-1].total_bytes == sum(map(len, TREE.values()))
    assert not told[-1].is_listing


def test_an_upload_goes_on_and_sends_only_what_the_cloud_does_not_have(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    source = make_local(tmp_path / "source")
    root.upload_from(source)
    assert kinds_of(proxy) == {"PUT": 12}
    assert planted(ground, at) == TREE
    (source / "a/0").write_bytes(b"?")
    (source / "new").write_bytes(b"new")
    told: list[Progress] = []
    root.upload_from(source, progress=told.append)
    kinds = kinds_of(proxy)
    assert kinds.pop("HEAD", 0) <= 1
    assert kinds == {"LIST": 1, "PUT": 3}, "the first was refused; then a listing told of the others"
    assert (told[-1].files, told[-1].held) == (13, 11)
    assert planted(ground, at) == TREE | {"a/0": b"?", "new": b"new"}


def test_an_upload_compares_with_what_others_have_uploaded(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at)
    root.upload_from(make_local(tmp_path / "source"))
    assert kinds_of(proxy) == {"LIST": 1, "PUT": 1}, "by the MD5 that the listing states; nothing is in the store"
    with pytest.raises(StopIteration):
        next(iter(root.client.cache.pending.all()))


def test_an_upload_holds_few_files_in_memory_and_none_of_their_names(
    root: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = [], []
    monkeypatch.setattr("pathapi.transfer.trees.upload_file", lambda target, path, base: done.append(path))

    def names(directory: str) -> Iterator[tuple[str, str]]:
        for number in range(500):
            begun.append(number)
            assert len(begun) - len(done) < 50
            yield str(tmp_path / "file"), str(number)

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr("pathapi.transfer.trees.files_below", names)
    root.upload_from(tmp_path)
    assert len(done) == 500


def test_a_copy_of_ten_objects_on_the_server_is_eleven_requests(
    root: S3Path, ground: S3Ground, at: str, proxy: Proxy
) -> None:
    tree = dict(list(TREE.items())[:10])
    plant(ground, at + "from/", tree)
    target = root.client.CloudPath(f"{root}/to/")
    assert (root / "from").copytree(target) == target
    assert kinds_of(proxy) == {"LIST": 1, "COPY": 10}
    list(root.iterdir())
    proxy.reset()
    (root / "from").copytree(root / "again")
    assert kinds_of(proxy) == {"LIST": 1, "COPY": 10}
    (root / "from").copytree(root / "never" / "seen")
    assert kinds_of(proxy) == {"HEAD": 1, "LIST": 1, "COPY": 10}, "whether it is an object"
    assert planted(ground, at + "to/") == planted(ground, at + "again/") == tree


def test_a_copy_goes_on_and_leaves_what_is_there(root: S3Path, ground: S3Ground, at: str, proxy: Proxy) -> None:
    plant(ground, at + "from/")
    plant(ground, at + "to/", {name: b"8" * 8 if name == "b/deep/er/7" else TREE[name] for name in list(TREE)[2:]})
    (root / "from").copytree(f"{root}/to/")
    kinds = kinds_of(proxy)
    assert kinds.pop("HEAD") <= 9
    assert kinds.pop("LIST") == 2
    assert kinds.pop("COPY") <= 3 + 9, "those that were under way when the first was refused"
    assert planted(ground, at + "to/") == TREE


def test_a_move_of_a_tree_is_two_requests_for_each_object(
    root: S3Path, ground: S3Ground, at: str, proxy: Proxy
) -> None:
    plant(ground, at + "from/")
    moved = root.client.CloudPath(f"{root}/from/").move(f"{root}/to/")
    assert str(moved) == f"{root}/to/"
    assert kinds_of(proxy) == {"LIST": 1, "COPY": 12, "DELETE": 12}
    assert (planted(ground, at + "from/"), planted(ground, at + "to/")) == ({}, TREE)
    assert (root / "to" / "a" / "0").read_bytes() == TREE["a/0"]


def test_a_removal_of_ten_objects_is_two_requests(root: S3Path, ground: S3Ground, at: str, proxy: Proxy) -> None:
    plant(ground, at, dict(list(TREE.items())[:10]))
    ground.plant(at.removesuffix("/") + "-beside", b"stays")
    for path in root.walk():
        for name in path[2]:
            (path[0] / name).read_bytes()
    proxy.reset()
    told: list[Progress] = []
    root.rmtree(progress=told.append)
    assert kinds_of(proxy) == {"LIST": 1, "DELETE": 1}
    assert planted(ground, at) == {}
    assert ground.content(at.removesuffix("/") + "-beside") == b"stays"
    assert list(root.client.cache.entries(str(root))) == []
    assert (told[-1].files, told[-1].total_files) == (10, 10)
    assert not root.exists()
    proxy.reset()
    root.rmtree()
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 1}, "nothing is nothing"


@pytest.mark.slow
def test_2500_objects_are_removed_by_three_listings_and_three_requests(
    root: S3Path, ground: S3Ground, at: str, proxy: Proxy
) -> None:
    plant(ground, at, {f"{n % 7}/{n}": b"" for n in range(2_500)})
    root.rmtree()
    assert kinds_of(proxy) == {"LIST": 3, "DELETE": 3}
    assert planted(ground, at) == {}


# --- a bucket of files ----------------------------------------------------------------------------------------------


def test_a_file_bucket_goes_through_everything(files: FilePath, tmp_path: Path) -> None:
    source = make_local(tmp_path / "source")
    assert (files / "up").upload_from(source) == files / "up"
    assert local(tmp_path / "tree/up") == TREE
    (files / "up").upload_from(source)
    assert (files / "up").copytree(files / "copied") == files / "copied"
    assert (files / "copied").move(files / "moved") == files / "moved"
    assert not local(tmp_path / "tree/copied")
    (files / "moved").download_to(tmp_path / "down")
    assert local(tmp_path / "tree/moved") == local(tmp_path / "down") == TREE
    assert (files / "moved").move_into(tmp_path) == tmp_path / "moved"
    assert local(tmp_path / "moved") == TREE
    assert not (files / "moved").exists()
    (files / "up").rmtree()
    assert local(tmp_path / "tree") == {}


def test_a_tree_goes_to_another_cloud_and_back(
    root: S3Path, files: FilePath, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at)
    assert root.copytree(files / "there") == files / "there"
    assert local(tmp_path / "tree/there") == TREE
    (files / "there").move_into(root / "back")
    assert planted(ground, at + "back/there/") == TREE
    assert not (files / "there").exists()
    proxy.reset()
    (root / "back").copytree(files / "again")
    assert proxy.body_bytes == 0, "the store has the bytes"


# --- what is copied -------------------------------------------------------------------------------------------------


def test_what_is_to_be_ignored_is_asked_of_each_directory(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path
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
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, files: FilePath
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
    root: S3Path, ground: S3Ground, at: str, files: FilePath, monkeypatch: pytest.MonkeyPatch
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


def test_odd_keys_arrive_as_themselves(root: S3Path, ground: S3Ground, at: str, tmp_path: Path) -> None:
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
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
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


# --- what is in the way ---------------------------------------------------------------------------------------------


def test_files_and_directories_are_told_apart(root: S3Path, ground: S3Ground, at: str, tmp_path: Path) -> None:
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
    root: S3Path, ground: S3Ground, at: str
) -> None:
    ground.plant(at + "both", b"an object")
    plant(ground, at + "both/")
    assert len(list(root.iterdir())) == 2
    (root / "both").copytree(root / "to")
    assert planted(ground, at + "to/") == TREE


def test_a_local_directory_or_pipe_where_a_file_is_to_be_is_an_error(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path
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


def test_a_tree_is_not_copied_into_itself(root: S3Path, ground: S3Ground, at: str, files: FilePath) -> None:
    plant(ground, at + "dir/")
    for way in (S3Path.copytree, S3Path.copy, S3Path.move):
        with pytest.raises(InvalidConfigurationException, match="into itself"):
            way(root / "dir", root / "dir" / "a")
        assert way(root / "dir", f"{root}/dir/")
    assert planted(ground, at + "dir/") == TREE


def test_a_tree_moves_up_unless_it_would_meet_itself(root: S3Path, ground: S3Ground, at: str) -> None:
    plant(ground, at + "d/d/", {"x": b"1", "y/z": b"2"})
    (root / "d" / "d").move(f"{root}/d/")
    assert planted(ground, at) == {"d/x": b"1", "d/y/z": b"2"}
    plant(ground, at + "e/e/", {"e/x": b"1", "x": b"2"})
    with pytest.raises(InvalidConfigurationException, match="another directory"):
        (root / "e" / "e").move(f"{root}/e/")
    assert planted(ground, at + "e/") == {"e/e/x": b"1", "e/x": b"2"}


# --- versions -------------------------------------------------------------------------------------------------------


def test_a_removal_leaves_what_somebody_has_written_since_the_listing(
    root: S3Path, ground: S3Ground, at: str, proxy: Proxy
) -> None:
    plant(ground, at)
    theirs = iter(range(100))
    write = Call(lambda: ground.plant(at + "a/0", b"theirs %d" % next(theirs)))
    proxy.add(Fault(write, kind="DELETE", times=None))
    with pytest.raises(OverwriteNewerCloudError, match="a/0"):
        root.rmtree()
    assert planted(ground, at) == {"a/0": b"theirs 0"}
    root.rmtree(ignore_errors=True)
    assert planted(ground, at) == {"a/0": b"theirs 1"}


def test_a_removal_of_one_object_leaves_another_version(root: S3Path, ground: S3Ground, at: str, proxy: Proxy) -> None:
    ground.plant(at + "only", b"")
    proxy.add(Fault(Call(lambda: ground.plant(at + "only", b"theirs")), kind="DELETE"))
    with pytest.raises(OverwriteNewerCloudError, match="only"):
        root.rmtree()
    assert planted(ground, at) == {"only": b"theirs"}


def test_a_server_that_deletes_no_versions_is_not_held_to_them_and_it_is_said(
    make_client: MakeClient, root: S3Path, ground: S3Ground, at: str, proxy: Proxy
) -> None:
    plant(ground, at)
    proxy.add(Fault(Answer(501, "NotImplemented"), kind="DELETE", times=2))
    with pytest.raises(NotImplementedError):
        make_client(conditional_writes="require").S3Path(str(root)).rmtree()
    assert planted(ground, at) == TREE
    with pytest.warns(UserWarning, match="conditionally"):
        root.rmtree()
    assert planted(ground, at) == {}


def test_a_file_bucket_is_removed_in_the_versions_that_were_listed(files: FilePath, tmp_path: Path) -> None:
    make_local(tmp_path / "tree")
    backend = interpose(files.client, "")
    backend.before["delete"] = lambda: (tmp_path / "tree/a/0").write_bytes(b"theirs")
    with pytest.raises(OverwriteNewerCloudError, match="a/0"):
        files.rmtree()
    assert local(tmp_path / "tree") == {"a/0": b"theirs"}


def test_nothing_is_removed_where_writes_wait_for_the_cloud(
    root: S3Path, ground: S3Ground, at: str, proxy: Proxy
) -> None:
    plant(ground, at)
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", times=None))
    for name in ("a/0", "a/new"):
        with pytest.raises(CloudPathPermissionError):
            (root / name).write_bytes(b"mine")
    with pytest.raises(PendingWriteError, match=r"a/0, .*a/new are not"):
        root.rmtree()
    assert planted(ground, at) == TREE
    root.rmtree(ignore_errors=True)
    assert planted(ground, at) == {"a/0": TREE["a/0"]}
    assert [write.uri for write in root.client.cache.pending.all()] == [f"{root}/a/0", f"{root}/a/new"]
    (root / "a/0").drop()
    (root / "a/new").drop()
    root.rmtree()
    assert planted(ground, at) == {}


def test_nothing_is_removed_where_a_local_copy_was_edited(root: S3Path, ground: S3Ground, at: str) -> None:
    plant(ground, at)
    view = Path((root / "a/0").fspath)
    view.unlink()
    view.write_bytes(b"edited")
    with pytest.raises(PendingWriteError, match="a/0"):
        root.rmtree()
    assert planted(ground, at) == TREE


def test_a_source_written_while_its_tree_moves_is_not_lost(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at + "from/")
    fault = Fault(Call(lambda: ground.plant(at + "from/a/0", b"theirs")), kind="DELETE", key=at + "from/a/0", times=1)
    proxy.add(fault)
    with pytest.raises(OverwriteNewerCloudError, match="left alone"):
        (root / "from").move(tmp_path / "to")
    assert ground.content(at + "from/a/0") == b"theirs"
    (root / "from").move(tmp_path / "to")
    assert local(tmp_path / "to") == TREE | {"a/0": b"theirs"}
    assert planted(ground, at + "from/") == {}


def test_an_object_written_at_the_target_meanwhile_is_replaced_only_by_force(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    source = make_local(tmp_path / "source")
    plant(ground, at, dict.fromkeys(TREE, b"old"))
    theirs = iter(range(100))
    write = Call(lambda: ground.plant(at + "b/3", b"theirs %d" % next(theirs)))
    proxy.add(Fault(write, kind="PUT", key=at + "b/3", times=None))
    with pytest.raises(OverwriteNewerCloudError, match="b/3"):
        root.upload_from(source)
    assert planted(ground, at)["b/3"] == b"theirs 1", "once it was looked at again"
    proxy.clear_faults()
    proxy.reset()
    root.upload_from(source, force_overwrite_to_cloud=True)
    assert kinds_of(proxy) == {"PUT": 12}
    assert planted(ground, at) == TREE


# --- errors and interrupts ------------------------------------------------------------------------------------------


def test_the_first_error_ends_it_names_its_object_and_the_same_call_goes_on(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    tree = {f"{n:03}": b"%d" % n for n in range(100)}
    plant(ground, at, tree)
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="GET", key=at + "020", times=None))
    path = root.client.CloudPath(f"{root}/")
    with pytest.raises(CloudPathPermissionError, match="020") as failed:
        path.download_to(tmp_path / "to")
    assert "repeat the call" in failed.value.__notes__[-1]
    assert threading.active_count() < 8 or not [t for t in threading.enumerate() if t.name == "pathapi-tree"]
    there = local(tmp_path / "to")
    assert 10 < len(there) < 60
    assert there.items() <= tree.items()
    proxy.clear_faults()
    path.download_to(tmp_path / "to")
    assert local(tmp_path / "to") == tree


def test_an_interrupt_ends_it_within_a_moment(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    tree = {f"{n:03}": b"%d" % n for n in range(100)}
    plant(ground, at, tree)

    def interrupt(progress: Progress) -> None:
        if progress.files > 10:
            raise KeyboardInterrupt

    proxy.add(Fault(Call(lambda: time.sleep(0.02)), kind="GET", times=None))
    with pytest.raises(KeyboardInterrupt):
        root.client.CloudPath(f"{root}/").download_to(tmp_path / "to", progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "pathapi-tree"]
    assert local(tmp_path / "to").items() < tree.items(), "it went on"


def test_an_interrupt_waits_for_no_server(
    root: S3Path, ground: S3Ground, at: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathapi.parallel.worker_pool.INTERRUPT_SECONDS", 0.2)
    plant(ground, at)
    proxy.add(Fault(Stall(900), kind="GET", times=None))

    def interrupt(progress: Progress) -> None:
        if not progress.is_listing:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        root.client.CloudPath(f"{root}/").download_to(tmp_path / "to", progress=interrupt)
    assert time.monotonic() - began < 600
    proxy.close()
    for thread in threading.enumerate():
        if thread.name == "pathapi-tree":
            thread.join()
    assert local(tmp_path / "to") == {}


def test_one_object_tells_of_its_progress_too(root: S3Path, ground: S3Ground, at: str, tmp_path: Path) -> None:
    ground.plant(at + "x", b"x" * 1000)
    told: list[Progress] = []
    (root / "x").download_to(tmp_path / "x", progress=told.append)
    assert (told[-1].files, told[-1].bytes, told[-1].total_bytes) == (1, 1000, 1000)


def test_a_bar_is_silent_where_nobody_looks(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pathapi.progress_bar("title") as progress:
        assert progress is None
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with pathapi.progress_bar("my [title]") as progress:
        assert progress is not None
        progress(Progress(1, 2, 10, 2_000_000, is_listing=False))
    out, err = capfd.readouterr()
    assert out == ""
    assert "my [title]" in err and "1/2 objects" in err and "10 B of 1.9 MiB" in err
