"""From the responses of Azure to `ObjectInfo`: ETags, checksums, times; and the parts of a batch's response."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from casstore import Validator
from pathapi.backend import Checksum, ObjectInfo
from pathapi.backends.headers import nanoseconds_of, parse_date, parse_etag

_FOLDER: Final = "hdi_isfolder"
"""Metadata of the empty blobs that are directories in an account with a hierarchical namespace."""


def info_of_headers(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Return what the headers of a Get Blob say of the whole object."""
    # Content-MD5 may be the range's.
    stated = headers.get("x-ms-blob-content-md5")
    if stated is None and "content-range" not in headers:
        stated = headers.get("content-md5")
    modified = headers.get("last-modified")
    return _info(
        key,
        size,
        headers.get("etag"),
        parse_date(modified) if modified else None,
        stated,
        headers.get("x-ms-blob-type"),
        headers.get("content-type"),
    )


def info_of_properties(key: str, properties: Any) -> ObjectInfo:
    """Return what the SDK's `BlobProperties` say, of a HEAD or of one item of a listing."""
    settings = properties.content_settings
    return _info(
        key,
        int(properties.size),
        properties.etag,
        properties.last_modified,
        settings.content_md5,
        getattr(properties.blob_type, "value", properties.blob_type),
        settings.content_type,
    )


def info_of_result(
    key: str, size: int, result: Mapping[str, Any], md5: bytes | None, content_type: str | None
) -> ObjectInfo:
    """Return what the response to an upload or a copy says of the new object."""
    return _info(key, size, result["etag"], result.get("last_modified"), md5, "BlockBlob", content_type)


def _info(
    key: str,
    size: int,
    etag: str | None,
    modified: datetime | None,
    md5: str | bytes | None,
    blob_type: str | None,
    content_type: str | None,
) -> ObjectInfo:
    mtime_ns = None if modified is None else nanoseconds_of(modified)
    return ObjectInfo(
        key, Validator(size, parse_etag(etag)[0], mtime_ns=mtime_ns), _checksums(md5, blob_type), content_type
    )


def _checksums(md5: str | bytes | None, blob_type: str | None) -> tuple[Checksum, ...]:
    # Appending to an append or page blob does not update its MD5.
    if not md5 or blob_type != "BlockBlob":
        return ()
    with contextlib.suppress(binascii.Error):
        digest = base64.b64decode(md5, validate=True) if isinstance(md5, str) else bytes(md5)
        if len(digest) == 16:
            return (Checksum("md5", digest.hex()),)
    return ()


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """One part of a batch's response, about the request *number*; -1 if it is about the whole batch."""

    number: int
    status: int
    code: str


def answers_of_batch(response: Any) -> list[BatchAnswer]:
    """Return the parts of a batch's response in their order; none if it is no such response."""
    boundary = _BOUNDARY.search(response.content_type or "")
    found = []
    for part in response.body().split(b"--" + boundary[1].encode()) if boundary is not None else ():
        number, status, code = (pattern.search(part) for pattern in (_CONTENT_ID, _STATUS, _ERROR_CODE))
        if status is not None:
            shown = "" if code is None else code[1].decode("ascii", "replace")
            found.append(BatchAnswer(-1 if number is None else int(number[1]), int(status[1]), shown))
    return found


_BOUNDARY: Final = re.compile(r'multipart/mixed;.*boundary="?([^";]+)', re.IGNORECASE)
_CONTENT_ID: Final = re.compile(rb"^content-id:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_STATUS: Final = re.compile(rb"^HTTP/[\d.]+ (\d{3})", re.MULTILINE)
_ERROR_CODE: Final = re.compile(rb"^x-ms-error-code:\s*(\w+)", re.IGNORECASE | re.MULTILINE)


def is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Return whether metadata, or the headers of a response, belong to a directory and not to an object."""
    if not metadata:
        return False
    flag = metadata.get(_FOLDER) or metadata.get(_FOLDER.capitalize()) or metadata.get(f"x-ms-meta-{_FOLDER}")
    return flag is not None and flag.lower() == "true"
