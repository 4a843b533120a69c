"""Tests of copy and delete; a part of `BackendSuite`."""

from __future__ import annotations

import os

import pytest

from pathapi.backend import ABSENT, Backend
from pathapi.exceptions import CloudPathFileNotFoundError, VersionMismatchError
from pathapi.testing.raw_bucket import CHUNK, RawBucket, only_winner


class CopyTests:
    """Copies and deletes, with and without conditions."""

    def test_a_copy_stores_the_bytes_and_returns_the_version(
        self, backend: Backend, ground: RawBucket, at: str
    ) -> None:
        data = os.urandom(CHUNK + 1)
        ground.plant(at + "a", data)
        ground.plant(at + "to/b", b"old")
        info = backend.copy(at + "a", at + "to/b")
        assert ground.content(at + "to/b") == data
        assert ground.content(at + "a") == data
        assert (info.key, info.size) == (at + "to/b", len(data))
        assert backend.head(at + "to/b").validator.same_version(info.validator)

    def test_a_copy_of_nothing_is_file_not_found(self, backend: Backend, ground: RawBucket, at: str) -> None:
        with pytest.raises(CloudPathFileNotFoundError):
            backend.copy(at + "missing", at + "b")
        assert ground.content(at + "b") is None

    def test_a_copy_takes_only_the_version_expected(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        version = backend.head(at + "a").validator
        backend.copy(at + "a", at + "b", expect=version)
        assert ground.content(at + "b") == b"first"
        ground.plant(at + "a", b"other")
        with pytest.raises(VersionMismatchError):
            backend.copy(at + "a", at + "c", expect=version)
        assert ground.content(at + "c") is None

    def test_a_create_only_copy_leaves_an_existing_object(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        version = backend.head(at + "a").validator
        backend.copy(at + "a", at + "b", expect=version, over=ABSENT)
        assert ground.content(at + "b") == b"first"
        ground.plant(at + "c", b"there")
        with pytest.raises(VersionMismatchError):
            backend.copy(at + "a", at + "c", expect=version, over=ABSENT)
        with pytest.raises(VersionMismatchError):
            backend.copy(at + "a", at + "c", over=ABSENT)
        assert ground.content(at + "c") == b"there"

    def test_a_copy_over_the_expected_version_replaces_it(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        ground.plant(at + "b", b"there")
        info = backend.copy(at + "a", at + "b", over=backend.head(at + "b").validator)
        assert ground.content(at + "b") == b"first"
        ground.plant(at + "a", b"other")
        backend.copy(at + "a", at + "b", expect=backend.head(at + "a").validator, over=info.validator)
        assert ground.content(at + "b") == b"other"

    def test_a_copy_over_a_stale_version_leaves_the_object(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        ground.plant(at + "b", b"there")
        version, stale = backend.head(at + "a").validator, backend.head(at + "b").validator
        ground.plant(at + "b", b"newer")
        with pytest.raises(VersionMismatchError):
            backend.copy(at + "a", at + "b", expect=version, over=stale)
        assert ground.content(at + "b") == b"newer"

    def test_a_copy_over_a_version_that_is_gone_creates_nothing(
        self, backend: Backend, ground: RawBucket, at: str
    ) -> None:
        ground.plant(at + "a", b"first")
        ground.plant(at + "b", b"there")
        stale = backend.head(at + "b").validator
        ground.remove(at + "b")
        with pytest.raises(VersionMismatchError):
            backend.copy(at + "a", at + "b", over=stale)
        assert ground.content(at + "b") is None
        ground.remove(at + "a")
        with pytest.raises(CloudPathFileNotFoundError):
            backend.copy(at + "a", at + "b", over=stale)

    def test_of_concurrent_create_only_copies_one_succeeds(self, backend: Backend, ground: RawBucket, at: str) -> None:
        def attempt(data: bytes) -> None:
            ground.plant(at + data.decode(), data)
            backend.copy(at + data.decode(), at + "b", over=ABSENT)

        winner = only_winner(attempt)
        assert ground.content(at + "b") == winner

    def test_a_delete_accepts_many_keys_and_missing_ones(self, backend: Backend, ground: RawBucket, at: str) -> None:
        for name in ("a", "b", "c/d", "keep"):
            ground.plant(at + name, b"")
        backend.delete([at + "a"])
        backend.delete([at + "missing"])
        backend.delete([at + "b", at + "missing", at + "c/d"])
        backend.delete([])
        assert [ground.content(at + name) for name in ("a", "b", "c/d", "keep")] == [None, None, None, b""]

    def test_a_delete_takes_only_the_version_expected(self, backend: Backend, ground: RawBucket, at: str) -> None:
        ground.plant(at + "a", b"first")
        version = backend.head(at + "a").validator
        ground.plant(at + "a", b"other")
        with pytest.raises(VersionMismatchError):
            backend.delete([at + "a"], expect=version)
        assert ground.content(at + "a") == b"other"
        backend.delete([at + "a"], expect=backend.head(at + "a").validator)
        assert ground.content(at + "a") is None

    def test_deleting_an_expected_version_that_is_gone_is_a_mismatch(
        self, backend: Backend, ground: RawBucket, at: str
    ) -> None:
        ground.plant(at + "a", b"first")
        version = backend.head(at + "a").validator
        ground.remove(at + "a")
        with pytest.raises(VersionMismatchError):
            backend.delete([at + "a"], expect=version)

    def test_a_delete_of_many_takes_only_the_versions_named(self, backend: Backend, ground: RawBucket, at: str) -> None:
        names = ("a", "b", "control\x01", "gone", "c", "any")
        for name in names:
            ground.plant(at + name, b"first")
        versions = {at + name: backend.head(at + name).validator for name in names if name != "any"}
        ground.plant(at + "b", b"other")
        ground.plant(at + "control\x01", b"other")
        ground.plant(at + "any", b"other")
        ground.remove(at + "gone")
        with pytest.raises(VersionMismatchError) as refused:
            backend.delete([at + name for name in names], versions=versions)
        assert sorted(refused.value.keys) == [at + "b", at + "control\x01"]
        there = [ground.content(at + name) for name in names]
        assert there == [None, b"other", b"other", None, None, None]
        backend.delete([at + "a"], versions=versions)
