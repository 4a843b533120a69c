"""From the responses of Azure to `ObjectInfo`: ETags, checksums, times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from casstore import Validator
from pathapi.backend import Checksum, ObjectInfo
from pathapi.backends.headers import nanoseconds_of, parse_checksum, parse_date, parse_etag

FOLDER: Final = "hdi_isfolder"
"""Metadata of the empty blobs that are directories in an account with a hierarchical namespace."""
_ERROR_CODE: Final = re.compile(rb"^x-ms-error-code:\s*(\w+)", re.IGNORECASE | re.MULTILINE)


def info_of_headers(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Return what the headers of a Get Blob say of the whole object."""
    # Content-MD5 may be the range's.
    md5 = headers.get("x-ms-blob-content-md5")
    if md5 is None and "content-range" not in headers:
        md5 = headers.get("content-md5")
    modified = parse_date(headers.get("last-modified", ""))
    is_block = headers.get("x-ms-blob-type") == "BlockBlob"
    return _info(key, size, headers.get("etag"), modified, md5 if is_block else None, headers.get("content-type"))


def info_of_properties(key: str, properties: Any) -> ObjectInfo:
    """Return what the SDK's `BlobProperties` say, of a HEAD or of one item of a listing."""
    stated, size, modified = properties.content_settings, int(properties.size), properties.last_modified
    is_block = getattr(properties.blob_type, "value", properties.blob_type) == "BlockBlob"
    md5 = stated.content_md5 if is_block else None
    return _info(key, size, properties.etag, modified, md5, stated.content_type)


def info_of_result(
    key: str, size: int, result: Mapping[str, Any], md5: bytes | None, content_type: str | None
) -> ObjectInfo:
    """Return what the response to an upload or a copy says of the new object."""
    return _info(key, size, result["etag"], result.get("last_modified"), md5, content_type)


def _info(
    key: str, size: int, etag: str | None, modified: datetime | None, md5: str | bytes | None, content_type: str | None
) -> ObjectInfo:
    """*md5* is a block blob's: appending to an append or page blob does not update it."""
    mtime_ns = None if modified is None else nanoseconds_of(modified)
    checksum = parse_checksum("md5", md5) if isinstance(md5, str) else Checksum("md5", bytes(md5 or b"").hex())
    checksums = () if checksum is None or len(checksum.value) != 32 else (checksum,)
    return ObjectInfo(key, Validator(size, parse_etag(etag)[0], mtime_ns=mtime_ns), checksums, content_type)


def error_code_of(answer: bytes) -> str:
    """Return the error code in one answer of a batch's response."""
    code = _ERROR_CODE.search(answer)
    return "" if code is None else code[1].decode("ascii", "replace")


def is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Return whether metadata, or the headers of a response, belong to a directory and not to an object."""
    if not metadata:
        return False
    flag = metadata.get(FOLDER) or metadata.get(FOLDER.capitalize()) or metadata.get(f"x-ms-meta-{FOLDER}")
    return flag is not None and flag.lower() == "true"
