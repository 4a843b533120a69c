"""ETags, checksums, times and ranges of S3's answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore import Validator
from pathapi.backend import Checksum
from pathapi.backends.headers import format_etag, nanoseconds_of, parse_content_range, parse_etag, parse_range
from pathapi.backends.s3.connection import _parse_timestamp
from pathapi.backends.s3.responses import info_of
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError

opaque = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'), min_size=1)


@given(opaque, st.booleans())
def test_an_etag_survives_parsing_and_formatting(etag: str, weak: bool) -> None:
    quoted = f'{"W/" if weak else ""}"{etag}"'
    assert parse_etag(quoted) == (etag, weak)
    assert format_etag(Validator(size=0, etag=etag, weak=weak)) == quoted


@given(st.text())
def test_parsing_twice_changes_nothing_more(text: str) -> None:
    once, weak = parse_etag(f'"{text}"')
    assert (once or "") == text
    assert not weak


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (None, False)),
        ("", (None, False)),
        ('""', (None, False)),
        ('W/""', (None, False)),
        ('"', ('"', False)),
        ("bare", ("bare", False)),
        ('""twice""', ('"twice"', False)),
        ('w/"lower"', ('w/"lower"', False)),
    ],
)
def test_etags_out_of_the_ordinary(text: str | None, expected: tuple[str | None, bool]) -> None:
    assert parse_etag(text) == expected


MD5 = "5d41402abc4b2a76b9719d911017c592"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"ETag": f'"{MD5}"'}, [("etag-md5", MD5)]),
        ({"ETag": f'"{MD5.upper()}"'}, [("etag-md5", MD5)]),
        ({"ETag": f'"{MD5}-3"'}, []),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "AES256"}, [("etag-md5", MD5)]),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms"}, []),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms:dsse"}, []),
        ({"ETag": f'"{MD5}"', "SSECustomerAlgorithm": "AES256"}, []),
        ({"ChecksumSHA256": "qrs="}, [("sha256", "aabb")]),
        ({"ChecksumSHA256": "qrs=", "ChecksumType": "FULL_OBJECT"}, [("sha256", "aabb")]),
        ({"ChecksumSHA256": "qrs=", "ChecksumType": "COMPOSITE"}, []),
        ({"ChecksumSHA256": "qrs=-3"}, []),
        ({"ChecksumSHA256": "no base64!"}, []),
        ({"ChecksumCRC64NVME": "qrs=", "ChecksumCRC32C": "qrs="}, [("crc64nvme", "aabb"), ("crc32c", "aabb")]),
    ],
)
def test_only_checksums_of_the_whole_object_are_taken(answer: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert info_of("k", answer, 0).checksums == tuple(Checksum(kind, value) for kind, value in expected)


def test_a_checksum_beside_a_range_may_be_the_ranges() -> None:
    answer = {"ETag": f'"{MD5}"', "ChecksumSHA256": "qrs="}
    assert info_of("k", answer, 0, is_whole=False).checksums == (Checksum("etag-md5", MD5),)


def test_the_null_version_of_an_unversioned_bucket_is_none() -> None:
    assert info_of("k", {"VersionId": "null"}, 0).validator.version is None
    assert info_of("k", {"VersionId": "v1"}, 0).validator.version == "v1"


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001 (hypothesis wants them so)
def test_times_are_exact(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    nanoseconds = nanoseconds_of(moment)
    assert nanoseconds is not None
    assert nanoseconds % 1_000 == 0
    assert nanoseconds // 1_000 % 1_000_000 == moment.microsecond
    whole = moment.replace(microsecond=0)
    assert nanoseconds_of(whole) == int(whole.timestamp()) * 1_000_000_000
    assert _parse_timestamp(whole.strftime("%a, %d %b %Y %H:%M:%S GMT")) == whole
    assert _parse_timestamp(moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) == moment


def test_a_time_in_another_form_is_left_to_botocore() -> None:
    assert _parse_timestamp("Sun Nov  6 08:49:37 1994 GMT").year == 1994
    assert _parse_timestamp(0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_content_range_that_says_too_little_says_nothing() -> None:
    assert parse_content_range("bytes 2-4/10") == (2, 5, 10)
    for text in (None, "", "bytes 2-4/*", "bytes */10", "2-4/10", "bytes 2-4", f"bytes 2-4/{'9' * 5_000}"):
        assert parse_content_range(text) is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"ContentRange": "bytes 3-7/10", "ContentLength": 5}, CloudUnavailableError),
        ({"ContentRange": "bytes 2-9/10", "ContentLength": 8}, CloudUnavailableError),
        ({"ContentRange": "bytes 2-6/*", "ContentLength": 5}, CloudUnavailableError),
        ({"ContentLength": 5}, CloudUnavailableError),
        ({"ContentRange": "bytes 2-6/10", "ContentLength": 4}, TruncatedBodyError),
        ({"ContentRange": "bytes 2-6/10", "ContentLength": 6}, TruncatedBodyError),
    ],
)
def test_an_answer_to_another_range_is_refused(answer: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_range(206, answer.get("ContentRange"), answer["ContentLength"], 2, 7)
    assert parse_range(206, "bytes 2-6/10", 5, 2, 7) == (2, 7, 10)
