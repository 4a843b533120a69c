"""Changes: writing, copying, moving, uploading, downloading, deleting, touching."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.pathapi.drop_in.rigs import Rig

OLD = 1_000_000_000


def test_text_and_bytes_come_back(rig: Rig) -> None:
    path = rig.root / "d/a.txt"
    assert path.write_text("zwölf\n", encoding="utf-8") == 6
    assert path.read_text(encoding="utf-8") == "zwölf\n"
    assert path.write_bytes(b"\x00\x01") == 2
    assert path.read_bytes() == b"\x00\x01" == rig.raw.content("d/a.txt")


def test_open_writes_updates_and_appends(rig: Rig) -> None:
    path = rig.root / "a.txt"
    with path.open("w") as file:
        file.write("one\n")
    with path.open("a") as file:
        file.write("two\n")
    with path.open("r+") as file:
        file.write("ONE")
    with path.open() as file:
        assert file.readlines() == ["ONE\n", "two\n"]
    with path.open("rb") as file:
        assert (file.read(3), file.seek(4), file.read()) == (b"ONE", 4, b"two\n")


def test_x_creates_and_does_not_replace(rig: Rig) -> None:
    path = rig.root / "a.txt"
    with path.open("x") as file:
        file.write("mine")
    with pytest.raises(rig.api.exceptions.CloudPathFileExistsError), path.open("x") as file:
        file.write("other")
    assert path.read_text() == "mine"


def test_append_to_nothing_is_file_not_found(rig: Rig) -> None:
    with pytest.raises(FileNotFoundError), (rig.root / "nothing").open("a") as file:
        file.write("x")


def test_an_exception_inside_the_block_uploads_what_was_written(rig: Rig) -> None:
    path = rig.root / "a.txt"
    with contextlib.suppress(KeyError), path.open("w") as file:
        file.write("half")
        raise KeyError
    assert rig.raw.content("a.txt") == b"half"


@pytest.mark.parametrize("write", [lambda p: p.write_text("x"), lambda p: p.open("w"), lambda p: p.open("a")])
def test_a_directory_is_not_written(rig: Rig, write: Any) -> None:
    rig.plant("d/a.txt")
    with pytest.raises(rig.api.exceptions.CloudPathIsADirectoryError):
        write(rig.directory("d"))
    assert rig.raw.content("d") is None


def test_touch_creates_an_empty_file(rig: Rig) -> None:
    rig.skip_peer("http", why="it leaves a temporary directory")
    path = rig.root / "a.txt"
    path.touch()
    assert path.read_bytes() == b""
    with pytest.raises(FileExistsError):
        path.touch(exist_ok=False)


def test_touch_sets_the_time_and_keeps_the_bytes(rig: Rig) -> None:
    rig.skip_if("http", "a server cannot set the time: see docs/migrating.md")
    rig.skip_peer("gs", why="fake-gcs-server has no such PATCH")
    rig.plant("a.txt", data=b"kept")
    path = rig.root / "a.txt"
    before = path.stat().st_mtime
    rig.tick()
    path.touch()
    assert path.stat().st_mtime > before
    assert path.read_bytes() == b"kept" == rig.raw.content("a.txt")


def test_mkdir_takes_the_arguments_of_pathlib(rig: Rig) -> None:
    (rig.directory("d")).mkdir(parents=True, exist_ok=True, mode=0o755, parent_mode=0o755)


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_copy_to_a_new_name(rig: Rig, as_text: bool) -> None:
    rig.plant("a.txt", data=b"a")
    target = rig.root / "new/b.txt"
    made = (rig.root / "a.txt").copy(str(target) if as_text else target)
    assert str(made) == str(target)
    assert (rig.raw.content("new/b.txt"), rig.raw.content("a.txt")) == (b"a", b"a")


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("verb", ["copy", "move"])
def test_a_file_goes_into_a_directory_that_exists(rig: Rig, verb: str, as_text: bool) -> None:
    rig.plant("a.txt", "d/old.txt", data=b"a")
    target = rig.directory("d")
    made = getattr(rig.root / "a.txt", verb)(str(target) if as_text else target)
    assert rig.names([made]) == ["d/a.txt"]
    assert (rig.raw.content("d/a.txt"), rig.raw.content("d")) == (b"a", None)
    if verb == "copy":
        assert rig.raw.content("a.txt") == b"a"


def test_copy_into_keeps_the_name(rig: Rig) -> None:
    rig.plant("a.txt", data=b"a")
    made = (rig.root / "a.txt").copy_into(rig.directory("d"))
    assert rig.names([made]) == ["d/a.txt"]
    assert rig.raw.content("d/a.txt") == b"a"


def test_copy_to_this_machine(rig: Rig, tmp_path: Path) -> None:
    rig.plant("a.txt", data=b"a")
    (tmp_path / "out").mkdir()
    assert (rig.root / "a.txt").copy(tmp_path / "out") == tmp_path / "out/a.txt"
    assert (rig.root / "a.txt").copy(str(tmp_path / "b.txt")) == tmp_path / "b.txt"
    assert (tmp_path / "out/a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes() == b"a"


@pytest.mark.parametrize("verb", ["copy", "move"])
def test_nothing_cannot_be_copied(rig: Rig, verb: str, tmp_path: Path) -> None:
    for target in (rig.root / "b.txt", tmp_path / "b.txt"):
        with pytest.raises(ValueError, match="must exist to copy"):
            getattr(rig.root / "nothing", verb)(target)


def test_a_newer_target_is_not_replaced_by_an_older_object(rig: Rig) -> None:
    rig.plant("old.txt", data=b"older")
    rig.tick()
    rig.plant("new.txt", data=b"newer")
    old, new = rig.root / "old.txt", rig.root / "new.txt"
    with pytest.raises(rig.api.exceptions.OverwriteNewerCloudError):
        old.copy(new)
    assert rig.raw.content("new.txt") == b"newer"
    old.copy(new, force_overwrite_to_cloud=True)
    assert rig.raw.content("new.txt") == b"older"


def test_an_older_target_is_replaced_by_a_newer_object(rig: Rig) -> None:
    rig.plant("old.txt", data=b"older")
    rig.tick()
    rig.plant("new.txt", data=b"newer")
    (rig.root / "new.txt").copy(rig.root / "old.txt")
    assert rig.raw.content("old.txt") == b"newer"


def test_copytree_copies_all_that_is_below(rig: Rig, tmp_path: Path) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant("d/a.txt", "d/e/b.txt", "d/e/skip.pyc", data=b"x")
    rig.directory("d").copytree(tmp_path / "out", ignore=lambda _, names: [n for n in names if n.endswith(".pyc")])
    assert sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "out").rglob("*.*")) == ["out/a.txt", "out/e/b.txt"]
    rig.directory("d").copytree(rig.directory("copy"))
    assert rig.raw.content("copy/e/b.txt") == b"x"


def test_copytree_of_a_file_is_not_a_directory(rig: Rig) -> None:
    rig.plant("a.txt")
    with pytest.raises(rig.api.exceptions.CloudPathNotADirectoryError):
        (rig.root / "a.txt").copytree(rig.directory("d"))


def test_move_removes_the_source(rig: Rig) -> None:
    rig.plant("a.txt", data=b"a")
    (rig.root / "a.txt").move(rig.root / "b.txt")
    assert (rig.raw.content("a.txt"), rig.raw.content("b.txt")) == (None, b"a")


@pytest.mark.parametrize("verb", ["rename", "replace"])
def test_rename_replaces_what_is_there(rig: Rig, verb: str) -> None:
    rig.plant("a.txt", data=b"a")
    rig.plant("b.txt", data=b"b")
    assert getattr(rig.root / "a.txt", verb)(rig.root / "b.txt") == rig.root / "b.txt"
    assert (rig.raw.content("a.txt"), rig.raw.content("b.txt")) == (None, b"a")


def test_rename_of_a_directory_is_refused(rig: Rig) -> None:
    rig.plant("d/a.txt")
    with pytest.raises(rig.api.exceptions.CloudPathIsADirectoryError):
        rig.directory("d").rename(rig.directory("e"))


# --- this machine -----------------------------------------------------------------------------------------------------


def _file(path: Path, text: str, mtime: float | None = None) -> Path:
    path.write_text(text)
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


def test_upload_from_a_file_and_into_a_directory(rig: Rig, tmp_path: Path) -> None:
    file = _file(tmp_path / "a.txt", "a")
    rig.plant("d/old.txt")
    assert (rig.root / "b.txt").upload_from(file) == rig.root / "b.txt"
    assert rig.names([rig.directory("d").upload_from(str(file))]) == ["d/a.txt"]
    assert rig.raw.content("b.txt") == rig.raw.content("d/a.txt") == b"a"


def test_upload_from_a_directory(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "in/e").mkdir(parents=True)
    _file(tmp_path / "in/a.txt", "a")
    _file(tmp_path / "in/e/b.txt", "b")
    rig.directory("d").upload_from(tmp_path / "in")
    assert (rig.raw.content("d/a.txt"), rig.raw.content("d/e/b.txt")) == (b"a", b"b")


def test_an_older_file_does_not_replace_a_newer_object(rig: Rig, tmp_path: Path) -> None:
    rig.plant("a.txt", data=b"newer")
    path, file = rig.root / "a.txt", _file(tmp_path / "a.txt", "older", OLD)
    with pytest.raises(rig.api.exceptions.OverwriteNewerCloudError):
        path.upload_from(file)
    assert rig.raw.content("a.txt") == b"newer"
    path.upload_from(file, force_overwrite_to_cloud=True)
    assert rig.raw.content("a.txt") == b"older"


def test_the_environment_can_force_it(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_TO_CLOUD", "True")
    rig.plant("a.txt", data=b"newer")
    (rig.root / "a.txt").upload_from(_file(tmp_path / "a.txt", "older", OLD))
    assert rig.raw.content("a.txt") == b"older"


def test_an_older_file_of_a_directory_does_not_replace_a_newer_object(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rig.plant("d/a.txt", data=b"newer")
    _file(tmp_path / "in/a.txt", "older", OLD)
    with pytest.raises(rig.api.exceptions.OverwriteNewerCloudError):
        rig.directory("d").upload_from(tmp_path / "in")
    assert rig.raw.content("d/a.txt") == b"newer"


def test_a_newer_file_replaces_an_older_object(rig: Rig, tmp_path: Path) -> None:
    rig.plant("a.txt", data=b"older")
    rig.tick()
    (rig.root / "a.txt").upload_from(_file(tmp_path / "a.txt", "newer"))
    assert rig.raw.content("a.txt") == b"newer"


def test_download_to_a_file_and_into_a_directory(rig: Rig, tmp_path: Path) -> None:
    rig.plant("a.txt", data=b"a")
    path = rig.root / "a.txt"
    assert path.download_to(tmp_path) == tmp_path / "a.txt"
    assert path.download_to(str(tmp_path / "b.txt")) == tmp_path / "b.txt"
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes() == b"a"


def test_download_of_a_directory(rig: Rig, tmp_path: Path) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant("d/a.txt", "d/e/b.txt", data=b"x")
    rig.directory("d").download_to(tmp_path / "out")
    assert (tmp_path / "out/e/b.txt").read_bytes() == (tmp_path / "out/a.txt").read_bytes() == b"x"


def test_download_of_nothing_is_not_exists(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(rig.api.exceptions.CloudPathNotExistsError):
        (rig.root / "nothing").download_to(tmp_path / "a")


# --- deletions --------------------------------------------------------------------------------------------------------


def test_unlink_deletes_one_file(rig: Rig) -> None:
    rig.plant("a.txt", "d/b.txt")
    (rig.root / "a.txt").unlink()
    assert rig.raw.content("a.txt") is None
    with pytest.raises(rig.api.exceptions.CloudPathIsADirectoryError):
        rig.directory("d").unlink()
    (rig.root / "a.txt").unlink()
    with pytest.raises(FileNotFoundError):
        (rig.root / "a.txt").unlink(missing_ok=False)


def test_rmdir_refuses_files_and_what_is_not_empty(rig: Rig) -> None:
    rig.plant("d/a.txt")
    with pytest.raises(rig.api.exceptions.DirectoryNotEmptyError):
        rig.directory("d").rmdir()
    with pytest.raises(rig.api.exceptions.CloudPathNotADirectoryError):
        (rig.root / "d/a.txt").rmdir()
    assert rig.raw.content("d/a.txt") is not None


def test_rmtree_deletes_what_is_below(rig: Rig) -> None:
    rig.skip_peer("http", why="a DELETE of the index page")
    rig.plant("d/a.txt", "d/e/b.txt", "dd.txt")
    with pytest.raises(rig.api.exceptions.CloudPathNotADirectoryError):
        (rig.root / "dd.txt").rmtree()
    rig.directory("d").rmtree()
    assert (rig.raw.content("d/a.txt"), rig.raw.content("d/e/b.txt")) == (None, None)
    assert rig.raw.content("dd.txt") is not None
