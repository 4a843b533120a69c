"""`kill -9` at every step of what a client does: the points that a scene passes, a kill at each, and a look afterwards.

A scene says what is there before, what is then done, and what must hold after a kill anywhere in that. The points are
found by the scene itself: see `tests.harness.crash_points`. All that one kill needs and that is the same for each
(the SDK's models, planted objects that are old enough to be believed) is made before, in the process that forks.
"""

from __future__ import annotations

import mimetypes  # noqa: F401 (here, and not in each of the children)
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

import casstore
from casstore import Cache, PendingState
from casstore.blobs.staging import Staging
from casstore.eviction import reaper
from casstore.format.layout import PATHS_NAME
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.pending import store as pending
from casstore.verify import verifier as verification  # noqa: F401 (as above)
from pathapi import FileClient
from pathapi.backends.file.backend import FileBackend
from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.requests import S3Requests
from pathapi.exceptions import (
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    OverwriteNewerLocalError,
    PendingWriteError,
)
from pathapi.writing import pending as settling  # noqa: F401 (as above)
from pathapi.writing import writer as writing
from tests.casstore.support.fill import forked
from tests.harness.crash_points import Run, Steps, crash
from tests.harness.sampling import sampled
from tests.pathapi.support.raw_buckets import FileRawBucket

PART = 5 << 20
"""The least that S3 takes for a part that is not the last."""
RECORDED = "after link record #1"
"""The point from which the bytes of a write may not be lost any more."""


def leave_unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes by the hundred may be killed, and none of them loses its power: nothing waits for the disk."""
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_steps_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """That locks exclude is known. One thread in each process: what it learned by the way is committed at once, so that
    the steps are always the same.
    """

    def commit_at_once(self: Committer, item: Any) -> None:
        self._commit([item])

    monkeypatch.setattr(Committer, "submit", commit_at_once)
    monkeypatch.setattr(pending, "locks_are_exclusive", lambda directory: True)
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda directory: True)
    monkeypatch.setattr(reaper, "TEMPORARY_SECONDS", -1.0)


# --- where -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A "directory" of a bucket, with an object in it, and a store that nobody else has, below *directory*."""

    ground: Any
    prefix: str
    uri_of_prefix: str
    directory: Path
    make: Callable[..., Any]

    @property
    def key(self) -> str:
        """Of the object that most scenes are about."""
        return self.prefix + "object"

    @property
    def root(self) -> Path:
        """Of the store."""
        return self.directory / "store"

    def path(self, freshness: str = "always", name: str = "object") -> Any:
        """In this process."""
        return self.make(local_cache_dir=self.root, freshness=freshness).CloudPath(self.uri_of_prefix + name)

    def content(self, name: str = "object") -> bytes | None:
        """Of an object, without the code under test."""
        found: bytes | None = self.ground.content(self.prefix + name)
        return found


def file_place(directory: Path) -> Place:
    """Below *directory*, which is made."""
    bucket = directory / "bucket"
    bucket.mkdir(parents=True)
    return Place(FileRawBucket(bucket), "", f"file://{bucket}/", directory, FileClient)


# --- what ------------------------------------------------------------------------------------------------------------


class Scene:
    """What is done to the objects of a place, and what is promised of it."""

    def plant(self, place: Place) -> None:
        """What is in the cloud before."""

    def prepare(self, place: Place, path: Any) -> None:
        """In the child, before steps count."""

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        """In the child; says to *steps* what it was told is done."""
        raise NotImplementedError

    def watch(self, place: Place) -> None:
        """In another child, while the one that is about to be killed stands still; raises AssertionError."""

    def check(self, kill: Kill) -> None:
        """In another child, after a kill; raises AssertionError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Kill:
    """A process that ended at point *number* of those that one passes which nobody kills."""

    place: Place
    run: Run
    number: int
    points: list[str] = field(repr=False)

    @property
    def is_even(self) -> bool:
        """ "After one" and "before the next" are one state: each is looked at in another order."""
        return self.number % 2 == 0

    def is_past(self, point: str) -> bool:
        """Whether that point was reached; one that is never reached lies behind the end."""
        return point in self.points and self.number >= self.points.index(point)

    @cached_property
    def cache(self) -> Cache:
        """The store, for whoever looks at it."""
        return casstore.open(self.place.root)

    def waiting(self) -> list[tuple[PendingState, bytes]]:
        """The state and the bytes of all that is pending."""
        pending = self.cache.pending
        return [(write.state, Path(pending.path(write)).read_bytes()) for write in pending.all()]

    def bytes_waiting(self) -> list[bytes]:
        """Of all that is pending."""
        return [data for _, data in self.waiting()]

    def look_at_leases(self) -> None:
        """As `casstore gc` does: what a dead process left that a user may want becomes pending."""
        self.cache.execute(self.cache.plan())

    def check_store(self) -> None:
        """Nothing is pending any more: then nothing may be left of the dead process at all."""
        verified = self.cache.verify()
        assert verified.is_sound, f"the store is damaged: {verified.problems}"
        self.look_at_leases()
        layout = self.cache.layout
        assert set(os.listdir(layout.leases)) <= {self.cache.lease.name}
        assert not os.listdir(layout.write_locks), "a lock was left"
        assert not os.listdir(layout.trash)
        assert not list(self.cache.pending.all()), "something is pending still"
        found = {name for _, _, names in os.walk(layout.pending_directory) for name in names}
        left = found - {PATHS_NAME}
        assert not left, f"halves of records were left: {left}"


def read(path: Any) -> object:
    """What a reader gets: bytes, None, or the class of the error that names what is pending."""
    try:
        return path.read_bytes()
    except (PendingWriteError, OverwriteNewerLocalError) as error:
        return type(error)
    except CloudPathFileNotFoundError:
        return None


_CALLS = ("write", "head", "read")


def lose_network() -> dict[Any, dict[str, Any]]:
    """No backend of this process answers; what `find_network` needs."""

    def unreachable(*_: object, **__: object) -> None:
        raise CloudUnavailableError("no network")

    backends: tuple[Any, ...] = (FileBackend, S3Backend)
    real = {backend: {call: getattr(backend, call) for call in _CALLS} for backend in backends}
    for backend in backends:
        for call in _CALLS:
            setattr(backend, call, unreachable)
    return real


def leave_pending(path: Any, data: bytes) -> None:
    """A write of *data* that failed, for the network was gone."""
    file = path.open("wb")
    file.write(data)
    real = lose_network()
    with pytest.raises(CloudUnavailableError):
        file.close()
    for backend, calls in real.items():
        for call, function in calls.items():
            setattr(backend, call, function)


# --- the enumeration -------------------------------------------------------------------------------------------------

Breaks = Callable[[], None]
"""What takes a protection away, for a negative control."""


def play(
    scene: Scene,
    place: Place,
    last: int | None,
    breaks: Breaks | None = None,
    look: Callable[[], object] | None = None,
) -> Run:
    """In a child that stands still at point number *last*, for a *look*, and then dies there."""

    def work(steps: Steps) -> None:
        path = place.path()
        scene.prepare(place, path)
        path.client.cache.flush()
        if breaks is not None:
            breaks()
        _wrap(steps, type(path.client.backend(path.uri.bucket)))
        steps.begin()
        scene.act(place, path, steps)
        path.client.cache.close()
        steps.say("closed")

    place.directory.mkdir(parents=True, exist_ok=True)
    return crash(work, place.directory / "log", last, look)


def _wrap(steps: Steps, backend: type) -> None:
    def of_part(_: Any, operation: str, *__: Any, **___: Any) -> str | None:
        return operation if "Part" in operation or "Multipart" in operation else None

    steps.wrap_system_calls()
    steps.wrap_transactions(Index, "write_once")
    for call, name in (("write", "upload"), ("copy", "copy"), ("delete", "delete")):
        steps.wrap(backend, call, lambda *_, name=name, **__: name)
    if backend is S3Backend:
        steps.wrap(S3Requests, "call", of_part)
    steps.wrap(Staging, "copy_from", lambda *_: "copy into staging")
    steps.wrap(writing._StagingFile, "write", lambda *_: "write staging")


def enumerate_kills(
    scene: Scene,
    make: Callable[[Path], Place],
    directory: Path,
    breaks: Breaks | None = None,
    quick: int | None = None,
    window: tuple[str, str] | None = None,
    at_least: int = 0,
) -> Iterator[tuple[str, int]]:
    """Kill at each point, of all or of those of a *window*; the name of the point and 0, or the status of a check that
    failed. Without ``--full`` a sample of *quick* points. There must be *at_least* so many to choose from.
    """
    place = make(directory / "whole")
    scene.plant(place)
    place.ground.settle()  # of a file that has just changed, more is asked
    whole = play(scene, place, None, breaks)
    assert (whole.status, whole.said[-1:]) == (0, ["closed"]), "without a kill it must work"
    first, last = (0, len(whole.points) - 1) if window is None else map(whole.points.index, window)
    numbers = range(first, last + 1)
    assert len(numbers) >= at_least, "the enumeration misses most points"
    chosen = sampled(numbers, quick or len(numbers), directory.name)
    places = {number: make(directory / str(number)) for number in chosen}
    for place in places.values():
        scene.plant(place)
    place.ground.settle()
    watches = type(scene).watch is not Scene.watch
    for number, place in places.items():
        point = whole.points[number]
        seen: list[int] = []
        # In its transaction everybody waits for it who has something to note.
        is_watched = watches and not point.startswith(("after begin", "before commit"))
        look = partial(_look, seen, scene, place) if is_watched else None
        run = play(scene, place, number, breaks, look)
        assert run.points == whole.points[: number + 1], "not the same steps"
        assert run.status == -9
        yield point, max(0, *seen, forked(partial(scene.check, Kill(place, run, number, whole.points))))


def _look(seen: list[int], scene: Scene, place: Place) -> None:
    seen.append(forked(partial(scene.watch, place)))
