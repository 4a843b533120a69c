"""What each operation costs on Google Cloud Storage, counted at a proxy; the rows are those of `test_requests.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import pytest

from pathapi import GSClient, GSPath
from pathapi.reading.download import PART
from tests.harness.faults import SetHeader
from tests.harness.proxy import Fault, Proxy
from tests.harness.servers import GCSServer
from tests.pathapi.conftest import MakeGSClient
from tests.pathapi.support.raw_buckets import GCSRawBucket
from tests.pathapi.support.traffic import kinds_of

DATA = os.urandom(50_000)


@pytest.fixture(scope="module")
def raw(gcs: GCSServer) -> Any:
    return gcs.client()


@pytest.fixture
def ground(raw: Any, gcs_bucket: str, request: pytest.FixtureRequest) -> GCSRawBucket:
    return GCSRawBucket(raw, gcs_bucket, f"{id(request.node):x}/")


@pytest.fixture
def client(make_gs: MakeGSClient, gcs_proxy: Proxy) -> GSClient:
    return make_gs(endpoint_url=gcs_proxy.endpoint)


@pytest.fixture
def root(client: GSClient, ground: GCSRawBucket) -> GSPath:
    return client.GSPath(f"gs://{ground.bucket}/{ground._prefix}")


@pytest.fixture
def path(root: GSPath, ground: GCSRawBucket) -> GSPath:
    """An object that nobody has asked for yet."""
    ground.plant("object", DATA)
    return root / "object"


@pytest.fixture
def wire(gcs_proxy: Proxy) -> Callable[[], dict[str, int]]:
    return partial(kinds_of, gcs_proxy)


@pytest.mark.parametrize("question", [GSPath.exists, GSPath.is_file, GSPath.stat], ids=lambda one: one.__name__)
def test_a_question_is_one_request_and_none_for_a_child_of_a_listing(
    path: GSPath, wire: Any, question: Callable[[Any], object]
) -> None:
    assert question(path)
    assert wire() == {"HEAD": 1}
    (child,) = path.parent.iterdir()
    wire()
    assert question(child)
    assert wire() == {}


@pytest.mark.parametrize("name", ["missing", "directory"])
def test_what_is_no_object_costs_a_head_and_a_list_of_one_key(
    root: GSPath, ground: GCSRawBucket, gcs_proxy: Proxy, wire: Any, name: str
) -> None:
    ground.plant("directory/object", b"")
    assert (root / name).exists() == (name == "directory")
    assert parse_qs(gcs_proxy.records[-1].query)["maxResults"] == ["1"]
    assert wire() == {"HEAD": 1, "LIST": 1}


def test_eleven_children_with_all_their_facts_are_one_request(root: GSPath, ground: GCSRawBucket, wire: Any) -> None:
    for number in range(11):
        ground.plant(str(number), b"x" * number)
    children = list(root.iterdir())
    assert sorted(child.stat().st_size for child in children if child.is_file()) == list(range(11))
    assert all(child.etag and child.md5 and child.stat().st_mtime > 1e9 for child in children)
    assert wire() == {"LIST": 1}


def test_a_glob_lists_only_what_its_fixed_start_allows(
    root: GSPath, ground: GCSRawBucket, gcs_proxy: Proxy, wire: Any
) -> None:
    for name in ("sub/a.txt", "sub/b.bin", "sub/deep/c.txt", "other/d.txt", "e.txt"):
        ground.plant(name, b"")
    assert [path.name for path in root.glob("sub/*.txt")] == ["a.txt"]
    query = parse_qs(gcs_proxy.records[-1].query)
    assert (query["prefix"], query["delimiter"]) == ([root.key + "sub/"], ["/"])
    assert query["fields"] == [
        "items(name,generation,size,etag,updated,md5Hash,crc32c,contentType),prefixes,nextPageToken"
    ]
    assert wire() == {"LIST": 1}


@pytest.mark.slow
def test_2500_keys_are_three_requests(root: GSPath, ground: GCSRawBucket, wire: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: ground.plant(f"{number % 5}/{number:04}", b""), range(2_500)))
    wire()
    assert sum(path.is_file() for path in root.glob("**/*")) == 2_500
    assert wire() == {"LIST": 3}


def read_by_name(path: GSPath) -> bytes:
    with open(path.fspath, "rb") as file:
        return file.read()


@pytest.mark.parametrize("way", [GSPath.read_bytes, read_by_name], ids=lambda way: way.__name__)
def test_a_cold_read_is_one_get_and_a_warm_one_a_304(path: GSPath, gcs_proxy: Proxy, wire: Any, way: Any) -> None:
    assert way(path) == DATA
    assert wire() == {"GET": 1}
    assert way(path) == DATA
    assert gcs_proxy.counts.statuses == {"304": 1}
    assert gcs_proxy.body_bytes == 0
    assert wire() == {"GET": 1}


@pytest.mark.parametrize("freshness", [60, "immutable", "offline"])
def test_a_warm_read_is_free_where_the_policy_allows(
    make_gs: MakeGSClient, gcs_proxy: Proxy, path: GSPath, wire: Any, freshness: Any
) -> None:
    path.read_bytes()
    wire()
    trusting = make_gs(endpoint_url=gcs_proxy.endpoint, freshness=freshness).GSPath(str(path))
    assert trusting.read_bytes() == DATA
    assert trusting.stat().st_size == len(DATA)
    assert wire() == {}


def test_a_large_object_is_one_get_for_each_part_of_one_generation(
    root: GSPath, ground: GCSRawBucket, gcs_proxy: Proxy, wire: Any
) -> None:
    data = os.urandom(2 * PART + 12_345)
    ground.plant("large", data)
    assert (root / "large").read_bytes() == data
    generations = [parse_qs(record.query).get("generation") for record in gcs_proxy.records]
    assert generations[0] is None
    assert generations[1] == generations[2] is not None
    assert wire() == {"GET": 3}


def test_an_empty_object_is_one_request_and_two_where_the_416_does_not_say_that_it_is_empty(
    root: GSPath, ground: GCSRawBucket, gcs_proxy: Proxy, wire: Any
) -> None:
    ground.plant("empty", b"")

    def have(name: str, value: str | None) -> Fault:
        return Fault(SetHeader(name, value), match=lambda record: record.range is not None, times=None)

    assert (root / "empty").read_bytes() == b""
    assert wire() == {"GET": 1}
    assert (root / "empty").read_bytes() == b""
    assert wire() == {"GET": 1}
    gcs_proxy.add(have("x-goog-hash", None))
    root.client.clear_cache()
    assert (root / "empty").read_bytes() == b""
    assert wire() == {"GET": 2}
    gcs_proxy.add(have("Content-Range", "bytes */0"))
    root.client.clear_cache()
    assert (root / "empty").read_bytes() == b""
    assert wire() == {"GET": 1}


def test_a_missing_object_is_asked_for_once_and_explained_once(root: GSPath, wire: Any) -> None:
    with pytest.raises(FileNotFoundError):
        (root / "missing").read_bytes()
    assert wire() == {"GET": 1, "LIST": 1}


def test_what_writes_cost(root: GSPath, wire: Any) -> None:
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
    list(root.iterdir())
    wire()
    (root / "unlisted").write_bytes(b"absent by the listing")
    assert wire() == {"PUT": 1}


def test_what_overwriting_and_appending_cost(root: GSPath, ground: GCSRawBucket, path: GSPath, wire: Any) -> None:
    path.write_bytes(b"overwritten, not cached")
    assert wire() == {"HEAD": 1, "PUT": 1}
    ground.plant("object", DATA)
    path.client.clear_cache()
    wire()
    with path.open("ab") as file:
        file.write(b"appended")
    assert wire() == {"GET": 1, "PUT": 1}
    assert ground.content("object") == DATA + b"appended"


def test_copies_and_renames_need_no_more_than_on_s3(
    root: GSPath, path: GSPath, ground: GCSRawBucket, wire: Any
) -> None:
    path.copy(root / "copied")
    assert wire().get("COPY") == 1
    path.rename(root / "renamed")
    counts = wire()
    assert sum(counts.values()) <= 5
    assert (counts["COPY"], counts["DELETE"]) == (1, 1)
    assert (ground.content("object"), ground.content("renamed"), ground.content("copied")) == (None, DATA, DATA)
