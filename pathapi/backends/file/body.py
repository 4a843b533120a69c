"""The bytes of an open file, as a `pathapi.backend.Body`."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass, field

from pathapi.backend import ObjectInfo
from pathapi.backends.file.metadata import translate
from pathapi.exceptions import TruncatedBodyError, VersionMismatchError


@dataclass(slots=True, eq=False)
class FileBody:
    """The bytes of an open file; see `pathapi.backend.Body`. *opened* is its status when it was opened.

    Raises `VersionMismatchError` instead of returning the last bytes if the file was changed after it was opened.
    """

    file: io.FileIO
    opened: os.stat_result
    info: ObjectInfo
    uri: str
    length: int | None
    _remaining: int = field(init=False)

    def __post_init__(self) -> None:
        self._remaining = self.length or 0

    def readinto(self, buffer: memoryview) -> int:
        if not self._remaining:
            self._require_unchanged()
            return 0
        try:
            count = self.file.readinto(buffer[: self._remaining])
        except OSError as error:
            raise translate(error, self.uri) from error
        self._remaining -= count
        if not self._remaining or not count:
            self._require_unchanged()
        if not count and len(buffer):
            raise TruncatedBodyError(f"{self.uri}: the file ended {self._remaining} bytes early: read it again")
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
            self.file.close()

    def _require_unchanged(self) -> None:
        now = os.fstat(self.file.fileno())
        before = self.opened
        # Replacing or deleting a file changes its ctime and its link count, and not its bytes.
        kept = now.st_ctime_ns == before.st_ctime_ns or now.st_nlink < before.st_nlink
        if not kept or now.st_size != before.st_size or now.st_mtime_ns != before.st_mtime_ns:
            raise VersionMismatchError(f"{self.uri}: the file was changed during the read: read it again")
