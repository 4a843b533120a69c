"""The threads that do a tree: what they tell, which error they raise, and what an interrupt leaves running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import Progress, S3Client, S3Path
from pathapi.exceptions import CloudUnavailableError
from pathapi.parallel.part_threads import PartThreads
from pathapi.parallel.worker_pool import WorkerPool
from tests.casstore.support.fill import eventually
from tests.casstore.support.threads import threads_in
from tests.pathapi.support.raw_buckets import S3RawBucket

PIECE = 1 << 16
"""Bytes of 6 MiB that take `SECONDS`: all of it takes 48 s, and what is cut short much less."""
SECONDS = 0.5


def nothing_of(_: int) -> int:
    return 0


def test_progress_is_reported_while_the_first_item_runs_alone() -> None:
    reported: list[Progress] = []
    alone = threading.Event()

    def process(item: int) -> bool:
        if not item:
            eventually(lambda: len(reported) >= 3)
            alone.set()
        assert alone.is_set(), "the others begin when it is done"
        return False

    WorkerPool(process, nothing_of, reported.append).run(range(20), first_alone=True)
    assert len([progress for progress in reported if not progress.files]) >= 3
    assert reported[-1].files == 20


def test_a_failure_of_the_first_item_ends_the_run() -> None:
    done: list[int] = []

    def process(item: int) -> bool:
        done.append(item)
        raise CloudUnavailableError(f"item {item}")

    with pytest.raises(CloudUnavailableError, match="item 0"):
        WorkerPool(process, nothing_of, None).run(range(20), first_alone=True)
    assert done == [0]


def test_an_error_in_listing_does_not_hide_the_failure_before_it() -> None:
    failed = threading.Event()

    def process(item: int) -> bool:
        failed.set()
        raise CloudUnavailableError(f"item {item}")

    def items() -> Iterator[int]:
        yield 0
        failed.wait(1_000)
        time.sleep(0.1)
        raise PermissionError("the second page")

    with pytest.raises(CloudUnavailableError, match="item 0") as raised:
        WorkerPool(process, nothing_of, None).run(items())
    assert isinstance(raised.value.__context__, PermissionError)

    def good(item: int) -> bool:
        return False

    with pytest.raises(PermissionError, match="the second page"):
        WorkerPool(good, nothing_of, None).run(items())


# --- after an interrupt ---------------------------------------------------------------------------------------------


class SlowBody:
    """A response that comes in small pieces, one at a time."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.info, self.length = body.info, body.length

    def readinto(self, buffer: memoryview) -> int:
        time.sleep(SECONDS)
        count: int = self._body.readinto(buffer[:PIECE])
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def interrupt_when(begun: threading.Event) -> Callable[[Progress], None]:
    def tell(_: Progress) -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    return tell


def wait_for_the_crew() -> float:
    began = time.monotonic()
    eventually(lambda: not threads_in(PartThreads._run))
    return time.monotonic() - began


@pytest.fixture
def path(client: S3Client, ground: S3RawBucket, at: str, monkeypatch: pytest.MonkeyPatch) -> S3Path:
    """The test's "directory"; interrupts wait for nothing."""
    monkeypatch.setattr("pathapi.parallel.worker_pool.INTERRUPT_SECONDS", 0.0)
    return client.S3Path(f"s3://{ground.bucket}/{at}")


@pytest.mark.parametrize("is_alone", [True, False])
def test_an_interrupted_upload_ends_at_its_next_chunk_and_releases_its_lock(
    path: S3Path, ground: S3RawBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    for name in ("a", "b", "c")[: 1 if is_alone else 3]:
        (tmp_path / name).write_bytes(b"" if name == "a" and not is_alone else bytes(6 << 20))
    backend = path.client.backend(ground.bucket)
    write, begun = backend.write, threading.Event()

    def slow(key: str, source: Any, size: int, **options: Any) -> Any:
        if size:
            begun.set()
            while source.read(PIECE):
                time.sleep(SECONDS)
            source.seek(0)
        return write(key, source, size, **options)

    monkeypatch.setattr(backend, "write", slow)
    with pytest.raises(KeyboardInterrupt):
        path.upload_from(tmp_path, progress=interrupt_when(begun))
    monkeypatch.setattr(backend, "write", write)
    name = "a" if is_alone else "b"
    began = time.monotonic()
    (path / name).write_bytes(b"the cell that is run again")
    assert time.monotonic() - began < 40
    assert wait_for_the_crew() < 40
    assert (path / name).read_bytes() == b"the cell that is run again"
    assert not list(path.client.cache.pending.all())


@pytest.mark.parametrize("size", [6 << 20, 40 << 20], ids=["one piece", "parts"])
def test_an_interrupted_download_ends_at_its_next_chunk(
    path: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    ground.plant(at + "big", bytes(size))
    backend = path.client.backend(ground.bucket)
    read, begun = backend.read, threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        return SlowBody(read(*arguments, **options))

    monkeypatch.setattr(backend, "read", slow)
    with pytest.raises(KeyboardInterrupt):
        path.download_to(tmp_path / "to", progress=interrupt_when(begun))
    assert wait_for_the_crew() < 40
    assert not list((tmp_path / "to").iterdir())
    monkeypatch.setattr(backend, "read", read)
    path.download_to(tmp_path / "to")
    assert (tmp_path / "to/big").stat().st_size == size
