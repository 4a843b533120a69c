"""Move an object's bytes from responses into a fill: in one piece, or in parallel parts of one version."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from casstore import Fill, Staging
from pathapi.backend import Backend, Body, ObjectInfo
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError
from pathapi.parallel.cancellation import CancelToken

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

PART: Final = 8 << 20
"""Bytes of one ranged request: what the S3 SDKs use, and large enough that a request's fixed cost does not show."""

THREADS: Final = 8
"""Parts that one process reads at a time."""

_PIECE: Final = 1 << 20
_PART_TRIES: Final = 4


def receive(backend: Backend, key: str, body: Body, fill: Fill) -> ObjectInfo:
    """Write the object whose first response is *body* into *fill*, and return its info.

    *body* has the whole object or its first `PART`; the rest is read in parts, each tied to the version of the first.
    Raises VersionMismatchError if the object changes meanwhile, TruncatedBodyError, ChecksumMismatchError,
    CloudUnavailableError, StoreFullError; *fill* is of no use then.
    """
    info = body.info
    fill.expect(info.size)
    if body.length is not None and body.length < info.size:
        _Parts(backend, key, info, fill).run(body)
    elif body.length is not None and body.length <= _PIECE:
        fill.write(read_whole(body))
    else:
        _stream(body, fill)
    if fill.staging.size != info.size:
        raise TruncatedBodyError(f"{key}: received {fill.staging.size} of {info.size} bytes")
    return info


def read_whole(body: Body) -> bytes:
    """Return all of a small body. Raises TruncatedBodyError, not its parent, on a stall too: the request succeeded."""
    try:
        return body.read()
    except CloudUnavailableError as error:
        raise _broken(error) from error


def _stream(body: Body, fill: Fill) -> None:
    buffer, stop = memoryview(bytearray(_PIECE)), CancelToken()
    while True:
        stop.check()
        try:
            count = body.readinto(buffer)
        except CloudUnavailableError as error:
            raise _broken(error) from error
        if not count:
            return
        fill.write(buffer[:count])
        fill.report(fill.staging.size)


def _broken(error: CloudUnavailableError) -> TruncatedBodyError:
    return error if isinstance(error, TruncatedBodyError) else TruncatedBodyError(str(error))


class _StoppedError(Exception):
    """Another part has failed."""


class _Parts:
    """One object, read in parts: each thread writes its own ranges; one of them hashes what is complete from byte 0."""

    def __init__(self, backend: Backend, key: str, info: ObjectInfo, fill: Fill) -> None:
        self._backend, self._key, self._info, self._fill = backend, key, info, fill
        self._staging: Staging = fill.staging
        self._mutex = threading.Lock()
        self._changed = threading.Condition()
        self._arrived: dict[int, int] = {}
        self._hashing = False
        self._received = 0
        self._left = 0
        self._active = 0
        self._failure: BaseException | None = None
        self._stop = CancelToken()

    def run(self, first: Body) -> None:
        """Read all parts; return once no thread writes: the descriptor may be another file's after that."""
        length = first.length
        assert length is not None
        starts = range(length, self._info.size, PART)
        self._left = len(starts)
        try:
            self._fill.resize(self._info.size)
            pool = part_pool()
            for start in starts:
                pool.submit(self._part, start, min(start + PART, self._info.size))
            self._finish_first(first, length)
        except BaseException as error:  # noqa: BLE001 (raised below)
            self._fail(error)
        self._wait()
        if self._failure is not None:
            raise self._failure

    def _wait(self) -> None:
        while True:
            try:
                with self._changed:
                    while self._active or (self._left and self._failure is None):
                        self._changed.wait()
            except BaseException as error:  # noqa: BLE001 (Ctrl-C must not leave the threads behind)
                self._fail(error)
            else:
                return

    def _part(self, start: int, end: int) -> None:
        with self._changed:
            if self._failure is not None:
                return
            self._active += 1
        try:
            self._fetch(start, end)
        except BaseException as error:  # noqa: BLE001 (raised by `run`)
            self._fail(error)
        finally:
            with self._changed:
                self._active -= 1
                self._left -= 1
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            # An interrupt takes precedence over an earlier failure.
            if self._failure is None or (isinstance(self._failure, Exception) and not isinstance(error, Exception)):
                self._failure = error
            self._changed.notify_all()

    def _finish_first(self, body: Body, length: int) -> None:
        try:
            offset = self._copy(body, 0)
        except CloudUnavailableError:
            body.close()
            self._fetch(0, length)  # of the same version, or not at all
            return
        if offset != length:
            raise TruncatedBodyError(f"{self._key}: the first part has {offset} bytes instead of {length}")
        self._arrive(0, length)

    def _fetch(self, start: int, end: int) -> None:
        for left in range(_PART_TRIES - 1, -1, -1):
            body = self._backend.read(self._key, start, end, expect=self._info.validator)
            assert body is not None
            try:
                offset = self._copy(body, start)
            except CloudUnavailableError:
                if not left:
                    raise
                continue
            finally:
                body.close()
            if offset != end:
                raise TruncatedBodyError(f"{self._key}: received {offset - start} bytes of {start} to {end}")
            self._arrive(start, end)
            return

    def _copy(self, body: Body, offset: int) -> int:
        buffer = memoryview(bytearray(_PIECE))
        while self._failure is None and (count := body.readinto(buffer)):
            self._stop.check()
            self._fill.write_at(buffer[:count], offset)
            offset += count
            self._received += count
            self._fill.report(self._received)
        if self._failure is not None:
            raise _StoppedError
        return offset

    def _arrive(self, start: int, end: int) -> None:
        """Record a complete part. The thread that closes the first gap hashes on from there, one at a time."""
        with self._mutex:
            self._arrived[start] = end
            if self._hashing:
                return
            self._hashing = True
        buffer = memoryview(bytearray(_PIECE))
        while True:
            with self._mutex:
                reached = self._arrived.pop(self._staging.hashed, None)
                if reached is None:
                    self._hashing = False
                    return
            self._staging.hash_to(reached, buffer)


_pool: ThreadPoolExecutor | None = None
_pool_mutex = threading.Lock()


def part_pool() -> ThreadPoolExecutor:
    """Return the threads that read parts, for all clients of the process; they never wait for each other."""
    global _pool
    with _pool_mutex:
        if _pool is None:
            # Imported here: it loads logging, and small objects need no pool.
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pathapi-part")
        return _pool


def _forget_pool() -> None:
    global _pool, _pool_mutex
    _pool, _pool_mutex = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
