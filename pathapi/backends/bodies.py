"""The bytes of one GET, the same for every cloud: ranges, lengths, checksums and errors are checked here."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from casstore import Validator, new_hasher
from pathapi.backend import ObjectInfo
from pathapi.backends.error_table import NotModifiedError, translating
from pathapi.backends.headers import Span, format_etag
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathException,
    CloudUnavailableError,
    TruncatedBodyError,
    VersionMismatchError,
)

_PIECE: Final = 1 << 20
_TRIES: Final = 4
"""GETs for one read while the object keeps changing its size."""

Translate = Callable[[Exception], Exception]
"""Returns the `pathapi.exceptions` error for an error of the SDK or the network; any other error as it is."""


@dataclass(frozen=True, slots=True)
class BodyChecksum:
    """A checksum that the server states for the whole object, and the hasher that computes it."""

    kind: str
    expected: str
    """Lower-case hex."""
    hasher: Any


def md5_checksum(info: ObjectInfo) -> BodyChecksum | None:
    """Return the MD5 that *info* states, if it states one."""
    stated = next((checksum.value for checksum in info.checksums if checksum.kind == "md5"), None)
    return None if stated is None else BodyChecksum("MD5", stated, new_hasher("md5"))


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The arguments of one `Backend.read`; *uri* and *translate* are for its errors."""

    key: str
    start: int
    end: int | None
    expect: Validator | None
    unless: Validator | None
    uri: str
    translate: Translate

    @property
    def is_empty(self) -> bool:
        """Whether it asks for no bytes: only for the object's version."""
        return self.end is not None and self.end <= self.start

    def etags(self, match: str, none_match: str) -> dict[str, str]:
        """Return the conditions of the read by ETag, under the names *match* and *none_match*."""
        conditions = {}
        if self.expect is not None and (etag := format_etag(self.expect)):
            conditions[match] = etag
        if self.unless is not None and not self.unless.racy and (etag := format_etag(self.unless)):
            conditions[none_match] = etag
        return conditions


@dataclass(slots=True, eq=False)
class RangedBody:
    """*length* bytes of a response, after the first *skip*; see `pathapi.backend.Body`.

    *stream* has ``read(amount)`` and ``close()``. *is_cut*: the response continues after *length*. The end and the
    checksum are checked before the last bytes are returned, so a reader that stops at *length* gets verified bytes.
    """

    info: ObjectInfo
    length: int | None
    stream: Any
    translate: Translate
    uri: str
    skip: int = 0
    is_cut: bool = False
    checksum: BodyChecksum | None = None
    _left: int = field(init=False)
    _is_checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._left = self.length or 0

    def readinto(self, buffer: memoryview) -> int:
        if not len(buffer):
            return 0
        data = self._read_some(min(len(buffer), self._left))
        buffer[: len(data)] = data
        return len(data)

    def read(self, amount: int | None = None) -> bytes:
        data = self._read_some(self._left if amount is None else min(amount, self._left))
        if not self._left or amount is not None:
            return bytes(data)
        pieces = bytearray(data)
        while self._left:
            pieces += self._read_some(self._left)
        return bytes(pieces)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if not self._left and not self.is_cut and not self._is_checked:
                self.stream.read(1)  # of an empty body nothing was read; now its connection can be reused
            self.stream.close()
            release = getattr(self.stream, "release_conn", None)
            if release is not None:
                release()

    def _read_some(self, amount: int) -> bytes | memoryview:
        if self._is_checked:
            return b""
        try:
            with translating(self.translate):
                while self.skip:
                    skipped = len(self.stream.read(min(self.skip, _PIECE)))
                    if not skipped:
                        raise TruncatedBodyError(
                            f"{self.uri}: the body ended before the requested range: read it again"
                        )
                    self.skip -= skipped
                data: bytes | memoryview = b""
                if self._left:
                    data = self.stream.read(amount)
                    if not data:
                        raise TruncatedBodyError(f"{self.uri}: the body ended {self._left} bytes early: read it again")
                    if self.checksum is not None:
                        self.checksum.hasher.update(data)
                    self._left -= len(data)
                if not self._left:
                    self._check_end()
        except Exception:
            self.close()
            raise
        return data

    def _check_end(self) -> None:
        self._is_checked = True
        # One more read: then the SDK checks its own length and checksum, and the connection can be reused.
        if not self.is_cut and self.stream.read(1):
            raise TruncatedBodyError(f"{self.uri}: the body is longer than announced: read it again")
        if self.checksum is not None and self.checksum.hasher.digest().hex() != self.checksum.expected:
            raise ChecksumMismatchError(
                f"{self.uri}: the bytes received do not match the {self.checksum.kind} that the server states: "
                "read it again"
            )


def ranged_body(
    asked: ReadRequest,
    stream: Any,
    span: Callable[[], Span],
    describe: Callable[[int, bool], ObjectInfo],
    checksum: Callable[[ObjectInfo], BodyChecksum | None] = lambda _: None,
) -> RangedBody:
    """Return the body of the requested bytes from a response, which may carry the whole object.

    *span* parses the response's range, *describe* its headers (given the object's size, and whether the response
    carries all of it). *checksum* applies to whole objects only. Closes *stream* if it raises.
    """
    start, end = asked.start, asked.end
    try:
        first, stop, size = span()
        wanted = size if end is None else min(end, size)
        if stop < wanted:
            raise TruncatedBodyError(f"the server sent the bytes up to {stop}, and {wanted} were requested")
    except CloudPathException as error:
        stream.close()
        raise type(error)(f"{asked.uri}: {error}: read it again") from error
    info = describe(size, stop - first == size)
    length = max(0, min(stop, wanted) - start)
    if not length and stop > first:
        stream.close()
        stream = io.BytesIO()
    skip = start - first if length else 0
    verify = checksum(info) if length == size else None
    return RangedBody(info, length, stream, asked.translate, asked.uri, skip, stop > wanted, verify)


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """A 416: the object ends at or before the start of the range.

    *info* describes the object if the response says that it is empty, and no condition asks for its version. The next
    request asks for the range again (*keep_range*) or for the whole object.
    """

    info: ObjectInfo | None
    keep_range: bool


def open_range(
    asked: ReadRequest, get: Callable[[bool], RangedBody | OutOfRange], head: Callable[[], ObjectInfo]
) -> RangedBody | None:
    """Open the requested bytes; None if the object still is the version *unless*.

    *get* sends one GET, with the range or without; *head* describes the object. Both raise NotModifiedError for a 304.

    Raises:
        VersionMismatchError: the object is not the version *expect*, or keeps changing.
    """
    try:
        body = _open_any(asked, get, head)
    except NotModifiedError as error:
        if asked.unless is None:
            unasked = f"{asked.uri}: the server answered 304 without a condition: read it again"
            raise CloudUnavailableError(unasked) from error
        return None
    found, expect, unless = body.info.validator, asked.expect, asked.unless
    if expect is not None and not expect.may_be(found):
        body.close()
        raise VersionMismatchError(f"{asked.uri}: the object is no longer the expected version: read it again")
    if unless is not None and unless.proves_same_bytes(found):  # the server ignores conditions
        body.close()
        return None
    return body


def _open_any(
    asked: ReadRequest, get: Callable[[bool], RangedBody | OutOfRange], head: Callable[[], ObjectInfo]
) -> RangedBody:
    def empty(info: ObjectInfo) -> RangedBody:
        return RangedBody(info, 0, io.BytesIO(), asked.translate, asked.uri)

    if asked.is_empty:
        return empty(head())
    ranged = True
    for _ in range(_TRIES):
        answer = get(ranged)
        if isinstance(answer, RangedBody):
            return answer
        if not asked.start and answer.info is not None:
            return empty(answer.info)
        if asked.start or answer.keep_range:
            info = head()
            if info.size <= asked.start:
                return empty(info)
        ranged = answer.keep_range
    raise VersionMismatchError(f"{asked.uri}: the object kept changing while it was read: read it again")
