"""From the responses of HTTP servers to `ObjectInfo`: ETags, times, ranges; and the conditions of requests."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

from casstore import Validator
from pathapi.backend import ObjectInfo
from pathapi.backends.bodies import Translate
from pathapi.backends.error_table import translating
from pathapi.backends.headers import format_etag, nanoseconds_of, parse_etag, parse_length

SECOND_NS: Final = 10**9
"""The resolution of HTTP's times."""
IN_MEMORY: Final = 8 << 20
"""Bytes of a body of unknown length that are kept in memory; a longer one is written to a temporary file."""
MOST_SPOOLED: Final = 16 << 30
"""Bytes of the longest body of unknown length that is read."""

MOST_FOR_SIZE: Final = 32 << 20
"""Bytes of a body of unknown length that are read only to find its size."""

_PIECE: Final = 1 << 20
_NO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SAFE: Final = "/?:@!$&'()*+,;=-._~%[]"


def target_of(key: str) -> str:
    """Return *key* as the target of a request: escaped as URLs require, without the fragment; escapes are kept."""
    text = _NO_ESCAPE.sub("%25", key.partition("#")[0])
    return "/" + quote(text, safe=_SAFE, errors="surrogatepass")


def parse_time(text: str | None) -> int | None:
    """Parse a date of HTTP to nanoseconds since the epoch; None for anything else."""
    try:
        moment = None if text is None else parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return None if moment is None else nanoseconds_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def format_time(mtime_ns: int) -> str:
    """Return the date as HTTP writes it: the inverse of `parse_time`."""
    from email.utils import formatdate

    return formatdate(mtime_ns // SECOND_NS, usegmt=True)


def validator_of(headers: Mapping[str, str], size: int) -> Validator:
    """Return the version of a response.

    Without an ETag the time identifies it, unless the object could have changed again within the same second, by the
    server's own clock. Without a ``Date`` it could.
    """
    etag, weak = parse_etag(headers.get("ETag"))
    modified = parse_time(headers.get("Last-Modified"))
    racy = False
    if etag is None and modified is not None:
        seen = parse_time(headers.get("Date"))
        racy = seen is None or modified >= seen - SECOND_NS
    return Validator(size, etag, weak, mtime_ns=modified, granule_ns=SECOND_NS, racy=racy)


def info_of(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Return what a response says of an object of *size* bytes. Checksums of plain servers are ignored."""
    return ObjectInfo(key, validator_of(headers, size), (), headers.get("Content-Type"))


def can_pin(validator: Validator) -> bool:
    """Return whether a condition can name this version, so that ranges read one by one belong together."""
    if validator.etag is not None:
        return not validator.weak
    return validator.mtime_ns is not None and not validator.racy


def conditions_to_read(expect: Validator | None, unless: Validator | None) -> dict[str, str]:
    """Return the headers of a conditional GET. If-Match never matches a weak ETag, so that is left out."""
    headers = {}
    if expect is not None and can_pin(expect):
        if (etag := format_etag(expect)) is not None:
            headers["If-Match"] = etag
        elif expect.mtime_ns is not None:
            headers["If-Unmodified-Since"] = format_time(expect.mtime_ns)
    if unless is not None:
        if (etag := format_etag(unless)) is not None:
            headers["If-None-Match"] = etag
        elif unless.mtime_ns is not None and not unless.racy:
            headers["If-Modified-Since"] = format_time(unless.mtime_ns)
    return headers


def confirms(headers: Mapping[str, str], unless: Validator) -> bool | None:
    """Return whether a 304 with these *headers* is about *unless*; None if it does not say.

    If only times are compared, servers also answer 304 for an older version that was put back.
    """
    etag, _ = parse_etag(headers.get("ETag"))
    if unless.etag is not None:
        return etag is None or etag == unless.etag
    modified = parse_time(headers.get("Last-Modified"))
    return None if modified is None else modified == unless.mtime_ns


def length_of(headers: Mapping[str, str]) -> int | None:
    """Return the announced bytes of the body; None if the response does not say."""
    return None if "Transfer-Encoding" in headers else parse_length(headers.get("Content-Length"))


def most_spooled() -> int:
    """Return how many bytes of a body of unknown length may be read now: half of the temporary directory's space."""
    try:
        space = os.statvfs(tempfile.gettempdir())
    except OSError:
        return IN_MEMORY  # no such directory can be used
    return min(MOST_SPOOLED, max(space.f_bavail * space.f_frsize // 2, IN_MEMORY))


def spool(stream: Any, translate: Translate, most: int) -> tuple[Any, int] | None:
    """Read all of *stream* into memory or a temporary file; return that and its length, None if it is over *most*.

    *translate* applies to errors of the stream; those of the temporary file are raised unchanged.
    """
    spooled = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (its reader closes it)
    size = 0
    try:
        while True:
            with translating(translate):
                data = stream.read(_PIECE)
            if not data:
                break
            size += len(data)
            if size > most:
                spooled.close()
                return None
            spooled.write(data)
        spooled.seek(0)
    except BaseException:
        spooled.close()
        raise
    return spooled, size
