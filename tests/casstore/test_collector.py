"""Evicting: what somebody still uses stays, and a fill beside it loses nothing."""

from __future__ import annotations

import os
from pathlib import Path

import casstore
from casstore.collector import sweep
from tests.casstore.filling import fill, fork, key_of, read, status_of


def test_a_blob_that_another_entry_uses_stays(cache: casstore.Cache) -> None:
    fill(cache, key_of("a"), b"shared")
    fill(cache, key_of("b"), b"shared")
    fill(cache, key_of("c"), b"alone")
    freed = cache.evict(lambda entry: entry.uri != "s3://bucket/b")
    assert (freed.entries, freed.blobs, freed.bytes) == (2, 1, 5)
    assert (read(cache, key_of("a")), read(cache, key_of("b"))) == (None, b"shared")
    assert os.listdir(cache.layout.trash) == []


def test_only_what_lies_below_the_prefix_is_evicted(cache: casstore.Cache) -> None:
    for name in ("a/1", "a/2", "b/1"):
        fill(cache, key_of(name), name.encode())
    assert cache.evict(lambda _: True, "s3://bucket/a/").entries == 2
    assert [entry.uri for entry in cache.entries()] == ["s3://bucket/b/1"]


def test_a_blob_that_came_back_into_use_is_not_swept(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    assert sweep(cache.index, cache.layout, [entry.digest.value]) == {}
    assert read(cache, key_of("a")) == b"bytes"


def test_an_entry_that_changed_since_it_was_chosen_stays(cache: casstore.Cache) -> None:
    old = fill(cache, key_of("a"), b"old", "e1")

    def choose(entry: casstore.Entry) -> bool:
        fill(cache, key_of("a"), b"new", "e2")
        return True

    freed = cache.evict(choose)
    assert (freed.entries, freed.blobs) == (0, 1)
    assert read(cache, key_of("a")) == b"new"
    assert not os.path.exists(cache.blob_path(old))


def test_an_open_file_outlives_its_eviction(cache: casstore.Cache) -> None:
    descriptor = cache.open_entry(fill(cache, key_of("a"), b"bytes"))
    assert descriptor is not None
    cache.evict(lambda _: True)
    with open(descriptor, "rb") as file:
        assert file.read() == b"bytes"


def test_fills_beside_a_collector_never_serve_wrong_bytes_nor_lose_an_entry(
    cache: casstore.Cache, tmp_path: Path
) -> None:
    def collect() -> None:
        while not (tmp_path / "done").exists():
            cache.evict(lambda _: True)

    def work(number: int) -> None:
        for turn in range(40):
            data = b"%d" % (turn % 5)
            fill(cache, key_of(f"{number}-{turn % 3}"), data, f"e{turn}")
            # Evicted already, or right; also what another worker shares.
            assert read(cache, key_of(f"{number}-{turn % 3}")) in (None, data)

    collector = fork(collect)
    workers = [fork(lambda number=number: work(number)) for number in range(3)]  # type: ignore[misc]
    statuses = [status_of(pid) for pid in workers]
    (tmp_path / "done").touch()
    assert [*statuses, status_of(collector)] == [0] * 4
    for entry in cache.entries():
        assert read(cache, entry.key) is not None
