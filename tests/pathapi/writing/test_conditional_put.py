"""Whether an upload without an answer has arrived: the object is compared in one version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pathapi import FileClient, FilePath
from pathapi.metadata.location import Location
from pathapi.testing.intercepting_backend import interpose
from pathapi.writing.conditional_put import find_completed_upload

OURS, THEIRS = b"our bytes", b"by others"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[FilePath]:
    client = FileClient(local_cache_dir=tmp_path / "store")
    yield client.FilePath(f"file://{tmp_path}/object")
    client.cache.close()


def _is_found(path: FilePath) -> bool:
    location = Location(path.client, path.uri)
    staging = path.client.cache.stage()
    try:
        staging.write(OURS)
        return find_completed_upload(location, staging) is not None
    finally:
        staging.close()


def test_an_object_with_these_bytes_is_found_and_no_other(path: FilePath, tmp_path: Path) -> None:
    assert not _is_found(path)
    for data in (THEIRS, OURS + b".", OURS[:-1], b""):
        (tmp_path / "object").write_bytes(data)
        assert not _is_found(path)
    (tmp_path / "object").write_bytes(OURS)
    assert _is_found(path)


def test_bytes_of_another_version_than_the_one_that_was_seen_prove_nothing(path: FilePath, tmp_path: Path) -> None:
    """Else the version of other bytes would be recorded for ours."""
    (tmp_path / "object").write_bytes(THEIRS)
    wire = interpose(path.client, path.uri.bucket)
    wire.after["head"] = lambda: (tmp_path / "object").write_bytes(OURS)
    assert not _is_found(path)
