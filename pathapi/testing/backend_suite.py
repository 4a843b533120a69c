"""`BackendSuite`: the contract of a backend."""

from __future__ import annotations

import http.client
import io
import os
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import pytest

from casstore import Validator
from pathapi.backend import ABSENT, Backend, CopiesAcross, ObjectInfo, Prefix, WriteCondition
from pathapi.exceptions import BucketNotFoundError, CloudPathFileNotFoundError, VersionMismatchError
from pathapi.testing.raw_bucket import (
    CHUNK,
    ODD_NAMES,
    SIZES,
    RawBucket,
    assert_leaves_no_descriptor,
    assert_threads_read,
    drain,
    in_forked_child,
    keys,
    only_winner,
    opened,
    plant_all,
    planted,
    read,
    write,
)
from pathapi.testing.stalls import LARGE, Stall, is_part_thread

Put = Callable[[str, bytes, WriteCondition], ObjectInfo]


class BackendSuite:
    """Needs three fixtures, and the known defects of the server (not of the backend).

    `ground` is a `RawBucket`, `backend` the same bucket, `missing_bucket` a backend for a bucket that does not exist.
    """

    defects: ClassVar[Mapping[str, str]] = {}
    """Tests that this server cannot pass, with ``[parameter]`` or without, and the reason for the skip."""
    unusable_names: ClassVar[Mapping[str, str]] = {}
    """Names of `ODD_NAMES` that this server does not support, and the reason."""
    many: ClassVar[int] = 1_005
    """Objects of the long listing, which needs more than one page."""

    @pytest.fixture
    def missing_bucket(self) -> Backend:
        raise NotImplementedError("a subclass must define the fixture `missing_bucket`")

    @pytest.fixture
    def at(self) -> str:
        """A prefix that no other test uses, with its slash."""
        return f"t-{uuid.uuid4().hex[:12]}/"

    @pytest.fixture(autouse=True)
    def _skip_known_defects(self, request: pytest.FixtureRequest) -> None:
        for name in (request.node.name, getattr(request.node, "originalname", "")):
            if name in self.defects:
                pytest.skip(self.defects[name])

    # --- errors --------------------------------------------------------------------------------------------------

    def test_an_error_shows_no_escape_sequence_of_a_key(self, backend: Backend, at: str) -> None:
        key = f"{at}\x1b[2Jmissing\x9b31m"
        for call in (lambda: backend.read(key), lambda: backend.head(key)):
            with pytest.raises(CloudPathFileNotFoundError) as caught:
                call()
            shown = "".join(traceback.format_exception(caught.value))
            assert all(line.isprintable() for line in shown.split("\n")), ascii(shown)

    # --- reading -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", SIZES)
    def test_an_object_is_read_and_written(self, backend: Backend, ground: RawBucket, at: str, size: int) -> None:
        data = os.urandom(size)
        ground.plant(at + "a", data)
        assert read(backend, at + "a") == data
        body = opened(backend, at + "a")
        assert (body.info.key, body.info.size, body.length) == (at + "a", size, size)
        assert drain(body) == data
        info = write(backend, at + "deep/er/a", data)
        assert ground.content(at + "deep/er/a") == data
        assert (info.key, info.size) == (at + "deep/er/a", size)
        assert backend.head(at + "deep/er/a").validator.same_version(info.validator)

    def test_a_range_returns_its_bytes_and_the_objects_size(self, backend: Backend, ground: RawBucket, at: str) -> None:
        data = b"0123456789"
        ground.plant(at + "a", data)
        within = [(0, 0), (0, 1), (0, 10), (3, 7), (4, 4), (9, 10), (0, None), (3, None)]
        past_the_end = [(0, 11), (0, 10_000), (9, 99), (10, 20), (11, None), (1_000, 1_001)]
        for start, end in within + past_the_end:
            body = opened(backend, at + "a", start, end)
            assert (body.info.size, body.length, drain(body)) == (10, len(data[start:end]), data[start:end])
        version = planted(backend, ground, at + "empty", b"")
        body = opened(backend, at + "empty", 0, CHUNK)
        assert (body.info.size, body.length, drain(body)) == (0, 0, b"")
        assert body.info.validator.same_version(version) or not body.info.validator.identifies

    @pytest.mark.parametrize("name", ["missing", "dir"])
    def test_a_missing_object_is_file_not_found(self, backend: Backend, ground: RawBucket, at: str, name: str) -> None:
        ground.plant(at + "dir/x", b"x")
        for call in (backend.read, backend.head, lambda key: backend.read(key, 5, 10)):
            with pytest.raises(CloudPathFileNotFoundError, match=name) as caught:
                call(at + name)
            assert isinstance(caught.value, FileNotFoundError)
            assert not isinstance(caught.value, BucketNotFoundError)
            assert name == "dir" or caught.value.__cause__ is not None

    def test_a_missing_bucket_differs_from_a_missing_object(self, missing_bucket: Backend) -> None:
        with pytest.raises(BucketNotFoundError):
            missing_bucket.read("a")
        with pytest.raises(BucketNotFoundError):
            list(missing_bucket.list())

    def test_a_write_to_a_missing_bucket_says_so(self, missing_bucket: Backend) -> None:
        with pytest.raises(BucketNotFoundError):
            missing_bucket.write("a", io.BytesIO(b""), 0)

    def test_an_object_that_is_also_a_prefix_is_both(self, backend: Backend, ground: RawBucket, at: str) -> None:
        names = plant_all(ground, at, ("a", "a/b"), b"object")
        assert read(backend, at + "a") == b"object"
        assert keys(backend, at) == names
        assert keys(backend, at, delimited=True) == [at + "a", at + "a/"]

    def test_a_body_closed_early_leaves_no_descriptor(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "big", os.urandom(4 << 20))

        def use() -> None:
            for _ in range(6):
                body = opened(backend, at + "big")
                body.readinto(memoryview(bytearray(10)))
                body.close()
                body.close()

        assert_leaves_no_descriptor(use, slack=3)

    # --- versions ------------------------------------------------------------------------------------------------

    def test_head_read_and_list_agree_on_the_version(self, backend: Backend, ground: RawBucket, at: str) -> None:
        version = planted(backend, ground, at + "a", b"content")
        bodies = (opened(backend, at + "a"), opened(backend, at + "a", 2, 4))
        for body in bodies:
            body.close()
        (listed,) = backend.list(at)
        assert isinstance(listed, ObjectInfo)
        assert listed.key == at + "a"
        infos = [backend.head(at + "a"), *(body.info for body in bodies)]
        for info in infos if listed.is_named_only else [*infos, listed]:
            assert (info.key, info.size) == (at + "a", 7)
            assert info.validator.same_version(version)
            assert info.validator.etag is None or not info.validator.etag.startswith(('"', "W/"))

    def test_a_replaced_version_is_not_read(self, backend: Backend, ground: RawBucket, at: str) -> None:
        first = planted(backend, ground, at + "a", b"first")
        assert read(backend, at + "a", 1, 3, expect=first) == b"ir"
        assert not planted(backend, ground, at + "a", b"other").same_version(first), "of equal size"
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

    # --- writes and copies under a condition ---------------------------------------------------------------------

    @pytest.fixture
    def other(self, backend: Backend, ground: RawBucket) -> tuple[Any, RawBucket]:
        """Another bucket of the same connection, from which the server can copy."""
        pytest.skip("the server cannot copy between buckets, or has only one")

    @pytest.fixture(params=["write", "copy", "copy of a version", "copy across"])
    def put(self, backend: Backend, ground: RawBucket, at: str, request: pytest.FixtureRequest) -> Put:
        """Give an object new content: by a write, or by a copy of another object."""
        is_across = request.param == "copy across"
        origin, planted_in = request.getfixturevalue("other") if is_across else (backend, ground)

        def copy(key: str, data: bytes, over: WriteCondition) -> ObjectInfo:
            source = f"{at}from/{data.decode()}"
            version = planted(origin, planted_in, source, data)
            if is_across:
                assert isinstance(origin, CopiesAcross)
                return origin.copy_across(source, backend, key, expect=version, over=over)
            return backend.copy(source, key, expect=None if request.param == "copy" else version, over=over)

        return partial(write, backend) if request.param == "write" else copy

    def test_the_expected_version_is_replaced(self, put: Put, backend: Backend, ground: RawBucket, at: str) -> None:
        version: Validator | None = planted(backend, ground, at + "a", b"a longer first version")
        for data in (b"second", b"third"):
            version = put(at + "a", data, version).validator
            assert ground.content(at + "a") == data
        put(at + "a", b"whatever was there", None)
        assert ground.content(at + "a") == b"whatever was there"

    def test_an_object_is_created_only_once(self, put: Put, ground: RawBucket, at: str) -> None:
        put(at + "a", b"first", ABSENT)
        with pytest.raises(VersionMismatchError):
            put(at + "a", b"second", ABSENT)
        assert ground.content(at + "a") == b"first"

    def test_a_stale_version_is_not_replaced(self, put: Put, backend: Backend, ground: RawBucket, at: str) -> None:
        stale = planted(backend, ground, at + "a", b"first")
        ground.plant(at + "a", b"newer")
        with pytest.raises(VersionMismatchError):
            put(at + "a", b"mine!", stale)
        assert ground.content(at + "a") == b"newer"
        ground.remove(at + "a")
        with pytest.raises(VersionMismatchError):
            put(at + "a", b"mine!", stale)
        assert ground.content(at + "a") is None

    def test_one_of_concurrent_writers_wins(self, put: Put, backend: Backend, ground: RawBucket, at: str) -> None:
        winner = only_winner(lambda data: put(at + "new", data, ABSENT))
        assert ground.content(at + "new") == winner
        version = planted(backend, ground, at + "a", b"writer ?")
        winner = only_winner(lambda data: put(at + "a", data, version))
        assert ground.content(at + "a") == winner

    # --- listing -------------------------------------------------------------------------------------------------

    def test_a_listing_has_the_keys_with_a_prefix(self, backend: Backend, ground: RawBucket, at: str) -> None:
        everything = plant_all(ground, at, ("a-b", "a.txt", "a/x", "a/y/z", "a0", "b", "dir/q"), b"12")
        assert sorted(keys(backend, at)) == everything
        # A prefix is a string, not a path segment.
        assert sorted(keys(backend, at + "a")) == everything[:5]
        assert sorted(keys(backend, at + "a/")) == [at + "a/x", at + "a/y/z"]
        assert keys(backend, at + "a/y") == [at + "a/y/z"]
        assert keys(backend, at + "b") == [at + "b"]
        assert keys(backend, at + "c") == keys(backend, at + "b/") == []
        # A delimited listing groups deeper keys.
        found = sorted(backend.list(at, delimited=True), key=lambda item: item.key)
        assert [item.key for item in found] == [at + name for name in ("a-b", "a.txt", "a/", "a0", "b", "dir/")]
        assert [item.key for item in found if isinstance(item, Prefix)] == [at + "a/", at + "dir/"]
        assert {item.size for item in found if isinstance(item, ObjectInfo) and not item.is_named_only} <= {2}
        assert keys(backend, at + "a/", delimited=True) == [at + "a/x", at + "a/y/"]
        assert sorted(keys(backend, at + "a", delimited=True)) == [at + name for name in ("a-b", "a.txt", "a/", "a0")]
        assert keys(backend, at + "d", delimited=True) == [at + "dir/"]

    def test_a_listing_is_in_the_order_of_the_keys_bytes(self, backend: Backend, ground: RawBucket, at: str) -> None:
        names = ("a-b", "a.txt", "a/x", "a0", "aä", "a\uffee", "a\U0001f388", "b")
        plant_all(ground, at, reversed(names))
        assert keys(backend, at) == [at + name for name in names]
        assert keys(backend, at, delimited=True) == [at + name.replace("/x", "/") for name in names]

    def test_a_directory_without_objects_does_not_exist(self, backend: Backend, ground: RawBucket, at: str) -> None:
        plant_all(ground, at, ("dir/only", "a"))
        backend.delete([at + "dir/only"])
        assert keys(backend, at, delimited=True) == [at + "a"]
        assert keys(backend, at + "dir/") == []

    def test_a_limit_stops_after_that_many_items(self, backend: Backend, ground: RawBucket, at: str) -> None:
        plant_all(ground, at, ("a", "b/x", "b/y", "c", "d"))
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
    def test_an_odd_key_works_in_every_call(self, backend: Backend, ground: RawBucket, at: str, name: str) -> None:
        if name in self.unusable_names:
            pytest.skip(self.unusable_names[name])
        key = f"{at}{name}/{name}"
        write(backend, key, b"odd")
        assert ground.content(key) == read(backend, key) == b"odd"
        assert keys(backend, at) == keys(backend, f"{at}{name}") == [key]
        assert keys(backend, at, delimited=True) == [f"{at}{name}/"]
        backend.copy(key, key + "2")
        assert ground.content(key + "2") == b"odd"
        backend.delete([key, key + "2"])
        assert keys(backend, at) == []

    # --- copies --------------------------------------------------------------------------------------------------

    def test_a_copy_stores_the_bytes(self, backend: Backend, ground: RawBucket, at: str) -> None:
        data = os.urandom(CHUNK + 1)
        ground.plant(at + "a", data)
        ground.plant(at + "to/b", b"old")
        info = backend.copy(at + "a", at + "to/b")
        assert ground.content(at + "to/b") == ground.content(at + "a") == data
        assert (info.key, info.size) == (at + "to/b", len(data))
        assert backend.head(at + "to/b").validator.same_version(info.validator)

    def test_a_copy_of_nothing_is_file_not_found(self, backend: Backend, ground: RawBucket, at: str) -> None:
        stale = planted(backend, ground, at + "b", b"there")
        ground.remove(at + "b")
        for over in (None, stale):
            with pytest.raises(CloudPathFileNotFoundError):
                backend.copy(at + "missing", at + "b", over=over)
            assert ground.content(at + "b") is None

    def test_a_copy_takes_only_the_version_expected(self, backend: Backend, ground: RawBucket, at: str) -> None:
        version = planted(backend, ground, at + "a", b"first")
        backend.copy(at + "a", at + "b", expect=version)
        assert ground.content(at + "b") == b"first"
        ground.plant(at + "a", b"other")
        with pytest.raises(VersionMismatchError):
            backend.copy(at + "a", at + "c", expect=version)
        assert ground.content(at + "c") is None

    # --- deletes -------------------------------------------------------------------------------------------------

    def test_a_delete_accepts_many_keys_and_missing_ones(self, backend: Backend, ground: RawBucket, at: str) -> None:
        plant_all(ground, at, ("a", "b", "c/d", "keep"))
        for names in (["a"], ["missing"], ["b", "missing", "c/d"], []):
            backend.delete([at + name for name in names])
        assert [ground.content(at + name) for name in ("a", "b", "c/d", "keep")] == [None, None, None, b""]

    def test_a_delete_takes_only_the_version_expected(self, backend: Backend, ground: RawBucket, at: str) -> None:
        version = planted(backend, ground, at + "a", b"first")
        newer = planted(backend, ground, at + "a", b"other")
        with pytest.raises(VersionMismatchError):
            backend.delete([at + "a"], expect=version)
        assert ground.content(at + "a") == b"other"
        backend.delete([at + "a"], expect=newer)
        assert ground.content(at + "a") is None

    def test_a_delete_of_a_missing_version_is_refused(self, backend: Backend, ground: RawBucket, at: str) -> None:
        version = planted(backend, ground, at + "a", b"first")
        ground.remove(at + "a")
        with pytest.raises(VersionMismatchError):
            backend.delete([at + "a"], expect=version)

    def test_a_delete_of_many_takes_only_the_versions_named(self, backend: Backend, ground: RawBucket, at: str) -> None:
        names = ("a", "b", "control\x01", "gone", "c", "any")
        versions = {at + name: planted(backend, ground, at + name, b"first") for name in names if name != "any"}
        for name in ("b", "control\x01", "any"):
            ground.plant(at + name, b"other")
        ground.remove(at + "gone")
        with pytest.raises(VersionMismatchError) as refused:
            backend.delete([at + name for name in names], versions=versions)
        assert sorted(refused.value.keys) == [at + "b", at + "control\x01"]
        there = [ground.content(at + name) for name in names]
        assert there == [None, b"other", b"other", None, None, None]
        backend.delete([at + "a"], versions=versions)

    # --- threads and processes -----------------------------------------------------------------------------------

    def test_threads_share_a_backend(self, backend: Backend, ground: RawBucket, at: str) -> None:
        assert_threads_read(lambda key: read(backend, at + key), ground, at)

    def test_a_forked_child_uses_its_parents_backend(self, backend: Backend, ground: RawBucket, at: str) -> None:
        data = os.urandom(CHUNK)
        ground.plant(at + "a", data)
        assert read(backend, at + "a") == data
        # With an open body: parent and child must not read from one connection.
        body = opened(backend, at + "a")
        assert in_forked_child(lambda: [read(backend, at + "a") == data for _ in range(5)] == [True] * 5)
        assert drain(body) == data
        assert read(backend, at + "a") == data

    def test_an_interrupt_of_a_large_upload_is_heard_at_once(
        self, backend: Backend, ground: RawBucket, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send, stall = http.client.HTTPConnection.send, Stall()

        def stalled(connection: http.client.HTTPConnection, data: Any) -> None:
            if is_part_thread(sys._getframe()) or (isinstance(data, bytes) and len(data) >= CHUNK):  # noqa: SLF001
                stall()
            send(connection, data)

        with monkeypatch.context() as patch:
            patch.setattr(http.client.HTTPConnection, "send", stalled)
            was_stopped = stall.interrupts(lambda: write(backend, at + "large", os.urandom(LARGE)))
        if not was_stopped:
            pytest.skip("this backend uploads without http.client")
        assert ground.content(at + "large") is None
        write(backend, at + "large", b"again")
        assert ground.content(at + "large") == b"again"
