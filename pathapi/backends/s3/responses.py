"""What S3's answers say of an object, in our words: ETags, checksums, times, ranges; and the body of a GET."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from casstore import Validator
from pathapi.backend import Checksum, ObjectInfo
from pathapi.backends.headers import nanoseconds_of, parse_etag, range_of
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError

_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_STATED: Final = (
    ("ChecksumSHA256", "sha256"),
    ("ChecksumSHA1", "sha1"),
    ("ChecksumCRC64NVME", "crc64nvme"),
    ("ChecksumCRC32C", "crc32c"),
)


def info_of(key: str, answer: Mapping[str, Any], size: int, *, is_whole: bool = True) -> ObjectInfo:
    """What a response, or one item of a listing, says of the object.

    Where the answer is to a range (*is_whole* false) a stated checksum may be the range's, and is left out.
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


def parse_content_range(text: str | None) -> tuple[int, int, int] | None:
    """``bytes a-b/size`` as start, end (exclusive) and size; None where it says anything less."""
    found = _CONTENT_RANGE.fullmatch(text or "")
    if found is None:
        return None
    first, last, size = (int(group) for group in found.groups())
    return first, last + 1, size


def _checksums_of(answer: Mapping[str, Any], etag: str | None, *, is_whole: bool) -> tuple[Checksum, ...]:
    found = []
    if is_whole and answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        for name, kind in _STATED:
            # "value-3" is a checksum of the checksums of three parts.
            if (value := answer.get(name)) and "-" not in value:
                with contextlib.suppress(binascii.Error):
                    found.append(Checksum(kind, base64.b64decode(value, validate=True).hex()))
    # Under KMS or a customer's key the ETag has the form of an MD5 and is none.
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    if etag is not None and not encrypted and _MD5.fullmatch(etag):
        found.append(Checksum("etag-md5", etag.lower()))
    return tuple(found)


class S3Body:
    """The bytes of one GET; see `pathapi.backend.Body`.

    *skip* bytes are thrown away first, and reading stops after *length*: for a server that answers a range with the
    whole object. The end is looked at before the last bytes are handed out, so that whoever stops at *length* has
    seen the checksum hold.
    """

    __slots__ = ("_is_cut", "_left", "_raise", "_skip", "_stream", "_uri", "info", "length")

    info: ObjectInfo
    length: int | None

    def __init__(
        self,
        stream: Any,
        info: ObjectInfo,
        length: int | None,
        on_error: Callable[[Exception], Exception],
        *,
        uri: str,
        skip: int = 0,
        is_cut: bool = False,
    ) -> None:
        self.info = info
        self.length = length
        self._stream = stream
        self._left = length
        self._raise = on_error
        self._uri = uri
        self._skip = skip
        self._is_cut = is_cut

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._readinto(buffer)
        except Exception as error:
            self._refuse(error)
            raise AssertionError("unreachable") from error

    def read(self) -> bytes:
        try:
            if self._skip or self._is_cut or self._left is None:
                return self._read_pieces()
            data: bytes = self._stream.read()
        except Exception as error:
            self._refuse(error)
            raise AssertionError("unreachable") from error
        if len(data) != self._left:
            raise TruncatedBodyError(f"{self._uri} gave {len(data)} bytes where {self._left} were announced")
        self._left = 0
        return data

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()

    def _readinto(self, buffer: memoryview) -> int:
        while self._skip:
            thrown = len(self._stream.read(min(self._skip, 1 << 20)))
            if not thrown:
                raise TruncatedBodyError(f"{self._uri} ended before the range that was asked for")
            self._skip -= thrown
        if self._left is None:
            return int(self._stream.readinto(buffer))
        if not self._left:
            self._require_end()
            return 0
        count = int(self._stream.readinto(buffer[: self._left]))
        self._left -= count
        if not self._left:
            self._require_end()
        elif not count and len(buffer):
            raise TruncatedBodyError(f"{self._uri} ended {self._left} bytes early")
        return count

    def _require_end(self) -> None:
        # The SDK checks length and checksum only when asked once more.
        if not self._is_cut and self._stream.readinto(memoryview(bytearray(1))):
            raise TruncatedBodyError(f"{self._uri} is longer than announced")

    def _read_pieces(self) -> bytes:
        pieces = bytearray()
        buffer = memoryview(bytearray(1 << 16))
        while count := self._readinto(buffer):
            pieces += buffer[:count]
        return bytes(pieces)

    def _refuse(self, error: Exception) -> None:
        self.close()
        meant = self._raise(error)
        if meant is error:
            raise error
        raise meant from error


def says_empty(error: BaseException) -> bool:
    """Whether a 416 says that the object has no bytes: in its Content-Range, or as Amazon does in its body."""
    answer = getattr(error, "response", {})
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return bool(headers.get("content-range") == "bytes */0") or bool(
        answer.get("Error", {}).get("ActualObjectSize") == "0"
    )


def placed(answer: Mapping[str, Any], status: int, start: int, end: int | None) -> tuple[int, int, int]:
    """Where the body of a ranged GET lies in the object: start, end and the object's size.

    Raises CloudUnavailableError where the server answered another range than asked, or does not say which.
    """
    length = answer.get("ContentLength")
    if status != 206:
        if length is None:
            raise CloudUnavailableError("the server does not say how long the object is; it cannot be read safely")
        return 0, int(length), int(length)
    place = parse_content_range(answer.get("ContentRange"))
    if place is None or place[0] != start or (end is not None and place[1] > end) or place[1] > place[2]:
        raise CloudUnavailableError(f"the server answered {range_of(start, end)} with {answer.get('ContentRange')!r}")
    if length is not None and int(length) != place[1] - place[0]:
        raise TruncatedBodyError(f"the server announced {length} bytes for {answer.get('ContentRange')!r}")
    return place
