"""Places for trees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pathapi import FileClient, FilePath, S3Client, S3Path
from tests.pathapi.support.raw_buckets import S3RawBucket


@pytest.fixture
def root(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    """The test's "directory"."""
    return client.S3Path(f"s3://{ground.bucket}/{at.removesuffix('/')}")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FilePath]:
    """A ``file://`` bucket with the store of `client`."""
    client = FileClient(local_cache_dir=tmp_path / "store")
    (tmp_path / "tree").mkdir()
    yield client.FilePath(f"file://{tmp_path}/tree")
    client.cache.close()
