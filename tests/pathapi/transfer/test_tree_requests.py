"""Whole trees: how many requests a download, an upload, a copy, a move and a removal need."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathapi import FilePath, Progress, S3Path
from tests.harness.proxy import Proxy
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.traffic import kinds_of
from tests.pathapi.support.trees import TREE, local, make_local, plant, planted

# --- what it costs ----------------------------------------------------------------------------------------------------


def test_a_download_of_twelve_files_is_thirteen_requests(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at)
    path = root.client.CloudPath(f"{root}/")
    assert path.download_to(tmp_path / "a") == tmp_path / "a"
    assert kinds_of(proxy) == {"LIST": 1, "GET": 12}
    assert local(tmp_path / "a") == TREE
    root.download_to(str(tmp_path / "b"))
    assert kinds_of(proxy) == {"GET": 1, "LIST": 1}, "the store has them; only what the path names was to be found out"
    assert local(tmp_path / "b") == TREE


@pytest.mark.usefixtures("md5_believed")
def test_a_download_leaves_what_is_there_with_the_same_bytes(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
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
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
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


@pytest.mark.usefixtures("md5_believed")
def test_an_upload_compares_with_what_others_have_uploaded(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
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
    root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    tree = dict(list(TREE.items())[:10])
    plant(ground, at + "from/", tree)
    target = root.client.CloudPath(f"{root}/to/")
    assert (root / "from").copytree(target) == target
    assert kinds_of(proxy) == {"LIST": 1, "COPY": 10}
    list(root.iterdir())
    proxy.reset()
    (root / "from").copytree(root / "again")
    assert kinds_of(proxy) == {"HEAD": 1, "LIST": 1, "COPY": 10}, "whether it is an object by now"
    assert planted(ground, at + "to/") == planted(ground, at + "again/") == tree


@pytest.mark.usefixtures("md5_believed")
def test_a_copy_goes_on_and_leaves_what_is_there(root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy) -> None:
    plant(ground, at + "to/", {name: b"8" * 8 if name == "b/deep/er/7" else TREE[name] for name in list(TREE)[2:]})
    time.sleep(1.1)
    plant(ground, at + "from/")
    (root / "from").copytree(f"{root}/to/")
    kinds = kinds_of(proxy)
    assert kinds.pop("HEAD") <= 9
    assert kinds.pop("LIST") == 2
    assert kinds.pop("COPY") <= 3 + 9, "those that were under way when the first was refused"
    assert planted(ground, at + "to/") == TREE


def test_a_move_of_a_tree_is_two_requests_for_each_object(
    root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    plant(ground, at + "from/")
    moved = root.client.CloudPath(f"{root}/from/").move(f"{root}/to/")
    assert str(moved) == f"{root}/to/"
    assert kinds_of(proxy) == {"LIST": 1, "COPY": 12, "DELETE": 12}
    assert (planted(ground, at + "from/"), planted(ground, at + "to/")) == ({}, TREE)
    assert (root / "to" / "a" / "0").read_bytes() == TREE["a/0"]


def test_a_removal_of_ten_objects_is_two_requests(root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy) -> None:
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
    root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    plant(ground, at, {f"{n % 7}/{n}": b"" for n in range(2_500)})
    root.rmtree()
    assert kinds_of(proxy) == {"LIST": 3, "DELETE": 3}
    assert planted(ground, at) == {}


# --- a bucket of files ------------------------------------------------------------------------------------------------


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
    root: S3Path, files: FilePath, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
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
