"""What each operation costs on Azure, counted at a proxy in front of a real server; the rows are those of S3."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from pathapi import AzureBlobClient, AzureBlobPath
from pathapi.reading.download import PART
from tests.harness.proxy import Proxy
from tests.pathapi.support.azure import MakeAzureClient, azure_ground, make_azure_client, prefix
from tests.pathapi.support.raw_buckets import AzureRawBucket
from tests.pathapi.support.traffic import Wire

__all__ = ["azure_ground", "make_azure_client", "prefix"]

DATA = os.urandom(50_000)


@pytest.fixture
def wire(azure_proxy: Proxy) -> Wire:
    return Wire(azure_proxy)


@pytest.fixture
def client(make_azure_client: MakeAzureClient) -> AzureBlobClient:
    return make_azure_client()


@pytest.fixture
def root(client: AzureBlobClient, shared_container: str, prefix: str) -> AzureBlobPath:
    return client.AzureBlobPath(f"az://{shared_container}/{prefix}")


@pytest.fixture
def path(root: AzureBlobPath, azure_ground: AzureRawBucket) -> AzureBlobPath:
    """An object that nobody has asked for yet."""
    azure_ground.plant("object", DATA)
    return root / "object"


QUESTIONS: list[Callable[[Any], object]] = [AzureBlobPath.exists, AzureBlobPath.is_file, AzureBlobPath.stat]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_a_question_about_an_object_is_one_head_and_about_a_listed_one_none(
    path: AzureBlobPath, wire: Wire, question: Callable[[Any], object]
) -> None:
    assert question(path)
    assert wire() == {"HEAD": 1}
    (child,) = path.parent.iterdir()
    assert wire() == {"LIST": 1}
    assert question(child) and child.etag and child.md5
    assert wire() == {}


@pytest.mark.parametrize("name", ["missing", "directory"])
def test_what_is_no_object_costs_a_head_and_a_list_of_one_key(
    root: AzureBlobPath, azure_ground: AzureRawBucket, wire: Wire, name: str
) -> None:
    azure_ground.plant("directory/object", b"")
    path = root / name
    assert path.exists() == (name == "directory")
    assert wire.query()["maxresults"] == ["1"]
    assert wire() == {"HEAD": 1, "LIST": 1}
    assert path.is_dir() == (name == "directory")
    assert wire() == {"LIST": 1}


def test_a_glob_lists_only_what_its_fixed_start_allows(
    root: AzureBlobPath, azure_ground: AzureRawBucket, wire: Wire, prefix: str
) -> None:
    for name in ("sub/a.txt", "sub/b.bin", "sub/deep/c.txt", "other/d.txt", "e.txt"):
        azure_ground.plant(name, b"")
    assert [path.name for path in root.glob("sub/*.txt")] == ["a.txt"]
    assert (wire.query()["prefix"], wire.query()["delimiter"]) == ([f"{prefix}sub/"], ["/"])
    assert wire() == {"LIST": 1}


def read_by_open(path: AzureBlobPath) -> bytes:
    with path.open("rb") as file:
        data: bytes = file.read()
        return data


def read_by_name(path: AzureBlobPath) -> bytes:
    with open(path.fspath, "rb") as file:
        return file.read()


@pytest.mark.parametrize("way", [AzureBlobPath.read_bytes, read_by_open, read_by_name], ids=lambda way: way.__name__)
def test_a_cold_read_is_one_get_and_a_warm_one_a_304(path: AzureBlobPath, wire: Wire, way: Any) -> None:
    assert way(path) == DATA
    assert (wire.statuses(), wire()) == ({"206": 1}, {"GET": 1})
    assert way(path) == DATA
    assert (wire.statuses(), wire.proxy.body_bytes, wire()) == ({"304": 1}, 0, {"GET": 1})


@pytest.mark.parametrize("freshness", [60, "immutable", "offline"])
def test_a_warm_read_is_free_where_the_policy_allows(
    make_azure_client: MakeAzureClient, path: AzureBlobPath, wire: Wire, freshness: Any
) -> None:
    path.read_bytes()
    wire()
    assert make_azure_client(freshness=freshness).AzureBlobPath(str(path)).read_bytes() == DATA
    assert wire() == {}


@pytest.mark.parametrize(("size", "gets"), [(PART - 1, 1), (PART, 1), (PART + 1, 2), (2 * PART + 12_345, 3)])
def test_an_object_is_one_get_for_each_part(
    root: AzureBlobPath, azure_ground: AzureRawBucket, wire: Wire, size: int, gets: int
) -> None:
    data = os.urandom(size)
    azure_ground.plant("large", data)
    path = root / "large"
    assert path.read_bytes() == data
    assert wire() == {"GET": gets}
    assert path.read_bytes() == data
    assert (wire.statuses(), wire()) == ({"304": 1}, {"GET": 1})


def test_an_empty_object_is_one_request_more_at_first(
    root: AzureBlobPath, client: AzureBlobClient, azure_ground: AzureRawBucket, wire: Wire
) -> None:
    """A range of an empty object is answered 416, which does not say whether it is a directory."""
    azure_ground.plant("empty", b"")
    path = root / "empty"
    for asked in ({"GET": 1, "HEAD": 1}, {"GET": 1}, {"GET": 1}):
        assert path.read_bytes() == b""
        assert wire() == asked
    client.clear_cache()
    (child,) = root.iterdir()
    wire()
    assert child.read_bytes() == b""
    assert wire() == {"GET": 1}


def test_a_missing_object_is_asked_for_once_and_explained_once(root: AzureBlobPath, wire: Wire) -> None:
    with pytest.raises(FileNotFoundError):
        (root / "missing").read_bytes()
    assert wire() == {"GET": 1, "LIST": 1}


@pytest.mark.usefixtures("md5_believed")
def test_bytes_that_a_listing_shows_to_be_held_are_not_downloaded(
    root: AzureBlobPath, path: AzureBlobPath, azure_ground: AzureRawBucket, wire: Wire
) -> None:
    path.read_bytes()
    path.client.cache.flush()
    azure_ground.plant("again", DATA)
    wire()
    (again,) = (child for child in root.iterdir() if child.name == "again")
    assert again.read_bytes(freshness=60) == DATA
    assert wire() == {"LIST": 1}


def test_what_writes_cost(root: AzureBlobPath, wire: Wire) -> None:
    (root / "new").write_bytes(DATA)
    assert wire() == {"HEAD": 1, "PUT": 1}
    (root / "new").write_bytes(b"again")
    assert wire() == {"HEAD": 1, "PUT": 1}
    (root / "new").write_bytes(b"by force", force_overwrite_to_cloud=True)
    assert wire() == {"PUT": 1}
    with (root / "exclusive").open("x") as file:
        file.write("new")
    assert wire() == {"PUT": 1}
    (root / "touched").touch()
    assert wire() == {"PUT": 1}
    (root / "touched").unlink()
    assert wire() == {"HEAD": 1, "DELETE": 1}


def test_what_overwriting_and_appending_cost(
    make_azure_client: MakeAzureClient, azure_ground: AzureRawBucket, path: AzureBlobPath, wire: Wire
) -> None:
    path.write_bytes(b"overwritten, not cached")
    assert wire() == {"HEAD": 1, "PUT": 1}
    trusting = make_azure_client(freshness=60).AzureBlobPath(str(path))
    trusting.write_bytes(b"overwritten, fresh by the policy")
    assert wire() == {"PUT": 1}
    azure_ground.plant("object", DATA)
    path.client.clear_cache()
    wire()
    with path.open("ab") as file:
        file.write(b"appended, not cached")
    assert wire() == {"GET": 1, "PUT": 1}
    assert azure_ground.content("object") == DATA + b"appended, not cached"


def test_an_upload_in_blocks_is_a_request_for_each_and_one_more(root: AzureBlobPath, wire: Wire) -> None:
    (root / "large").write_bytes(bytes(20 << 20), force_overwrite_to_cloud=True)
    assert wire() == {"PUT": 4}


def test_what_moves_cost(root: AzureBlobPath, path: AzureBlobPath, azure_ground: AzureRawBucket, wire: Wire) -> None:
    path.copy(root / "copied")
    assert wire() == {"LIST": 1, "HEAD": 1, "COPY": 1}
    path.rename(root / "renamed")
    # One more than on S3: no answer to a copy states its checksum, and the original goes only once the copy is seen.
    assert wire() == {"HEAD": 2, "COPY": 1, "DELETE": 1}
    assert (azure_ground.content("renamed"), azure_ground.content("object")) == (DATA, None)


def test_many_deletes_are_one_request(
    client: AzureBlobClient, azure_ground: AzureRawBucket, shared_container: str, prefix: str, wire: Wire
) -> None:
    for number in range(10):
        azure_ground.plant(str(number), b"")
    client.backend(shared_container).delete([f"{prefix}{number}" for number in range(10)])
    assert wire() == {"DELETE": 1}
    assert list(client.backend(shared_container).list(prefix)) == []


def test_what_was_written_is_read_by_a_304(root: AzureBlobPath, wire: Wire) -> None:
    path = root / "mine"
    path.write_bytes(DATA)
    wire()
    assert path.read_bytes() == DATA
    assert wire.statuses() == {"304": 1}
