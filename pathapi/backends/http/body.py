"""The bytes of one GET; see `pathapi.backend.Body`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any, Final

from pathapi.backend import ObjectInfo
from pathapi.exceptions import TruncatedBodyError

_PIECE: Final = 1 << 20
IN_MEMORY: Final = 8 << 20
"""Bytes of a body of unknown length that are kept in memory; a longer one goes to a temporary file."""


class HttpBody:
    """Bytes *skip* to ``skip + length`` of a response: *skip* of them are thrown away, and what follows is not read.

    *stream* is urllib3's response or a spooled one. *on_error* says what an error of the stream's means.
    """

    __slots__ = ("_is_cut", "_left", "_raise", "_skip", "_stream", "_uri", "info", "length")

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

    def readinto(self, buffer: memoryview) -> int:
        try:
            while self._skip:
                thrown = len(self._stream.read(min(self._skip, _PIECE)))
                if not thrown:
                    raise TruncatedBodyError(f"{self._uri} ended before the range that was asked for")
                self._skip -= thrown
            if not self._left:
                return 0
            data = self._stream.read(min(len(buffer), self._left))
            if not data and len(buffer):
                raise TruncatedBodyError(f"{self._uri} ended {self._left} bytes early")
            buffer[: len(data)] = data
            self._left -= len(data)
            if not self._left:
                self._require_end()
        except Exception as error:
            self.close()
            meant = self._raise(error)
            if meant is error:
                raise
            raise meant from error
        return len(data)

    def read(self) -> bytes:
        found = bytearray(self._left)
        view, filled = memoryview(found), 0
        while filled < len(found):
            filled += self.readinto(view[filled : filled + _PIECE])
        return bytes(found)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if not self._left and not self._is_cut:
                self._stream.read(1)  # of an empty body nothing was read; now its connection can serve again
            self._stream.close()
            release = getattr(self._stream, "release_conn", None)
            if release is not None:
                release()

    def _require_end(self) -> None:
        # Read once more, the stream checks its end and gives its connection back.
        if not self._is_cut and self._stream.read(1):
            raise TruncatedBodyError(f"{self._uri} is longer than announced")


def spool(stream: Any, meaning: Callable[[Exception], Exception]) -> tuple[Any, int]:
    """All that *stream* has, and how long that is: for a body whose length the server does not tell.

    *meaning* says what an error of the stream's means; one of the temporary file's is raised as it is.
    """
    spooled = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed by the body's user)
    try:
        while data := _read_piece(stream, meaning):
            spooled.write(data)
        size = spooled.tell()
        spooled.seek(0)
    except BaseException:
        spooled.close()
        raise
    return spooled, size


def _read_piece(stream: Any, meaning: Callable[[Exception], Exception]) -> Any:
    try:
        return stream.read(_PIECE)
    except Exception as error:
        meant = meaning(error)
        if meant is error:
            raise
        raise meant from error
