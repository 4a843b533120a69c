"""A process that is killed anywhere in a rename or a move: the bytes are at one of the two names at least, and the
store tells the truth about both.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from casstore import WriteLock
from pathapi import S3Client, S3Path
from pathapi.backends.file.backend import FileBackend
from tests.casstore.support.fill import fork, status_of
from tests.harness.crash_points import Steps
from tests.harness.faults import Call, Fault, Reset
from tests.harness.proxy import Proxy
from tests.pathapi.support.kill_points import Kill, Place, Scene, enumerate_kills, file_place, read
from tests.pathapi.support.raw_buckets import S3RawBucket

DATA, OLD = os.urandom(50_000), b"old"
DONE = "done"


# --- at every step of the process ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Renaming(Scene):
    """Source and target; the store holds both, and other bytes are at the target."""

    way: str = "rename"

    def plant(self, place: Place) -> None:
        place.ground.plant(place.prefix + "target", OLD)
        if self.way == "move":
            time.sleep(1.1)  # it spares a target that is not older
        place.ground.plant(place.prefix + "source", DATA)

    def prepare(self, place: Place, path: Any) -> None:
        assert [(path.parent / name).read_bytes() for name in ("source", "target")] == [DATA, OLD]

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        getattr(path.parent / "source", self.way)(path.parent / "target")
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        place = kill.place
        there = [place.content("source"), place.content("target")]
        assert DATA in there, "the only copy is lost"
        assert there[1] in (OLD, DATA), "the target was missing"
        assert DONE not in kill.run.said or there == [None, DATA]
        assert read(place.path("immutable", "source")) in (DATA, None)
        assert read(place.path("immutable", "target")) in (OLD, DATA)
        root = place.path().parent
        source, target = root / "source", root / "target"
        assert [read(source), read(target)] == there
        # And whoever comes next brings it to its end.
        if there[0] is not None:
            getattr(source, self.way)(target)
        assert [place.content("source"), place.content("target")] == [None, DATA]
        assert [read(source), read(target)] == [None, DATA]
        kill.check_store()


@dataclass(frozen=True)
class MovingHome(Renaming):
    """A move to a file of this machine, which is there: it is the old one or whole."""

    @staticmethod
    def file(place: Place) -> Path:
        return place.directory / "home" / "file"

    def prepare(self, place: Place, path: Any) -> None:
        super().prepare(place, path)
        self.file(place).parent.mkdir()
        self.file(place).write_bytes(OLD)

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        (path.parent / "source").move(self.file(place))
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        place = kill.place
        there, here = place.content("source"), self.file(place).read_bytes()
        assert DATA in (there, here), "the only copy is lost"
        assert there in (DATA, None)
        assert here in (OLD, DATA), "half a file"
        assert DONE not in kill.run.said or (there, here) == (None, DATA)
        source = place.path(name="source")
        assert read(source) == there
        if there is not None:
            source.move(self.file(place))
        assert self.file(place).read_bytes() == DATA
        assert read(source) is place.content("source") is None
        assert place.content("target") == OLD
        kill.check_store()


SCENES: dict[str, Scene] = {"rename": Renaming(), "move": Renaming("move"), "move home": MovingHome()}


def check_kills(scene: Scene, make: Callable[[Path], Place], directory: Path) -> None:
    found = enumerate_kills(scene, make, directory, quick=4, at_least=21)
    assert [point for point, status in found if status] == []


@pytest.mark.usefixtures("steady_steps")
@pytest.mark.needs_locks
@pytest.mark.parametrize("name", SCENES)
def test_a_kill_at_any_step_loses_nothing(s3_place: Callable[[Path], Place], tmp_path: Path, name: str) -> None:
    check_kills(SCENES[name], s3_place, tmp_path)


@pytest.mark.usefixtures("steady_steps")
@pytest.mark.needs_locks
@pytest.mark.parametrize("name", ["rename", "move home"])
def test_a_kill_at_any_step_in_a_file_bucket_loses_nothing(tmp_path: Path, name: str) -> None:
    check_kills(SCENES[name], file_place, tmp_path)


@pytest.mark.usefixtures("steady_steps")
@pytest.mark.needs_locks
def test_where_the_source_goes_first_the_same_enumeration_finds_a_loss(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The negative control."""

    def delete_first() -> None:
        def copy_late(self: FileBackend, source: str, target: str, **options: Any) -> Any:
            data, body = bytearray(len(DATA)), self.read(source, 0, None)
            assert body is not None
            body.readinto(memoryview(data))
            body.close()
            self.delete([source])
            return self.write(target, io.BytesIO(data), len(data))

        setattr(FileBackend, "copy", copy_late)  # noqa: B010 (for mypy it is a method)

    window = "before delete #1", "after delete #1"
    assert any(status for _, status in enumerate_kills(Renaming(), file_place, tmp_path, delete_first, window=window))
    assert "the only copy is lost" in capfd.readouterr().err


# --- at every request ------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(client: S3Client, ground: S3RawBucket, at: str) -> tuple[S3Path, S3Path]:
    """Source and target; the store holds both, and other bytes are at the target."""
    root = client.S3Path(f"s3://{ground.bucket}/{at}")
    ground.plant(at + "target", OLD)
    ground.plant(at + "source", DATA)
    for name in ("source", "target"):
        (root / name).read_bytes()
    client.cache.flush()
    return root / "source", root / "target"


def check(moved: tuple[S3Path, S3Path], ground: S3RawBucket) -> None:
    there = [ground.content(path.key) for path in moved]
    assert DATA in there, "the only copy is lost"
    assert there[1] in (OLD, DATA), "the target was missing"
    assert [read(path) for path in moved] == there
    # And whoever comes next brings it to its end.
    source, target = moved
    if there[0] is not None:
        source.rename(target)
    assert [ground.content(path.key) for path in moved] == [None, DATA]
    assert read(target) == DATA


@pytest.mark.sampled(4)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("kind", "nth"), [("HEAD", 1), ("COPY", 1), ("HEAD", 2), ("COPY", 2), ("DELETE", 1)], ids=str)
def test_a_kill_at_a_request_loses_nothing(
    moved: tuple[S3Path, S3Path], ground: S3RawBucket, proxy: Proxy, kind: str, nth: int, is_done: bool
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


def test_whoever_changes_two_objects_locks_them_in_one_order(
    moved: tuple[S3Path, S3Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = moved
    order, take = [], WriteLock.acquire

    def take_and_note(lock: WriteLock, **options: Any) -> None:
        order.append(lock.key.uri)
        take(lock, **options)

    monkeypatch.setattr(WriteLock, "acquire", take_and_note)
    source.rename(target)
    target.rename(source)
    assert order == sorted(map(str, moved)) * 2
