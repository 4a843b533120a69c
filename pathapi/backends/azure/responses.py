"""What Azure's answers say of an object, in our words: ETags, checksums, times, ranges; and the body of a Get Blob."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from casstore import Validator, new_hasher
from pathapi.backend import Checksum, Nothing, ObjectInfo
from pathapi.backends.headers import nanoseconds_of, parse_date
from pathapi.exceptions import ChecksumMismatchError, CloudUnavailableError, TruncatedBodyError

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+|-1)/(\d+)")
"""Azurite answers ``bytes=0-`` of an empty object with ``bytes 0--1/0``, where Azure answers 416."""
_FOLDER: Final = "hdi_isfolder"
"""Metadata of the empty blobs that stand for directories where an account has a hierarchical namespace."""
_PIECE: Final = 1 << 20


def parse_etag(text: str | None) -> str | None:
    """An ETag without its quotes, which listings leave out already. Azure's are never weak."""
    return text.strip('"') or None if text else None


def format_etag(validator: Validator) -> str | None:
    """The inverse of `parse_etag`, for a condition."""
    return None if validator.etag is None else f'"{validator.etag}"'


def info_of_headers(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """What the head of a Get Blob says of the whole object."""
    # A range's own MD5 would stand in Content-MD5.
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
    """What the SDK's `BlobProperties` say, of a HEAD or of one item of a listing."""
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
    """What the answer to an upload or a copy says of the object that was made."""
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
        key, Validator(size, parse_etag(etag), mtime_ns=mtime_ns), _checksums(md5, blob_type), content_type
    )


def _checksums(md5: str | bytes | None, blob_type: str | None) -> tuple[Checksum, ...]:
    # Of an append or page blob it is what somebody once said; appending does not change it.
    if not md5 or blob_type != "BlockBlob":
        return ()
    with contextlib.suppress(binascii.Error):
        digest = base64.b64decode(md5, validate=True) if isinstance(md5, str) else bytes(md5)
        if len(digest) == 16:
            return (Checksum("md5", digest.hex()),)
    return ()


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What one part of an answer to a batch says of the request with that *number*; -1 where it names none, and speaks
    of the whole.
    """

    number: int
    status: int
    code: str


def answers_of_batch(response: Any) -> list[BatchAnswer]:
    """Those in the answer to a batch, in the order in which they came; none where it is no such answer."""
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
    """Whether metadata, or the head of an answer, is of a directory and not of an object."""
    if not metadata:
        return False
    said = metadata.get(_FOLDER) or metadata.get(_FOLDER.capitalize()) or metadata.get(f"x-ms-meta-{_FOLDER}")
    return said is not None and said.lower() == "true"


def placed(headers: Mapping[str, str], status: int, start: int, end: int | None) -> tuple[int, int, int]:
    """Where the body of a Get Blob lies in the object: start, end and the object's size.

    Raises CloudUnavailableError where the server answered another range than asked, or does not say which.
    """
    length = headers.get("content-length")
    if status != 206:
        if length is None:
            raise CloudUnavailableError("the server does not say how long the object is; it cannot be read safely")
        return 0, int(length), int(length)
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range") or "")
    first, stop, size = (int(found[1]), int(found[2]) + 1, int(found[3])) if found else (-1, 0, 0)
    if first != start or (end is not None and stop > end) or stop > size:
        said = headers.get("content-range")
        raise CloudUnavailableError(f"the server answered the range from {start} to {end} with {said!r}")
    if length is not None and int(length) != stop - first:
        raise TruncatedBodyError(f"the server announced {length} bytes for {headers.get('content-range')!r}")
    return first, stop, size


class AzureBody:
    """The bytes of one Get Blob; see `pathapi.backend.Body`.

    *skip* bytes are thrown away first, and reading stops after *length* (*is_cut*: there are more): for a server that
    answers a range with the whole object. The end is looked at before the last bytes are handed out, so that whoever
    stops at *length* has seen that there is no more and, where the body is the whole object, that its MD5 holds.
    """

    __slots__ = ("_hasher", "_is_cut", "_left", "_md5", "_raise", "_response", "_skip", "_uri", "info", "length")

    info: ObjectInfo
    length: int | None

    def __init__(
        self,
        response: Any,
        info: ObjectInfo,
        length: int,
        on_error: Callable[[Exception], Exception],
        *,
        uri: str,
        skip: int = 0,
        is_cut: bool = False,
    ) -> None:
        self.info = info
        self.length = length
        self._response = response
        self._left = length
        self._raise = on_error
        self._uri = uri
        self._skip = skip
        self._is_cut = is_cut
        is_whole = length == info.size and not skip
        self._md5 = next((one.value for one in info.checksums if one.kind == "md5"), None) if is_whole else None
        self._hasher = None if self._md5 is None else new_hasher("md5")

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._readinto(buffer)
        except Exception as error:
            self._refuse(error)
            raise AssertionError("unreachable") from error

    def read(self) -> bytes:
        data = bytearray(self._left)
        filled, view = 0, memoryview(data)
        try:
            while filled < len(data) and (count := self._readinto(view[filled:])):
                filled += count
            if not data:
                self._require_end()
        except Exception as error:
            self._refuse(error)
            raise AssertionError("unreachable") from error
        return bytes(data)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._response.close()

    def _readinto(self, buffer: memoryview) -> int:
        stream = self._response.raw
        while self._skip:
            thrown = len(stream.read(min(self._skip, _PIECE)))
            if not thrown:
                raise TruncatedBodyError(f"{self._uri} ended before the range that was asked for")
            self._skip -= thrown
        if not self._left:
            self._require_end()
            return 0
        count = int(stream.readinto(buffer[: self._left]))
        if not count and len(buffer):
            raise TruncatedBodyError(f"{self._uri} ended {self._left} bytes early")
        self._left -= count
        if self._hasher is not None:
            self._hasher.update(buffer[:count])
        if not self._left:
            self._require_end()
        return count

    def _require_end(self) -> None:
        if not self._is_cut and self._response.raw.read(1):
            raise TruncatedBodyError(f"{self._uri} is longer than announced")
        if self._hasher is not None and self._hasher.digest().hex() != self._md5:
            raise ChecksumMismatchError(f"the bytes received of {self._uri} do not have the MD5 that the server states")

    def _refuse(self, error: Exception) -> None:
        self.close()
        meant = self._raise(error)
        if meant is error:
            raise error
        raise meant from error


class NoAnswer(Nothing):
    """The response of a body that holds nothing."""

    def __init__(self) -> None:
        self.raw = self
