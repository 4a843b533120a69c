"""What the suites stand on: a bucket by other means than the backend, and short ways to use a backend."""

from __future__ import annotations

import io
import os
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from casstore import Validator
from pathapi.backend import Absent, Backend, Body, ObjectInfo
from pathapi.exceptions import (
    VersionMismatchError,
)

CHUNK: Final = 1 << 16
SIZES: Final = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, (1 << 20) + 1)
ODD_NAMES: Final = (
    "a space",
    "a+plus",
    "50%",
    "%2F",
    "a%20b",
    "#hash",
    "query?x=1&y=2",
    "quote'\"",
    "back\\slash",
    "~tilde*star",
    "[brackets]{braces}",
    "semi;colon:comma,",
    "ümläut",
    "u\u0308 decomposed",
    "日本語",
    "🎈",
    "tab\tnewline\n",
    "\x01control",
    ".hidden",
    "trailing.",
    "x" * 200,
)
FORK_TIMEOUT: Final = 30
"""Seconds after which a forked child counts as hung."""


class RawBucket(Protocol):
    """The bucket by other means than the backend: the cloud's raw SDK, or the file system. Thread-safe."""

    def plant(self, key: str, data: bytes) -> None:
        """Put an object there, or another one in its place."""
        ...

    def remove(self, key: str) -> None:
        """Take the object away."""
        ...

    def content(self, key: str) -> bytes | None:
        """The bytes that are there; None where there is no object."""
        ...

    def settle(self) -> None:
        """Wait until nothing planted so far is racy (`casstore.Validator.racy`)."""
        ...


def opened(backend: Backend, key: str, start: int = 0, end: int | None = None) -> Body:
    """The body of a read without conditions."""
    body = backend.read(key, start, end)
    assert body is not None, "a read without `unless` gave None"
    return body


def drain(body: Body) -> bytes:
    """Everything, by `Body.readinto` with a buffer that fits nothing evenly; closes the body."""
    buffer = bytearray(10_007)
    found = bytearray()
    try:
        while count := body.readinto(memoryview(buffer)):
            found += buffer[:count]
        assert body.readinto(memoryview(buffer)) == 0, "the end did not last"
    finally:
        body.close()
    return bytes(found)


def read(
    backend: Backend,
    key: str,
    start: int = 0,
    end: int | None = None,
    *,
    expect: Validator | None = None,
    unless: Validator | None = None,
) -> bytes:
    """Everything, by `Body.read`; closes the body."""
    body = backend.read(key, start, end, expect=expect, unless=unless)
    assert body is not None, "the backend says unchanged"
    try:
        return body.read()
    finally:
        body.close()


def write(backend: Backend, key: str, data: bytes, expect: Validator | Absent | None = None) -> ObjectInfo:
    """`Backend.write` of bytes."""
    return backend.write(key, io.BytesIO(data), len(data), expect=expect)


def keys(backend: Backend, prefix: str, *, delimited: bool = False, limit: int | None = None) -> Sequence[str]:
    """The keys of a listing, in its order."""
    return [item.key for item in backend.list(prefix, delimited=delimited, limit=limit)]


def only_winner(attempt: Callable[[bytes], object], writers: int = 4) -> bytes:
    """Let *writers* threads write at one time; fails unless all but one are refused. Returns what the one wrote."""
    contents = [b"writer %d" % number for number in range(writers)]
    barrier = threading.Barrier(writers)
    won: list[bytes] = []

    def run(data: bytes) -> None:
        barrier.wait()
        try:
            attempt(data)
        except VersionMismatchError:
            return
        won.append(data)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(run, contents))
    assert len(won) == 1, f"{len(won)} of {writers} writers believe that they won"
    return won[0]


def in_forked_child(check: Callable[[], bool]) -> bool:
    """What *check* says in a forked child; False where it raises, hangs or dies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Forking beside threads is the point.
        pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(FORK_TIMEOUT)
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def count_descriptors() -> int:
    """Open descriptors of this process; 0 where the platform does not say."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(directory):
            return len(os.listdir(directory))
    return 0
