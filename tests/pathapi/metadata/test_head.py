"""What exists: names that are an object and a directory, markers, buckets, the account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import CloudPath, HttpClient, S3Client
from pathapi.exceptions import BucketNotFoundError, CloudPathIsADirectoryError, CloudPathPermissionError
from tests.harness.faults import Answer, Fault
from tests.harness.http_server import HttpOrigin
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import S3RawBucket


def test_a_name_that_is_both_is_found_as_both(client: S3Client, ground: S3RawBucket, at: str) -> None:
    ground.plant(at + "out", b"x")
    ground.plant(at + "out/1/f.json", b"x")
    root = client.CloudPath(f"s3://{ground.bucket}/{at}")
    for found in (root.glob("out"), root.glob("*"), root.rglob("out"), root.iterdir()):
        assert sorted(path.is_dir() for path in found) == [False, True]
    assert (root / "out").is_dir() and (root / "out").is_file()


def test_a_marker_is_listed_by_nobody_and_deleted_by_rmdir(client: S3Client, ground: S3RawBucket, at: str) -> None:
    ground.plant(at + "photos/", b"")
    marked = client.CloudPath(f"s3://{ground.bucket}/{at}photos/")
    for path in (marked, client.CloudPath(str(marked)[:-1])):
        assert (path.exists(), path.is_file(), path.is_dir()) == (True, False, True)
        with pytest.raises(CloudPathIsADirectoryError):
            path.unlink()
        assert list(path.iterdir()) == []
    marked.rmdir()
    assert not marked.exists() and ground.content(at + "photos/") is None


def test_questions_about_buckets_cost_one_or_two_requests(
    client: S3Client, seaweed: S3Server, proxy: Proxy, make_bucket: Any
) -> None:
    empty, missing = client.CloudPath(f"s3://{make_bucket()}"), client.CloudPath("s3://no-such-bucket-here/d/k")
    assert (empty.exists(), empty.is_dir(), empty.is_file(), (empty / "k").exists()) == (True, True, False, False)
    assert proxy.counts.kinds == {"LIST": 3, "HEAD": 1}
    proxy.reset()
    assert (missing.exists(), missing.is_dir(), missing.is_file()) == (False, False, False)
    assert proxy.counts.kinds == {"LIST": 2, "HEAD": 2}
    with pytest.raises(BucketNotFoundError):
        list(missing.iterdir())


def test_the_account_lists_its_buckets(moto: S3Server, tmp_path: Path) -> None:
    bucket = moto.new_bucket()
    client = S3Client(moto.access_key, moto.secret_key, endpoint_url=moto.endpoint, local_cache_dir=tmp_path)
    account: CloudPath = client.CloudPath("s3://")
    found = list(account.iterdir())
    assert client.CloudPath(f"s3://{bucket}") in found
    assert all(path.parent == account and path.is_dir() for path in found)
    assert (account.exists(), account.is_dir(), account.is_file()) == (True, True, False)
    told: list[Exception] = []
    assert list(account.walk(lazy=True, on_error=told.append)) == []
    assert "list one of them" in str(told[0])


def test_an_account_that_may_not_be_listed_is_denied(client: S3Client, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), times=None))
    with pytest.raises(CloudPathPermissionError, match=r"s3:///?: "):
        list(client.CloudPath("s3://").iterdir())


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


def test_an_http_directory_that_is_not_there_is_missing(origin: HttpOrigin, tmp_path: Path) -> None:
    client = HttpClient(local_cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such page: check the URL"):
        list(client.CloudPath(f"{origin.url}/dtaa/").iterdir())
    assert origin.kinds() == {"LIST": 1, "HEAD": 1}
    assert list(client.CloudPath(f"{origin.url}/dtaa/").glob("*")) == []


@pytest.mark.parametrize("lazy", [True, False])
def test_a_forbidden_directory_is_told_and_its_siblings_are_walked(
    origin: HttpOrigin, tmp_path: Path, lazy: bool
) -> None:
    for name in "abc":
        origin.plant(f"{name}/k", b"")
    origin.script(403, key="b/", times=None)
    root = HttpClient(local_cache_dir=tmp_path).CloudPath(origin.url + "/")
    told: list[Exception] = []
    for top_down in (True, False):
        seen = [str(at)[len(str(root)) :] for at, _, _ in root.walk(lazy=lazy, on_error=told.append, top_down=top_down)]
        assert sorted(seen) == ["", "a/", "c/"]
    assert [type(error) for error in told] == [CloudPathPermissionError] * 2
    with pytest.raises(CloudPathPermissionError):
        list(root.walk(lazy=lazy))
