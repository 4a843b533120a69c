"""Bodies and ranges, whatever a server or an SDK lets through."""

from __future__ import annotations

import io
from typing import Any

import pytest

from casstore import Validator, new_hasher
from pathapi.backend import ObjectInfo
from pathapi.backends.bodies import BodyChecksum, RangedBody, ReadRequest, ranged_body
from pathapi.backends.headers import Span, parse_range
from pathapi.exceptions import ChecksumMismatchError, CloudUnavailableError, TruncatedBodyError


def _body(data: bytes, length: int, **options: Any) -> RangedBody:
    return RangedBody(
        ObjectInfo("k", Validator(length)), length, io.BytesIO(data), lambda error: error, "s3://b/k", **options
    )


def _drain(body: RangedBody) -> bytes:
    found, buffer = b"", memoryview(bytearray(2))
    while count := body.readinto(buffer):
        found += buffer[:count]
    return found


def test_a_body_of_its_length_is_read() -> None:
    assert _drain(_body(b"01234", 5)) == b"01234"
    assert _drain(_body(b"xx01234", 5, skip=2)) == b"01234"
    assert _drain(_body(b"0123456", 5, is_cut=True)) == b"01234"


@pytest.mark.parametrize(("data", "skip"), [(b"0123", 0), (b"", 0), (b"012345", 2), (b"0", 2), (b"012345", 0)])
def test_a_body_of_another_length_is_refused(data: bytes, skip: int) -> None:
    with pytest.raises(TruncatedBodyError):
        _drain(_body(data, 5, skip=skip))


def test_a_body_with_another_checksum_is_refused_before_its_last_bytes() -> None:
    checksum = BodyChecksum("MD5", new_hasher("md5").digest().hex(), new_hasher("md5"))
    body, buffer = _body(b"0123", 4, checksum=checksum), memoryview(bytearray(2))
    assert body.readinto(buffer) == 2
    with pytest.raises(ChecksumMismatchError):
        body.readinto(buffer)


@pytest.mark.parametrize(
    ("status", "content_range", "length"),
    [
        (206, "bytes 4-8/20", 5),  # another start
        (206, "bytes 5-10/20", 6),  # beyond the end
        (206, "bytes 6-4/20", 0),
        (206, None, 5),
        (206, "bytes */20", 5),
        (200, None, None),  # a body that may be cut unnoticed
    ],
)
def test_a_response_to_another_range_is_refused(status: int, content_range: str | None, length: int | None) -> None:
    assert parse_range(206, "bytes 5-9/20", 5, 5, 10) == (5, 10, 20)
    with pytest.raises(CloudUnavailableError):
        parse_range(status, content_range, length, 5, 10)


def test_a_length_that_does_not_fit_the_range_is_refused() -> None:
    with pytest.raises(TruncatedBodyError):
        parse_range(206, "bytes 5-9/20", 4, 5, 10)


@pytest.mark.parametrize(("start", "end", "span"), [(0, 10, (0, 9, 20)), (5, None, (5, 19, 20)), (0, None, (0, 5, 20))])
def test_a_response_that_ends_before_the_range_is_refused(start: int, end: int | None, span: Span) -> None:
    asked = ReadRequest("k", start, end, None, None, "s3://b/k", lambda error: error)
    stream = io.BytesIO(bytes(span[1] - span[0]))
    with pytest.raises(TruncatedBodyError):
        ranged_body(asked, stream, lambda: span, lambda size, _: ObjectInfo("k", Validator(size)))
    assert stream.closed
