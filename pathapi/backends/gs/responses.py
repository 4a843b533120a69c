"""From the responses of Google Cloud Storage to `ObjectInfo`: generations, checksums, times, ranges."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from casstore import Validator
from pathapi.backend import ObjectInfo
from pathapi.backends.bodies import BodyChecksum, md5_checksum
from pathapi.backends.headers import Span, nanoseconds_of, parse_checksum, parse_date, parse_etag, parse_range
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError

FIELDS: Final = "name,generation,size,etag,updated,md5Hash,crc32c,contentType"
"""The parts of an object's metadata that are requested."""


def info_of(key: str, resource: Mapping[str, Any]) -> ObjectInfo:
    """Return what an object's metadata say."""
    updated = None
    with contextlib.suppress(ValueError):
        updated = datetime.fromisoformat(resource.get("updated") or "")
    return _info(key, resource, updated)


def info_of_media(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Return what the headers of a body's response say of the whole object, of *size* bytes."""
    hashes = dict(part.strip().partition("=")[::2] for part in headers.get("x-goog-hash", "").split(","))
    resource = {
        "size": size,
        "etag": headers.get("etag"),
        "generation": headers.get("x-goog-generation"),
        "md5Hash": hashes.get("md5"),
        "crc32c": hashes.get("crc32c"),
        "contentType": headers.get("content-type"),
    }
    return _info(key, resource, parse_date(headers.get("last-modified", "")))


def _info(key: str, resource: Mapping[str, Any], modified: datetime | None) -> ObjectInfo:
    generation = resource.get("generation")
    validator = Validator(
        size=int(resource.get("size", 0)),
        etag=parse_etag(resource.get("etag"))[0],
        version=str(generation) if generation else None,
        mtime_ns=None if modified is None else nanoseconds_of(modified),
    )
    # A composed object has no MD5.
    checksums = (parse_checksum("md5", resource.get("md5Hash")), parse_checksum("crc32c", resource.get("crc32c")))
    return ObjectInfo(key, validator, tuple(filter(None, checksums)), resource.get("contentType"))


def is_empty_object(headers: Mapping[str, str]) -> bool:
    """Return whether a 416 says that the object is empty: in its Content-Range, or by the MD5 of no bytes."""
    return headers.get("content-range") == "bytes */0" or "md5=1B2M2Y8AsgTpgAmY7PhCfg==" in headers.get(
        "x-goog-hash", ""
    )


def span_of(headers: Mapping[str, str], status: int, start: int, end: int | None) -> Span:
    """Return `parse_range` of a response, in stored bytes.

    Raises:
        CloudUnavailableError: also if the server decompressed what is stored compressed. Then neither size nor checksum
            match.
    """
    announced = headers.get("content-length")
    stored = headers.get("x-goog-stored-content-length")
    encoding = headers.get("x-goog-stored-content-encoding", "identity")
    if headers.get("content-encoding", "identity") != encoding and encoding == "gzip":
        raise CloudUnavailableError("the server decompressed an object that is stored as gzip")
    if status != 206 and announced is not None and stored not in (None, announced):
        raise TruncatedBodyError(f"the server announced {announced} bytes of an object of {stored}")
    return parse_range(
        status, headers.get("content-range"), announced if status == 206 else announced or stored, start, end
    )


def checksum_of(info: ObjectInfo) -> BodyChecksum | None:
    """Return the checksum to verify a body with: CRC32C if that is fast, else MD5; None if neither is stated."""
    crc32c = next((checksum.value for checksum in info.checksums if checksum.kind == "crc32c"), None)
    if crc32c is not None and has_fast_crc32c():
        from google_crc32c import Checksum

        return BodyChecksum("CRC32C", crc32c, Checksum())
    return md5_checksum(info)


def has_fast_crc32c() -> bool:
    """Return whether CRC32C is computed by C code, not by a loop in Python."""
    import google_crc32c

    return str(google_crc32c.implementation) == "c"
