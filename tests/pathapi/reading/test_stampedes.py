"""One download however many processes ask, on a real server; and what waiters may take of another's download."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pathapi import S3Client, S3Path
from pathapi.clouds.file import FileClient
from pathapi.reading import reader
from pathapi.reading.download import PART
from tests.casstore.support.fill import eventually
from tests.harness.faults import Call, Fault, Stall
from tests.harness.proxy import Proxy
from tests.harness.sampling import by_pass
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

pytestmark = pytest.mark.needs_locks


def read_and_compare(path: S3Path, data: bytes, barrier: Any, answers: Any) -> None:
    barrier.wait()
    answers.put(path.read_bytes() == data)


def run(method: str, count: int, path: S3Path, data: bytes) -> list[bool]:
    """What *count* processes that read at one time say of the bytes."""
    context: Any = multiprocessing.get_context(method)
    barrier, answers = context.Barrier(count), context.Queue()
    children = [context.Process(target=read_and_compare, args=(path, data, barrier, answers)) for _ in range(count)]
    for child in children:
        child.start()
    found = [answers.get(timeout=1_000) for _ in children]
    for child in children:
        child.join()
    return found


def path_of(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    return client.S3Path(f"s3://{ground.bucket}/{at}object")


def test_32_processes_get_one_large_object_by_one_download(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    data = os.urandom(1 << 20) * by_pass(quick=10, full=64)
    ground.plant(at + "object", data)
    assert run("fork", 32, path_of(client, ground, at), data) == [True] * 32
    assert proxy.body_bytes == len(data)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods_share_a_download_too(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str, method: str
) -> None:
    data = os.urandom(2 * PART + 1)
    ground.plant(at + "object", data)
    assert run(method, 3, path_of(client, ground, at), data) == [True] * 3
    assert proxy.body_bytes == len(data)


@pytest.mark.parametrize("size", [100_000, 2 * PART], ids=["small", "large"])
def test_when_a_downloader_is_killed_the_next_one_takes_over(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str, size: int
) -> None:
    data, parts = os.urandom(size), 1 if size < PART else 2
    ground.plant(at + "object", data)
    path = path_of(client, ground, at)
    proxy.add(Fault(Stall(60, after=50_000), kind="GET"))
    context: Any = multiprocessing.get_context("fork")
    first = context.Process(target=path.read_bytes)
    first.start()
    deadline = time.monotonic() + 1_000
    while proxy.body_bytes < 50_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(path.read_bytes)
        eventually(lambda: client.cache.counts()["waits"])
        eventually(lambda: proxy.count("GET") >= parts)
        assert not waiting.done()
        assert proxy.count("GET") == parts, "the waiter asked for nothing"
        os.kill(first.pid, signal.SIGKILL)
        assert waiting.result(timeout=1_000) == data
    first.join()


def test_a_waiter_takes_no_answer_to_a_question_that_was_asked_before_its_own(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    """One asks, gets the old version, and is slow; the object is replaced; another asks, and must see the new one."""
    ground.plant(at + "object", b"old" * 50_000)
    path = path_of(client, ground, at)
    proxy.add(Fault(Stall(1.0, after=1_000), kind="GET"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(path.read_bytes)
        while not proxy.body_bytes:
            time.sleep(0.01)
        ground.plant(at + "object", b"new" * 50_000)
        second = pool.submit(path.read_bytes)
        assert second.result() == b"new" * 50_000
        assert first.result() == b"old" * 50_000, "what was there when it asked"
    assert path.read_bytes() == b"new" * 50_000


def test_of_those_who_find_a_new_version_one_reads_it(
    make_client: MakeClient, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    client = make_client()
    path = path_of(client, ground, at)
    old, new = os.urandom(300_000), os.urandom(300_000)
    ground.plant(at + "object", old)
    assert path.read_bytes() == old
    ground.plant(at + "object", new)
    proxy.reset()
    barrier = threading.Barrier(6)

    def read(_: int) -> bytes:
        barrier.wait()
        return path.read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == [new] * 6


def test_a_failed_download_does_not_fail_those_who_waited_for_it(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    ground.plant(at + "object", b"x" * 1000)
    path = path_of(client, ground, at)
    entered, leave = threading.Event(), threading.Event()

    def fail() -> None:
        entered.set()
        leave.wait(1_000)
        raise ConnectionResetError

    proxy.add(Fault(Call(fail), kind="GET", times=3))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(path.read_bytes)
        try:
            entered.wait(1_000)
            second = pool.submit(path.read_bytes)
            time.sleep(0.1)
        finally:
            leave.set()
        assert second.result(timeout=1_000) == b"x" * 1000
        assert first.exception(timeout=1_000) is None or isinstance(first.exception(), ConnectionError)


def test_a_reader_of_a_changed_object_waits_once_for_one_that_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And downloads beside it then: each wait takes the whole time-out."""
    monkeypatch.setenv("CASSTORE_LOCK_TIMEOUT", "0.05")
    client = FileClient(local_cache_dir=tmp_path / "store")
    (tmp_path / "object").write_bytes(b"old")
    path = client.CloudPath(f"file://{tmp_path}/object")
    assert path.read_bytes() == b"old"
    client.cache.flush()
    (tmp_path / "object").write_bytes(b"new bytes")
    stalled = client.cache.flights
    thread = threading.Thread(target=lambda: list(stalled.acquire(path.location.store_key.row_key).polls()))
    thread.start()
    thread.join()
    with stalled.acquire(path.location.store_key.row_key) as flight, flight:
        waits = sum(1 for _ in flight.polls())
    assert flight.passes_by and waits < 100
    monkeypatch.setattr(reader, "LOOKS", 2)
    assert path.read_bytes() == b"new bytes"
