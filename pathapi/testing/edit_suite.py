"""`EditSuite`: local files that are changed outside the API, and tools that take a path."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore import PendingState
from pathapi.exceptions import OverwriteNewerCloudError, OverwriteNewerLocalError, PendingWriteError
from pathapi.testing.path_suite import PathSuite
from pathapi.testing.raw_bucket import RawBucket, in_forked_child


def in_place(view: Path) -> None:
    """Change bytes of the file itself, even if it is read-only."""
    view.chmod(0o600)
    with view.open("r+b") as file:
        file.write(b"MINE")


def truncate(view: Path) -> None:
    """Truncate it."""
    view.chmod(0o600)
    os.truncate(view, 2)


def by_rename(view: Path) -> None:
    """Replace it by another file, as editors do."""
    other = view.with_name("other")
    other.write_bytes(b"MINE as well")
    other.replace(view)


EDITS: dict[str, Callable[[Path], None]] = {"in place": in_place, "truncated": truncate, "by rename": by_rename}

_RESOLUTIONS: tuple[Callable[[Any, Path], object], ...] = (
    lambda path, _: path.drop(),
    lambda path, _: path.push(),
    lambda path, _: path.read_bytes(force_overwrite_from_cloud=True),
    lambda path, elsewhere: path.save_pending(elsewhere),
)


class EditSuite(PathSuite):
    """Local changes, for paths of any backend."""

    @pytest.fixture
    def path(self, make: Any, at: str, ground: RawBucket) -> Any:
        """A path whose object is b"theirs"."""
        ground.plant("d/a.txt", b"theirs")
        ground.settle()
        return make(views=self.views).CloudPath(at + "d/a.txt")

    views = "copy"
    """The setting *views*; a subclass may set ``link``."""

    @pytest.fixture(params=EDITS)
    def edited(self, path: Any, request: pytest.FixtureRequest) -> bytes:
        """The bytes of the view of `path` after an edit."""
        view = Path(path.fspath)
        assert view.read_bytes() == b"theirs"
        EDITS[request.param](view)
        return view.read_bytes()

    # --- a changed view -----------------------------------------------------------------------------------------------

    def test_using_a_locally_changed_object_is_an_error_with_the_fixes(self, path: Any, edited: bytes) -> None:
        uses = (path.read_bytes, path.open, lambda: path.fspath, lambda: path.write_bytes(b""), path.unlink)
        for use in (*uses, lambda: path.rename(str(path) + "2")):
            with pytest.raises(OverwriteNewerLocalError, match="was changed outside the API") as caught:
                use()
            for way in ("push()", "force_overwrite_from_cloud=True", "save_pending"):
                assert way in str(caught.value)
        (write,) = path.pending
        assert write.state is PendingState.EDIT
        assert path.read_bytes(read_pending=True) == edited

    def test_push_uploads_the_local_edit(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        path.push()
        assert ground.content("d/a.txt") == edited
        assert path.read_bytes() == edited
        assert path.pending == []
        assert Path(path.fspath).read_bytes() == edited

    def test_an_edit_is_not_pushed_over_an_unseen_version(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        ground.settle()
        ground.plant("d/a.txt", b"theirs, newer")
        ground.settle()
        with pytest.raises(OverwriteNewerCloudError):
            path.push()
        assert ground.content("d/a.txt") == b"theirs, newer"
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()
        path.push(force_overwrite_to_cloud=True)
        assert ground.content("d/a.txt") == edited

    def test_a_forced_read_returns_the_servers_version(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        assert path.read_bytes(force_overwrite_from_cloud=True) == b"theirs"
        assert path.read_text() == "theirs"
        assert [write.state for write in path.pending] == [PendingState.INCOMPLETE], "set aside, not lost"

    def test_the_environment_can_force_the_servers_version(
        self, path: Any, ground: RawBucket, edited: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_FROM_CLOUD", "1")
        with path.open("rb") as file:
            assert file.read() == b"theirs"

    def test_an_edit_is_saved_elsewhere(self, path: Any, ground: RawBucket, edited: bytes, tmp_path: Path) -> None:
        path.save_pending(tmp_path / "mine")
        assert (tmp_path / "mine").read_bytes() == edited
        assert path.read_bytes() == b"theirs" == ground.content("d/a.txt")
        assert path.pending == []

    def test_a_resolved_edit_does_not_reappear(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        path.drop()
        for _ in range(2):
            assert path.read_bytes() == b"theirs"
            assert Path(path.fspath).read_bytes() == b"theirs"
        assert path.pending == []

    def test_the_same_copy_can_be_changed_and_pushed_again(self, path: Any, ground: RawBucket) -> None:
        view = Path(path.fspath)
        for number in range(3):
            view.chmod(0o600)
            view.write_bytes(b"mine, %d" % number)
            with pytest.raises(OverwriteNewerLocalError):
                path.read_bytes()
            path.push()
            assert ground.content("d/a.txt") == b"mine, %d" % number
            assert path.fspath == str(view), "it is the view of what was pushed"

    def test_a_touched_view_is_unchanged(self, path: Any, ground: RawBucket) -> None:
        view = Path(path.fspath)
        view.chmod(0o600)
        view.touch()
        view.write_bytes(b"theirs")
        assert path.read_bytes() == b"theirs"
        path.write_bytes(b"mine")
        assert ground.content("d/a.txt") == b"mine"
        assert path.pending == []

    def test_another_uri_with_the_same_bytes_is_not_affected(
        self, path: Any, make: Any, ground: RawBucket, at: str, tmp_path: Path
    ) -> None:
        ground.plant("d/twin.txt", b"theirs")
        ground.settle()
        twin = make(views=self.views).CloudPath(at + "d/twin.txt")
        assert twin.read_bytes() == b"theirs"
        trusting = make(views=self.views, freshness="immutable").CloudPath(at + "d/twin.txt")
        for number, (edit, resolve) in enumerate(itertools.product(EDITS.values(), _RESOLUTIONS)):
            ground.plant("d/a.txt", b"theirs")
            ground.settle()
            view, cache = Path(path.fspath), path.client.cache
            blob = cache.blob_path(cache.stat(str(path)))
            assert os.path.samefile(view, blob) == (self.views == "link")
            edit(view)
            with pytest.raises(OverwriteNewerLocalError):
                path.read_bytes()
            assert trusting.read_bytes() == twin.read_bytes() == b"theirs"
            resolve(path, tmp_path / f"elsewhere{number}")
            assert trusting.read_bytes() == twin.read_bytes() == b"theirs"
            assert twin.pending == []
        # Not earlier: two views that are links of one blob are one file.
        assert Path(twin.fspath).read_bytes() == b"theirs" == ground.content("d/twin.txt")

    def test_an_edit_survives_clearing_and_collecting(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        cache = path.client.cache
        path.clear_cache()
        path.client.clear_cache()
        assert [file.is_changed for file in cache.clear().in_use] == [True]
        cache.execute(cache.plan(max_size=0))
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()
        assert [write.state for write in cache.clear().pending] == [PendingState.EDIT]
        path.push()
        assert ground.content("d/a.txt") == edited
        assert path.read_bytes() == edited

    def test_another_process_sees_an_edit_that_this_one_recorded(self, path: Any, edited: bytes) -> None:
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()

        def is_refused() -> bool:
            try:
                path.read_bytes()
            except OverwriteNewerLocalError:
                return bool(path.read_bytes(read_pending=True) == edited)
            return False

        assert in_forked_child(is_refused)

    def test_an_edit_that_is_noticed_during_an_upload_still_waits_for_a_decision(
        self, path: Any, ground: RawBucket
    ) -> None:
        view = Path(path.fspath)
        with path.open("ab") as file:
            file.write(b" and mine")
            by_rename(view)
            path.client.cache.record_changes(path.client.store_key(path.uri))
        assert ground.content("d/a.txt") == b"theirs and mine"
        assert [write.state for write in path.pending] == [PendingState.EDIT]
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()

    # --- tools that take a path ---------------------------------------------------------------------------------------

    def test_a_tools_file_is_pending_until_a_push(self, path: Any, ground: RawBucket) -> None:
        new = path.with_name("new.csv")
        with open(new, "w") as file:  # what pandas and numpy do with a path
            file.write("a,b\n")
        assert ground.content("d/new.csv") is None
        with pytest.warns(UserWarning, match="never uploaded"):
            name = new.fspath
        assert Path(name).read_text() == "a,b\n", "a tool reads what it wrote"
        assert new.pending[0].state is PendingState.INCOMPLETE
        with pytest.raises(FileNotFoundError):
            new.read_bytes()
        new.push()
        assert ground.content("d/new.csv") == b"a,b\n"
        assert new.read_text() == "a,b\n"
        assert new.pending == []
        assert Path(new.fspath).name == "new.csv"

    def test_a_tools_file_does_not_overwrite_a_newer_object(self, path: Any, ground: RawBucket) -> None:
        new = path.with_name("new.csv")
        Path(new).write_text("mine")
        ground.plant("d/new.csv", b"theirs")
        ground.settle()
        with pytest.raises(OverwriteNewerCloudError):
            new.push()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert new.read_bytes() == b"theirs"
        new.drop()
        assert Path(new.fspath).read_bytes() == b"theirs"

    def test_an_edit_is_uploaded_at_the_end_of_its_block(self, path: Any, ground: RawBucket) -> None:
        with path.edit() as name:
            assert os.path.basename(name) == "a.txt"
            assert Path(name).read_bytes() == b"theirs"
            Path(name).write_bytes(b"mine")
            assert ground.content("d/a.txt") == b"theirs"
        assert ground.content("d/a.txt") == b"mine" == path.read_bytes()
        assert not os.path.lexists(name)
        assert path.pending == []

    def test_a_database_is_made_and_changed(self, path: Any, ground: RawBucket) -> None:
        new = path.with_name("new.db")
        for number in range(3):
            with new.edit() as name:
                database = sqlite3.connect(name)
                database.execute("create table if not exists t (x)")
                database.execute("insert into t values (?)", [number])
                database.commit()
                database.close()
        database = sqlite3.connect(new.fspath)
        assert database.execute("select x from t").fetchall() == [(0,), (1,), (2,)]
        database.close()

    def test_an_exception_in_an_edit_uploads_nothing(self, path: Any, ground: RawBucket) -> None:
        def fail() -> None:
            with path.edit() as name:
                Path(name).write_bytes(b"mine")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert ground.content("d/a.txt") == b"theirs" == path.read_bytes()
        assert path.pending == []

    def test_an_edit_of_what_changed_meanwhile_is_refused_and_kept(self, path: Any, ground: RawBucket) -> None:
        def edit() -> None:
            with path.edit() as name:
                Path(name).write_bytes(b"mine")
                ground.plant("d/a.txt", b"theirs, newer")
                ground.settle()

        with pytest.raises(OverwriteNewerCloudError, match="kept at"):
            edit()
        with pytest.raises(PendingWriteError):
            path.read_bytes()
        assert path.read_bytes(read_pending=True) == b"mine"

    def test_an_edit_that_changes_or_makes_nothing_uploads_nothing(self, path: Any, ground: RawBucket) -> None:
        with path.edit():
            pass
        with path.with_name("new").edit():
            pass
        assert ground.content("d/new") is None
        assert ground.content("d/a.txt") == b"theirs"

        def remove() -> None:
            with path.edit() as name:
                os.unlink(name)

        with pytest.raises(FileNotFoundError, match="was removed; nothing was uploaded"):
            remove()
        assert ground.content("d/a.txt") == b"theirs" == path.read_bytes()

    def test_an_edit_blocks_other_writers(self, path: Any, ground: RawBucket) -> None:
        done: list[int] = []

        def append() -> None:
            with path.open("ab") as file:
                file.write(b" and theirs")
            done.append(1)

        with path.edit() as name:
            thread = threading.Thread(target=append)
            thread.start()
            Path(name).write_bytes(b"mine")
        thread.join(30)
        assert done and ground.content("d/a.txt") == b"mine and theirs"
