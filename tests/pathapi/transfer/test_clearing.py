"""Clearing under the API: the next read downloads, and nothing goes that a user wrote, changed, pinned or has open."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore.cli.main import run
from pathapi import FileClient, S3Client
from pathapi.exceptions import CloudUnavailableError, NotCachedError, OverwriteNewerLocalError, PendingWriteError
from tests.casstore.support.fill import fork, status_of
from tests.harness.faults import Action, Cut, Fault
from tests.harness.http_messages import Head
from tests.harness.proxy import Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")


class _Away(Action):
    """There is no network: whatever is sent breaks off."""

    def before(self, request: Head) -> None:
        raise Cut(reset=True)


WAYS: dict[str, Callable[[Any], object]] = {
    "the path": lambda path: path.clear_cache(),
    "its directory": lambda path: path.parent.clear_cache(),
    "the client": lambda path: path.client.clear_cache(),
    "the store": lambda path: path.client.cache.clear(),
    "a prefix": lambda path: path.client.cache.clear(str(path.parent)),
    "the command": lambda path: run(["--dir", path.client.cache.root, "clear", "--yes"]),
}


@pytest.fixture(params=WAYS)
def clear(request: pytest.FixtureRequest) -> Callable[[Any], object]:
    """Each way to clear a path."""
    return WAYS[request.param]


@pytest.fixture
def client(tmp_path: Path) -> FileClient:
    """Of a bucket that is a directory."""
    (tmp_path / "bucket" / "d").mkdir(parents=True)
    return FileClient(local_cache_dir=tmp_path / "store", views="link")


@pytest.fixture
def path(client: FileClient, tmp_path: Path) -> Any:
    """An object of ten bytes that is held."""
    (tmp_path / "bucket" / "d" / "a").write_bytes(b"0123456789")
    path = client.CloudPath(f"file://{tmp_path}/bucket/d/a")
    path.read_bytes()
    return path


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.usefixtures("no_retries")
def test_what_was_closed_without_a_network_survives_and_is_pushed(
    make_client: MakeClient, shared_bucket: str, ground: S3RawBucket, proxy: Proxy, clear: Callable[[Any], object]
) -> None:
    client: S3Client = make_client()
    path = client.CloudPath(f"s3://{shared_bucket}/pending/a")
    path.write_bytes(b"before")
    file = path.open("wb")
    file.write(b"written without a network")
    proxy.add(Fault(_Away(), times=None))
    with pytest.raises(CloudUnavailableError):
        file.close()
    for _ in range(2):
        clear(path)
    with pytest.raises(PendingWriteError):
        path.read_bytes()
    proxy.clear_faults()
    (write,) = path.pending
    assert (write.size, path.read_bytes(read_pending=True)) == (25, b"written without a network")
    path.push()
    assert ground.content("pending/a") == b"written without a network"
    assert path.read_bytes() == b"written without a network"


def test_the_next_read_downloads_again_and_only_that(
    make_client: MakeClient, shared_bucket: str, ground: S3RawBucket, proxy: Proxy, clear: Callable[[Any], object]
) -> None:
    client = make_client(freshness="immutable")
    for name in ("counted/d/a", "counted/other"):
        ground.plant(name, name.encode())
    path, other = (client.CloudPath(f"s3://{shared_bucket}/counted/{name}") for name in ("d/a", "other"))
    assert (path.read_bytes(), other.read_bytes()) == (b"counted/d/a", b"counted/other")
    clear(path)
    before = proxy.count("GET")
    assert path.read_bytes() == b"counted/d/a"
    assert path.read_bytes() == b"counted/d/a"
    assert proxy.count("GET") == before + 1
    assert [entry.uri for entry in client.cache.entries(str(path))] == [str(path)]


def test_a_local_path_and_an_open_file_are_read_to_their_end(path: Any, clear: Callable[[Any], object]) -> None:
    view = Path(path.fspath)
    with path.open("rb") as file:
        assert file.read(2) == b"01"
        clear(path)
        assert file.read() == b"23456789"
    assert view.read_bytes() == b"0123456789"
    assert list(path.client.cache.entries()) == []
    assert Path(path.fspath).read_bytes() == path.read_bytes() == b"0123456789"


def test_what_was_never_held_can_be_cleared(client: FileClient, tmp_path: Path, clear: Callable[[Any], object]) -> None:
    clear(client.CloudPath(f"file://{tmp_path}/bucket/d/none"))
    assert not (tmp_path / "bucket" / "d" / "none").exists()


def test_what_is_pinned_stays_until_it_is_unpinned(path: Any, clear: Callable[[Any], object]) -> None:
    cache = path.client.cache
    cache.pin(str(path))
    clear(path)
    assert path.read_bytes(freshness="offline") == b"0123456789"
    cache.unpin(str(path))
    clear(path)
    with pytest.raises(NotCachedError):
        path.read_bytes(freshness="offline")


@pytest.mark.needs_locks
def test_what_a_killed_process_had_changed_is_kept_whoever_clears_and_collects(
    path: Any, clear: Callable[[Any], object]
) -> None:
    def change() -> None:
        view = Path(path.fspath)
        view.chmod(0o600)
        view.write_bytes(b"mine")  # through the link, so that it is the blob as well
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(fork(change)) == -signal.SIGKILL
    clear(path)
    cache = path.client.cache
    cache.execute(cache.plan(max_size=0, min_free=0))
    clear(path)
    (write,) = path.pending
    assert Path(cache.pending.path(write)).read_bytes() == b"mine"
    with pytest.raises(OverwriteNewerLocalError):
        path.read_bytes()
    path.push()
    assert path.read_bytes() == b"mine"


def test_one_client_leaves_what_another_has_of_its_own_origin(tmp_path: Path, make_client: MakeClient) -> None:
    (tmp_path / "a").write_bytes(b"a file")
    client = FileClient(local_cache_dir=tmp_path / "store")
    path = client.CloudPath(f"file://{tmp_path}/a")
    path.read_bytes()
    make_client().clear_cache()
    assert path.read_bytes(freshness="offline") == b"a file"
