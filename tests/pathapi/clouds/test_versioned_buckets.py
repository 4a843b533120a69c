"""Buckets that keep old versions: a read is tied to one of them, and a deleted object is gone although they stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from casstore import Validator
from pathapi import S3Client, S3Path
from pathapi.exceptions import CloudPathFileNotFoundError, OverwriteNewerCloudError, VersionMismatchError
from tests.harness.servers import S3Server


@pytest.fixture(scope="module")
def raw(moto: S3Server) -> Iterator[Any]:
    client = moto.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def versioned(moto: S3Server, raw: Any) -> str:
    bucket = moto.new_bucket()
    raw.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.fixture
def path(moto: S3Server, versioned: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3Path]:
    client = S3Client(
        moto.access_key, moto.secret_key, endpoint_url=moto.endpoint, region=moto.region, local_cache_dir=tmp_path
    )
    yield client.S3Path(f"s3://{versioned}/{request.node.name}")
    client.cache.close()
    client.client.close()


def put(raw: Any, path: S3Path, data: bytes) -> str:
    version: str = raw.put_object(Bucket=path.bucket, Key=path.key, Body=data)["VersionId"]
    return version


def validator(path: S3Path) -> Validator:
    path.client.cache.flush()
    entry = path.client.cache.stat(str(path))
    assert entry is not None
    return entry.validator


def versions(raw: Any, path: S3Path) -> int:
    answer = raw.list_object_versions(Bucket=path.bucket, Prefix=path.key)
    return len(answer.get("Versions", ())) + len(answer.get("DeleteMarkers", ()))


def test_the_version_that_was_read_is_the_one_recorded(raw: Any, path: S3Path) -> None:
    first = put(raw, path, b"first")
    assert path.read_bytes() == b"first"
    assert validator(path).version == first
    second = put(raw, path, b"other")
    assert path.read_bytes() == b"other"
    assert validator(path).version == second != first


def test_a_version_with_the_same_bytes_is_another_version_to_ranges_and_the_same_bytes_to_readers(
    raw: Any, path: S3Path
) -> None:
    put(raw, path, b"same")
    backend = path.client.backend(path.bucket)
    first = backend.head(path.key).validator
    assert path.read_bytes() == b"same"
    put(raw, path, b"same")
    with pytest.raises(VersionMismatchError):
        backend.read(path.key, 1, 3, expect=first)
    assert path.read_bytes() == b"same"


def test_a_delete_marker_is_absence(raw: Any, path: S3Path) -> None:
    put(raw, path, b"first")
    assert path.read_bytes() == b"first"
    raw.delete_object(Bucket=path.bucket, Key=path.key)
    with pytest.raises(CloudPathFileNotFoundError):
        path.read_bytes()
    assert not path.exists()
    assert path not in list(path.parent.iterdir())
    with path.open("xb") as file:
        file.write(b"again")
    assert path.read_bytes() == b"again"
    assert validator(path).version == raw.head_object(Bucket=path.bucket, Key=path.key)["VersionId"]


def test_unlink_leaves_a_marker_and_the_versions(raw: Any, path: S3Path) -> None:
    put(raw, path, b"first")
    path.read_bytes()
    path.unlink()
    assert not path.exists()
    assert path.client.cache.stat(str(path)) is None
    assert versions(raw, path) == 2


def test_a_write_is_refused_over_a_version_that_was_not_seen(raw: Any, path: S3Path) -> None:
    put(raw, path, b"first")
    file = path.open("wb")
    put(raw, path, b"theirs")
    file.write(b"mine")
    with pytest.raises(OverwriteNewerCloudError):
        file.close()
    path.drop()
    assert path.read_bytes() == b"theirs"
    path.write_bytes(b"mine")
    assert validator(path).version == raw.head_object(Bucket=path.bucket, Key=path.key)["VersionId"]


def test_a_version_id_in_a_uri_is_part_of_the_key(raw: Any, path: S3Path) -> None:
    first = put(raw, path, b"first")
    named = path.client.CloudPath(f"{path}?versionId={first}")
    with pytest.raises(CloudPathFileNotFoundError):
        named.read_bytes()
    put(raw, named, b"an object of that name")
    assert named.read_bytes() == b"an object of that name"
    assert path.read_bytes() == b"first"
