"""`EditSuite`: local files that are changed outside the API, and tools that take a path."""

from __future__ import annotations

import itertools
import os
import sqlite3
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from casstore import PendingState
from pathapi.exceptions import OverwriteNewerCloudError, OverwriteNewerLocalError, PendingWriteError
from pathapi.testing.path_suite import RESOLUTIONS, PathSuite, append, content, resolve, states
from pathapi.testing.raw_bucket import TIMEOUT, RawBucket, in_forked_child


def in_place(view: Path) -> None:
    """Change bytes of the file itself, even if it is read-only."""
    view.chmod(0o600)
    with view.open("r+b") as file:
        file.write(b"MINE")


def truncate(view: Path) -> None:
    view.chmod(0o600)
    os.truncate(view, 2)


def by_rename(view: Path) -> None:
    """Replace it by another file, as editors do."""
    other = view.with_name("other")
    other.write_bytes(b"MINE as well")
    other.replace(view)


EDITS: dict[str, Callable[[Path], None]] = {"in place": in_place, "truncated": truncate, "by rename": by_rename}


def _assert_refused(path: Any) -> None:
    with pytest.raises(OverwriteNewerLocalError):
        path.read_bytes()


class EditSuite(PathSuite):
    """Local changes, for paths of any backend."""

    views = "copy"
    """The setting *views*; a subclass may set ``link``."""

    @pytest.fixture
    def path(self, make: Any, at: str, ground: RawBucket) -> Any:
        """A path whose object is b"theirs"."""
        self.put(ground, b"theirs")
        return make(views=self.views).CloudPath(at + "d/a.txt")

    @pytest.fixture(params=EDITS)
    def edited(self, path: Any, request: pytest.FixtureRequest) -> bytes:
        """The bytes of the view of `path` after an edit."""
        view = Path(path.fspath)
        assert view.read_bytes() == b"theirs"
        EDITS[request.param](view)
        return view.read_bytes()

    # --- a changed view -----------------------------------------------------------------------------------------------

    def test_using_a_locally_changed_object_is_an_error_with_the_fixes(self, path: Any, edited: bytes) -> None:
        uses = (path.read_bytes, path.open, lambda: path.write_bytes(b""), path.unlink)
        for use in (*uses, lambda: path.rename(str(path) + "2")):
            with pytest.raises(OverwriteNewerLocalError, match="was changed outside the API") as caught:
                use()
            for way in ("push()", "force_overwrite_from_cloud=True", "save_pending"):
                assert way in str(caught.value)
        (write,) = path.pending
        assert write.state is PendingState.EDIT
        assert path.read_bytes(read_pending=True) == edited

    def test_a_tool_that_asks_again_goes_on_with_its_own_change(self, path: Any, edited: bytes) -> None:
        local = os.fspath(path)
        assert Path(local).read_bytes() == edited
        _assert_refused(path)
        assert os.fspath(path) == path.fspath == local

        def is_refused() -> bool:
            with pytest.raises(OverwriteNewerLocalError):
                os.fspath(path)
            return True

        assert in_forked_child(is_refused), "another process was not given it"
        path.drop()
        assert not os.path.lexists(local)
        assert Path(path).read_bytes() == b"theirs"

    def test_a_write_is_refused_if_it_is_the_first_to_notice_an_edit(self, path: Any, ground: RawBucket) -> None:
        view = Path(path.fspath)
        by_rename(view)
        with pytest.raises(OverwriteNewerLocalError):
            path.write_bytes(b"newer")
        assert self.now(ground) == b"theirs"
        assert path.read_bytes(read_pending=True) == view.read_bytes()

    @pytest.mark.parametrize("way", RESOLUTIONS)
    def test_an_edit_is_resolved(self, path: Any, ground: RawBucket, edited: bytes, tmp_path: Path, way: str) -> None:
        resolve(path, way, tmp_path / "mine", edited)
        for _ in range(2):
            assert path.read_bytes() == Path(path.fspath).read_bytes() == self.now(ground)
        assert self.now(ground) == (edited if way == "push" else b"theirs")
        assert states(path) == ([PendingState.INCOMPLETE] if way == "read" else []), "set aside, not lost"

    def test_an_edit_is_not_pushed_over_an_unseen_version(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        self.put(ground, b"theirs, newer")
        with pytest.raises(OverwriteNewerCloudError):
            path.push()
        assert self.now(ground) == b"theirs, newer"
        _assert_refused(path)
        path.push(force_overwrite_to_cloud=True)
        assert self.now(ground) == edited

    def test_the_environment_forces_a_read(self, path: Any, edited: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_FROM_CLOUD", "1")
        assert content(path) == b"theirs"

    def test_the_same_copy_can_be_changed_and_pushed_again(self, path: Any, ground: RawBucket) -> None:
        view = Path(path.fspath)
        for number in range(3):
            view.chmod(0o600)
            view.write_bytes(b"mine, %d" % number)
            _assert_refused(path)
            path.push()
            assert self.now(ground) == b"mine, %d" % number
            assert path.fspath == str(view), "it is the view of what was pushed"

    def test_a_touched_view_is_unchanged(self, path: Any, ground: RawBucket) -> None:
        view = Path(path.fspath)
        view.chmod(0o600)
        view.touch()
        view.write_bytes(b"theirs")
        assert path.read_bytes() == b"theirs"
        path.write_bytes(b"mine")
        assert self.now(ground) == b"mine"
        assert path.pending == []

    def test_a_twin_is_not_affected(self, path: Any, make: Any, ground: RawBucket, at: str, tmp_path: Path) -> None:
        self.put(ground, b"theirs", "d/twin.txt")
        twin = make(views=self.views).CloudPath(at + "d/twin.txt")
        trusting = make(views=self.views, freshness="immutable").CloudPath(at + "d/twin.txt")
        assert twin.read_bytes() == b"theirs"
        for number, (edit, way) in enumerate(itertools.product(EDITS.values(), RESOLUTIONS)):
            self.put(ground, b"theirs")
            view, cache = Path(path.fspath), path.client.cache
            blob = cache.blob_path(cache.stat(str(path)))
            assert os.path.samefile(view, blob) == (self.views == "link")
            edit(view)
            _assert_refused(path)
            assert trusting.read_bytes() == twin.read_bytes() == b"theirs"
            resolve(path, way, tmp_path / f"mine{number}", view.read_bytes())
            assert trusting.read_bytes() == twin.read_bytes() == b"theirs"
            assert twin.pending == []
        # Not earlier: two views that are links of one blob are one file.
        assert Path(twin.fspath).read_bytes() == b"theirs" == ground.content("d/twin.txt")

    def test_an_edit_survives_clearing_and_collecting(self, path: Any, ground: RawBucket, edited: bytes) -> None:
        cache = path.client.cache
        path.clear_cache()
        path.client.clear_cache()
        assert len(cache.clear().in_use) == 1
        cache.execute(cache.plan(max_size=0))
        _assert_refused(path)
        assert [write.state for write in cache.clear().pending] == [PendingState.EDIT]
        path.push()
        assert self.now(ground) == edited
        assert path.read_bytes() == edited

    def test_another_process_sees_an_edit_that_this_one_recorded(self, path: Any, edited: bytes) -> None:
        _assert_refused(path)

        def is_refused() -> bool:
            _assert_refused(path)
            return bool(path.read_bytes(read_pending=True) == edited)

        assert in_forked_child(is_refused)

    def test_an_edit_that_is_noticed_during_an_upload_still_blocks(self, path: Any, ground: RawBucket) -> None:
        view = Path(path.fspath)
        with path.open("ab") as file:
            file.write(b" and mine")
            by_rename(view)
            path.client.cache.record_changes(path.client.store_key(path.uri))
        assert self.now(ground) == b"theirs and mine"
        assert states(path) == [PendingState.EDIT]
        _assert_refused(path)

    # --- tools that take a path ---------------------------------------------------------------------------------------

    def test_a_tools_file_is_pending_until_a_push(self, path: Any, ground: RawBucket) -> None:
        new = path.with_name("new.csv")
        Path(new).write_text("a,b\n")  # what pandas and numpy do with a path
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
        self.put(ground, b"theirs", "d/new.csv")
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
            assert self.now(ground) == b"theirs"
        assert self.now(ground) == b"mine" == path.read_bytes()
        assert not os.path.lexists(name)
        assert path.pending == []

    def test_a_database_is_made_and_changed(self, path: Any, ground: RawBucket) -> None:
        new = path.with_name("new.db")
        for number in range(3):
            with new.edit() as name, closing(sqlite3.connect(name)) as database, database:
                database.execute("create table if not exists t (x)")
                database.execute("insert into t values (?)", [number])
        with closing(sqlite3.connect(new.fspath)) as database:
            assert database.execute("select x from t").fetchall() == [(0,), (1,), (2,)]

    def test_an_exception_in_an_edit_uploads_nothing(self, path: Any, ground: RawBucket) -> None:
        def fail() -> None:
            with path.edit() as name:
                Path(name).write_bytes(b"mine")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert self.now(ground) == b"theirs" == path.read_bytes()
        assert path.pending == []

    def test_an_edit_of_what_changed_meanwhile_is_refused_and_kept(self, path: Any, ground: RawBucket) -> None:
        def edit() -> None:
            with path.edit() as name:
                Path(name).write_bytes(b"mine")
                self.put(ground, b"theirs, newer")

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
        assert self.now(ground) == b"theirs"

        def remove() -> None:
            with path.edit() as name:
                os.unlink(name)

        with pytest.raises(FileNotFoundError, match="was removed; nothing was uploaded"):
            remove()
        assert self.now(ground) == b"theirs" == path.read_bytes()

    def test_an_edit_blocks_other_writers(self, path: Any, ground: RawBucket) -> None:
        with ThreadPoolExecutor(1) as pool:
            with path.edit() as name:
                theirs = pool.submit(append, path, b" and theirs")
                Path(name).write_bytes(b"mine")
            theirs.result(TIMEOUT)
        assert self.now(ground) == b"mine and theirs"
