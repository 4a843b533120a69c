"""A process that is killed anywhere in a rename or a move: the bytes are at one of the two names at least, and the
store tells the truth about both.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore import Cache, Key, WriteLock
from pathapi import S3Client, S3Path
from pathapi.exceptions import CloudPathFileNotFoundError
from pathapi.file import FileClient
from tests.bench.faults import Call, Fault, Reset
from tests.bench.proxy import Proxy
from tests.casstore.filling import fork, status_of
from tests.pathapi.backends.grounds import S3Ground

DATA = os.urandom(50_000)
STEPS = ["write_locks.take", "note", "record_copy", "record_delete", "after record_copy", "after record_delete"]


def killed(work: Callable[[], object]) -> bool:
    """Whether *work*, in a forked child, was killed before it ended."""
    return status_of(fork(work)) == -signal.SIGKILL


def die_at(cache: Cache, step: str) -> None:
    """Kill this process before, or after, it takes a step in its store."""
    owner: Any = cache
    *within, name = step.removeprefix("after ").split(".")
    for part in within:
        owner = getattr(owner, part)
    do = getattr(owner, name)

    def die(*arguments: Any, **named: Any) -> Any:
        if step.startswith("after "):
            do(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, die)


def content(path: Any) -> bytes | None:
    """What reading through the store gives."""
    try:
        data: bytes = path.read_bytes()
    except CloudPathFileNotFoundError:
        return None
    return data


@pytest.fixture
def moved(client: S3Client, ground: S3Ground, at: str) -> tuple[S3Path, S3Path]:
    """Source and target; the store holds both, and other bytes are at the target."""
    root = client.S3Path(f"s3://{ground.bucket}/{at}")
    ground.plant(at + "target", b"old")
    ground.plant(at + "source", DATA)
    for name in ("source", "target"):
        (root / name).read_bytes()
    client.cache.flush()
    return root / "source", root / "target"


def check(moved: tuple[S3Path, S3Path], ground: S3Ground) -> None:
    there = [ground.content(path.key) for path in moved]
    assert DATA in there, "the only copy is lost"
    assert there[1] in (b"old", DATA), "the target was missing"
    assert [content(path) for path in moved] == there
    # And whoever comes next brings it to its end.
    source, target = moved
    if there[0] is not None:
        source.rename(target)
    assert [ground.content(path.key) for path in moved] == [None, DATA]
    assert content(target) == DATA


@pytest.mark.parametrize("way", [S3Path.rename, S3Path.move])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_a_step_in_the_store_loses_nothing(
    moved: tuple[S3Path, S3Path], ground: S3Ground, step: str, way: Callable[[S3Path, S3Path], object]
) -> None:
    source, target = moved

    def work() -> None:
        die_at(source.client.cache, step)
        way(source, target)

    assert killed(work)
    check(moved, ground)


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("kind", "nth"), [("HEAD", 1), ("COPY", 1), ("HEAD", 2), ("COPY", 2), ("DELETE", 1)], ids=str)
def test_a_kill_at_a_request_loses_nothing(
    moved: tuple[S3Path, S3Path], ground: S3Ground, proxy: Proxy, kind: str, nth: int, is_done: bool
) -> None:
    source, target = moved
    child: list[int] = []

    def kill() -> None:
        os.kill(child[0], signal.SIGKILL)

    read, write = os.pipe()

    def work() -> None:
        os.read(read, 1)  # until the parent knows whom to kill
        source.rename(target)

    if is_done:
        # The answer never comes, and the process is killed as it asks again.
        proxy.add(Fault(Reset(after=None), kind=kind, nth=nth))
        proxy.add(Fault(Call(kill), kind=kind, nth=nth + 1))
    else:
        proxy.add(Fault(Call(kill), kind=kind, nth=nth))
    child.append(fork(work))
    os.write(write, b".")
    assert status_of(child[0]) == -signal.SIGKILL
    os.close(read)
    os.close(write)
    proxy.clear_faults()
    check(moved, ground)


@pytest.mark.parametrize("step", ["record_delete", "after record_delete"])
def test_a_kill_in_a_move_to_this_machine_loses_nothing(
    moved: tuple[S3Path, S3Path], ground: S3Ground, tmp_path: Path, step: str
) -> None:
    source, _ = moved
    (tmp_path / "file").write_bytes(b"old")

    def work() -> None:
        die_at(source.client.cache, step)
        source.move(tmp_path / "file")

    assert killed(work)
    assert (tmp_path / "file").read_bytes() == DATA
    assert content(source) == ground.content(source.key)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_a_rename_of_a_file_bucket_loses_nothing(tmp_path: Path, step: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    client = FileClient(local_cache_dir=tmp_path / "store")
    root = client.FilePath(f"file://{tree}")
    (root / "source").write_bytes(DATA)
    (root / "target").write_bytes(b"old")
    client.cache.flush()

    def work() -> None:
        die_at(client.cache, step)
        (root / "source").rename(root / "target")

    # What was written a moment ago may change without a trace: its entry is not taken for the copy.
    is_step = "record_copy" not in step
    assert killed(work) is is_step
    there = [(tree / name).read_bytes() if (tree / name).exists() else None for name in ("source", "target")]
    assert DATA in there
    assert there[1] in (b"old", DATA)
    assert [content(root / name) for name in ("source", "target")] == there
    client.cache.close()


def test_whoever_changes_two_objects_locks_them_in_one_order(
    moved: tuple[S3Path, S3Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = moved
    cache, order = source.client.cache, []
    take = cache.write_locks.take

    def take_and_note(key: Key, **options: Any) -> WriteLock:
        order.append(key.uri)
        return take(key, **options)

    monkeypatch.setattr(cache.write_locks, "take", take_and_note)
    source.rename(target)
    target.rename(source)
    assert order == sorted(map(str, moved)) * 2
