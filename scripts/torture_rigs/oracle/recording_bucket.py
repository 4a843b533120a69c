"""A bucket that records its whole history: each version of a key is a file, outside the store.

    <root>/<key, quoted>/1, 2, 3, ...     bytes of each version; a symbolic link marks a deletion
    <root>/.new/                          versions without a number yet

A hard link gives a version its number, and only one of several processes succeeds. This implements conditional writes
without a lock, and survives a kill. The ETag of a version is its number.

The network can fail: a call does not reach the bucket, or its response is lost.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote, unquote

from casstore import Validator
from pathapi.backend import Absent, Backend, Checksum, ObjectInfo, Prefix
from pathapi.client import Client
from pathapi.exceptions import CloudPathFileNotFoundError, CloudUnavailableError, VersionMismatchError
from pathapi.path.cloud_path import CloudPath
from pathapi.registry import register_client_class, register_path_class


class Ledger:
    """One bucket's history; several processes may use it concurrently."""

    slowest = 0.003
    """Maximum latency in seconds: similar to the store's own work, so that kills hit both."""

    absence = 0.0
    """The probability that a call of this process, or its response, is lost."""

    def __init__(self, root: str) -> None:
        self.root = root
        os.makedirs(f"{root}/.new", exist_ok=True)

    def keys(self) -> list[str]:
        """Return every key that ever had a version, sorted."""
        return sorted(unquote(name) for name in os.listdir(self.root) if not name.startswith("."))

    def path(self, key: str, number: int) -> str:
        """Return the path of a version."""
        return f"{self.root}/{quote(key, safe='')}/{number}"

    def latest(self, key: str) -> int:
        """Return the number of the current version; 0 if the key never had one."""
        low, step = 0, 1
        while os.path.lexists(self.path(key, low + step)):
            low, step = low + step, step * 2
        while step > 1:
            step //= 2
            if os.path.lexists(self.path(key, low + step)):
                low += step
        return low

    def content(self, key: str, number: int) -> bytes | None:
        """Return the bytes of a version; None for a deletion."""
        if number <= 0 or os.path.islink(path := self.path(key, number)):
            return None
        with open(path, "rb") as file:
            return file.read()

    def now(self, key: str) -> tuple[int, bytes | None]:
        """Return the number and the bytes of the current version."""
        number = self.latest(key)
        return number, self.content(key, number)

    def put(self, key: str, data: bytes | None, number: int | None = None) -> int | None:
        """Store *data* (None for a deletion) as the next version, or as *number*; return its number, None if taken."""
        os.makedirs(os.path.dirname(self.path(key, 0)), exist_ok=True)
        temporary = f"{self.root}/.new/{os.urandom(8).hex()}"
        if data is None:
            os.symlink("deleted", temporary)
        else:
            with open(temporary, "wb") as file:
                file.write(data)
        try:
            while True:
                wanted = self.latest(key) + 1 if number is None else number
                try:
                    os.link(temporary, self.path(key, wanted), follow_symlinks=False)
                except FileExistsError:
                    if number is not None:
                        return None
                else:
                    return wanted
        finally:
            os.unlink(temporary)


class _Body:
    def __init__(self, info: ObjectInfo, data: bytes) -> None:
        self.info = info
        self.length: int | None = len(data)
        self._data, self._at = data, 0

    def readinto(self, buffer: memoryview) -> int:
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def read(self) -> bytes:
        piece, self._at = self._data[self._at :], len(self._data)
        return piece

    def close(self) -> None:
        pass


class LedgerBackend:
    """See `pathapi.backend.Backend`."""

    def __init__(self, ledger: Ledger, origin: str, bucket: str) -> None:
        self._ledger, self.origin, self.bucket = ledger, origin, bucket

    def _info(self, key: str, number: int, data: bytes) -> ObjectInfo:
        # The sum has a kind that every backend may state, and that links.
        checksum = Checksum("sha256", hashlib.sha256(data).hexdigest())
        return ObjectInfo(key, Validator(len(data), str(number)), (checksum,))

    def _reach(self, what: str) -> None:
        """Simulate the network. Raises CloudUnavailableError."""
        if self._ledger.absence and random.random() < self._ledger.absence:
            raise CloudUnavailableError(f"{what}: the network is away")

    def _now(self, key: str) -> tuple[int, bytes]:
        self._reach(key)
        if self._ledger.slowest and random.random() < 0.5:
            time.sleep(random.random() * self._ledger.slowest)
        number, data = self._ledger.now(key)
        if data is None:
            raise CloudPathFileNotFoundError(f"{key} does not exist")
        return number, data

    def head(self, key: str) -> ObjectInfo:
        return self._info(key, *self._now(key))

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> _Body | None:
        number, data = self._now(key)
        if expect is not None and expect.etag != str(number):
            raise VersionMismatchError(f"{key} has version {number}")
        if unless is not None and unless.etag == str(number):
            return None
        return _Body(self._info(key, number, data), data[start:end])

    def write(
        self,
        key: str,
        source: BinaryIO,
        size: int,
        *,
        expect: Validator | Absent | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        data = source.read(size)
        self._reach(key)
        number = self._put(key, data, expect)
        self._reach(f"the answer about {key}")
        return self._info(key, number, data)

    def _put(self, key: str, data: bytes | None, expect: Validator | Absent | None) -> int:
        current, held = self._ledger.now(key)
        if expect is not None:
            wanted = None if isinstance(expect, Absent) else expect.etag
            if wanted != (None if held is None else str(current)):
                raise VersionMismatchError(f"{key} has version {current}")
        number = self._ledger.put(key, data, None if expect is None else current + 1)
        if number is None:
            raise VersionMismatchError(f"{key} has just got another version")
        return number

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        self._reach(prefix)
        for key in self._ledger.keys():  # noqa: SIM118 (no mapping)
            number, data = self._ledger.now(key)
            if key.startswith(prefix) and data is not None:
                yield self._info(key, number, data)

    def copy(
        self,
        source: str,
        target: str,
        *,
        expect: Validator | None = None,
        over: Validator | Absent | None = None,
    ) -> ObjectInfo:
        number, data = self._now(source)
        if expect is not None and expect.etag != str(number):
            raise VersionMismatchError(f"{source} has version {number}")
        made = self._put(target, data, over)
        self._reach(f"the answer about {target}")
        return self._info(target, made, data)

    def delete(
        self,
        keys: Sequence[str],
        *,
        expect: Validator | None = None,
        versions: Mapping[str, Validator] | None = None,
    ) -> None:
        self._reach(" ".join(keys))
        left = []
        for key in keys:
            if self._ledger.now(key)[1] is not None:
                try:
                    self._put(key, None, expect or (versions or {}).get(key))
                except VersionMismatchError:
                    if expect is not None:
                        raise
                    left.append(key)
        if left:
            error = VersionMismatchError(f"{left[0]} has another version")
            error.keys = tuple(left)
            raise error
        self._reach(f"the answer about {' '.join(keys)}")


@register_path_class("ledger")
class LedgerPath(CloudPath):
    """An object of a ledger."""

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "ledger://"


@register_client_class("ledger")
class LedgerClient(Client[LedgerPath]):
    """A client of *ledger* under the endpoint *name*; other endpoints have buckets of the same names."""

    def __init__(self, ledger: Ledger, name: str, **habits: Any) -> None:
        super().__init__(**habits)
        self._ledger, self._name = ledger, name

    @property
    def origin(self) -> str:
        return f"ledger@{self._name}"

    def _make_backend(self, bucket: str) -> Backend:
        return LedgerBackend(self._ledger, self.origin, bucket)
