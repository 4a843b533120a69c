"""`kill -9` at every step, from opening an object for writing to the end of its process: what was promised is not lost.
Nor does anybody read a mixture.

From the link that makes the record whole, the bytes are in the cloud or pending. Two protections have their negative
control: without them, the same enumeration must find lost bytes or an old version that is served for the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Pending
from casstore.cache import Cache
from casstore.ingest.publisher import Publisher
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from pathapi.writing import commit as delivering
from pathapi.writing import conditional_put as uploading
from tests.harness.crash_points import Steps
from tests.harness.sampling import by_pass
from tests.pathapi.support.kill_points import (
    PART,
    RECORDED,
    Kill,
    Place,
    Scene,
    enumerate_kills,
    file_place,
    leave_pending,
    lose_network,
    read,
)

# Without locks that exclude, nobody can tell that the writer is dead.
pytestmark = [pytest.mark.needs_locks, pytest.mark.usefixtures("steady_steps")]

OLD, NEW, MORE, THEIRS = b"old " * 500, b"new " * 700, b"more" * 300, b"someone else's"
LARGE = b"%09d\n" * (PART // 10 + 100) % tuple(range(PART // 10 + 100))
REFUSED = "refused"


# --- what ------------------------------------------------------------------------------------------------------------

Act = Callable[[Place, Any, Steps], None]


@dataclass(frozen=True)
class Writing(Scene):
    """An object with *old* content is to get *new* one by *does*, which says to `Steps` what it was told is done.

    *starts_pending*: the bytes are pending already when it begins. *others* is what somebody else wrote meanwhile.
    """

    old: bytes | None
    new: bytes
    does: Act
    starts_pending: bool = False
    others: bytes | None = None
    discards: bool = False

    def plant(self, place: Place) -> None:
        if self.old is not None:
            place.ground.plant(place.key, self.old)

    def prepare(self, place: Place, path: Any) -> None:
        if self.old is not None:
            assert path.read_bytes() == self.old
        if self.starts_pending:
            leave_pending(path, self.new)

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        self.does(place, path, steps)

    def check(self, kill: Kill) -> None:
        check(self, kill)


class WritingInParts(Writing):
    """While the parts are on their way, and until the request that joins them, everybody reads the old version."""

    def watch(self, place: Place) -> None:
        cloud = place.content()
        assert cloud in (self.old, self.new), "a mixture in the cloud"
        assert read(place.path("immutable")) in (self.old, cloud)
        assert read(place.path()) == cloud


def _write(mode: str, data: bytes) -> Act:
    def act(place: Place, path: Any, steps: Steps) -> None:
        with path.open(mode) as file:
            file.write(data)
        steps.say("done")

    return act


def _write_beside_others(mode: str, error: type[Exception]) -> Act:
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
    lose_network()
    with pytest.raises(CloudUnavailableError):
        file.close()
    steps.say(REFUSED)


def _push(place: Place, path: Any, steps: Steps) -> None:
    path.push()
    steps.say("done")


def _drop(place: Place, path: Any, steps: Steps) -> None:
    path.drop()
    steps.say("done")


SCENES = {
    "w, absent": Writing(None, NEW, _write("wb", NEW)),
    "w": Writing(OLD, NEW, _write("wb", NEW)),
    "a": Writing(OLD, OLD + MORE, _write("ab", MORE)),
    "r+": Writing(OLD, MORE + OLD[len(MORE) :], _write("r+b", MORE)),
    "x": Writing(None, NEW, _write("xb", NEW)),
    "push": Writing(OLD, NEW, _push, starts_pending=True),
    "drop": Writing(OLD, NEW, _drop, starts_pending=True, discards=True),
    "w, refused": Writing(OLD, NEW, _write_beside_others("wb", OverwriteNewerCloudError), others=THEIRS),
    "x, refused": Writing(None, NEW, _write_beside_others("xb", CloudPathFileExistsError), others=THEIRS),
    "w, no network": Writing(OLD, NEW, _write_without_network),
}


# --- what must hold --------------------------------------------------------------------------------------------------


def check(scene: Writing, kill: Kill) -> None:
    """After a kill; raises AssertionError."""
    place, said = kill.place, kill.run.said
    path = place.path()
    # For a drop: they may be lost from then on.
    is_promised = not kill.is_past("after unlink record #1") if scene.discards else kill.is_past(RECORDED)
    is_promised = is_promised or (scene.starts_pending and not scene.discards)

    cloud, waiting = place.content(), kill.bytes_waiting()
    assert cloud in (scene.old, scene.new, scene.others), "a mixture in the cloud"
    assert set(waiting) <= {scene.new}, "a mixture is pending"
    if "done" in said:
        assert cloud == (scene.old if scene.discards else scene.new), "what was acknowledged is not in the cloud"
        assert not waiting, "what was dealt with is pending"
    if REFUSED in said:
        assert waiting, "what was refused is lost"
    if is_promised:
        assert cloud == scene.new or waiting, "bytes that were recorded are lost"
    elif not scene.discards:
        assert cloud != scene.new, "sent before it was recorded"
        assert not waiting, "nothing was promised yet"

    if kill.is_even:
        _push_and_check(scene, place, path, waiting)
    for freshness in ("immutable", "always"):
        found = read(place.path(freshness))
        allowed = {scene.old, scene.new, scene.others, PendingWriteError}
        if is_promised and not (kill.is_even and scene.others):
            # Once its bytes are safe, never silently the old version for the one that was written here.
            allowed.discard(scene.old)
        assert found in allowed, f"a reader under {freshness} got {found!r}"
    if not kill.is_even:
        _push_and_check(scene, place, path, waiting)

    after = place.content()
    assert read(place.path()) == after
    # Without a write of this machine's, an entry is what it was.
    assert read(place.path("immutable")) in (after, *((scene.old,) if after != scene.new else ()))
    kill.check_store()


def _push_and_check(scene: Writing, place: Place, path: Any, waiting: list[bytes]) -> None:
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
        assert place.content() == (scene.new if waiting else cloud)
    assert not path.pending


# --- the enumerations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_a_write_that_is_killed_anywhere_is_in_the_cloud_or_pending_once_it_was_recorded(
    tmp_path: Path, name: str
) -> None:
    found = enumerate_kills(SCENES[name], file_place, tmp_path, quick=8 if name == "a" else 4, at_least=16)
    assert [point for point, status in found if status] == []


@pytest.mark.parametrize("name", ["a", pytest.param("w, refused", marks=pytest.mark.slow)])
def test_a_write_to_s3_that_is_killed_anywhere_is_in_the_cloud_or_pending_once_it_was_recorded(
    s3_place: Callable[[Path], Place], tmp_path: Path, name: str
) -> None:
    found = enumerate_kills(SCENES[name], s3_place, tmp_path, quick=4, at_least=31)
    assert [point for point, status in found if status] == []


IN_PARTS = "before upload #1", "after upload #1"
"""What comes after is the same for every upload."""


def test_an_upload_in_parts_that_is_killed_anywhere_is_in_the_cloud_or_pending(
    s3_place: Callable[[Path], Place], tmp_path: Path
) -> None:
    scene = WritingInParts(OLD, LARGE, _write("wb", LARGE))
    found = list(enumerate_kills(scene, s3_place, tmp_path, quick=3, window=IN_PARTS))
    assert [point for point, status in found if status] == []
    points = {point for point, _ in found}
    assert by_pass(quick=True, full={"after UploadPart #2", "before CompleteMultipartUpload #1"} <= points)


# --- negative controls -----------------------------------------------------------------------------------------------


def _record_nothing() -> None:
    delivering._record = lambda *_: (None, None)


def _discard_before_sending() -> None:
    send = uploading.conditional_put

    def discard_and_send(target: Any, *arguments: Any, **options: Any) -> Any:
        _discard_all(target.client.cache, target.store_key)
        return send(target, *arguments, **options)

    setattr(delivering, "conditional_put", discard_and_send)  # noqa: B010 (for mypy it is not there)


def _discard_before_committing() -> None:
    record_write = Publisher.record_write

    def discard_and_record(self: Publisher, noted: Any, *arguments: Any) -> Any:
        pending = Pending(self.layout)
        for write in pending.of(noted.key):
            pending.discard(write)
        return record_write(self, noted, *arguments)

    setattr(Publisher, "record_write", discard_and_record)  # noqa: B010 (as above)


def _discard_all(cache: Cache, key: casstore.Key) -> None:
    for write in cache.pending.of(key):
        cache.pending.discard(write)


def _upload_before_recording() -> None:
    record, sent = delivering._record, []

    def send_and_record(target: Any, staging: Any, base: Any) -> Any:
        sent.append(uploading.conditional_put(target, staging, base))
        return record(target, staging, base)

    setattr(delivering, "conditional_put", lambda *_, **__: sent.pop())  # noqa: B010 (as above)
    delivering._record = send_and_record


@pytest.mark.parametrize(
    ("breaks", "name", "window"),
    [
        (_record_nothing, "w, no network", ("before create lock #1", "before unlink lease #1")),
        (_discard_before_sending, "w", ("before unlink record #1", "before upload #1")),
        (_discard_before_committing, "w", ("before unlink record #1", "before commit #1")),
        (_upload_before_recording, "w, absent", ("before link object #1", "before link record #1")),
    ],
)
def test_without_a_protection_the_same_enumeration_finds_a_loss(
    tmp_path: Path, breaks: Callable[[], None], name: str, window: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    kills = enumerate_kills(SCENES[name], file_place, tmp_path, breaks, window=window)
    assert any(status for _, status in kills)
    assert "AssertionError" in capfd.readouterr().err
