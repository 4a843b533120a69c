"""From the responses of S3 to `ObjectInfo`: ETags, checksums, times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from casstore import Validator
from pathapi.backend import Checksum, ObjectInfo
from pathapi.backends.headers import nanoseconds_of, parse_checksum, parse_etag

_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")
_STATED: Final = (
    ("ChecksumSHA256", "sha256"),
    ("ChecksumSHA1", "sha1"),
    ("ChecksumCRC64NVME", "crc64nvme"),
    ("ChecksumCRC32C", "crc32c"),
)


def info_of(key: str, answer: Mapping[str, Any], size: int, *, is_whole: bool = True) -> ObjectInfo:
    """Return what a response, or one item of a listing, says of the object.

    In the response to a range (not *is_whole*) a checksum may be the range's, and is ignored.
    """
    etag, weak = parse_etag(answer.get("ETag"))
    version = answer.get("VersionId")
    modified = answer.get("LastModified")
    validator = Validator(
        size=size,
        etag=etag,
        weak=weak,
        version=None if version == "null" else version,
        mtime_ns=None if modified is None else nanoseconds_of(modified),
    )
    return ObjectInfo(key, validator, _checksums_of(answer, etag, is_whole=is_whole), answer.get("ContentType"))


def _checksums_of(answer: Mapping[str, Any], etag: str | None, *, is_whole: bool) -> tuple[Checksum, ...]:
    found: list[Checksum] = []
    if is_whole and answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        # "value-3" is a checksum over the checksums of three parts.
        stated = (parse_checksum(kind, answer.get(name)) for name, kind in _STATED if "-" not in answer.get(name, ""))
        found += filter(None, stated)
    # Under KMS or a customer's key the ETag looks like an MD5 and is not one.
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    if etag is not None and not encrypted and _MD5.fullmatch(etag):
        found.append(Checksum("etag-md5", etag.lower()))
    return tuple(found)


def is_empty_object(error: BaseException) -> bool:
    """Return whether a 416 says that the object is empty: in its Content-Range, or as Amazon does in its body."""
    answer = getattr(error, "response", {})
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    stated = (headers.get("content-range"), answer.get("Error", {}).get("ActualObjectSize"))
    return bool(stated[0] == "bytes */0" or stated[1] == "0")
