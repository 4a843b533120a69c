"""Filling ahead: what is counted, what is told, and what an interruption leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import FileClient, prefetching
from pathapi.metadata.listing import list_objects
from pathapi.metadata.location import Location
from pathapi.parallel.part_threads import PartThreads
from pathapi.parallel.progress import Progress
from pathapi.prefetching import PrefetchedObject, prefetch
from tests.casstore.support.threads import threads_in


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with forty files of ten contents."""
    directory = tmp_path / "data"
    directory.mkdir()
    for n in range(40):
        (directory / f"{n:02}").write_bytes(bytes([n % 10]) * 1000)
    return directory


@pytest.fixture
def client(tmp_path: Path) -> FileClient:
    """A client with a store of its own."""
    return FileClient(local_cache_dir=tmp_path / "store")


def test_every_object_below_is_told_of_once_with_its_entry(client: FileClient, data: Path) -> None:
    told: list[PrefetchedObject] = []
    done = prefetch(data.as_uri() + "/", client=client, on_object=told.append)
    assert (done.files, done.bytes, done.held, done.errors) == (40, 40_000, 0, [])
    assert sorted(str(item.path) for item in told) == sorted(path.as_uri() for path in data.iterdir())
    assert all(item.entry is not None and item.entry.uri == str(item.path) and not item.was_held for item in told)
    told.clear()
    assert prefetch(data.as_uri() + "/", client=client, on_object=told.append).held == 40
    assert all(item.was_held for item in told)


def test_what_failed_is_not_counted_as_there(client: FileClient, data: Path) -> None:
    good, bad = (data / "00").as_uri(), (data / "none").as_uri()
    done = prefetch([good, bad], client=client, recursive=False)
    assert (done.files, done.bytes) == (1, 1000)
    assert [uri for uri, _ in done.errors] == [bad]


def test_a_directory_is_no_object_without_recursion(client: FileClient, data: Path) -> None:
    ((_, error),) = prefetch(data.as_uri(), client=client, recursive=False).errors
    assert isinstance(error, IsADirectoryError)


def test_progress_is_told_while_the_listing_goes_on(
    client: FileClient, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Progress] = []

    def is_told() -> bool:
        return any(now.is_listing and 0 < now.files < 40 for now in told)

    def slow(location: Location) -> Iterator[Any]:
        for found in list_objects(location):
            yield found
            if not is_told():
                time.sleep(0.2)

    monkeypatch.setattr(prefetching, "list_objects", slow)
    prefetch(data.as_uri() + "/", client=client, progress=told.append)
    assert is_told()
    last = told[-1]
    assert (last.files, last.total_files, last.bytes, last.is_listing) == (40, 40, 40_000, False)


def test_an_interruption_leaves_no_thread_behind(client: FileClient, data: Path) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prefetch(data.as_uri() + "/", client=client, progress=interrupt)
    deadline = time.monotonic() + 1_000
    while threads_in(PartThreads._run):
        assert time.monotonic() < deadline
        time.sleep(0.01)
