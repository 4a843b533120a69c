"""`ReadSuite`: reads through the store."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pathapi.exceptions import NotCachedError
from pathapi.testing.path_suite import PathSuite, content, damage
from pathapi.testing.raw_bucket import (
    RawBucket,
    assert_leaves_no_descriptor,
    assert_threads_read,
    in_forked_child,
    plant_all,
)
from pathapi.testing.stalls import LARGE, Stall


def _files_below(view: str) -> set[str]:
    return {str(file.relative_to(view)) for file in Path(view).rglob("*") if file.is_file()}


class ReadSuite(PathSuite):
    """Reads through the store, for paths of any backend."""

    def test_every_way_of_reading_gives_the_bytes(self, path: Any, ground: RawBucket) -> None:
        data = "zwölf\r\nBytes\n".encode() * 1000
        self.put(ground, data)
        for _ in range(2):
            assert path.read_bytes() == data
            with path.open("rb") as file:
                assert (file.read(3), file.seek(-3, os.SEEK_END), file.read()) == (data[:3], len(data) - 3, data[-3:])
                assert (file.name, file.readable(), file.writable()) == (str(path), True, False)
                assert file.mode == "rb"
            with path.open("rb", buffering=0) as raw:
                assert raw.readall() == data
            for mode in ("r", "rt"):
                with path.open(mode, encoding="utf-8") as text:
                    assert (text.read(), text.mode) == (data.decode().replace("\r\n", "\n"), mode)
            assert path.read_text("utf-8", newline="") == data.decode()
            assert Path(path.fspath).read_bytes() == data
            with path.local() as local:
                assert Path(local).read_bytes() == data

    def test_an_empty_object_of_a_directorys_name_is_a_directory(self, make: Any, ground: RawBucket, at: str) -> None:
        """It marks the directory, as consoles of clouds do; a server may also answer so for any directory."""
        marker = make().CloudPath(at + "marked/")
        ground.plant("marked/a.txt", b"bytes")
        try:
            ground.plant("marked/", b"")
        except OSError:
            pytest.skip("no object can have such a name here")
        cache = marker.client.cache
        for call in (marker.read_bytes, marker.read_text, lambda: marker.open("rb")):
            with pytest.raises(IsADirectoryError, match="marked/ is a directory"):
                call()
        cache.flush()
        assert list(cache.entries(str(marker))) == []
        assert (marker / "a.txt").read_bytes() == b"bytes"

    def test_info_asks_each_question_once(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"bytes")
        info = path.info
        for _ in range(2):
            assert (info.exists(), info.is_file(), info.is_dir(), info.is_symlink()) == (True, True, False, False)
            assert info is path.info and info() is info
            if ground.content("d/a.txt") is not None:
                ground.remove("d/a.txt")

    def test_what_is_there_now_is_read_under_always(self, path: Any, ground: RawBucket) -> None:
        for data in (b"first", b"other", b"", b"longer than before", b"first"):
            self.put(ground, data)
            assert path.read_bytes() == data
        ground.remove("d/a.txt")
        with pytest.raises(FileNotFoundError):
            path.read_bytes()
        self.put(ground, b"again")
        assert path.read_bytes() == b"again"

    def test_a_new_version_is_not_requested_under_a_ttl(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, b"first")
        uri = at + "d/a.txt"
        make().CloudPath(uri).read_bytes()
        self.put(ground, b"other")
        for freshness in (60, timedelta(minutes=1), "immutable", "offline", {at: 60}, {"": "immutable"}):
            path = make(freshness=freshness).CloudPath(uri)
            assert path.read_bytes() == content(path) == b"first"
        assert make(freshness={"s3://elsewhere/": "immutable"}).CloudPath(uri).read_bytes() == b"other"

    def test_a_call_or_the_environment_overrides_the_policy(
        self, make: Any, ground: RawBucket, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = make(freshness="immutable").CloudPath(at + "d/a.txt")
        for data in (b"first", b"other"):
            self.put(ground, data)
            assert path.read_bytes() == b"first"
        assert content(path, freshness="always") == b"other"
        self.put(ground, b"third")
        assert content(path, force_overwrite_from_cloud=True) == b"third"
        monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_FROM_CLOUD", "1")
        for data, read in ((b"fourth", path.read_bytes), (b"fifth", lambda: content(path))):
            self.put(ground, data)
            assert read() == data

    def test_offline_sends_no_requests_even_if_a_call_overrides_it(
        self, make: Any, ground: RawBucket, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.put(ground, b"first", "a/b")
        make().CloudPath(at + "a/b").read_bytes()
        self.put(ground, b"other", "a/b")
        ground.plant("a/c", b"")
        monkeypatch.setenv("CASSTORE_OFFLINE", "1")
        path = make(freshness=60).CloudPath(at + "a/b")
        assert path.read_bytes(freshness="always") == b"first"
        assert [child.name for child in path.parent.iterdir()] == ["b"]
        assert [child.name for child in path.parent.parent.iterdir()] == ["a"]
        assert path.parent.is_dir() and path.is_file() and not path.with_name("c").exists()
        with pytest.raises(NotCachedError, match="the policy is offline"):
            path.with_name("c").read_bytes()

    @pytest.mark.parametrize("freshness", ["always", 60])
    def test_a_read_corrects_what_a_listing_said(
        self, make: Any, ground: RawBucket, at: str, freshness: str | float
    ) -> None:
        ground.plant("d/a.txt", b"first")
        directory = make(freshness=freshness).CloudPath(at + "d/")
        (child,) = directory.iterdir()
        self.put(ground, b"the second")
        assert child.stat().st_size in (5, 10)  # a listing of a moment ago may be believed
        assert child.read_bytes() == b"the second"
        assert child.stat().st_size == (directory / "a.txt").stat().st_size == 10
        self.put(ground, b"new", "d/new.txt")
        assert (directory / "new.txt").read_bytes() == b"new"
        assert (directory / "new.txt").exists() and (directory / "new.txt").is_file()
        child.clear_cache()
        ground.remove("d/a.txt")
        with pytest.raises(FileNotFoundError):
            child.read_bytes()
        assert not child.exists() and not (directory / "a.txt").exists()

    def test_what_others_make_after_a_listing_exists(self, make: Any, ground: RawBucket, at: str) -> None:
        ground.plant("d/a.txt", b"")
        directory = make().CloudPath(at + "d/")
        assert len(list(directory.iterdir())) == 1
        self.put(ground, b"new", "d/new.txt")
        made = directory / "new.txt"
        assert made.exists() and made.is_file() and made.stat().st_size == 3
        assert not (directory / "missing").exists()

    def test_a_missing_object_and_a_directory_differ(self, path: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, b"")
        for name, error in (("missing", FileNotFoundError), ("d", IsADirectoryError)):
            other = path.client.CloudPath(at + name)
            for read in (other.read_bytes, other.open, other.read_text):
                with pytest.raises(error, match=name):
                    read()

    def test_a_view_keeps_its_bytes_and_a_new_version_gets_another(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"first")
        first = path.fspath
        assert os.path.basename(first) == "a.txt"
        assert path.fspath == os.fspath(path) == first
        self.put(ground, b"other")
        other = path.fspath
        path.clear_cache()
        assert other != first
        assert (Path(first).read_bytes(), Path(other).read_bytes()) == (b"first", b"other")

    def test_a_directorys_view_has_the_cached_objects(self, make: Any, ground: RawBucket, at: str) -> None:
        for name in ("d/a", "d/e/b", "d/c", "f"):
            ground.plant(name, name.encode())
        ground.settle()
        folder = make().CloudPath(at + "d")
        assert _files_below(folder.fspath) == set()
        (folder / "e/b").fspath  # noqa: B018 (one object is opened)
        assert _files_below(folder.fspath) == {"e/b"}
        (folder / "a").read_bytes()
        assert _files_below(folder.fspath) == {"a", "e/b"}

    def test_one_content_is_stored_once_whatever_its_names(self, make: Any, ground: RawBucket, at: str) -> None:
        plant_all(ground, "", "abc", b"the same" * 1000)
        ground.settle()
        client = make()
        assert {client.CloudPath(at + name).read_bytes() for name in "abc"} == {b"the same" * 1000}
        client.cache.flush()
        usage = client.cache.usage(at)
        assert (usage.entries, usage.blobs, usage.stored_bytes) == (3, 1, 8000)

    def test_clear_cache_removes_only_this_path(self, make: Any, ground: RawBucket, at: str) -> None:
        client = make()
        for name in ("d/a", "d/b", "da"):
            self.put(ground, name.encode(), name)
            client.CloudPath(at + name).read_bytes()
        client.CloudPath(at + "d").clear_cache()
        assert [entry.uri for entry in client.cache.entries(at)] == [at + "da"]

    def test_a_read_under_verify_finds_flipped_bits(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, b"right")
        path = make(freshness="immutable").CloudPath(at + "d/a.txt")
        path.read_bytes()
        damage(path, b"wrong")
        assert path.read_bytes() == b"wrong", "the change must not show in size and mtime"
        assert path.read_bytes(verify=True) == path.read_bytes() == b"right"

    def test_threads_read_many_objects_at_once(self, make: Any, ground: RawBucket, at: str) -> None:
        client = make()
        assert_threads_read(lambda name: client.CloudPath(at + name).read_bytes(), ground)

    def test_a_forked_child_uses_its_parents_path(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"warm")
        self.put(ground, b"cold", "d/b")
        assert path.read_bytes() == b"warm"
        assert in_forked_child(lambda: (path.read_bytes(), path.with_name("b").read_bytes()) == (b"warm", b"cold"))
        assert path.with_name("b").read_bytes() == b"cold"

    def test_an_interrupt_is_heard_while_parts_stall(
        self, path: Any, ground: RawBucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = os.urandom(LARGE)
        self.put(ground, data)
        backend, stall = path.location.backend, Stall()

        def stalled(key: str, start: int = 0, end: int | None = None, **options: Any) -> Any:
            if start:
                stall()
            return read(key, start, end, **options)

        read = backend.read
        with monkeypatch.context() as patch:
            patch.setattr(backend, "read", stalled)
            if not stall.interrupts(path.read_bytes):
                pytest.skip("this server sends objects in one piece")
        assert path.read_bytes() == data

    def test_reading_leaves_no_descriptor_open(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"x" * 100_000)

        def use() -> None:
            path.read_bytes()
            content(path)
            path.fspath  # noqa: B018 (it opens the blob)
            path.clear_cache()
            path.client.cache.flush()
            with pytest.raises(FileNotFoundError):
                path.with_name("missing").read_bytes()

        assert_leaves_no_descriptor(use)
