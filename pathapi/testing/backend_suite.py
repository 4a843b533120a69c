"""`BackendSuite`: the contract of a backend."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from pathapi.backend import ABSENT, Backend, ObjectInfo, Prefix
from pathapi.exceptions import BucketNotFoundError, CloudPathFileNotFoundError, VersionMismatchError
from pathapi.testing.copy_tests import CopyTests
from pathapi.testing.raw_bucket import (
    CHUNK,
    ODD_NAMES,
    SIZES,
    RawBucket,
    count_descriptors,
    drain,
    in_forked_child,
    keys,
    only_winner,
    opened,
    read,
    write,
)


class BackendSuite(CopyTests):
    """Needs three fixtures, and the known defects of the server (not of the backend)."""

    defects: ClassVar[Mapping[str, str]] = {}
    """Tests that this server cannot pass, and the reason for the skip."""
    unusable_names: ClassVar[Mapping[str, str]] = {}
    """Names of `ODD_NAMES` that this server does not support, and the reason."""
    many: ClassVar[int] = 1_005
    """Objects of the long listing, which needs more than one page."""

    @pytest.fixture
    def ground(self) -> RawBucket:
        raise NotImplementedError("a subclass must define the fixture `ground`")

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("a subclass must define the fixture `backend`")

    @pytest.fixture
    def nowhere(self) -> Backend:
        """A backend for a bucket that does not exist."""
        raise NotImplementedError("a subclass must define the fixture `nowhere`")

    @pytest.fixture
    def at(self) -> str:
        """A prefix that no other test uses, with its slash."""
        return f"t-{uuid.uuid4().hex[:12]}/"

    @pytest.fixture(autouse=True)
    def _skip_known_defects(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", request.node.name)
        if name in self.defects:
            pytest.skip(self.defects[name])

    # --- reading -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", SIZES)
    def test_a_whole_object_is_read_by_both_methods(
        self, backend: Backend, ground: RawBucket, at: str, size: int
    ) -> None:
        data = os.urandom(size)
        ground.plant(at + "a", data)
        assert read(backend, at + "a") == data
        body = opened(backend, at + "a")
        assert body.info.key == at + "a"
        assert body.info.size == size
        assert body.length == size
        assert drain(body) == data

    @pytest.mark.parametrize(
        ("start", "end"),
        [(0, 1), (0, 10), (0, 11), (0, 10_000), (3, 7), (9, 10), (9, 99), (3, None), (0, None), (4, 4), (0, 0)],
    )
    def test_a_range_returns_its_bytes_and_the_size_of_the_object(
        self, backend: Backend, ground: RawBucket, at: str, start: int, end: int | None
    ) -> None:
        ground.plant(at + "a", b"0123456789")
        body = opened(backend, at + "a", start, end)
        expected = b"0123456789"[start:end]
        assert body.info.size == 10
        assert body.length == len(expected)
        assert drain(body) == expected

    def test_a_range_behind_the_end_is_empty(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"0123456789")
        for start, end in ((10, 20), (11, None), (1_000, 1_001)):
            body = opened(backend, at + "a", start, end)
            assert (body.info.size, body.length, drain(body)) == (10, 0, b"")

    def test_a_range_of_an_empty_object_is_an_empty_body(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "empty", b"")
        body = opened(backend, at + "empty", 0, CHUNK)
        assert (body.info.size, body.length, drain(body)) == (0, 0, b"")
        if body.info.validator.identifies:
            assert body.info.validator.same_version(backend.head(at + "empty").validator)

    def test_a_missing_object_is_file_not_found(self, backend: Backend, at: str) -> None:
        with pytest.raises(CloudPathFileNotFoundError, match="missing") as caught:
            backend.read(at + "missing")
        assert isinstance(caught.value, FileNotFoundError)
        assert not isinstance(caught.value, BucketNotFoundError)
        assert caught.value.__cause__ is not None
        with pytest.raises(CloudPathFileNotFoundError):
            backend.head(at + "missing")
        with pytest.raises(CloudPathFileNotFoundError):
            backend.read(at + "missing", 5, 10)

    def test_a_directory_is_no_object(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "dir/x", b"x")
        with pytest.raises(CloudPathFileNotFoundError):
            backend.read(at + "dir")
        with pytest.raises(CloudPathFileNotFoundError):
            backend.head(at + "dir")

    def test_a_missing_bucket_differs_from_a_missing_object(self, nowhere: Backend) -> None:
        with pytest.raises(BucketNotFoundError):
            nowhere.read("a")
        with pytest.raises(BucketNotFoundError):
            list(nowhere.list())

    def test_a_write_to_a_missing_bucket_says_so(self, nowhere: Backend) -> None:
        with pytest.raises(BucketNotFoundError):
            nowhere.write("a", io.BytesIO(b""), 0)

    def test_an_object_that_is_also_a_prefix_is_both(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"object")
        ground.plant(at + "a/b", b"below")
        assert read(backend, at + "a") == b"object"
        assert keys(backend, at) == [at + "a", at + "a/b"]
        assert keys(backend, at, delimited=True) == [at + "a", at + "a/"]

    def test_a_body_closed_early_leaves_no_descriptor(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "big", os.urandom(4 << 20))
        read(backend, at + "big")
        before = count_descriptors()
        for _ in range(30):
            body = opened(backend, at + "big")
            body.readinto(memoryview(bytearray(10)))
            body.close()
            body.close()
        assert count_descriptors() <= before + 3

    # --- versions ------------------------------------------------------------------------------------------------

    def test_head_read_and_list_agree_on_the_version(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"content")
        head = backend.head(at + "a")
        body = opened(backend, at + "a")
        body.close()
        ranged = opened(backend, at + "a", 2, 4)
        ranged.close()
        (listed,) = backend.list(at)
        assert isinstance(listed, ObjectInfo)
        assert listed.key == at + "a"
        for info in (head, body.info, ranged.info, *(() if listed.is_named_only else (listed,))):
            assert (info.key, info.size) == (at + "a", 7)
            assert info.validator.same_version(head.validator)
            assert info.validator.etag is None or not info.validator.etag.startswith(('"', "W/"))

    def test_a_replacement_of_equal_size_is_another_version(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        first = backend.head(at + "a").validator
        ground.plant(at + "a", b"other")
        assert not backend.head(at + "a").validator.same_version(first)

    def test_reading_an_expected_version_fails_once_it_is_replaced(
        self, backend: Backend, ground: RawBucket, at: str
    ) -> None:
        ground.plant(at + "a", b"first")
        first = backend.head(at + "a").validator
        assert read(backend, at + "a", 1, 3, expect=first) == b"ir"
        ground.plant(at + "a", b"other")
        for start, end in ((0, None), (1, 3)):
            with pytest.raises(VersionMismatchError):
                backend.read(at + "a", start, end, expect=first)

    def test_an_unchanged_object_is_not_sent_again(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        ground.settle()
        first = backend.head(at + "a").validator
        assert backend.read(at + "a", unless=first) is None
        assert backend.read(at + "a", 1, 3, unless=first) is None
        ground.plant(at + "a", b"other")
        assert read(backend, at + "a", unless=first) == b"other"
        ground.remove(at + "a")
        with pytest.raises(CloudPathFileNotFoundError):
            backend.read(at + "a", unless=first)

    # --- writing -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", SIZES)
    def test_a_write_stores_the_bytes_and_returns_the_version(
        self, backend: Backend, ground: RawBucket, at: str, size: int
    ) -> None:
        data = os.urandom(size)
        info = backend.write(at + "deep/er/a", io.BytesIO(data), size)
        assert ground.content(at + "deep/er/a") == data
        assert (info.key, info.size) == (at + "deep/er/a", size)
        assert backend.head(at + "deep/er/a").validator.same_version(info.validator)

    def test_a_write_replaces_what_was_there(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"a longer first version")
        write(backend, at + "a", b"second")
        assert ground.content(at + "a") == b"second"

    def test_create_only_write_leaves_the_first_object(self, backend: Backend, ground: RawBucket, at: str) -> None:
        write(backend, at + "a", b"first", ABSENT)
        assert ground.content(at + "a") == b"first"
        with pytest.raises(VersionMismatchError):
            write(backend, at + "a", b"second", ABSENT)
        assert ground.content(at + "a") == b"first"

    def test_a_write_over_the_expected_version_replaces_it(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        second = write(backend, at + "a", b"other", backend.head(at + "a").validator)
        assert ground.content(at + "a") == b"other"
        write(backend, at + "a", b"third", second.validator)
        assert ground.content(at + "a") == b"third"

    def test_a_write_over_a_stale_version_leaves_the_object(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        stale = backend.head(at + "a").validator
        ground.plant(at + "a", b"newer")
        with pytest.raises(VersionMismatchError):
            write(backend, at + "a", b"mine!", stale)
        assert ground.content(at + "a") == b"newer"

    def test_a_write_over_a_version_that_is_gone_creates_nothing(
        self, backend: Backend, ground: RawBucket, at: str
    ) -> None:
        ground.plant(at + "a", b"first")
        stale = backend.head(at + "a").validator
        ground.remove(at + "a")
        with pytest.raises(VersionMismatchError):
            write(backend, at + "a", b"mine!", stale)
        assert ground.content(at + "a") is None

    def test_of_concurrent_creators_one_succeeds(self, backend: Backend, ground: RawBucket, at: str) -> None:
        winner = only_winner(lambda data: write(backend, at + "a", data, ABSENT))
        assert ground.content(at + "a") == winner

    def test_of_concurrent_writers_over_one_version_one_succeeds(
        self, backend: Backend, ground: RawBucket, at: str
    ) -> None:
        ground.plant(at + "a", b"writer ?")
        version = backend.head(at + "a").validator
        winner = only_winner(lambda data: write(backend, at + "a", data, version))
        assert ground.content(at + "a") == winner

    # --- listing -------------------------------------------------------------------------------------------------

    def test_a_prefix_is_a_string_not_a_path_segment(self, backend: Backend, ground: RawBucket, at: str) -> None:
        for name in ("a-b", "a.txt", "a/x", "a/y/z", "a0", "b"):
            ground.plant(at + name, b"")
        everything = [at + name for name in ("a-b", "a.txt", "a/x", "a/y/z", "a0", "b")]
        assert sorted(keys(backend, at)) == everything
        assert sorted(keys(backend, at + "a")) == everything[:5]
        assert sorted(keys(backend, at + "a/")) == [at + "a/x", at + "a/y/z"]
        assert keys(backend, at + "a/y") == [at + "a/y/z"]
        assert keys(backend, at + "b") == [at + "b"]
        assert keys(backend, at + "c") == []
        assert keys(backend, at + "b/") == []

    def test_a_listing_is_in_the_order_of_the_keys_bytes(self, backend: Backend, ground: RawBucket, at: str) -> None:
        names = ("a-b", "a.txt", "a/x", "a0", "aä", "a\uffee", "a\U0001f388", "b")
        for name in reversed(names):
            ground.plant(at + name, b"")
        assert keys(backend, at) == [at + name for name in names]
        assert keys(backend, at, delimited=True) == [at + name.replace("/x", "/") for name in names]

    def test_a_delimited_listing_groups_deeper_keys(self, backend: Backend, ground: RawBucket, at: str) -> None:
        for name in ("a-b", "a.txt", "a/x", "a/y/z", "a0", "dir/q"):
            ground.plant(at + name, b"12")
        found = sorted(backend.list(at, delimited=True), key=lambda item: item.key)
        assert [item.key for item in found] == [at + name for name in ("a-b", "a.txt", "a/", "a0", "dir/")]
        assert [type(item) for item in found] == [ObjectInfo, ObjectInfo, Prefix, ObjectInfo, Prefix]
        assert {item.size for item in found if isinstance(item, ObjectInfo) and not item.is_named_only} <= {2}
        assert keys(backend, at + "a/", delimited=True) == [at + "a/x", at + "a/y/"]
        assert sorted(keys(backend, at + "a", delimited=True)) == [at + name for name in ("a-b", "a.txt", "a/", "a0")]
        assert keys(backend, at + "d", delimited=True) == [at + "dir/"]

    def test_a_directory_without_objects_does_not_exist(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "dir/only", b"")
        ground.plant(at + "a", b"")
        backend.delete([at + "dir/only"])
        assert keys(backend, at, delimited=True) == [at + "a"]
        assert keys(backend, at + "dir/") == []

    def test_a_limit_stops_after_that_many_items(self, backend: Backend, ground: RawBucket, at: str) -> None:
        for name in ("a", "b/x", "b/y", "c", "d"):
            ground.plant(at + name, b"")
        assert keys(backend, at, limit=2) == [at + "a", at + "b/x"]
        assert keys(backend, at, delimited=True, limit=2) == [at + "a", at + "b/"]
        assert keys(backend, at, limit=0) == []
        assert len(keys(backend, at, limit=99)) == 5

    @pytest.mark.slow
    def test_a_listing_continues_after_its_first_page(self, backend: Backend, ground: RawBucket, at: str) -> None:
        names = [f"{at}many/{number:05}" for number in range(self.many)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: ground.plant(key, b"."), names))
        assert keys(backend, at) == names
        assert keys(backend, at + "many/", limit=self.many - 1) == names[:-1]
        assert keys(backend, at, delimited=True) == [at + "many/"]
        backend.delete(names)
        assert keys(backend, at) == []

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_an_odd_key_is_written_listed_read_copied_and_deleted(
        self, backend: Backend, ground: RawBucket, at: str, name: str
    ) -> None:
        if name in self.unusable_names:
            pytest.skip(self.unusable_names[name])
        key = f"{at}{name}/{name}"
        write(backend, key, b"odd")
        assert ground.content(key) == b"odd"
        assert read(backend, key) == b"odd"
        assert keys(backend, at) == [key]
        assert keys(backend, f"{at}{name}") == [key]
        assert keys(backend, at, delimited=True) == [f"{at}{name}/"]
        backend.copy(key, key + "2")
        assert ground.content(key + "2") == b"odd"
        backend.delete([key, key + "2"])
        assert keys(backend, at) == []

    # --- threads and processes -----------------------------------------------------------------------------------

    def test_threads_share_a_backend(self, backend: Backend, ground: RawBucket, at: str) -> None:
        contents = {f"{at}{number}": os.urandom(1_000 + number) for number in range(16)}
        for key, data in contents.items():
            ground.plant(key, data)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda key: read(backend, key), list(contents) * 4))
        assert found == list(contents.values()) * 4

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
    def test_a_forked_child_uses_its_parents_backend(self, backend: Backend, ground: RawBucket, at: str) -> None:
        data = os.urandom(CHUNK)
        ground.plant(at + "a", data)
        assert read(backend, at + "a") == data
        # With an open body: parent and child must not read from one connection.
        body = opened(backend, at + "a")
        assert in_forked_child(lambda: [read(backend, at + "a") == data for _ in range(5)] == [True] * 5)
        assert drain(body) == data
        assert read(backend, at + "a") == data
