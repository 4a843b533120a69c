"""What every server writes alike: ETags, dates, ranges, and the answers to many requests in one."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from casstore import Validator
from pathapi.backend import Checksum
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = (1 << 63) - 1
"""The last time that an entry can have, in 2262."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18}|-1)/(\d{1,18})")
"""Azurite answers ``bytes=0-`` of an empty object with ``bytes 0--1/0``, where Azure answers 416."""

_BOUNDARY: Final = re.compile(r'multipart/mixed;.*boundary="?([^";]+)', re.IGNORECASE)
_CONTENT_ID: Final = re.compile(rb"^content-id:\s*(?:<response-)?(\d+)", re.IGNORECASE | re.MULTILINE)
_STATUS: Final = re.compile(rb"^HTTP/[\d.]+ (\d{3})", re.MULTILINE)

Span = tuple[int, int, int]
"""Start and end of some bytes in their object, and the object's size."""


def parse_etag(text: str | None) -> tuple[str | None, bool]:
    """Return an ETag without quotes and weak prefix (None if it is empty), and whether it had that prefix."""
    if text is None:
        return None, False
    weak = text.startswith("W/")
    bare = text[2:] if weak else text
    if len(bare) >= 2 and bare[0] == bare[-1] == '"':
        bare = bare[1:-1]
    return bare or None, weak and bool(bare)


def format_etag(validator: Validator) -> str | None:
    """Return the ETag as a condition needs it: the inverse of `parse_etag`."""
    if validator.etag is None:
        return None
    return f'{"W/" if validator.weak else ""}"{validator.etag}"'


def parse_checksum(kind: str, text: str | None) -> Checksum | None:
    """Parse a checksum in base64; None for anything else."""
    with contextlib.suppress(binascii.Error):
        return Checksum(kind, base64.b64decode(text, validate=True).hex()) if text else None
    return None


def range_of(start: int, end: int | None) -> str | None:
    """Return the ``Range`` header of ``[start, end)``; None for the whole object."""
    if end is None:
        return f"bytes={start}-" if start else None
    return f"bytes={start}-{end - 1}"


def parse_length(text: int | str | None) -> int | None:
    """Parse a number of bytes; None for anything else, and for one that no object has."""
    text = str(text)
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def parse_content_range(text: str | None) -> Span | None:
    """Parse ``bytes a-b/size``; None for anything less."""
    found = _CONTENT_RANGE.fullmatch(text or "")
    return None if found is None else (int(found[1]), int(found[2]) + 1, int(found[3]))


def parse_range(
    status: int, content_range: str | None, content_length: int | str | None, start: int, end: int | None
) -> Span:
    """Return which bytes of the object a response to a GET of ``[start, end)`` carries.

    Raises:
        CloudUnavailableError: the response is for another range, or does not say for which.
        TruncatedBodyError: the announced length is not that of the range.
    """
    length = parse_length(content_length)
    if status != 206:
        if length is None:
            raise CloudUnavailableError("the response has no Content-Length, so a cut-off body cannot be detected")
        return 0, length, length
    span = parse_content_range(content_range)
    if span is None or span[0] != start or not start <= span[1] <= (span[2] if end is None else min(end, span[2])):
        raise CloudUnavailableError(f"the server answered {range_of(start, end)} with {content_range!r}")
    if length is not None and length != span[1] - span[0]:
        raise TruncatedBodyError(f"the server announced {length} bytes for {content_range!r}")
    return span


def parse_date(text: str) -> datetime | None:
    """Parse a ``Last-Modified`` in the form that every cloud uses; None for anything else."""
    with contextlib.suppress(ValueError):
        return datetime(
            int(text[12:16]),
            _MONTHS.index(text[8:11]) + 1,
            int(text[5:7]),
            int(text[17:19]),
            int(text[20:22]),
            int(text[23:25]),
            tzinfo=UTC,
        )
    return None


def nanoseconds_of(moment: datetime) -> int | None:
    """Return nanoseconds since the epoch, exactly (`datetime.timestamp` rounds); None beyond those that are stored."""
    since = moment - _EPOCH
    found = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
    return found if abs(found) <= _LATEST else None


def parse_batch(content_type: str | None, body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield each answer in a response to many requests: the request's number, the status, and all of its text.

    The number is -1 if the answer has none; then it may be about the whole batch.
    """
    boundary = _BOUNDARY.search(content_type or "")
    for part in () if boundary is None else body.split(b"--" + boundary[1].encode()):
        number, status = _CONTENT_ID.search(part), _STATUS.search(part)
        if status is not None:
            yield -1 if number is None else int(number[1]), int(status[1]), part
