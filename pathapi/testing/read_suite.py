"""`ReadSuite`: reads through the store."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pathapi.exceptions import NotCachedError
from pathapi.testing.path_suite import PathSuite
from pathapi.testing.raw_bucket import RawBucket, count_descriptors, in_forked_child


class ReadSuite(PathSuite):
    """Reads through the store, for paths of any backend."""

    def put(self, ground: RawBucket, key: str, data: bytes) -> None:
        """Plant an object, and wait until its validator differs from that of the next version."""
        ground.plant(key, data)
        ground.settle()

    def test_every_way_of_reading_gives_the_bytes(self, make: Any, ground: RawBucket, at: str) -> None:
        data = "zwölf\r\nBytes\n".encode() * 1000
        self.put(ground, "a/b.txt", data)
        path = make().CloudPath(at + "a/b.txt")
        for _ in range(2):
            assert path.read_bytes() == data
            with path.open("rb") as file:
                assert (file.read(3), file.seek(-3, os.SEEK_END), file.read()) == (data[:3], len(data) - 3, data[-3:])
                assert (file.name, file.readable(), file.writable()) == (str(path), True, False)
            with path.open("rb", buffering=0) as raw:
                assert raw.readall() == data
            with path.open(encoding="utf-8") as text:
                assert text.read() == data.decode().replace("\r\n", "\n")
            assert path.read_text("utf-8", newline="") == data.decode()
            with open(path.fspath, "rb") as file:
                assert file.read() == data
            with path.local() as local, open(local, "rb") as file:
                assert file.read() == data

    def test_a_new_version_is_read_under_always(self, make: Any, ground: RawBucket, at: str) -> None:
        path = make().CloudPath(at + "a")
        for data in (b"first", b"other", b"", b"longer than before", b"first"):
            self.put(ground, "a", data)
            assert path.read_bytes() == data

    def test_a_new_version_is_not_requested_under_a_ttl(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, "a", b"first")
        make().CloudPath(at + "a").read_bytes()
        self.put(ground, "a", b"other")
        for freshness in (60, timedelta(minutes=1), "immutable", "offline", {at: 60}, {"": "immutable"}):
            path = make(freshness=freshness).CloudPath(at + "a")
            assert path.read_bytes() == b"first"
            with path.open("rb") as file:
                assert file.read() == b"first"
        assert make(freshness={"s3://elsewhere/": "immutable"}).CloudPath(at + "a").read_bytes() == b"other"

    def test_a_call_overrides_its_clients_policy(self, make: Any, ground: RawBucket, at: str) -> None:
        path = make(freshness="immutable").CloudPath(at + "a")
        self.put(ground, "a", b"first")
        assert path.read_bytes() == b"first"
        self.put(ground, "a", b"other")
        assert path.read_bytes() == b"first"
        with path.open("rb", freshness="always") as file:
            assert file.read() == b"other"
        self.put(ground, "a", b"third")
        with path.open("rb", force_overwrite_from_cloud=True) as file:
            assert file.read() == b"third"

    def test_the_environment_can_force_a_download(
        self, make: Any, ground: RawBucket, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = make(freshness="immutable").CloudPath(at + "a")
        self.put(ground, "a", b"first")
        assert path.read_bytes() == b"first"
        self.put(ground, "a", b"other")
        monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_FROM_CLOUD", "1")
        assert path.read_bytes() == b"other"
        self.put(ground, "a", b"third")
        with path.open("rb") as file:
            assert file.read() == b"third"

    def test_offline_sends_no_requests_even_if_a_call_overrides_it(
        self, make: Any, ground: RawBucket, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.put(ground, "a/b", b"first")
        make().CloudPath(at + "a/b").read_bytes()
        self.put(ground, "a/b", b"other")
        ground.plant("a/c", b"")
        monkeypatch.setenv("CASSTORE_OFFLINE", "1")
        path = make(freshness=60).CloudPath(at + "a/b")
        assert path.read_bytes(freshness="always") == b"first"
        assert [child.name for child in path.parent.iterdir()] == ["b"]
        assert [child.name for child in path.parent.parent.iterdir()] == ["a"]
        assert path.parent.is_dir() and path.is_file() and not path.with_name("c").exists()
        with pytest.raises(NotCachedError, match="the policy is offline"):
            path.with_name("c").read_bytes()

    def test_a_missing_object_and_a_directory_are_errors_of_their_own(
        self, make: Any, ground: RawBucket, at: str
    ) -> None:
        self.put(ground, "d/a", b"")
        root = make().CloudPath(at)
        for name, error in (("missing", FileNotFoundError), ("d", IsADirectoryError)):
            for way in ("read_bytes", "open", "read_text"):
                with pytest.raises(error, match=name):
                    getattr(root.client.CloudPath(at + name), way)()

    def test_a_deleted_object_is_missing(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, "a", b"held")
        path = make().CloudPath(at + "a")
        path.read_bytes()
        ground.remove("a")
        with pytest.raises(FileNotFoundError):
            path.read_bytes()
        self.put(ground, "a", b"again")
        assert path.read_bytes() == b"again"

    def test_a_view_keeps_its_bytes_and_a_new_version_gets_another(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, "a/b.bin", b"first")
        path = make().CloudPath(at + "a/b.bin")
        first = path.fspath
        assert os.path.basename(first) == "b.bin"
        assert path.fspath == os.fspath(path) == first
        self.put(ground, "a/b.bin", b"other")
        other = path.fspath
        path.clear_cache()
        assert other != first
        assert (Path(first).read_bytes(), Path(other).read_bytes()) == (b"first", b"other")

    def test_a_directorys_view_has_the_cached_objects(self, make: Any, ground: RawBucket, at: str) -> None:
        for name in ("d/a", "d/e/b", "d/c", "f"):
            ground.plant(name, name.encode())
        ground.settle()
        root = make().CloudPath(at)
        empty = Path((root / "d").fspath)
        assert [file for file in empty.rglob("*") if file.is_file()] == []
        (root / "d/e/b").fspath  # noqa: B018 (one object is opened)
        seen = Path((root / "d").fspath)
        assert [str(file.relative_to(seen)) for file in seen.rglob("*") if file.is_file()] == ["e/b"]
        (root / "d/a").read_bytes()
        assert sorted(file.name for file in Path((root / "d").fspath).rglob("*") if file.is_file()) == ["a", "b"]

    def test_one_content_is_stored_once_whatever_its_names(self, make: Any, ground: RawBucket, at: str) -> None:
        for name in ("a", "b", "c"):
            ground.plant(name, b"the same" * 1000)
        ground.settle()
        client = make()
        assert {client.CloudPath(at + name).read_bytes() for name in "abc"} == {b"the same" * 1000}
        client.cache.flush()
        usage = client.cache.usage(at)
        assert (usage.entries, usage.blobs, usage.stored_bytes) == (3, 1, 8000)

    def test_clear_cache_removes_only_this_path(self, make: Any, ground: RawBucket, at: str) -> None:
        for name in ("d/a", "d/b", "da"):
            ground.plant(name, name.encode())
        ground.settle()
        client = make()
        for name in ("d/a", "d/b", "da"):
            client.CloudPath(at + name).read_bytes()
        client.CloudPath(at + "d").clear_cache()
        assert [entry.uri for entry in client.cache.entries(at)] == [at + "da"]

    def test_a_read_under_verify_finds_flipped_bits(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, "a", b"right")
        client = make(freshness="immutable")
        path = client.CloudPath(at + "a")
        path.read_bytes()
        client.cache.flush()
        (entry,) = client.cache.entries(at)
        blob = client.cache.blob_path(entry)
        times = os.stat(blob)
        os.chmod(blob, 0o644)
        with open(blob, "r+b") as file:
            file.write(b"wrong")
        os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert path.read_bytes() == b"wrong", "the change must not show in size and mtime"
        assert path.read_bytes(verify=True) == b"right"
        assert path.read_bytes() == b"right"

    def test_threads_read_many_objects_at_once(self, make: Any, ground: RawBucket, at: str) -> None:
        contents = {f"{number % 3}/{number}": os.urandom(1000 + number % 7) for number in range(40)}
        for key, data in contents.items():
            ground.plant(key, data)
        ground.settle()
        client = make()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda key: client.CloudPath(at + key).read_bytes(), list(contents) * 3))
        assert found == list(contents.values()) * 3

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
    def test_a_forked_child_uses_its_parents_path(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, "a", b"warm")
        self.put(ground, "b", b"cold")
        path = make().CloudPath(at + "a")
        assert path.read_bytes() == b"warm"
        assert in_forked_child(lambda: (path.read_bytes(), path.with_name("b").read_bytes()) == (b"warm", b"cold"))
        assert path.with_name("b").read_bytes() == b"cold"

    def test_reading_leaves_no_descriptor_open(self, make: Any, ground: RawBucket, at: str) -> None:
        self.put(ground, "a", b"x" * 100_000)
        path = make().CloudPath(at + "a")

        def use() -> None:
            path.read_bytes()
            with path.open() as file:
                file.read()
            path.fspath  # noqa: B018 (it opens the blob)
            path.clear_cache()
            path.client.cache.flush()
            with pytest.raises(FileNotFoundError):
                path.with_name("missing").read_bytes()

        use()
        before = count_descriptors()
        for _ in range(5):
            use()
        assert count_descriptors() <= before
