"""`LocalPathSuite`: local paths of objects and "directories", for tools that read and write files by name."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore import PendingState
from pathapi.exceptions import OverwriteNewerCloudError, OverwriteNewerLocalError, PendingWriteError
from pathapi.testing.path_suite import PathSuite, states
from pathapi.testing.raw_bucket import RawBucket, in_forked_child, plant_all
from tests.casstore.support.fill import eventually

_MODES = ("auto", "copy", "link")
NO_SECONDS = {"CASSTORE_LOCAL_PATH_GRACE": "0"}
"""Local paths that no `CloudPath` uses may give way at once."""


def files_below(directory: str) -> dict[str, bytes]:
    """Return the files below a local directory, and their bytes."""
    root = Path(directory)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def open_below(directory: str) -> list[str]:
    """Return the files below *directory* that this process has open; those without a name by their former one."""
    found = []
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # that of the list itself
            found.append(os.readlink(f"/dev/fd/{number}"))
    return [name for name in found if name.startswith(f"{directory}/")]


def killed_after(work: Callable[[], object]) -> bool:
    """Whether *work* ended in a forked child, which then killed itself by ``kill -9``."""

    def run() -> bool:
        work()
        os.write(ready, b"x")
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    told, ready = os.pipe()
    try:
        in_forked_child(run)
    finally:
        os.close(ready)
    with open(told, "rb") as file:
        return file.read() == b"x"


class LocalPathSuite(PathSuite):
    """Local paths, for paths of any backend whose "directories" can be listed."""

    @pytest.fixture
    def table(self, make: Any, at: str, ground: RawBucket) -> Any:
        """A "directory" of four objects."""
        plant_all(ground, "t/", ("p0", "p1", "y=1/p2", "y=2/p3"), b"part")
        ground.settle()
        return make().CloudPath(at + "t")

    @pytest.fixture
    def source(self, make: Any) -> str:
        """A file of the user's."""
        name = str(make().cache.root) + "-source"
        Path(name).write_bytes(b"new" * 10)
        return name

    # --- reading ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("views", _MODES)
    def test_a_path_is_the_same_for_all_as_long_as_the_object_is(
        self, make: Any, at: str, ground: RawBucket, views: str
    ) -> None:
        self.put(ground, b"first")
        self.put(ground, b"sibling", "d/b.txt")
        path, sibling = make(views=views).CloudPath(at + "d/a.txt"), make(views=views).CloudPath(at + "d/b.txt")
        local = os.fspath(path)
        assert os.path.dirname(os.fspath(sibling)) == os.path.dirname(local)
        assert in_forked_child(lambda: os.fspath(make(views=views).CloudPath(at + "d/a.txt")) == local)
        path.client.cache.clear()
        assert os.fspath(path) == path.fspath == local
        self.put(ground, b"other")
        other = os.fspath(path)
        assert other != local
        assert os.path.basename(other) == os.path.basename(local) == "a.txt"
        assert (Path(local).read_bytes(), Path(other).read_bytes()) == (b"first", b"other")
        assert in_forked_child(lambda: os.fspath(make(views=views).CloudPath(at + "d/a.txt")) == other)

    def test_a_file_has_the_keys_name_the_objects_time_and_the_mode_of_the_umask(
        self, make: Any, at: str, ground: RawBucket
    ) -> None:
        key = "ts=2024-01-01%2010%3A00/50% of ü.txt"
        self.put(ground, b"theirs", key)
        path = make().CloudPath(at) / key
        umask = os.umask(0o022)
        try:
            local = os.fspath(path)
            assert local.endswith(key)
            assert abs(os.path.getmtime(local) - path.stat().st_mtime) < 2
            copied = shutil.copy2(path, os.fspath(path.client.cache.root) + "-copy")
        finally:
            os.umask(umask)
        assert os.stat(copied).st_mode & 0o777 == 0o644
        assert abs(os.path.getmtime(copied) - path.stat().st_mtime) < 2

    @pytest.mark.parametrize("views", _MODES)
    def test_what_a_user_moves_away_is_the_users(self, make: Any, at: str, ground: RawBucket, views: str) -> None:
        for name in ("d/a.txt", "d/twin.txt"):
            self.put(ground, b"theirs", name)
        client = make(views=views)
        path, twin = client.CloudPath(at + "d/a.txt"), client.CloudPath(at + "d/twin.txt")
        assert twin.read_bytes() == b"theirs"
        mine = Path(shutil.move(path, os.fspath(client.cache.root) + "-mine"))
        mine.chmod(0o600)
        with mine.open("ab") as file:
            file.write(b" and mine")
        for _ in range(2):
            assert path.read_bytes() == twin.read_bytes() == Path(path).read_bytes() == b"theirs"
        assert path.pending == twin.pending == []
        assert mine.read_bytes() == b"theirs and mine"

    def test_files_that_belong_together_have_local_paths_together(self, make: Any, at: str, ground: RawBucket) -> None:
        plant_all(ground, "g/", ("g.shp", "g.shx", "g.dbf", "other.shx"), b"part")
        ground.settle()
        path = make().CloudPath(at + "g/g.shp")
        for siblings, names in ((True, {"g.shp", "g.shx", "g.dbf"}), ("*.shx", {"g.shp", "g.shx", "other.shx"})):
            with path.local(siblings=siblings) as name:
                assert set(files_below(os.path.dirname(name))) == names
                assert Path(name).read_bytes() == b"part"
            assert not os.path.lexists(os.path.dirname(name))
        with path.local() as name:
            assert Path(name).read_bytes() == b"part"

    def test_a_change_of_files_that_belong_together_is_kept(self, make: Any, at: str, ground: RawBucket) -> None:
        plant_all(ground, "g/", ("g.shp", "g.shx"), b"part")
        ground.settle()
        path = make().CloudPath(at + "g/g.shp")
        with path.local(siblings=True) as name:
            Path(name).write_bytes(b"mine")
        (write,) = path.pending
        path.save_pending(name := os.fspath(path.client.cache.root) + "-mine", write)
        assert Path(name).read_bytes() == b"mine"
        assert path.read_bytes() == b"part"

    @pytest.mark.needs_locks
    def test_a_block_does_not_end_the_time_of_grace_of_others(self, make: Any, at: str, ground: RawBucket) -> None:
        self.put(ground, b"theirs")
        client, other = make(views="copy"), make(views="copy")
        local = os.fspath(client.CloudPath(at + "d/a.txt"))
        with other.CloudPath(at + "d/a.txt").local() as name:
            assert name == local
        client.cache.flush()
        client.cache.execute(client.cache.plan(max_size=0))
        assert os.path.exists(local)

    # --- directories --------------------------------------------------------------------------------------------------

    def test_a_tool_sees_all_of_a_directory(self, table: Any, make: Any) -> None:
        assert files_below(table.fspath) == {}
        (table / "p1").read_bytes()
        assert files_below(table.fspath) == {"p1": b"part"}, "for people: what is cached"
        parts = {"p0": b"part", "p1": b"part", "y=1/p2": b"part", "y=2/p3": b"part"}
        local = os.fspath(table)
        assert files_below(local) == files_below(os.fspath(table)) == parts
        assert os.path.join(table, "p0") == os.fspath(table / "p0") == f"{local}/p0"
        assert os.fspath(make().CloudPath(str(table) + "/")) == local
        copied = shutil.copytree(table, os.fspath(table.client.cache.root) + "-tree")
        assert files_below(str(copied)) == parts

    def test_a_directory_is_what_the_cloud_has_now(self, table: Any, make: Any, ground: RawBucket) -> None:
        def seen() -> dict[str, bytes]:
            return files_below(os.fspath(make().CloudPath(str(table))))

        parts = seen()
        ground.remove("t/p0")
        del parts["p0"]
        assert seen() == parts
        self.put(ground, b"new", "t/p4")
        parts["p4"] = b"new"
        assert seen() == parts
        self.put(ground, b"changed", "t/y=1/p2")
        parts["y=1/p2"] = b"changed"
        assert seen() == parts

    def test_a_directory_stays_whole_while_it_is_handed_out(
        self, table: Any, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in NO_SECONDS.items():
            monkeypatch.setenv(name, value)
        client = make(local_cache_dir=os.fspath(table.client.cache.root) + "-other")
        parts = files_below(os.fspath(table))

        def empty() -> None:
            gc.collect()  # the error of a missing object may keep the frames of its call, and the path in them
            client.cache.flush()
            client.cache.execute(client.cache.plan(max_size=0))

        kept = client.CloudPath(str(table))
        local = os.fspath(kept)
        empty()
        assert files_below(local) == parts, "its CloudPath is alive"
        assert files_below(os.fspath(client.CloudPath(str(table)))) == parts
        del kept
        empty()
        assert not os.path.isdir(local) or files_below(local) == {}
        assert files_below(os.fspath(client.CloudPath(str(table)))) == parts, "never the part that is cached"
        client.cache.close()

    def test_a_directory_that_is_too_large_is_not_downloaded(
        self, table: Any, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CASSTORE_LOCAL_DIRECTORY_LIMIT", "15")
        client = make(local_cache_dir=os.fspath(table.client.cache.root) + "-other")
        directory = client.CloudPath(str(table))
        with pytest.raises(IsADirectoryError, match="local_directory_limit is 15: call prefetch"):
            os.fspath(directory)
        assert list(client.cache.entries()) == []
        (directory / "p0").read_bytes()
        client.cache.flush()
        assert len(files_below(os.fspath(directory))) == 4
        client.cache.close()

    def test_a_directory_that_does_not_exist_is_not_an_empty_one(self, make: Any, at: str) -> None:
        for name in ("missing", "missing/"):
            with pytest.raises(FileNotFoundError):
                os.listdir(make().CloudPath(at + name))

    def test_a_directory_leaves_no_descriptors(self, table: Any, make: Any) -> None:
        def look() -> None:
            client = table.client
            client.directories.clear()
            client.cache.clear()
            os.fspath(client.CloudPath(str(table)))

        for _ in range(3):
            look()
        layout = table.client.cache.layout
        # A thread of the pool that has just ended lets go a moment later.
        eventually(lambda: open_below(layout.blobs) == open_below(layout.local) == [])

    # --- tools that write ---------------------------------------------------------------------------------------------

    def test_a_tool_saves_as_often_as_it_likes(self, path: Any, ground: RawBucket) -> None:
        for number in range(3):
            Path(path).write_bytes(b"epoch %d" % number)
            path.push()
            assert self.now(ground) == path.read_bytes() == b"epoch %d" % number
        Path(path).write_bytes(b"epoch 2")
        path.push()  # the same bytes: there is nothing to do
        path.push()
        assert path.pending == []
        with pytest.raises(FileNotFoundError, match="nothing is pending, and there is no such object"):
            path.with_name("missing").push()

    def test_a_file_is_copied_over_an_object(self, path: Any, ground: RawBucket, source: str) -> None:
        for expected in (None, b"new" * 10):
            assert self.now(ground) == expected
            for copy in (shutil.copy, shutil.copy2, shutil.copyfile):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that the file of a new object is not uploaded yet
                    copy(source, path)
            path.push()
            assert self.now(ground) == b"new" * 10
            Path(source).write_bytes(b"new" * 10)
        self.put(ground, b"theirs")
        shutil.copy(source, path)
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()
        path.push()
        assert self.now(ground) == b"new" * 10

    def test_writing_downloads_nothing(self, path: Any, ground: RawBucket, wire: Any) -> None:
        for expected in (None, b"0"):
            assert self.now(ground) == expected
            with path.writing() as name:
                assert os.path.basename(name) == "a.txt"
                assert not os.path.lexists(name)
                Path(name).write_bytes(b"0")
            assert not os.path.lexists(name)
        assert wire.calls["read"] == 0
        assert path.read_bytes() == b"0"
        with path.writing():
            pass  # makes nothing
        assert self.now(ground) == b"0"

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_what_a_tool_makes_below_a_directory_is_pending_and_pushed(
        self, make: Any, at: str, ground: RawBucket, slash: str
    ) -> None:
        out = make().CloudPath(at + "out" + slash)
        local = os.fspath(out)
        for name in ("y=1/p0", "y=2/p1"):
            os.makedirs(os.path.dirname(f"{local}/{name}"), exist_ok=True)
            Path(local, name).write_bytes(name.encode())
        assert os.fspath(out) == local
        part = make().CloudPath(at + "out/y=1/p0")
        assert states(part) == [PendingState.INCOMPLETE]
        assert {write.uri for write in out.client.cache.record_local()} | {part.pending[0].uri} == {
            f"{at}out/y=1/p0",
            f"{at}out/y=2/p1",
        }
        assert ground.content("out/y=1/p0") is None
        out.push()
        assert ground.content("out/y=1/p0") == b"y=1/p0"
        assert ground.content("out/y=2/p1") == b"y=2/p1"
        assert list(out.client.cache.pending.all()) == []
        assert os.fspath(make().CloudPath(at + "out")) == local, "it is the directory of what was pushed"
        Path(local, "y=2/p2").write_bytes(b"later")
        make().CloudPath(at + "out/y=2/").push()
        assert ground.content("out/y=2/p2") == b"later"

    def test_what_a_tool_makes_below_a_directory_stays_there_until_it_is_pushed(self, table: Any, make: Any) -> None:
        local = os.fspath(table)
        Path(local, "y=3").mkdir()
        Path(local, "y=3/p4").write_bytes(b"mine")
        part = make().CloudPath(f"{table}/y=3/p4")
        assert states(part) == [PendingState.INCOMPLETE]
        assert os.fspath(make().CloudPath(str(table))) == local
        assert files_below(local)["y=3/p4"] == b"mine"
        table.push()
        assert os.fspath(make().CloudPath(str(table))) == local
        assert part.read_bytes() == b"mine"

    def test_a_failed_write_is_not_hidden_by_a_tools_own_change(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"theirs")
        local = os.fspath(path)
        file = path.open("wb")
        file.write(b"mine")
        Path(local).write_bytes(b"edited")
        assert states(path) == [PendingState.EDIT]
        self.put(ground, b"theirs, newer")
        with pytest.raises(OverwriteNewerCloudError):
            file.close()
        assert set(states(path)) == {PendingState.FAILED, PendingState.EDIT}
        with pytest.raises((PendingWriteError, OverwriteNewerLocalError)):
            os.fspath(path)

    def test_what_a_tool_makes_beside_a_path_is_pending_and_pushed(self, make: Any, at: str, ground: RawBucket) -> None:
        for push in ("array", "array.npy"):
            name = os.fspath(make().CloudPath(at + "array")) + ".npy"  # as numpy.save does
            Path(name).write_bytes(push.encode())
            (write,) = make().CloudPath(at + "array.npy").pending
            assert write.size == len(push)
            make().CloudPath(at + push).push()
            assert ground.content("array.npy") == push.encode()
            assert ground.content("array") is None

    def test_what_was_dropped_is_gone(self, path: Any) -> None:
        cache = path.client.cache
        for resolve in ("drop", "discard_pending"):
            local = Path(path)
            local.write_bytes(b"mine")
            (write,) = path.pending
            path.drop() if resolve == "drop" else cache.discard_pending(write)
            assert path.pending == []
            assert not os.path.lexists(local)

    # --- other processes ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("views", _MODES)
    def test_an_edit_of_a_killed_process_is_noticed_and_concerns_no_twin(
        self, make: Any, at: str, ground: RawBucket, views: str
    ) -> None:
        for name in ("d/a.txt", "d/twin.txt"):
            self.put(ground, b"theirs", name)
        path, twin = (make(views=views).CloudPath(at + name) for name in ("d/a.txt", "d/twin.txt"))
        assert path.read_bytes() == twin.read_bytes() == b"theirs"

        def edit() -> None:
            local = Path(make(views=views).CloudPath(at + "d/a.txt"))
            local.chmod(0o600)
            local.write_bytes(b"mine")

        assert killed_after(edit)
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()
        assert states(path) == [PendingState.EDIT]
        assert twin.read_bytes() == b"theirs"
        twin.write_bytes(b"newer")
        assert self.now(ground) == b"theirs"
        path.push()
        assert self.now(ground) == path.read_bytes() == b"mine"

    def test_a_file_of_a_killed_process_is_pending(self, path: Any, ground: RawBucket) -> None:
        assert killed_after(lambda: Path(path).write_bytes(b"mine"))
        assert states(path) == [PendingState.INCOMPLETE]
        assert self.now(ground) is None
        path.push()
        assert self.now(ground) == b"mine"

    # --- the budget ---------------------------------------------------------------------------------------------------

    @pytest.mark.needs_locks
    @pytest.mark.parametrize("holds", ["nothing", "a CloudPath", "an edit", "a pin", "the setting"])
    def test_a_path_gives_way_unless_somebody_needs_it(
        self, make: Any, at: str, ground: RawBucket, holds: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in NO_SECONDS.items():
            monkeypatch.setenv(name, value)
        if holds == "the setting":
            monkeypatch.setenv("CASSTORE_LOCAL_PATHS", "keep")
        self.put(ground, b"theirs")
        client = make(views="copy")
        path = client.CloudPath(at + "d/a.txt")
        local = os.fspath(path)
        if holds != "a CloudPath":
            del path
        if holds == "an edit":
            Path(local).write_bytes(b"mine")
        if holds == "a pin":
            client.cache.flush()
            client.cache.pin(at + "d/a.txt")
        client.cache.flush()
        client.cache.execute(client.cache.plan(max_size=0))
        assert os.path.exists(local) == (holds != "nothing")

    @pytest.mark.needs_locks
    @pytest.mark.parametrize("seconds", [0.0, 3600.0])
    def test_a_path_stays_for_the_time_of_grace(
        self, make: Any, at: str, ground: RawBucket, seconds: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CASSTORE_LOCAL_PATH_GRACE", str(seconds))
        self.put(ground, b"theirs")
        client = make(views="copy")
        local = os.fspath(client.CloudPath(at + "d/a.txt"))
        with open(local, "rb") as file:
            client.cache.flush()
            client.cache.execute(client.cache.plan(max_size=0))
            assert file.read() == b"theirs", "who has it open reads on"
        assert os.path.exists(local) == (seconds > 0)

    @pytest.mark.needs_locks
    @pytest.mark.parametrize("kills", [False, True], ids=["one process", "killed ones"])
    def test_files_read_by_their_paths_stay_within_the_budget(
        self, make: Any, at: str, ground: RawBucket, kills: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size, budget = 200_000, 1_000_000
        monkeypatch.setenv("CASSTORE_LOCAL_PATH_GRACE", "0.2")
        monkeypatch.setenv("CASSTORE_MAX_SIZE", str(budget))
        contents = [os.urandom(size) for _ in range(12)]
        for number, data in enumerate(contents):
            ground.plant(f"d/{number}", data)
        ground.settle()
        client = make(views="copy")

        def read() -> None:
            for number, data in enumerate(contents):
                with open(make(views="copy").CloudPath(f"{at}d/{number}"), "rb") as file:
                    assert file.read() == data

        def used() -> int:
            files = [
                file
                for file in Path(client.cache.root).rglob("*")
                if not str(file).startswith(client.cache.layout.index)
            ]
            found: dict[int, int] = {}
            for file in files:
                try:
                    status = file.stat()
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
                else:
                    found[status.st_ino] = status.st_blocks * 512 if file.is_file() else 0
            return sum(found.values())

        for _ in range(2):
            if kills:
                assert killed_after(read)
        deadline = time.monotonic() + 300
        while True:
            read()
            client.cache.flush()
            time.sleep(0.3)
            client.cache.execute(client.cache.plan())
            if used() <= budget + size:
                break
            assert time.monotonic() < deadline, f"{used():,} bytes"
