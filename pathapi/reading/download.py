"""Move an object's bytes from responses into a fill: in one piece, or in parallel parts of one version."""

from __future__ import annotations

import os
from queue import Empty, SimpleQueue
from typing import Final

from casstore import Fill, Staging, TimedQueue
from pathapi.backend import Backend, Body, ObjectInfo
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError
from pathapi.parallel.cancellation import CancelToken
from pathapi.parallel.part_threads import PartThreads

PART: Final = 8 << 20
"""Bytes of one ranged request: what the S3 SDKs use, and large enough that a request's fixed cost does not show."""

THREADS: Final = 8
"""Parts that one process reads from one bucket at a time. Each has its own: one server that stalls delays no other."""

_PIECE: Final = 1 << 20
_STOP_SECONDS: Final = 0.1  # between two looks of a thread that waits for its turn
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
    """The download has failed, or was interrupted."""


class _Parts:
    """One object, read in parts: each thread writes its own ranges; one of them hashes what is complete from byte 0.

    After a failure or an interrupt, threads may continue for as long as a server stalls. They write nothing more, and
    their file stays open as long as they do.
    """

    def __init__(self, backend: Backend, key: str, info: ObjectInfo, fill: Fill) -> None:
        self._backend, self._key, self._info, self._fill = backend, key, info, fill
        self._staging: Staging = fill.staging
        self._slots = _slots_of(backend)
        self._arrived: dict[int, int] = {}
        self._hashing: SimpleQueue[None] = SimpleQueue()  # its one item is the right to hash
        self._hashing.put(None)
        self._received = 0
        self._starts = iter(range(0))
        self._failure: BaseException | None = None
        self._is_stopped = False
        self._stop = CancelToken()

    def run(self, first: Body) -> None:
        """Read all parts. After a failure, threads may still be waiting for the server."""
        length = first.length
        assert length is not None
        starts = range(length, self._info.size, PART)
        self._starts = iter(starts)
        threads: PartThreads[None] = PartThreads(getattr(self._backend, "read_threads", THREADS))
        try:
            self._fill.resize(self._info.size)
            self._staging.share()
            for _ in range(min(len(starts), THREADS)):
                threads.submit(self._read_parts)
            self._fetch(0, length, first)
            while threads.running:
                threads.result()
            self._staging.unshare()
        except _StoppedError:
            assert self._failure is not None
            raise self._failure from None
        except Exception:
            raise
        except BaseException:
            # The next read need not wait until these threads give back their slots.
            _slots.pop(_bucket_of(self._backend), None)
            raise
        finally:
            self._is_stopped = True
            threads.close()

    def _read_parts(self) -> None:
        """Read one part after the other until none is left."""
        try:
            for start in self._starts:  # in one step, so that no two threads get the same
                self._acquire_slot()
                try:
                    self._fetch(start, min(start + PART, self._info.size))
                finally:
                    self._slots.put(None)
        except BaseException as error:
            self._failure = self._failure or error
            self._is_stopped = True
            raise

    def _acquire_slot(self) -> None:
        while True:
            self._check()
            try:
                self._slots.get(timeout=_STOP_SECONDS)
            except Empty:
                continue
            return

    def _check(self) -> None:
        """Raise _StoppedError after a failure, Cancelled after an interrupt of the tree."""
        if self._is_stopped:
            raise _StoppedError
        self._stop.check()

    def _fetch(self, start: int, end: int, body: Body | None = None) -> None:
        """Read a part: of *body*, a response that has begun, or by requests of its own."""
        for left in range(_PART_TRIES - (body is None), -1, -1):
            self._check()
            part = body or self._backend.read(self._key, start, end, expect=self._info.validator)
            assert part is not None
            try:
                offset = self._copy(part, start)
            except CloudUnavailableError:
                if not left:
                    raise
                body = None
                continue
            finally:
                part.close()
            if offset != end:
                raise TruncatedBodyError(f"{self._key}: received {offset - start} bytes of {start} to {end}")
            self._arrive(start, end)
            return

    def _copy(self, body: Body, offset: int) -> int:
        buffer = memoryview(bytearray(_PIECE))
        while count := body.readinto(buffer):
            self._check()
            self._fill.write_at(buffer[:count], offset)
            offset += count
            self._received += count
            self._fill.report(self._received)
        return offset

    def _arrive(self, start: int, end: int) -> None:
        """Record a complete part. The thread that closes the first gap hashes on from there, one at a time."""
        self._arrived[start] = end
        # Looked at again once the right is given back: a part that arrived just before found it taken.
        while self._staging.hashed in self._arrived:
            try:
                self._hashing.get_nowait()
            except Empty:
                return
            try:
                buffer = memoryview(bytearray(_PIECE))
                while (reached := self._arrived.pop(self._staging.hashed, None)) is not None:
                    self._staging.hash_to(reached, buffer)
            finally:
                self._hashing.put(None)


_slots: dict[tuple[str, str], TimedQueue[None]] = {}


def _bucket_of(backend: Backend) -> tuple[str, str]:
    return backend.origin, backend.bucket


def _slots_of(backend: Backend) -> TimedQueue[None]:
    """Return a queue with an item for each part that may be read from this bucket now."""
    name = _bucket_of(backend)
    slots = _slots.get(name)
    if slots is None:
        made: TimedQueue[None] = TimedQueue()
        for _ in range(THREADS):
            made.put(None)
        slots = _slots.setdefault(name, made)
    return slots


os.register_at_fork(after_in_child=_slots.clear)  # threads of the parent hold some
