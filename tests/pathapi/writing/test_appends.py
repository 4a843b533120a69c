"""Many processes append lines to one object on a real server: every line is in it once.

On one machine they take turns. On two, one of two wins; the other gets its bytes back as a pending write, and appends
again. Without conditions lines are lost: that is the negative control, step by step, since luck proves nothing.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from casstore import PendingState
from pathapi import S3Path
from pathapi.exceptions import OverwriteNewerCloudError, PendingWriteError
from tests.casstore.support.fill import fork, status_of
from tests.harness.sampling import by_pass
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

pytestmark = pytest.mark.usefixtures("unsynced")

NAME = "lines.txt"


@pytest.fixture
def stores(make_client: MakeClient, ground: S3RawBucket, at: str, tmp_path: Path) -> Callable[..., S3Path]:
    """The object, by a client with the store of that name. Not through the proxy, whose threads a fork would lose."""

    def path(name: str, **options: object) -> S3Path:
        endpoint = ground.client.meta.endpoint_url
        client = make_client(endpoint_url=endpoint, local_cache_dir=tmp_path / name, **options)
        return client.S3Path(f"s3://{ground.bucket}/{at}{NAME}")

    return path


def lines_of(who: int, count: int) -> list[bytes]:
    return [b"writer %d line %d\n" % (who, number) for number in range(count)]


def append(path: S3Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)


def append_until_written(path: S3Path, line: bytes) -> int:
    """Append, again after each conflict, whose bytes must be pending; how many there were."""
    conflicts = 0
    while True:
        try:
            append(path, line)
        except OverwriteNewerCloudError:
            conflicts += 1
            drop_conflict(path, line)
        except PendingWriteError:
            pass  # another process of this machine has yet to drop its own
        else:
            return conflicts


def drop_conflict(path: S3Path, line: bytes) -> None:
    """The bytes that a rejected close left are what was written, to the last line."""
    mine = [write for write in path.pending if data_of(path, write.name).endswith(line)]
    assert [write.state for write in mine] == [PendingState.FAILED]
    assert path.drop(mine[0]) == mine


def data_of(path: S3Path, name: str) -> bytes:
    cache = path.client.cache
    (write,) = (write for write in cache.pending.of(path._store_key()) if write.name == name)
    return Path(cache.pending.path(write)).read_bytes()


def run(paths: list[S3Path], count: int, log: Path) -> int:
    """A process for each of *paths*, which appends *count* lines of its own, all at once; the conflicts of all."""
    all_there = multiprocessing.get_context("fork").Barrier(len(paths))

    def work(who: int, path: S3Path) -> None:
        all_there.wait(1_000)
        conflicts = sum(append_until_written(path, line) for line in lines_of(who, count))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"%d\n" % conflicts)

    children = [fork(lambda who=who, path=path: work(who, path)) for who, path in enumerate(paths)]  # type: ignore[misc]
    assert [status_of(child) for child in children] == [0] * len(paths)
    conflicts = [int(line) for line in log.read_text().split()]
    assert len(conflicts) == len(paths)
    return sum(conflicts)


def check(ground: S3RawBucket, at: str, writers: int, count: int) -> None:
    content = ground.content(at + NAME)
    assert content is not None
    wanted = Counter(line for who in range(writers) for line in lines_of(who, count))
    assert Counter(content.splitlines(keepends=True)) == wanted
    for who in range(writers):
        assert [line for line in content.splitlines(keepends=True) if line.startswith(b"writer %d " % who)] == lines_of(
            who, count
        ), "each writer's lines are in its order"


@pytest.fixture
def count() -> int:
    """Lines of each writer."""
    return by_pass(quick=4, full=60, torture=200)


@pytest.mark.needs_locks
def test_8_processes_of_one_machine_append_without_a_conflict_and_lose_no_line(
    stores: Callable[..., S3Path], ground: S3RawBucket, at: str, tmp_path: Path, count: int
) -> None:
    assert run([stores("store")] * 8, count, tmp_path / "log") == 0
    check(ground, at, 8, count)


@pytest.mark.needs_locks
def test_8_processes_of_two_machines_lose_no_line_without_an_error(
    stores: Callable[..., S3Path], ground: S3RawBucket, at: str, tmp_path: Path, count: int
) -> None:
    conflicts = run([stores("one"), stores("two")] * 4, count, tmp_path / "log")
    assert conflicts > 0, "nobody met anybody"
    check(ground, at, 8, count)
    for name in ("one", "two"):
        path = stores(name)
        assert path.pending == []
        assert path.read_bytes() == ground.content(at + NAME)


def append_at_one_time(paths: list[S3Path]) -> list[bool]:
    """Both open, then both write, then both close: whose close was rejected, its bytes being pending and dropped."""
    files = [path.open("ab") for path in paths]
    rejected = []
    for who, file in enumerate(files):
        file.write(lines_of(who, 1)[0])
    for who, file in enumerate(files):
        try:
            file.close()
        except OverwriteNewerCloudError:
            drop_conflict(paths[who], lines_of(who, 1)[0])
            rejected.append(True)
        else:
            rejected.append(False)
    return rejected


def test_of_two_machines_that_append_at_one_time_the_loser_is_told(
    stores: Callable[..., S3Path], ground: S3RawBucket, at: str
) -> None:
    paths = [stores("one"), stores("two")]
    assert append_at_one_time(paths) == [False, True]
    append(paths[1], lines_of(1, 1)[0])
    check(ground, at, 2, 1)


def test_without_conditions_a_line_is_lost_and_nobody_is_told(
    stores: Callable[..., S3Path], ground: S3RawBucket, at: str
) -> None:
    """The negative control."""
    paths = [stores(name, conditional_writes="off") for name in ("one", "two")]
    assert append_at_one_time(paths) == [False, False]
    with pytest.raises(AssertionError):
        check(ground, at, 2, 1)
    assert ground.content(at + NAME) == lines_of(1, 1)[0]
