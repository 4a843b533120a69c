"""What `receive` itself guards, whatever the body of a backend lets through."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
import casstore.fs.files
from casstore import Key, Validator
from pathapi.backend import ObjectInfo
from pathapi.exceptions import CloudUnavailableError, TruncatedBodyError
from pathapi.parallel.part_threads import PartThreads
from pathapi.reading import download
from pathapi.reading.download import THREADS, receive
from tests.casstore.support.fill import eventually
from tests.casstore.support.threads import threads_in


class _Body:
    """Ends early, or late, and says nothing: the fault that is injected here."""

    length: int | None = None

    def __init__(self, data: bytes, announced: int) -> None:
        self.info = ObjectInfo("k", Validator(announced, "etag"))
        self._data = data

    def readinto(self, buffer: memoryview) -> int:
        piece, self._data = self._data[: len(buffer)], self._data[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        pass


@pytest.mark.parametrize("announced", [9, 11])
def test_a_body_of_another_size_than_the_object_is_refused(tmp_path: Path, announced: int) -> None:
    cache = casstore.open(tmp_path)
    backend: Any = None  # nothing is asked again
    with cache.begin(Key("s3://b/k", "s3")) as fill, pytest.raises(TruncatedBodyError):
        receive(backend, "k", _Body(b"0123456789", announced), fill)
    assert cache.usage().entries == 0
    cache.close()


class _Bucket:
    """Serves one object of *size* zeros; *on_part* is called before each part except the first."""

    bucket = "b"

    def __init__(self, origin: str, size: int, on_part: Callable[[], object] = lambda: None) -> None:
        self.origin, self.info, self._on_part = origin, ObjectInfo("k", Validator(size, "etag")), on_part
        self.parts = 0

    def read(self, key: str, start: int, end: int, expect: Validator | None = None) -> Any:
        if start:
            self.parts += 1
            self._on_part()
        body: Any = _Body(bytes(end - start), self.info.size)
        body.length = end - start
        return body


def _receive(cache: casstore.Cache, bucket: _Bucket) -> casstore.Digest:
    with cache.begin(Key("s3://b/k", bucket.origin)) as fill:
        backend: Any = bucket
        receive(backend, "k", bucket.read("k", 0, download.PART), fill)
        return fill.staging.digest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> casstore.Cache:
    monkeypatch.setattr(download, "PART", 1 << 12)
    return casstore.open(tmp_path)


def test_a_server_that_stalls_delays_no_other(cache: casstore.Cache) -> None:
    released = threading.Event()
    size = 3 * THREADS * download.PART
    stalled = _Bucket("http://stalled", size, released.wait)
    thread = threading.Thread(target=_receive, args=(cache, stalled))
    thread.start()
    try:
        eventually(lambda: stalled.parts == THREADS)
        digest = _receive(cache, _Bucket("http://good", size))
        assert stalled.parts == THREADS, "one server gets no more threads"
    finally:
        released.set()
        thread.join()
    assert digest == _receive(cache, _Bucket("http://stalled", size))


def test_two_large_objects_of_one_bucket_share_its_threads(cache: casstore.Cache) -> None:
    running: list[None] = []
    most: list[int] = []

    def count() -> None:
        running.append(None)
        most.append(len(running))
        threading.Event().wait(0.001)
        running.pop()

    buckets = [_Bucket("http://same", 40 * download.PART, count) for _ in range(3)]
    threads = [threading.Thread(target=_receive, args=(cache, bucket)) for bucket in buckets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bucket.parts for bucket in buckets] == [39] * 3
    assert max(most) <= THREADS


def test_an_announced_size_queues_no_more_calls_than_threads(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, calls = PartThreads.submit, []

    def counted(self: PartThreads[None], call: Callable[[], None]) -> None:
        calls.append(call)
        submit(self, call)

    def fail() -> None:
        raise CloudUnavailableError("no such part")

    monkeypatch.setattr(PartThreads, "submit", counted)
    monkeypatch.setattr(casstore.Fill, "resize", lambda self, size: None)
    with pytest.raises(CloudUnavailableError, match="no such part"):
        _receive(cache, _Bucket("http://huge", 1 << 60, fail))
    assert len(calls) == THREADS


def test_a_failure_waits_for_no_other_part(cache: casstore.Cache) -> None:
    released = threading.Event()

    def fail_once() -> None:
        if bucket.parts == 1:
            raise CloudUnavailableError("this part only")
        released.wait()

    bucket = _Bucket("http://fails", 3 * THREADS * download.PART, fail_once)
    try:
        with pytest.raises(CloudUnavailableError, match="this part only"):
            _receive(cache, bucket)
    finally:
        released.set()


def test_a_thread_that_is_late_writes_into_no_file_that_was_opened_since(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor must not be closed, and be another file's, between its last look and its write."""
    late, released = threading.Event(), threading.Event()
    pwrite_all = casstore.fs.files.pwrite_all

    def slow(descriptor: int, data: memoryview, offset: int) -> None:
        if offset:
            late.set()
            released.wait()
        pwrite_all(descriptor, data, offset)

    monkeypatch.setattr("casstore.fs.files.pwrite_all", slow)

    fetch = download._Parts._fetch

    def interrupt(self: Any, start: int, end: int, body: Any = None) -> None:
        if body is None:
            return fetch(self, start, end)
        late.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(download._Parts, "_fetch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _receive(cache, _Bucket("http://late", 4 * download.PART))
    opened = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(50)]
    released.set()
    eventually(lambda: not threads_in(PartThreads._run))
    assert [os.fstat(descriptor).st_size for descriptor in opened] == [0] * 50
    for descriptor in opened:
        os.close(descriptor)
