"""`kill -9` at every step of what is no plain write: an edit of a private copy, an upload of a file, a write that is
forced over a pending one, a push of a local edit, saving elsewhere.

See `tests.pathapi.support.kill_points`. What each promises is in its scene.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from casstore import Pending, PendingState, PendingWrite, Staging
from casstore.fs import files
from casstore.local.changes import ChangeRecorder
from pathapi.exceptions import CloudPathFileNotFoundError, OverwriteNewerLocalError, PendingWriteError
from pathapi.writing import commit as delivering
from pathapi.writing import pending as settling
from tests.harness.crash_points import Steps
from tests.pathapi.support.kill_points import (
    RECORDED,
    Kill,
    Place,
    Scene,
    enumerate_kills,
    file_place,
    leave_pending,
    read,
)

# Without locks that exclude, nobody can tell that the writer is dead.
pytestmark = [pytest.mark.needs_locks, pytest.mark.usefixtures("steady_steps")]

OLD, NEW, FORMER, SAVED = b"old " * 500, b"new " * 700, b"former" * 100, b"saved before"
DONE = "done"


@dataclass(frozen=True)
class Changing(Scene):
    """An object that is there, or not, and that the store holds."""

    old: bytes | None = OLD

    def plant(self, place: Place) -> None:
        if self.old is not None:
            place.ground.plant(place.key, self.old)

    def prepare(self, place: Place, path: Any) -> None:
        if self.old is not None:
            assert path.read_bytes() == self.old


def check_end(kill: Kill, content: bytes | None) -> None:
    """Everything is dealt with: the object is *content* for everybody, and nothing is left."""
    assert kill.place.content() == content
    assert read(kill.place.path()) == content
    assert read(kill.place.path("immutable")) == content
    kill.check_store()


# --- an edit ---------------------------------------------------------------------------------------------------------


PIECES = {"tool has emptied it #1": b"", "tool has written half #1": NEW[:1000], "tool has written all #1": NEW}


@dataclass(frozen=True)
class Editing(Changing):
    """``with path.edit()``: a tool writes to a private copy, in two pieces.

    Before the record, nobody closed the edit: the object is untouched, and what the tool has left of its copy, half
    of it too, becomes ``incomplete`` once somebody looks at the dead lease: in nobody's way, and pushed by name. After
    it, the bytes are in the cloud or pending like those of any write. That the copy lies there still may then make an
    ``incomplete`` record of the same bytes, which goes with the push.
    """

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        with path.edit() as name, open(name, "wb", buffering=0) as file:
            for point, data in PIECES.items():
                file.write(data[os.fstat(file.fileno()).st_size :])
                steps.stop(point.removesuffix(" #1"))
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        warnings.simplefilter("ignore")  # that an edit was never finished
        place, path = kill.place, kill.place.path()
        left = self.left(kill)
        cloud, is_promised = place.content(), kill.is_past(RECORDED)
        assert cloud in (self.old, NEW), "a mixture in the cloud"
        assert set(kill.waiting()) <= {(PendingState.UPLOADING, NEW)}
        if DONE in kill.run.said:
            assert (cloud, left, kill.waiting()) == (NEW, [], [])
        if is_promised:
            assert cloud == NEW or kill.waiting(), "bytes that were recorded are lost"
        else:
            assert cloud == self.old, "sent before it was recorded"
            assert not kill.waiting()
            assert left == [data for point, data in PIECES.items() if kill.is_past(point)][-1:], "the copy is lost"
        if kill.is_even:
            kill.look_at_leases()
            assert self.left(kill) == []
        for freshness in ("immutable", "always"):
            found = read(place.path(freshness))
            assert found in ((NEW, PendingWriteError) if is_promised else (self.old,)), f"{freshness}: {found!r}"
        kill.look_at_leases()
        unfinished = [data for state, data in kill.waiting() if state is PendingState.INCOMPLETE]
        assert unfinished == left, "what the tool left is kept, once"
        assert [data for state, data in kill.waiting() if state is not PendingState.INCOMPLETE] in ([], [NEW])
        if kill.waiting():
            path.push()
            check_end(kill, NEW if is_promised else left[0])
        else:
            with suppress(CloudPathFileNotFoundError) if cloud is None else nullcontext():
                path.push()
            check_end(kill, cloud)

    def left(self, kill: Kill) -> list[bytes]:
        """What lies in private copies of the dead process, and is not as it was handed out."""
        copies = [copy for tree in kill.place.root.glob("local/e*") for copy in tree.rglob("*") if copy.is_file()]
        return [data for copy in copies if (data := copy.read_bytes()) != self.old]


# --- an upload of a file ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uploading(Changing):
    """``upload_from`` of a file: nothing is recorded, for the file is there; called again, it is done."""

    def plant(self, place: Place) -> None:
        super().plant(place)
        place.directory.mkdir(parents=True, exist_ok=True)
        self.source(place).write_bytes(NEW)

    @staticmethod
    def source(place: Place) -> Path:
        return place.directory / "source"

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        path.upload_from(self.source(place))
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        place, path = kill.place, kill.place.path()
        cloud = place.content()
        assert cloud in (self.old, NEW), "a mixture in the cloud"
        assert self.source(place).read_bytes() == NEW
        assert cloud == NEW or DONE not in kill.run.said, "what was acknowledged is not in the cloud"
        assert not kill.waiting()
        assert read(place.path("immutable")) in (self.old, cloud)
        assert read(path) == cloud
        assert read(place.path("immutable")) == cloud
        path.upload_from(self.source(place))
        check_end(kill, NEW)


# --- a write that is forced over a pending one -----------------------------------------------------------------------


@dataclass(frozen=True)
class Forcing(Changing):
    """A write with *force_overwrite_to_cloud* over another one that is pending: that one is never lost, and stands in
    nobody's way once the new bytes are in the cloud.
    """

    def prepare(self, place: Place, path: Any) -> None:
        super().prepare(place, path)
        leave_pending(path, FORMER)

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        with path.open("wb", force_overwrite_to_cloud=True) as file:
            file.write(NEW)
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        place, path = kill.place, kill.place.path()
        cloud, waiting = place.content(), kill.bytes_waiting()
        assert cloud in (self.old, NEW), "a mixture in the cloud"
        assert waiting in ([FORMER], [FORMER, NEW]), "what a force passes over is kept"
        if DONE in kill.run.said:
            assert (cloud, kill.waiting()) == (NEW, [(PendingState.INCOMPLETE, FORMER)])
        if kill.is_past(RECORDED):
            assert NEW in (cloud, waiting[-1]), "bytes that were recorded are lost"
        else:
            assert (cloud, waiting) == (self.old, [FORMER])
        if kill.is_even:
            kill.look_at_leases()
        for freshness in ("immutable", "always"):
            assert read(place.path(freshness)) == (NEW if cloud == NEW else PendingWriteError)
        for write in path.pending:
            if Path(kill.cache.pending.path(write)).read_bytes() == NEW:
                path.push(write)
                cloud = NEW
        states = [PendingState.INCOMPLETE if cloud == NEW else PendingState.FAILED]
        assert [write.state for write in path.pending] == states
        path.drop()
        check_end(kill, cloud)


# --- a push of a local edit ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PushingAnEdit(Changing):
    """A local copy is replaced by a tool and then pushed: from then on its bytes are in the cloud, pending, or at the
    local path, where the next use of the object records them, once.
    """

    def prepare(self, place: Place, path: Any) -> None:
        super().prepare(place, path)
        copy = path.fspath
        Path(f"{copy}.new").write_bytes(NEW)
        os.rename(f"{copy}.new", copy)
        place.ground.settle()  # of a file that has just changed, more is asked

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        path.push()
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        place, path = kill.place, kill.place.path()
        cloud, is_promised = place.content(), kill.is_past(RECORDED)
        assert cloud in (self.old, NEW), "a mixture in the cloud"
        assert kill.bytes_waiting() in ([], [NEW])
        if DONE in kill.run.said:
            assert (cloud, kill.waiting()) == (NEW, [])
        if is_promised:
            assert cloud == NEW or kill.waiting(), "bytes that were recorded are lost"
        else:
            assert (cloud, kill.waiting()) == (self.old, [])
        if kill.is_even:
            kill.look_at_leases()
        for freshness in ("immutable", "always"):
            found = read(place.path(freshness))
            in_the_way = (OverwriteNewerLocalError, PendingWriteError)
            allowed = (NEW, *in_the_way) if is_promised else in_the_way
            assert found in allowed, f"a reader under {freshness} got {found!r}"
        kill.look_at_leases()
        if kill.waiting():
            assert kill.bytes_waiting() == [NEW], "recorded once"
            path.push()
        check_end(kill, NEW)


# --- saving elsewhere ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saving(Changing):
    """``save_pending`` to a file that is there: the bytes are pending or in the file, which is the old one or whole."""

    @staticmethod
    def destination(place: Place) -> Path:
        return place.directory / "saved" / "file"

    def prepare(self, place: Place, path: Any) -> None:
        super().prepare(place, path)
        leave_pending(path, NEW)
        self.destination(place).parent.mkdir()
        self.destination(place).write_bytes(SAVED)

    def act(self, place: Place, path: Any, steps: Steps) -> None:
        path.save_pending(self.destination(place))
        steps.say(DONE)

    def check(self, kill: Kill) -> None:
        place, path = kill.place, kill.place.path()
        saved, waiting = self.destination(place).read_bytes(), kill.bytes_waiting()
        assert saved in (SAVED, NEW), "a mixture in the file"
        assert waiting in ([], [NEW])
        assert saved == NEW or waiting, "the bytes are lost"
        assert not (DONE in kill.run.said and waiting)
        assert place.content() == self.old
        if kill.is_even:
            kill.look_at_leases()
        for freshness in ("immutable", "always"):
            assert read(place.path(freshness)) == (PendingWriteError if waiting else self.old)
        if waiting:
            path.save_pending(self.destination(place))
        assert self.destination(place).read_bytes() == NEW
        check_end(kill, self.old)


# --- the enumerations ------------------------------------------------------------------------------------------------

SCENES: dict[str, Scene] = {
    "edit": Editing(),
    "edit, absent": Editing(None),
    "upload_from": Uploading(),
    "upload_from, absent": Uploading(None),
    "force": Forcing(),
    "push of an edit": PushingAnEdit(),
    "save_pending": Saving(),
}


@pytest.mark.parametrize("name", SCENES)
def test_what_is_killed_anywhere_keeps_what_it_promised(tmp_path: Path, name: str) -> None:
    found = enumerate_kills(SCENES[name], file_place, tmp_path, quick=4, at_least=16)
    assert [point for point, status in found if status] == []


# --- negative controls -----------------------------------------------------------------------------------------------


def _discard_before_sending(module: Any) -> None:
    send = module.conditional_put

    def discard_and_send(target: Any, *arguments: Any, **options: Any) -> Any:
        for write in target.client.cache.pending.of(target.store_key):
            target.client.cache.pending.discard(write)
        return send(target, *arguments, **options)

    module.conditional_put = discard_and_send


def _discard_before_saving() -> None:
    def discard_and_save(self: Pending, write: PendingWrite, destination: str) -> None:
        elsewhere = f"{destination}.kept"
        os.link(self.path(write), elsewhere)
        self.discard(write)
        os.rename(elsewhere, destination)

    setattr(Pending, "save", discard_and_save)  # noqa: B010 (for mypy it is a method)


def _release_before_recording() -> None:
    copy_privately = ChangeRecorder.copy_privately

    def copy_and_release(self: ChangeRecorder, path: str) -> Staging:
        staging = copy_privately(self, path)
        files.unlink_quietly(path)
        return staging

    setattr(ChangeRecorder, "copy_privately", copy_and_release)  # noqa: B010 (as above)


@pytest.mark.parametrize(
    ("breaks", "name", "window"),
    [
        (_release_before_recording, "edit", ("after unlink private copy #1", "before link record #1")),
        (partial(_discard_before_sending, delivering), "force", ("before link record #1", "after upload #1")),
        (partial(_discard_before_sending, settling), "push of an edit", ("after rename record #1", "before upload #1")),
        (_discard_before_saving, "save_pending", ("after unlink record #1", "after unlink data #1")),
    ],
    ids=["edit", "force", "push of an edit", "save_pending"],
)
def test_without_a_protection_the_same_enumeration_finds_a_loss(
    tmp_path: Path, breaks: Callable[[], None], name: str, window: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    kills = enumerate_kills(SCENES[name], file_place, tmp_path, breaks, window=window)
    assert any(status for _, status in kills)
    assert "AssertionError" in capfd.readouterr().err
