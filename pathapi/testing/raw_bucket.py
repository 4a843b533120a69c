"""Helpers of the suites: raw access to a bucket without the backend, and short calls of a backend."""

from __future__ import annotations

import io
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Final, Protocol

from casstore import Validator
from pathapi.backend import Absent, Backend, Body, ObjectInfo
from pathapi.exceptions import VersionMismatchError

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
TIMEOUT: Final = 300
"""Seconds that a test waits for a thread or a forked child."""


class RawBucket(Protocol):
    """A bucket through the cloud's SDK or the file system, not through the backend. Thread-safe."""

    def plant(self, key: str, data: bytes) -> None:
        """Create or replace an object."""

    def remove(self, key: str) -> None:
        """Delete the object."""

    def content(self, key: str) -> bytes | None:
        """Return the object's bytes, or None."""

    def settle(self) -> None:
        """Wait until no object planted so far is racy (`casstore.Validator.racy`)."""


def opened(backend: Backend, key: str, start: int = 0, end: int | None = None, **conditions: Validator | None) -> Body:
    """Open a body with `Backend.read`, which must not return "unchanged"."""
    body = backend.read(key, start, end, **conditions)
    assert body is not None, "the backend returned: unchanged"
    return body


def drain(body: Body) -> bytes:
    """Read everything through `Body.readinto`, with a buffer of an odd size; close the body."""
    buffer, found = bytearray(10_007), bytearray()
    with closing(body):
        while count := body.readinto(memoryview(buffer)):
            found += buffer[:count]
        assert body.readinto(memoryview(buffer)) == 0, "bytes after the end"
    return bytes(found)


def read(backend: Backend, key: str, start: int = 0, end: int | None = None, **conditions: Validator | None) -> bytes:
    """Read everything through `Body.read`; close the body."""
    with closing(opened(backend, key, start, end, **conditions)) as body:
        return body.read()


def write(backend: Backend, key: str, data: bytes, expect: Validator | Absent | None = None) -> ObjectInfo:
    """Write bytes through `Backend.write`."""
    return backend.write(key, io.BytesIO(data), len(data), expect=expect)


def keys(backend: Backend, prefix: str, *, delimited: bool = False, limit: int | None = None) -> Sequence[str]:
    """Return the keys of a listing, in its order."""
    return [item.key for item in backend.list(prefix, delimited=delimited, limit=limit)]


def planted(backend: Backend, ground: RawBucket, key: str, data: bytes) -> Validator:
    """Create or replace an object, and return its version."""
    ground.plant(key, data)
    return backend.head(key).validator


def plant_all(ground: RawBucket, at: str, names: Iterable[str], data: bytes = b"") -> list[str]:
    """Create objects below *at*, and return their keys."""
    created = [at + name for name in names]
    for key in created:
        ground.plant(key, data)
    return created


def only_winner(attempt: Callable[[bytes], object], writers: int = 4) -> bytes:
    """Let *writers* threads write concurrently, assert that only one succeeds, and return its bytes."""
    contents = [b"writer %d" % number for number in range(writers)]
    barrier = threading.Barrier(writers)
    won: list[bytes] = []

    def run(data: bytes) -> None:
        barrier.wait()
        with suppress(VersionMismatchError):
            attempt(data)
            won.append(data)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(run, contents))
    assert len(won) == 1, f"{len(won)} of {writers} writers succeeded"
    return won[0]


def assert_threads_read(read: Callable[[str], bytes], ground: RawBucket, at: str = "") -> None:
    """Create objects below *at*, and assert that threads which read their names at the same time get their bytes."""
    contents = {f"{number % 3}/{number}": os.urandom(1_000 + number % 7) for number in range(40)}
    for name, data in contents.items():
        ground.plant(at + name, data)
    ground.settle()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, list(contents) * 3)) == list(contents.values()) * 3


def in_forked_child(check: Callable[[], bool]) -> bool:
    """Return the result of *check* in a forked child; False if it raises, hangs or dies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the purpose
        pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(TIMEOUT)
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def count_descriptors() -> int:
    """Return the number of open descriptors."""
    return len(os.listdir("/dev/fd"))


def assert_leaves_no_descriptor(use: Callable[[], object], slack: int = 0) -> None:
    """Assert that repeated calls of *use* leave at most *slack* descriptors open."""
    use()
    before = count_descriptors()
    for _ in range(5):
        use()
    assert count_descriptors() <= before + slack
