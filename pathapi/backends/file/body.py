"""The bytes of an open file, as `pathapi.backend.Body` has them."""

from __future__ import annotations

import contextlib
import io
import os

from pathapi.backend import ObjectInfo
from pathapi.backends.file.metadata import translated
from pathapi.exceptions import TruncatedBodyError, VersionMismatchError


class FileBody:
    """The bytes of an open file; see `pathapi.backend.Body`.

    Raises `VersionMismatchError` in place of the last bytes where the file was changed since it was opened.
    """

    __slots__ = ("_file", "_opened", "_remaining", "_uri", "info", "length")

    info: ObjectInfo
    length: int | None

    def __init__(self, file: io.FileIO, opened: os.stat_result, info: ObjectInfo, uri: str, length: int) -> None:
        self._file = file
        self._opened = opened
        self._uri = uri
        self._remaining = length
        self.info = info
        self.length = length

    def readinto(self, buffer: memoryview) -> int:
        if not self._remaining:
            self._require_unchanged()
            return 0
        try:
            count = self._file.readinto(buffer[: self._remaining])
        except OSError as error:
            raise translated(error, self._uri) from error
        self._remaining -= count
        if not self._remaining or not count:
            self._require_unchanged()
        if not count and len(buffer):
            raise TruncatedBodyError(f"{self._uri} ended {self._remaining} bytes early; read it again")
        return count

    def read(self) -> bytes:
        buffer = bytearray(self._remaining)
        view = memoryview(buffer)
        filled = 0
        while filled < len(buffer):
            filled += self.readinto(view[filled:])
        if not filled:
            self._require_unchanged()
        return bytes(buffer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _require_unchanged(self) -> None:
        now = os.fstat(self._file.fileno())
        before = self._opened
        # A replaced or deleted file gets a new ctime with its lost name; its bytes are still the old ones.
        kept = now.st_ctime_ns == before.st_ctime_ns or now.st_nlink < before.st_nlink
        if not kept or now.st_size != before.st_size or now.st_mtime_ns != before.st_mtime_ns:
            raise VersionMismatchError(f"{self._uri} was changed while it was read; read it again")
