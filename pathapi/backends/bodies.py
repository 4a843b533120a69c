"""The bytes of one GET, the same for every cloud: ranges, lengths, checksums and errors are checked here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from casstore import Validator, new_hasher
from pathapi.backend import Nothing, ObjectInfo
from pathapi.backends.headers import Span
from pathapi.exceptions import ChecksumMismatchError, CloudPathException, TruncatedBodyError, VersionMismatchError

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


class RangedBody:
    """*length* bytes of a response, after the first *skip*; see `pathapi.backend.Body`.

    *stream* has ``read(amount)`` and ``close()``. *is_cut*: the response continues after *length*. The end and the
    checksum are checked before the last bytes are returned, so a reader that stops at *length* gets verified bytes.
    """

    __slots__ = (
        "_checksum",
        "_is_checked",
        "_is_cut",
        "_left",
        "_skip",
        "_stream",
        "_translate",
        "_uri",
        "info",
        "length",
    )

    info: ObjectInfo
    length: int | None

    def __init__(
        self,
        stream: Any,
        info: ObjectInfo,
        length: int,
        translate: Translate,
        *,
        uri: str,
        skip: int = 0,
        is_cut: bool = False,
        checksum: BodyChecksum | None = None,
    ) -> None:
        self.info = info
        self.length = length
        self._stream = stream
        self._left = length
        self._translate = translate
        self._uri = uri
        self._skip = skip
        self._is_cut = is_cut
        self._checksum = checksum
        self._is_checked = False

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
            if not self._left and not self._is_cut and not self._is_checked:
                self._stream.read(1)  # of an empty body nothing was read; now its connection can be reused
            self._stream.close()
            release = getattr(self._stream, "release_conn", None)
            if release is not None:
                release()

    def _read_some(self, amount: int) -> bytes | memoryview:
        if self._is_checked:
            return b""
        try:
            while self._skip:
                skipped = len(self._stream.read(min(self._skip, _PIECE)))
                if not skipped:
                    raise TruncatedBodyError(f"{self._uri}: the body ended before the requested range: read it again")
                self._skip -= skipped
            data: bytes | memoryview = b""
            if self._left:
                data = self._stream.read(amount)
                if not data:
                    raise TruncatedBodyError(f"{self._uri}: the body ended {self._left} bytes early: read it again")
                if self._checksum is not None:
                    self._checksum.hasher.update(data)
                self._left -= len(data)
            if not self._left:
                self._check_end()
        except Exception as error:
            self.close()
            translated = self._translate(error)
            if translated is error:
                raise
            raise translated from error
        return data

    def _check_end(self) -> None:
        self._is_checked = True
        # One more read: then the SDK checks its own length and checksum, and the connection can be reused.
        if not self._is_cut and self._stream.read(1):
            raise TruncatedBodyError(f"{self._uri}: the body is longer than announced: read it again")
        if self._checksum is not None and self._checksum.hasher.digest().hex() != self._checksum.expected:
            raise ChecksumMismatchError(
                f"{self._uri}: the bytes received do not match the {self._checksum.kind} that the server states: "
                "read it again"
            )


def ranged_body(
    stream: Any,
    start: int,
    end: int | None,
    span: Callable[[], Span],
    describe: Callable[[int, bool], ObjectInfo],
    uri: str,
    translate: Translate,
    checksum: Callable[[ObjectInfo], BodyChecksum | None] = lambda _: None,
) -> RangedBody:
    """Return the body of ``[start, end)`` from a response, which may carry the whole object.

    *span* parses the response's range, *describe* its headers (given the object's size, and whether the response
    carries all of it). *checksum* applies to whole objects only. Closes *stream* if it raises.
    """
    try:
        first, stop, size = span()
        wanted = size if end is None else min(end, size)
        if stop < wanted:
            raise TruncatedBodyError(f"the server sent the bytes up to {stop}, and {wanted} were requested")
    except CloudPathException as error:
        stream.close()
        raise type(error)(f"{uri}: {error}: read it again") from error
    info = describe(size, stop - first == size)
    length = max(0, min(stop, wanted) - start)
    if not length and stop > first:
        stream.close()
        stream = Nothing()
    return RangedBody(
        stream,
        info,
        length,
        translate,
        uri=uri,
        skip=start - first if length else 0,
        is_cut=stop > wanted,
        checksum=checksum(info) if length == size else None,
    )


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """A 416: the object ends at or before the start of the range.

    *info* describes the object if the response says that it is empty, and no condition asks for its version. The next
    request asks for the range again (*keep_range*) or for the whole object.
    """

    info: ObjectInfo | None
    keep_range: bool


def open_range(
    get: Callable[[bool], RangedBody | OutOfRange | None],
    head: Callable[[], ObjectInfo | None],
    start: int,
    end: int | None,
    uri: str,
    translate: Translate,
    expect: Validator | None = None,
    unless: Validator | None = None,
) -> RangedBody | None:
    """Open ``[start, end)``; None if the object still is the version *unless*.

    *get* sends one GET, with the range or without; *head* describes the object. Both return None for a 304.

    Raises:
        VersionMismatchError: the object is not the version *expect*, or keeps changing.
    """

    def empty(info: ObjectInfo) -> RangedBody:
        return RangedBody(Nothing(), info, 0, translate, uri=uri)

    def open_any() -> RangedBody | None:
        if end is not None and end <= start:
            info = head()
            return None if info is None else empty(info)
        ranged = True
        for _ in range(_TRIES):
            answer = get(ranged)
            if not isinstance(answer, OutOfRange):
                return answer
            if not start and answer.info is not None:
                return empty(answer.info)
            if start or answer.keep_range:
                info = head()
                if info is None or info.size <= start:
                    return None if info is None else empty(info)
            ranged = answer.keep_range
        raise VersionMismatchError(f"{uri}: the object kept changing while it was read: read it again")

    body = open_any()
    if body is None:
        return None
    if expect is not None and not expect.same_version(body.info.validator):
        body.close()
        raise VersionMismatchError(f"{uri}: the object is no longer the expected version: read it again")
    if unless is not None and unless.same_version(body.info.validator):
        body.close()
        return None
    return body
