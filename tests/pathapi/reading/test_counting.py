"""What reads through paths count as: hits, misses, links, waits; at a real server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from casstore import Statistics
from pathapi import S3Client, S3Path
from tests.casstore.support.fill import eventually, fork, status_of
from tests.harness.faults import Call, Fault
from tests.harness.proxy import Proxy
from tests.pathapi.support.raw_buckets import S3RawBucket

Make = Callable[..., S3Client]


def _figures(client: S3Client) -> tuple[int, int, int, int]:
    found: Statistics = client.cache.stats()
    return found.hits, found.disk_bytes, found.misses, found.cloud_bytes


def test_reads_are_hits_or_misses_by_whose_bytes_were_served(make_client: Make, ground: S3RawBucket) -> None:
    client = make_client()
    path = S3Path(f"s3://{ground.bucket}/counting/a", client=client)
    ground.plant("counting/a", b"12345")
    assert path.read_bytes() == b"12345"
    assert _figures(client) == (0, 0, 1, 5)
    assert path.read_bytes() == b"12345"  # asked, and confirmed
    assert _figures(client) == (1, 5, 1, 5)
    with path.open("rb", freshness="immutable") as file:
        assert file.read() == b"12345"
    assert _figures(client) == (2, 10, 1, 5)
    ground.plant("counting/a", b"changed")
    assert path.read_bytes() == b"changed"
    assert _figures(client) == (2, 10, 2, 12)
    client.cache.evict(lambda _: True, path.uri.canonical)
    assert client.cache.stats().evicted_bytes == 7


@pytest.mark.usefixtures("md5_believed")
def test_an_object_whose_bytes_are_held_under_another_name_is_linked_and_no_miss(
    make_client: Make, ground: S3RawBucket
) -> None:
    client = make_client()
    root = S3Path(f"s3://{ground.bucket}/linked/", client=client)
    ground.plant("linked/a", b"same bytes")
    ground.plant("linked/b", b"same bytes")
    assert (root / "a").read_bytes() == b"same bytes"
    client.cache.flush()
    assert next(child for child in root.iterdir() if child.name == "b").read_bytes() == b"same bytes"
    found = client.cache.stats()
    assert (found.linked, found.linked_bytes, found.misses) == (1, 10, 1)


@pytest.mark.needs_locks
def test_whoever_waits_for_another_processs_download_counts_a_wait_and_a_hit(
    make_client: Make, ground: S3RawBucket, proxy: Proxy, tmp_path: Path
) -> None:
    client = make_client(freshness=3600)
    path = S3Path(f"s3://{ground.bucket}/waited", client=client)
    ground.plant("waited", b"bytes")
    asked, go = tmp_path / "asked", tmp_path / "go"

    def hold() -> None:
        asked.touch()
        eventually(go.exists)

    proxy.add(Fault(Call(hold), kind="GET", key="waited"))

    def read() -> None:
        assert path.read_bytes() == b"bytes"
        client.cache.close()

    first = fork(read)
    eventually(asked.exists)

    def let_go_once_somebody_waits() -> None:
        eventually(lambda: client.cache.flights.waits)
        go.touch()

    def wait() -> None:
        threading.Thread(target=let_go_once_somebody_waits).start()
        read()

    second = fork(wait)
    assert (status_of(first), status_of(second)) == (0, 0)
    found = client.cache.stats()
    assert (found.misses, found.hits, found.waits) == (1, 1, 1)
    assert os.path.exists(client.cache.layout.statistics)
