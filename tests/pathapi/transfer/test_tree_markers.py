"""Empty objects that mark "directories", in trees that are copied inside a bucket."""

from __future__ import annotations

import pytest

from casstore import Validator
from pathapi import Progress, S3Client, S3Path
from pathapi.exceptions import CloudPathPermissionError
from tests.harness.faults import Answer, Fault, Reset
from tests.harness.proxy import Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.traffic import kinds_of


@pytest.fixture
def source(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    """Two markers and a file."""
    for key, data in (("from/", b""), ("from/empty/", b""), ("from/full/x", b"x")):
        ground.plant(at + key, data)
    return client.S3Path(f"s3://{ground.bucket}/{at}from/")


def version_of(path: S3Path, ground: S3RawBucket, key: str, plant: bytes | None = None) -> Validator:
    """What is at *key*, once *plant* is; SeaweedFS keeps the bytes of such an object and does not give them back."""
    if plant is not None:
        ground.plant(key, plant)
    return path.client.backend(ground.bucket).head(key).validator


@pytest.mark.usefixtures("md5_believed")
def test_a_marker_is_one_request_whether_there_is_one_or_not(
    source: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    target = source.client.CloudPath(f"s3://{ground.bucket}/{at}to/")
    source.copytree(target)
    assert kinds_of(proxy) == {"LIST": 1, "PUT": 2, "COPY": 1}
    assert (ground.content(at + "to/"), ground.content(at + "to/empty/")) == (b"", b"")
    theirs = version_of(source, ground, at + "to/empty/", b"has bytes")
    proxy.reset()
    told: list[Progress] = []
    source.copytree(target, progress=told.append)
    assert kinds_of(proxy) == {"LIST": 2, "PUT": 2, "COPY": 1, "HEAD": 1}, "the file's: it was not the first"
    assert (told[-1].files, told[-1].held) == (3, 3)
    assert theirs == version_of(source, ground, at + "to/empty/")


def test_a_marker_is_made_under_the_conditions_of_other_writes(
    make_client: MakeClient, source: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", match=lambda seen: bool(seen.if_none_match), times=None))
    marks = source.client.CloudPath(f"s3://{ground.bucket}/{at}from/empty/")
    with pytest.warns(UserWarning, match="conditionally"):
        marks.copytree(f"s3://{ground.bucket}/{at}to/")
    assert ground.content(at + "to/") == b""
    theirs = version_of(source, ground, at + "there/", b"has bytes")
    marks.copytree(f"s3://{ground.bucket}/{at}there/")
    assert theirs == version_of(source, ground, at + "there/"), "a HEAD just before is the best there is"
    strict = make_client(conditional_writes="require").S3Path(str(marks))
    with pytest.raises(CloudPathPermissionError):
        strict.copytree(f"s3://{ground.bucket}/{at}strict/")
    assert ground.content(at + "strict/") is None


def test_a_marker_whose_answer_was_lost_has_arrived(source: S3Path, ground: S3RawBucket, at: str, proxy: Proxy) -> None:
    proxy.add(Fault(Reset(after=None), kind="PUT", key=at + "to/empty/", times=None))
    source.copytree(f"s3://{ground.bucket}/{at}to/")
    assert ground.content(at + "to/empty/") == b""
