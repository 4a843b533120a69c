"""`kill -9` at every step, from opening an object for writing to the end of its process: what was promised is not lost.
Nor does anybody read a mixture.

The steps are found by the test itself: see `tests.bench.crashing`. From the link that makes the record whole, the bytes
are in the cloud or pending. Two protections have their negative control: without them, the same enumeration must find
lost bytes or an old version that is served for the new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import filelock  # noqa: F401 (here, and not in each of the children)
import lmdb
import pytest

import casstore
from casstore import pending, reaper, verification  # noqa: F401 (as above)
from casstore.blobs import Staging
from casstore.cache import Cache
from casstore.committer import Committer
from casstore.index import Index
from pathapi import FileClient, S3Client, delivering, uploading, writing
from pathapi.backends.file import FileBackend
from pathapi.backends.s3 import S3Backend
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from tests.bench.crashing import Run, Steps, crash
from tests.bench.servers import S3Server
from tests.casstore.filling import forked
from tests.pathapi.backends.grounds import FileGround, S3Ground

# Without locks that exclude, nobody can tell that the writer is dead. The time is for a busy machine.
pytestmark = [pytest.mark.needs_locks, pytest.mark.timeout(300)]

OLD, NEW, MORE, THEIRS = b"old " * 500, b"new " * 700, b"more" * 300, b"someone else's"
REFUSED = "refused"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of processes: none of them loses its power, and that locks exclude is known. One thread in each: what it
    learned by the way is committed at once, so that the steps are always the same.
    """

    def commit_at_once(self: Committer, item: Any) -> None:
        self._commit([item])

    monkeypatch.setattr(Committer, "submit", commit_at_once)
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(pending, "locks_exclude", lambda directory: True)
    monkeypatch.setattr(reaper, "locks_exclude", lambda directory: True)
    monkeypatch.setattr(reaper, "DEBRIS_SECONDS", -1.0)


# --- where -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An object, and a store that nobody else has."""

    ground: Any
    key: str
    uri: str
    root: Path
    make: Callable[..., Any]

    def path(self, freshness: str = "always") -> Any:
        """In this process."""
        return self.make(local_cache_dir=self.root, freshness=freshness).CloudPath(self.uri)

    def content(self) -> bytes | None:
        """Of the object, without the code under test."""
        found: bytes | None = self.ground.content(self.key)
        return found


def file_place(directory: Path) -> Place:
    bucket = directory / "bucket"
    bucket.mkdir(parents=True)
    return Place(FileGround(bucket), "object", f"file://{bucket}/object", directory / "store", FileClient)


# --- what ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """An object with *old* content is to get *new* one by *act*, which says to `Steps` what it was told is done.

    *starts_pending*: the bytes are pending already when it begins. *others* is what somebody else wrote meanwhile.
    """

    old: bytes | None
    new: bytes
    act: Callable[[Place, Any, Steps], None]
    starts_pending: bool = False
    others: bytes | None = None
    discards: bool = False


def _write(mode: str, data: bytes) -> Callable[[Place, Any, Steps], None]:
    def act(place: Place, path: Any, steps: Steps) -> None:
        with path.open(mode) as file:
            file.write(data)
        steps.say("done")

    return act


def _write_beside_others(mode: str, error: type[Exception]) -> Callable[[Place, Any, Steps], None]:
    def act(place: Place, path: Any, steps: Steps) -> None:
        file = path.open(mode)
        file.write(NEW)
        place.ground.plant(place.key, THEIRS)
        with pytest.raises(error):
            file.close()
        steps.say(REFUSED)

    return act


def _write_without_network(place: Place, path: Any, steps: Steps) -> None:
    file = path.open("wb")
    file.write(NEW)
    _lose_network()
    with pytest.raises(CloudUnavailableError):
        file.close()
    steps.say(REFUSED)


def _lose_network() -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise CloudUnavailableError("no network")

    for backend in (FileBackend, S3Backend):
        for call in ("write", "head", "read"):
            setattr(backend, call, unreachable)


def _push(place: Place, path: Any, steps: Steps) -> None:
    path.push()
    steps.say("done")


def _drop(place: Place, path: Any, steps: Steps) -> None:
    path.drop()
    steps.say("done")


SCENES = {
    "w, absent": Scene(None, NEW, _write("wb", NEW)),
    "w": Scene(OLD, NEW, _write("wb", NEW)),
    "a": Scene(OLD, OLD + MORE, _write("ab", MORE)),
    "r+": Scene(OLD, MORE + OLD[len(MORE) :], _write("r+b", MORE)),
    "x": Scene(None, NEW, _write("xb", NEW)),
    "push": Scene(OLD, NEW, _push, starts_pending=True),
    "drop": Scene(OLD, NEW, _drop, starts_pending=True, discards=True),
    "w, refused": Scene(OLD, NEW, _write_beside_others("wb", OverwriteNewerCloudError), others=THEIRS),
    "x, refused": Scene(None, NEW, _write_beside_others("xb", CloudPathFileExistsError), others=THEIRS),
    "w, no network": Scene(OLD, NEW, _write_without_network),
}


def play(scene: Scene, place: Place, log: Path, last: int | None, breaks: Callable[[], None] | None) -> Run:
    """In a child that dies at point number *last*."""

    def work(steps: Steps) -> None:
        if scene.old is not None:
            place.ground.plant(place.key, scene.old)
            place.ground.settle()  # of a file that has just changed, more is asked
            assert place.path().read_bytes() == scene.old
        path = place.path()
        backend = path.client.backend(path.uri.bucket)
        if scene.starts_pending:
            file = path.open("wb")
            file.write(scene.new)
            real = type(backend).write, type(backend).head, type(backend).read
            _lose_network()
            with suppress(CloudUnavailableError):
                file.close()
            type(backend).write, type(backend).head, type(backend).read = real
        path.client.cache.flush()
        if breaks is not None:
            breaks()
        steps.wrap_system_calls()
        steps.wrap_transactions(Index, "writing")
        steps.wrap(type(backend), "write", lambda *_, **__: "upload")
        steps.wrap(Staging, "take", lambda *_: "copy into staging")
        steps.wrap(writing._Raw, "write", lambda *_: "write staging")
        steps.begin()
        scene.act(place, path, steps)
        path.client.cache.close()
        steps.say("closed")

    return crash(work, log, last)


# --- what must hold --------------------------------------------------------------------------------------------------


def check(scene: Scene, place: Place, run: Run, *, is_promised: bool, pushes_first: bool) -> None:
    """After a kill; raises AssertionError. In a process of its own."""
    cache = casstore.open(place.root)
    path = place.path()

    def kept() -> list[bytes]:
        return [Path(cache.pending.path(write)).read_bytes() for write in cache.pending.all()]

    cloud, waiting = place.content(), kept()
    assert cloud in (scene.old, scene.new, scene.others), "a mixture in the cloud"
    assert set(waiting) <= {scene.new}, "a mixture is pending"
    if "done" in run.said:
        assert cloud == (scene.old if scene.discards else scene.new), "what was acknowledged is not in the cloud"
        assert not waiting, "what was dealt with is pending"
    if REFUSED in run.said:
        assert waiting, "what was refused is lost"
    if is_promised:
        assert cloud == scene.new or waiting, "bytes that were recorded are lost"
    elif not scene.discards:
        assert cloud != scene.new, "sent before it was recorded"
        assert not waiting, "nothing was promised yet"

    if pushes_first:
        _push_and_check(scene, place, path, waiting)
    for freshness in ("immutable", "always"):
        found = _read(place.path(freshness))
        allowed = {scene.old, scene.new, scene.others, PendingWriteError}
        if is_promised and not (pushes_first and scene.others):
            # Once its bytes are safe, never silently the old version for the one that was written here.
            allowed.discard(scene.old)
        assert found in allowed, f"a reader under {freshness} got {found!r}"
    if not pushes_first:
        _push_and_check(scene, place, path, waiting)

    after = place.content()
    assert _read(place.path()) == after
    # Without a write of this machine's, an entry is what it was.
    assert _read(place.path("immutable")) in (after, *((scene.old,) if after != scene.new else ()))
    verified = cache.verify()
    assert verified.is_sound, f"the store is damaged: {verified.problems}"
    cache.execute(cache.plan())
    layout = cache.layout
    assert set(os.listdir(layout.leases)) <= {cache.lease.name}
    assert not os.listdir(layout.write_lock("")), "a lock was left"
    assert not os.listdir(layout.trash)
    assert not list(cache.pending.all()), "something is pending still"
    left = [name for _, _, names in os.walk(layout.pending("")) for name in names]
    assert not left, f"halves of records were left: {left}"


def _read(path: Any) -> object:
    try:
        return path.read_bytes()
    except PendingWriteError:
        return PendingWriteError
    except CloudPathFileNotFoundError:
        return None


def _push_and_check(scene: Scene, place: Place, path: Any, waiting: list[bytes]) -> None:
    cloud = place.content()
    try:
        path.push()
    except CloudPathFileNotFoundError:
        assert not path.pending
        assert place.content() == cloud
    except (OverwriteNewerCloudError, CloudPathFileExistsError):
        assert place.content() == cloud == scene.others, "taken for a conflict"
        assert waiting
        assert len(path.drop()) == 1
    else:
        assert place.content() == scene.new
    assert not path.pending


# --- the enumerations ------------------------------------------------------------------------------------------------


def promised_at(scene: Scene, points: list[str]) -> int:
    """Number of the first point at which the bytes may not be lost any more (for a drop: at which they may)."""
    name = "after unlink record #1" if scene.discards else "after link record #1"
    return points.index(name) if name in points else len(points) + 1


def enumerate_kills(
    scene: Scene,
    make: Callable[[Path], Place],
    directory: Path,
    breaks: Callable[[], None] | None = None,
    every: int = 1,
) -> Iterator[tuple[str, int]]:
    """Kill at each point, or at one of so many; the name of the point and 0, or the status of a check that failed."""
    whole = play(scene, make(directory / "whole"), directory / "log", None, breaks)
    assert (whole.status, whole.said[-1]) == (0, "closed"), "without a kill it must work"
    first = promised_at(scene, whole.points)
    for number in range(0, len(whole.points), every):
        place = make(directory / str(number))
        run = play(scene, place, directory / "log", number, breaks)
        assert run.points == whole.points[: number + 1], "not the same steps"
        assert run.status == -9
        is_promised = (number < first) if scene.discards else (scene.starts_pending or number >= first)
        # "after one" and "before the next" are one state: each is looked at in both ways.
        work = partial(check, scene, place, run, is_promised=is_promised, pushes_first=number % 2 == 0)
        yield whole.points[number], forked(work)


@pytest.mark.parametrize("name", SCENES)
def test_a_write_that_is_killed_anywhere_is_in_the_cloud_or_pending_once_it_was_recorded(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    """All points of all scenes with --full; of an append always, of the others else every fifth."""
    every = 1 if name == "a" or request.config.getoption("--full") else 5
    found = list(enumerate_kills(SCENES[name], file_place, tmp_path, every=every))
    assert [point for point, status in found if status] == []
    assert len(found) * every > 15


@pytest.fixture
def s3_place(seaweed: S3Server, shared_bucket: str) -> Callable[[Path], Place]:
    """Objects and stores of their own in one bucket of a real server."""
    ground = S3Ground(seaweed.client(), shared_bucket)
    make = partial(
        S3Client,
        aws_access_key_id=seaweed.access_key,
        aws_secret_access_key=seaweed.secret_key,
        region=seaweed.region,
        endpoint_url=seaweed.endpoint,
    )
    clients: dict[str, S3Client] = {}

    def client(local_cache_dir: Path, freshness: str) -> S3Client:
        # One per process: making it takes longer than all that it is then asked for.
        name = f"{os.getpid()} {freshness}"
        if name not in clients:
            clients[name] = make(local_cache_dir=local_cache_dir, freshness=freshness)
        return clients[name]

    def place(directory: Path) -> Place:
        key = f"{directory.parent.name}/{directory.name}/object"
        return Place(ground, key, f"s3://{shared_bucket}/{key}", directory / "store", client)

    return place


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("a", 7),
        *(pytest.param(name, 1, marks=[pytest.mark.slow, pytest.mark.timeout(600)]) for name in ("a", "w, refused")),
    ],
)
def test_a_write_to_s3_that_is_killed_anywhere_is_in_the_cloud_or_pending_once_it_was_recorded(
    s3_place: Callable[[Path], Place], tmp_path: Path, name: str, every: int
) -> None:
    found = list(enumerate_kills(SCENES[name], s3_place, tmp_path, every=every))
    assert [point for point, status in found if status] == []
    assert len(found) * every > 30


# --- negative controls -----------------------------------------------------------------------------------------------


def _record_nothing() -> None:
    delivering._record = lambda *_: (None, None)


def _discard_before_sending() -> None:
    send = uploading.send

    def discard_and_send(target: Any, *arguments: Any, **options: Any) -> Any:
        _discard_all(target.client.cache, target.key)
        return send(target, *arguments, **options)

    setattr(delivering, "send", discard_and_send)  # noqa: B010 (for mypy it is not there)


def _discard_before_committing() -> None:
    record_write = Cache.record_write

    def discard_and_record(self: Cache, noted: Any, *arguments: Any) -> Any:
        _discard_all(self, noted.key)
        return record_write(self, noted, *arguments)

    setattr(Cache, "record_write", discard_and_record)  # noqa: B010 (as above)


def _discard_all(cache: Cache, key: casstore.Key) -> None:
    for write in cache.pending.of(key):
        cache.pending.discard(write)


def _upload_before_recording() -> None:
    record, sent = delivering._record, []

    def send_and_record(target: Any, staging: Any, base: Any) -> Any:
        sent.append(uploading.send(target, staging, base))
        return record(target, staging, base)

    setattr(delivering, "send", lambda *_, **__: sent.pop())  # noqa: B010 (as above)
    delivering._record = send_and_record


@pytest.mark.parametrize(
    ("breaks", "name"),
    [
        (_record_nothing, "w, no network"),
        (_discard_before_sending, "w"),
        (_discard_before_committing, "w"),
        (_upload_before_recording, "w, absent"),
    ],
)
def test_without_a_protection_the_same_enumeration_finds_a_loss(
    tmp_path: Path, breaks: Callable[[], None], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert any(status for _, status in enumerate_kills(SCENES[name], file_place, tmp_path, breaks))
    assert "AssertionError" in capfd.readouterr().err
