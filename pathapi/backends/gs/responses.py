"""What Google's answers say of an object: generations, checksums, times, ranges; and the body of a GET."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from casstore import Validator, new_hasher
from pathapi.backend import Checksum, ObjectInfo
from pathapi.backends.headers import nanoseconds_of, range_of
from pathapi.exceptions import ChecksumMismatchError, CloudUnavailableError, TruncatedBodyError

FIELDS: Final = "name,generation,size,etag,updated,md5Hash,crc32c,contentType"
"""What is asked of an object's metadata."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def info_of(key: str, resource: Mapping[str, Any]) -> ObjectInfo:
    """What an object's metadata say."""
    stated = {"md5": resource.get("md5Hash"), "crc32c": resource.get("crc32c")}
    validator = Validator(
        size=int(resource.get("size", 0)),
        etag=_bare(resource.get("etag")),
        version=_version(resource.get("generation")),
        mtime_ns=_nanoseconds_of(resource.get("updated")),
    )
    return ObjectInfo(key, validator, _checksums_of(stated), resource.get("contentType"))


def info_of_media(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """What the headers of a body's answer say of the whole object, which has *size* bytes."""
    stated = dict(part.strip().partition("=")[::2] for part in headers.get("x-goog-hash", "").split(","))
    validator = Validator(
        size=size,
        etag=_bare(headers.get("etag")),
        version=_version(headers.get("x-goog-generation")),
        mtime_ns=_nanoseconds_of_date(headers.get("last-modified")),
    )
    return ObjectInfo(key, validator, _checksums_of(stated), headers.get("content-type"))


def _bare(etag: str | None) -> str | None:
    if not etag:
        return None
    etag = etag.removeprefix("W/")
    return etag[1:-1] if len(etag) > 1 and etag[0] == etag[-1] == '"' else etag


def _version(generation: object) -> str | None:
    return str(generation) if generation else None


def _nanoseconds_of(text: str | None) -> int | None:
    if not text:
        return None
    with contextlib.suppress(ValueError):
        return nanoseconds_of(datetime.fromisoformat(text))
    return None


def _nanoseconds_of_date(text: str | None) -> int | None:
    if not text:
        return None
    with contextlib.suppress(ValueError):
        return nanoseconds_of(parsedate_to_datetime(text))
    return None


def _checksums_of(stated: Mapping[str, str | None]) -> tuple[Checksum, ...]:
    found = []
    for kind in ("md5", "crc32c"):  # a composed object has no MD5
        if value := stated.get(kind):
            with contextlib.suppress(binascii.Error):
                found.append(Checksum(kind, base64.b64decode(value, validate=True).hex()))
    return tuple(found)


# --- ranges ---------------------------------------------------------------------------------------------------------


def says_empty(headers: Mapping[str, str]) -> bool:
    """Whether a 416 says that the object has no bytes: in its Content-Range, or by the MD5 of none."""
    return headers.get("content-range") == "bytes */0" or "md5=1B2M2Y8AsgTpgAmY7PhCfg==" in headers.get(
        "x-goog-hash", ""
    )


def placed(headers: Mapping[str, str], status: int, start: int, end: int | None) -> tuple[int, int, int]:
    """Where the body of a GET lies in the object: start, end and the object's size, in stored bytes.

    Raises CloudUnavailableError where the server answered another range than asked, or unpacked what is stored packed:
    that has neither the size nor the checksum that it states.
    """
    announced = headers.get("content-length")
    stored = headers.get("x-goog-stored-content-length")
    packing = headers.get("x-goog-stored-content-encoding", "identity")
    if headers.get("content-encoding", "identity") != packing and packing == "gzip":
        raise CloudUnavailableError("the server unpacked what is stored as gzip; its bytes cannot be told")
    if status != 206:
        length = announced or stored
        if length is None:
            raise CloudUnavailableError("the server does not say how long the object is; it cannot be read safely")
        if stored is not None and stored != length:
            raise TruncatedBodyError(f"the server announced {length} bytes of an object of {stored}")
        return 0, int(length), int(length)
    stated = headers.get("content-range")
    place = _CONTENT_RANGE.fullmatch(stated or "")
    if place is None:
        raise CloudUnavailableError(f"the server answered {range_of(start, end)} with {stated!r}")
    first, stop, size = int(place[1]), int(place[2]) + 1, int(place[3])
    if first != start or (end is not None and stop > end) or stop > size:
        raise CloudUnavailableError(f"the server answered {range_of(start, end)} with {stated!r}")
    if announced is not None and int(announced) != stop - first:
        raise TruncatedBodyError(f"the server announced {announced} bytes for {stated!r}")
    return first, stop, size


# --- checksums ------------------------------------------------------------------------------------------------------


class Hashing:
    """The running checksum of bytes: CRC32C where it is computed by the processor, else MD5."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._crc = 0
        self._md5 = new_hasher("md5") if kind == "md5" else None
        if self._md5 is None:
            from google_crc32c import extend

            self._extend = extend

    def update(self, data: bytes) -> None:
        if self._md5 is not None:
            self._md5.update(data)
        elif data:
            self._crc = self._extend(self._crc, data)

    def hex(self) -> str:
        """As `Checksum.value`."""
        return self._crc.to_bytes(4, "big").hex() if self._md5 is None else self._md5.digest().hex()


def hashing_for(info: ObjectInfo) -> Hashing | None:
    """What checks the bytes of *info* while they come; None where nothing is stated that can be checked."""
    stated = {checksum.kind for checksum in info.checksums}
    if "crc32c" in stated and computes_crc32c():
        return Hashing("crc32c")
    return Hashing("md5") if "md5" in stated else None


def computes_crc32c() -> bool:
    """Whether there is a CRC32C that is not a loop in Python."""
    import google_crc32c

    return str(google_crc32c.implementation) == "c"


# --- bodies ---------------------------------------------------------------------------------------------------------


class GSBody:
    """The bytes of one GET as they are stored; see `pathapi.backend.Body`.

    *skip* bytes are thrown away first, and reading stops after *length*: for a server that answers a range with the
    whole object. The checksum is looked at before the last bytes are handed out, so that whoever stops at *length* has
    seen it hold.
    """

    __slots__ = ("_hashing", "_is_cut", "_left", "_raise", "_skip", "_stream", "_uri", "info", "length")

    info: ObjectInfo
    length: int | None

    def __init__(
        self,
        stream: Any,
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
        self._stream = stream
        self._left = length
        self._raise = on_error
        self._uri = uri
        self._skip = skip
        self._is_cut = is_cut
        self._hashing = hashing_for(info) if length == info.size and length and not is_cut else None

    def readinto(self, buffer: memoryview) -> int:
        data = self._guarded(min(len(buffer), self._left)) if len(buffer) else b""
        buffer[: len(data)] = data
        return len(data)

    def read(self) -> bytes:
        if not self._left:
            return b""
        data = self._guarded(self._left)
        if not self._left:
            return data
        pieces = bytearray(data)
        while self._left:
            pieces += self._guarded(self._left)
        return bytes(pieces)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()

    def _guarded(self, amount: int) -> bytes:
        try:
            return self._take(amount)
        except Exception as error:
            self.close()
            meant = self._raise(error)
            if meant is error:
                raise
            raise meant from error

    def _take(self, amount: int) -> bytes:
        while self._skip:
            thrown = len(self._stream.read(min(self._skip, 1 << 20)))
            if not thrown:
                raise TruncatedBodyError(f"{self._uri} ended before the range that was asked for")
            self._skip -= thrown
        if not self._left:
            return b""
        data: bytes = self._stream.read(amount)
        if not data:
            raise TruncatedBodyError(f"{self._uri} ended {self._left} bytes early")
        if self._hashing is not None:
            self._hashing.update(data)
        self._left -= len(data)
        if not self._left:
            self._require_end()
        return data

    def _require_end(self) -> None:
        # One more read: it also gives the connection back.
        if not self._is_cut and self._stream.read(1):
            raise TruncatedBodyError(f"{self._uri} is longer than announced")
        if self._hashing is None:
            return
        stated = {checksum.kind: checksum.value for checksum in self.info.checksums}
        if stated[self._hashing.kind] != self._hashing.hex():
            raise ChecksumMismatchError(
                f"the bytes received of {self._uri} do not have the {self._hashing.kind} that the server states"
            )
