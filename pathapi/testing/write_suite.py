"""`WriteSuite`: the guarantees of writes through paths."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from casstore import Condition, PendingState
from pathapi.exceptions import OverwriteNewerCloudError, PendingWriteError
from pathapi.testing.intercepting_backend import InterceptingBackend
from pathapi.testing.path_suite import RESOLUTIONS, append, damage, resolve, states
from pathapi.testing.raw_bucket import RawBucket, assert_leaves_no_descriptor
from pathapi.testing.unfinished_writes import UnfinishedWrites

_FORMS = {
    # mode: bytes written, and the result if the object was b"old\n" before
    "w": (b"new\n", b"new\n"),
    "a": (b"new\n", b"old\nnew\n"),
    "r+": (b"n", b"nld\n"),
    "w+": (b"new\n", b"new\n"),
    "a+": (b"new\n", b"old\nnew\n"),
    "x": (b"new\n", b"old\n"),
    "x+": (b"new\n", b"old\n"),
}


class WriteSuite(UnfinishedWrites):
    """Writes, for paths of any backend."""

    # --- content -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("is_text", [False, True], ids=["binary", "text"])
    @pytest.mark.parametrize("mode", _FORMS)
    def test_every_mode_writes_the_right_content(
        self, path: Any, ground: RawBucket, tmp_path: Path, mode: str, is_text: bool
    ) -> None:
        data, over_old = _FORMS[mode]
        local = tmp_path / "local.txt"
        if mode == "r+":
            local.touch()
        with local.open(mode if is_text else f"{mode}b") as file:
            said = file.mode

        def write() -> None:
            with path.open(mode if is_text else f"{mode}b") as file:
                assert (file.name, file.mode) == (str(path), said)
                file.write(data.decode() if is_text else data)

        if mode == "r+":
            with pytest.raises(FileNotFoundError):
                write()
        else:
            write()
            assert self.now(ground) == data
        self.put(ground, b"old\n")
        if mode.startswith("x"):
            with pytest.raises(FileExistsError):
                write()
        else:
            write()
            assert path.pending == []
        assert self.now(ground) == path.read_bytes() == over_old

    def test_a_file_can_be_read_back_while_it_is_written(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"0123456789")
        with path.open("r+b") as file:
            assert file.read(3) == b"012"
            file.seek(5)
            file.write(b"X")
            file.truncate(8)
            file.seek(0)
            assert file.read() == b"01234X67"
            assert self.now(ground) == b"0123456789", "not visible before close"
        assert self.now(ground) == b"01234X67"

    def test_write_bytes_write_text_and_touch(self, path: Any, ground: RawBucket) -> None:
        assert path.write_bytes(memoryview(b"abc")) == 3
        assert self.now(ground) == b"abc"
        assert path.write_text("zwölf\n", encoding="latin-1") == 6
        assert self.now(ground) == b"zw\xf6lf\n"
        path.with_name("empty").touch()
        path.touch()
        assert ground.content("d/empty") == b""
        assert self.now(ground) == b"zw\xf6lf\n"
        with pytest.raises(FileExistsError):
            path.touch(exist_ok=False)
        assert path.pending == []

    def test_an_exception_inside_the_block_uploads_nothing(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"old\n")

        def fail(mode: str) -> None:
            with path.open(mode) as file:
                file.write("x" if "b" not in mode else b"x")
                raise ZeroDivisionError

        for mode in ("w", "a", "r+", "wb", "w+b"):
            with pytest.raises(ZeroDivisionError):
                fail(mode)
            assert self.now(ground) == b"old\n"
        assert path.pending == []
        path.write_bytes(b"and the lock is free")

    def test_a_write_is_cached_without_a_second_copy_or_a_download(self, path: Any, wire: InterceptingBackend) -> None:
        data = os.urandom(200_000)
        path.write_bytes(data)
        wire.calls.clear()
        assert path.read_bytes(freshness="immutable") == data
        (entry,) = path.client.cache.entries(str(path))
        assert os.stat(path.client.cache.blob_path(entry)).st_nlink == 1
        assert not wire.calls

    def test_what_was_just_written_here_is_no_conflict(self, path: Any, ground: RawBucket, tmp_path: Path) -> None:
        """A server may state only size and second, which are those of the version before, too."""
        (tmp_path / "local").write_bytes(b"six")
        os.utime(tmp_path / "local", (4e9, 4e9))  # or it would be older than what it replaces
        other, third = path.with_name("b.txt"), path.with_name("c.txt")
        path.write_bytes(b"one")
        path.write_bytes(b"two")
        append(path, b"!")
        path.copy(other)
        path.copy(other)
        other.rename(third)
        third.move(other)
        assert [ground.content(f"d/{name}") for name in ("a.txt", "b.txt", "c.txt")] == [b"two!", b"two!", None]
        path.upload_from(tmp_path / "local")
        other.touch()
        other.unlink()
        path.unlink()
        assert self.now(ground) is ground.content("d/b.txt") is None
        assert path.pending == []

    @pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
    def test_an_unchanged_object_is_not_uploaded(
        self, path: Any, ground: RawBucket, wire: InterceptingBackend, mode: str
    ) -> None:
        self.put(ground, b"the same")
        assert path.read_bytes() == b"the same"
        with path.open(mode) as file:
            file.write(b"the same" if mode == "wb" else b"")
        assert wire.calls["write"] == 0
        assert self.now(ground) == b"the same"

    @pytest.mark.parametrize("mode", ["wb", "r+b"])
    def test_unchanged_bytes_are_compared_with_the_object_of_the_close(
        self, path: Any, ground: RawBucket, mode: str
    ) -> None:
        """A rollback to what was there when the file was opened is no reason to leave another writer's version."""
        self.put(ground, b"the same")
        path.read_bytes()
        file = path.open(mode)
        file.write(b"the same" if mode == "wb" else b"")
        self.put(ground, b"theirs")
        with pytest.raises(OverwriteNewerCloudError):
            file.close()
        assert self.now(ground) == b"theirs"
        assert path.read_bytes(read_pending=True) == b"the same"

    def test_bytes_of_an_older_version_are_uploaded(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"one")
        assert path.read_bytes() == b"one"
        self.put(ground, b"two")
        path.write_bytes(b"one")
        assert self.now(ground) == b"one"

    def test_bytes_are_uploaded_if_in_doubt(self, path: Any, ground: RawBucket, wire: InterceptingBackend) -> None:
        """The cached version may be old: only a revalidation at this moment makes the upload unnecessary."""
        self.put(ground, b"the same")
        path.read_bytes()
        with path.open("wb", freshness="immutable") as file:
            file.write(b"the same")
        assert wire.calls["write"] == 1
        path.write_bytes(b"the same", force_overwrite_to_cloud=True)
        assert wire.calls["write"] == 2
        damage(path, b"THE SAME")
        path.write_bytes(b"the same")
        assert wire.calls["write"] == 3

    def list_parent(self, path: Any) -> None:
        """List the "directory" that *path* is in, which may be missing."""
        with suppress(FileNotFoundError):  # of a web server, which has no page for it
            list(path.parent.iterdir())

    # --- conflicts ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("seen", ["present", "absent", "not listed"])
    def test_an_unseen_version_is_never_overwritten(self, path: Any, ground: RawBucket, seen: str) -> None:
        if seen == "present":
            self.put(ground, b"seen")
        elif seen == "not listed":
            self.list_parent(path)
        self.fail_at_close(path, ground)
        assert self.now(ground) == b"theirs"
        (write,) = path.pending
        assert (write.state, write.size, write.uri) == (PendingState.FAILED, 4, str(path))
        assert write.condition is (Condition.MATCH if seen == "present" else Condition.ABSENT)
        assert Path(path.client.cache.pending.path(write)).read_bytes() == b"mine"

    def test_equal_bytes_of_another_writer_are_a_conflict(
        self, path: Any, make: Any, at: str, ground: RawBucket, tmp_path: Path
    ) -> None:
        """Two machines append one line each, and the lines are equal: one append raises, or a line is lost."""
        self.put(ground, b"old\n")
        other = make(local_cache_dir=tmp_path / "other machine").CloudPath(at + "d/a.txt")
        files = [writer.open("ab") for writer in (path, other)]
        for file in files:
            file.write(b"line\n")
        files[0].close()
        with pytest.raises(OverwriteNewerCloudError):
            files[1].close()
        assert self.now(ground) == b"old\nline\n"
        assert states(other) == [PendingState.FAILED]

    def test_one_call_requests_the_version_of_an_unlisted_object(self, path: Any, ground: RawBucket) -> None:
        self.list_parent(path)
        self.put(ground, b"theirs")
        path.write_bytes(b"mine")
        assert self.now(ground) == b"mine"
        assert path.pending == []

    @pytest.mark.parametrize("name", ["0.txt", "b.txt"])  # locked before it, and after it
    def test_a_refused_write_blocks_every_use(self, path: Any, ground: RawBucket, tmp_path: Path, name: str) -> None:
        other = path.parent / name
        self.fail_at_close(path, ground)
        self.put(ground, b"other", f"d/{name}")
        (tmp_path / "local").write_bytes(b"local")
        for use in (
            path.read_bytes,
            path.read_text,
            path.open,
            lambda: path.fspath,
            lambda: path.write_bytes(b"x"),
            path.unlink,
            path.touch,
            lambda: path.rename(str(path) + "2"),
            lambda: other.rename(path),
            lambda: other.copy(path, force_overwrite_to_cloud=False),
            lambda: path.upload_from(tmp_path / "local"),
            lambda: path.edit().__enter__(),
        ):
            with pytest.raises(PendingWriteError, match="another writer had changed the object") as caught:
                use()
            for way in ("push()", "force_overwrite_to_cloud", "force_overwrite_from_cloud", "save_pending", "drop()"):
                assert way in str(caught.value)
        assert path.read_bytes(read_pending=True) == b"mine"
        assert path.read_text(read_pending=True) == "mine"
        with path.open("rb", read_pending=True) as file:
            assert (file.read(), file.name) == (b"mine", str(path))
        with pytest.raises(OverwriteNewerCloudError):
            path.push()
        assert (self.now(ground), ground.content(f"d/{name}")) == (b"theirs", b"other")
        assert len(path.pending) == 1

    @pytest.mark.parametrize("way", RESOLUTIONS)
    def test_a_refused_write_is_resolved(self, path: Any, ground: RawBucket, tmp_path: Path, way: str) -> None:
        self.fail_at_close(path, ground)
        resolve(path, way, tmp_path / "mine", b"mine", force=True)
        assert self.now(ground) == (b"mine" if way == "push" else b"theirs")
        assert states(path) == ([PendingState.INCOMPLETE] if way == "read" else [])
        if way != "read":
            path.push()  # the cloud has the bytes: there is nothing to do
            assert self.now(ground) == (b"mine" if way == "push" else b"theirs")

    def test_a_forced_write_sets_it_aside(self, path: Any, ground: RawBucket, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail_at_close(path, ground)
        monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_TO_CLOUD", "true")
        path.write_bytes(b"a third")
        assert self.now(ground) == path.read_bytes() == b"a third"
        assert states(path) == [PendingState.INCOMPLETE]

    def test_a_forced_write_overwrites_an_unseen_version(self, path: Any, ground: RawBucket) -> None:
        with path.open("wb", force_overwrite_to_cloud=True) as file:
            self.put(ground, b"theirs")
            file.write(b"mine")
        assert self.now(ground) == b"mine"

    def test_a_refused_creation_keeps_its_bytes_and_blocks_nothing(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"theirs")
        for _ in range(3):
            with pytest.raises(FileExistsError, match="exists already"), path.open("xb") as file:
                file.write(b"mine")
        with pytest.raises(FileExistsError), path.open("xb"):
            pass
        (write,) = path.pending
        assert (write.state, write.size) == (PendingState.INCOMPLETE, 4)
        assert path.read_bytes() == b"theirs"
        append(path, b"!")
        assert self.now(ground) == b"theirs!"

    def test_a_deleted_object_is_not_created_again_without_force(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"seen")
        file = path.open("ab")
        file.write(b" and mine")
        ground.remove("d/a.txt")
        with pytest.raises(OverwriteNewerCloudError):
            file.close()
        assert self.now(ground) is None
        path.push(force_overwrite_to_cloud=True)
        assert self.now(ground) == b"seen and mine"

    @pytest.mark.parametrize("is_newer", [False, True], ids=["damaged", "newer"])
    def test_a_pending_write_that_cannot_be_read_blocks_every_use(
        self, path: Any, ground: RawBucket, tmp_path: Path, is_newer: bool
    ) -> None:
        self.fail_at_close(path, ground)
        (sound,) = path.pending
        record = Path(path.client.cache.pending.record_path(sound))
        facts = json.loads(record.read_text())
        record.write_text(json.dumps(facts | {"format": 2}) if is_newer else "{")
        (write,) = path.pending
        assert (write.state, write.size, write.name) == (PendingState.UNREADABLE, 4, sound.name)
        for use in (path.read_bytes, path.open, lambda: path.open("wb"), path.unlink, path.parent.rmtree, path.push):
            with pytest.raises(PendingWriteError, match="damaged, or was written by a newer casstore") as caught:
                use()
            assert "save_pending(PATH)" in str(caught.value) and "drop()" in str(caught.value)
        assert path.read_bytes(read_pending=True) == b"mine"
        path.save_pending(tmp_path / "mine")
        assert (tmp_path / "mine").read_bytes() == b"mine"
        assert (path.pending, path.read_bytes()) == ([], b"theirs")

    @pytest.mark.parametrize("way", ["drop", "read", "write"])
    def test_a_pending_write_that_cannot_be_read_is_resolved(self, path: Any, ground: RawBucket, way: str) -> None:
        self.fail_at_close(path, ground)
        (sound,) = path.pending
        Path(path.client.cache.pending.record_path(sound)).write_text("")
        if way == "drop":
            path.drop()
        elif way == "read":
            assert path.read_bytes(force_overwrite_from_cloud=True) == b"theirs"
        else:
            path.write_bytes(b"new", force_overwrite_to_cloud=True)
        assert path.read_bytes() == (b"new" if way == "write" else b"theirs")
        assert states(path) == ([] if way == "drop" else [PendingState.INCOMPLETE])
        if way != "drop":
            assert path.read_bytes(read_pending=True) == b"mine"
            path.push(force_overwrite_to_cloud=True)
            assert self.now(ground) == b"mine"

    # --- the rest ----------------------------------------------------------------------------------------------------

    def test_pending_writes_survive_clear_and_gc(self, path: Any, ground: RawBucket) -> None:
        self.fail_at_close(path, ground)
        cache = path.client.cache
        path.clear_cache()
        path.client.clear_cache()
        assert [write.uri for write in cache.clear(str(path)).pending] == [str(path)]
        cache.execute(cache.plan(max_size=0))
        assert path.read_bytes(read_pending=True) == b"mine"
        path.push(force_overwrite_to_cloud=True)
        assert self.now(ground) == b"mine"

    def test_an_invalid_object_name_is_refused_first(self, make: Any, at: str) -> None:
        for name in ("", "d/"):
            with pytest.raises(IsADirectoryError):
                make().CloudPath(at + name).write_bytes(b"")

    def test_an_unknown_encoding_leaves_nothing_locked(self, path: Any, ground: RawBucket) -> None:
        with pytest.raises(LookupError):
            path.open("w", encoding="klingon")
        path.write_text("fine")
        assert self.now(ground) == b"fine"

    def test_writing_leaves_no_descriptor_open(self, path: Any, ground: RawBucket) -> None:
        def use() -> None:
            path.write_bytes(os.urandom(1000))
            append(path, b"more")
            with pytest.raises(FileExistsError):
                path.open("xb").close()
            with pytest.raises(ZeroDivisionError), path.open("w"):
                raise ZeroDivisionError
            path.client.cache.flush()

        assert_leaves_no_descriptor(use)
