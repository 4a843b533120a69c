"""Trees whose source or target is reached in another way: by a second client, by a URL with a login, by index pages."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from casstore import Validator
from pathapi import HttpClient, HttpPath, S3Path, implementation_registry, prefetch
from pathapi.backend import ObjectInfo
from pathapi.exceptions import (
    CloudPathPermissionError,
    InvalidConfigurationException,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from pathapi.testing import interpose
from pathapi.transfer.tree_items import TreeItem
from tests.harness.http_server import HttpOrigin
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

Make = Callable[..., HttpPath]


@pytest.fixture
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


@pytest.fixture
def make(server: HttpOrigin, tmp_path: Path) -> Iterator[Make]:
    """Paths on `server`, each with a client of its own and all with one store."""
    made: list[HttpClient] = []

    def make(name: str, login: str = "", **habits: Any) -> HttpPath:
        made.append(HttpClient(**{"local_cache_dir": tmp_path / "store", **habits}))
        return made[-1].HttpPath(f"http://{login}{server.host}/{name}")

    yield make
    for client in made:
        client.cache.close()
        client.connection.close()
    gc.collect()


# --- by a second client ---------------------------------------------------------------------------------------------


def test_a_tree_is_not_copied_into_itself_by_a_second_client_either(
    make_client: MakeClient, ground: S3RawBucket, at: str
) -> None:
    for name in ("x", "y/z"):
        ground.plant(f"{at}dir/{name}", name.encode())
    root = f"s3://{ground.bucket}/{at}dir/"
    source, target = make_client().S3Path(root), make_client().S3Path(root + "y/")
    for way in (S3Path.copytree, S3Path.copy, S3Path.move):
        with pytest.raises(InvalidConfigurationException, match="into itself"):
            way(source, target)
        assert way(source, make_client().S3Path(root)), "to where it is: nothing to do"
    keys = {item.key for item in source.client.backend(ground.bucket).list(at)}
    assert keys == {f"{at}dir/x", f"{at}dir/y/z"}


def test_a_tree_moves_up_by_a_second_client_unless_it_would_meet_itself(
    make_client: MakeClient, ground: S3RawBucket, at: str
) -> None:
    for name in ("e/x", "x"):
        ground.plant(f"{at}e/e/{name}", name.encode())
    root = f"s3://{ground.bucket}/{at}e/"
    with pytest.raises(InvalidConfigurationException, match="another directory"):
        make_client().S3Path(root + "e/").move(make_client().S3Path(root))
    assert (ground.content(at + "e/e/e/x"), ground.content(at + "e/e/x")) == (b"e/x", b"x")


# --- by a URL with a login ------------------------------------------------------------------------------------------


def test_nothing_is_removed_by_a_url_with_a_login_where_writes_wait_for_the_cloud(
    server: HttpOrigin, make: Make
) -> None:
    server.plant("d/one", b"old")
    directory = make("d/", login="user:word@")
    server.script(403, method="PUT", times=None)
    with pytest.raises(CloudPathPermissionError):
        (directory / "one").write_bytes(b"mine")
    with pytest.raises(PendingWriteError, match="d/one is not"):
        directory.rmtree()
    with pytest.raises(PendingWriteError, match="d/one is not"):
        make("d/").rmtree()
    assert server.content("d/one") == b"old"
    (directory / "one").drop()
    directory.rmtree()
    assert server.content("d/one") is None


# --- by index pages, which know names alone -------------------------------------------------------------------------


def test_a_page_that_names_an_object_does_not_vouch_for_what_is_held(
    server: HttpOrigin, make: Make, tmp_path: Path
) -> None:
    server.plant("d/one", b"old")
    directory = make("d/")
    directory.download_to(tmp_path / "to")
    server.plant("d/one", b"newer")
    server.kinds()
    directory.download_to(tmp_path / "to")
    assert (tmp_path / "to/one").read_bytes() == b"newer"
    prefetch(make("d/"))
    assert server.kinds() == {"LIST": 2, "GET": 2}, "one of them unchanged"


def make_local(directory: Path, **files: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def test_a_second_upload_replaces_what_the_first_has_made(server: HttpOrigin, make: Make, tmp_path: Path) -> None:
    directory, source = make("d/"), make_local(tmp_path / "source", one=b"1", two=b"2", three=b"3")
    directory.upload_from(source)
    make_local(source, one=b"new 1", two=b"new", more=b"more")
    server.kinds()
    directory.upload_from(source)
    kinds = server.kinds()
    assert (kinds.pop("LIST"), kinds) == (1, {"PUT": 3, "HEAD": kinds["HEAD"]}), "three is there with the same bytes"
    make("d/").upload_from(source)
    assert {name: server.content(f"d/{name}") for name in ("one", "two", "three", "more")} == {
        "one": b"new 1",
        "two": b"new",
        "three": b"3",
        "more": b"more",
    }


@pytest.mark.parametrize("in_one_client", [True, False])
def test_a_second_copy_replaces_what_the_first_has_made(server: HttpOrigin, make: Make, *, in_one_client: bool) -> None:
    for name in ("one", "two"):
        server.plant(f"d/{name}", name.encode())
    source = make("d/")
    target = source.client.CloudPath(f"http://{server.host}/e/") if in_one_client else make("e/")
    source.copytree(target)
    server.settle()
    server.plant("d/one", b"newer")
    source.copytree(target)
    assert (server.content("e/one"), server.content("e/two")) == (b"newer", b"two")


def test_a_second_upload_replaces_nothing_that_somebody_writes_meanwhile(
    server: HttpOrigin, make: Make, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        server.plant(f"d/{name}", b"theirs")
    directory, source = make("d/"), make_local(tmp_path / "source", one=b"1", two=b"2")
    backend = interpose(directory.client, server.host)
    backend.after["head"] = lambda: server.plant("d/two", b"newer")
    with pytest.raises(OverwriteNewerCloudError, match="d/two"):
        directory.upload_from(source)
    assert server.content("d/two") == b"newer"


# --- what *ignore* is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "top", "below"),
    [
        ("s3://b", "", "/x"),
        ("s3://b/", "/", "/x"),
        ("S3://b/d", "/d", "/d/x"),
        ("s3://b/d/", "/d/", "/d/x"),
        ("s3://b/d//", "/d//", "/d//x"),
        ("file:///d", "/d", "/d/x"),
        ("http://h/d", "/d", "/d/x/"),
        ("http://h/d/", "/d/", "/d/x/"),
    ],
)
def test_ignore_is_called_with_the_text_of_the_path_after_the_bucket(
    uri: str, top: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = implementation_registry.client_class(implementation_registry.path_class(uri))
    path = client(local_cache_dir=tmp_path / "store").CloudPath(uri)
    info = ObjectInfo(path.location.prefix + "x/y", Validator(1, etag='"1"'))
    monkeypatch.setattr(
        "pathapi.transfer.trees.list_items", lambda root, missing: [TreeItem("x/y", info, root.at(info.key))]
    )
    asked: list[tuple[str, list[str]]] = []

    def ignore(directory: str, names: list[str]) -> list[str]:
        asked.append((directory, names))
        return [] if names == ["x"] else names

    path.copytree(tmp_path / "to", ignore=ignore)
    assert asked == [(top, ["x"]), (below, ["y"])]
