"""What HTTP says of an object, in our words: ETags, times, ranges, and how a key stands in a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

from casstore import Validator
from pathapi.backend import ObjectInfo
from pathapi.backends.headers import format_etag, parse_etag, range_of
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError

SECOND_NS: Final = 10**9
"""How fine HTTP tells times."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)")
_NO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SAFE: Final = "/?:@!$&'()*+,;=-._~%[]"


def target_of(key: str) -> str:
    """*key* as a request names it: what no URL may hold is escaped, escapes stay, the fragment is not sent."""
    text = _NO_ESCAPE.sub("%25", key.partition("#")[0])
    return "/" + quote(text, safe=_SAFE, errors="surrogatepass")


def parse_time(text: str | None) -> int | None:
    """A date of HTTP in nanoseconds since the epoch; None for what is none."""
    try:
        return None if text is None else int(parsedate_to_datetime(text).timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        return None


def format_time(mtime_ns: int) -> str:
    """The inverse of `parse_time`."""
    from email.utils import formatdate

    return formatdate(mtime_ns // SECOND_NS, usegmt=True)


def validator_of(headers: Mapping[str, str], size: int) -> Validator:
    """The version that a response is of.

    Without an ETag the time decides, unless the object could have changed again within the second in which it was
    seen, by the server's own clock; where the server tells no time of day, nobody knows that it could not.
    """
    etag, weak = parse_etag(headers.get("ETag"))
    modified = parse_time(headers.get("Last-Modified"))
    racy = False
    if etag is None and modified is not None:
        seen = parse_time(headers.get("Date"))
        racy = seen is None or modified >= seen - SECOND_NS
    return Validator(size, etag, weak, mtime_ns=modified, granule_ns=SECOND_NS, racy=racy)


def info_of(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """What a response says of an object of *size* bytes. Checksums that plain servers state count for nothing here."""
    return ObjectInfo(key, validator_of(headers, size), (), headers.get("Content-Type"))


def can_pin(validator: Validator) -> bool:
    """Whether requests can be tied to this version, so that pieces read one by one are pieces of one whole."""
    if validator.etag is not None:
        return not validator.weak
    return validator.mtime_ns is not None and not validator.racy


def conditions_to_read(expect: Validator | None, unless: Validator | None) -> dict[str, str]:
    """The headers of a conditional GET. A weak ETag is no ground for If-Match: it never matches there."""
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
    """Whether a 304 with these *headers* speaks of *unless*; None where it does not say.

    By times alone, servers answer 304 for anything older, too: an older version that was put back.
    """
    etag, _ = parse_etag(headers.get("ETag"))
    if unless.etag is not None:
        return etag is None or etag == unless.etag
    modified = parse_time(headers.get("Last-Modified"))
    return None if modified is None else modified == unless.mtime_ns


def length_of(headers: Mapping[str, str]) -> int | None:
    """Bytes that the body has, as announced; None where a response does not say."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and "Transfer-Encoding" not in headers else None


def size_if_unsatisfiable(headers: Mapping[str, str]) -> int | None:
    """The object's size as a 416 tells it."""
    found = _NO_RANGE.fullmatch(headers.get("Content-Range", ""))
    return None if found is None else int(found[1])


def placed(headers: Mapping[str, str], start: int, end: int | None) -> tuple[int, int, int]:
    """Where the body of a 206 lies in the object: start, end and the object's size.

    Raises CloudUnavailableError where that is not what was asked for or is not said.
    """
    text = headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise CloudUnavailableError(f"the server answered {range_of(start, end)} with {text!r}")
    first, last, size = (int(group) for group in found.groups())
    stop = last + 1
    if first != start or (end is not None and stop > end) or stop > size or stop <= first:
        raise CloudUnavailableError(f"the server answered {range_of(start, end)} with {text!r}")
    length = length_of(headers)
    if length is not None and length != stop - first:
        raise TruncatedBodyError(f"the server announced {length} bytes for {text!r}")
    return first, stop, size
