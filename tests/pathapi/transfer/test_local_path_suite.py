"""Local paths, the same on every backend: `LocalPathSuite`, bound to files and to a real S3 server, for every user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pathapi import FileClient, S3Client
from pathapi.testing import RawBucket
from tests.harness.servers import S3Server
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.local_path_suite import LocalPathSuite
from tests.pathapi.support.raw_buckets import FileRawBucket, PrefixedRawBucket, S3RawBucket

_NOBODY: Final = 65534


class _OnFiles(LocalPathSuite):
    @pytest.fixture
    def ground(self, home: Path) -> RawBucket:
        return FileRawBucket(home / "bucket")

    @pytest.fixture
    def make(self, home: Path) -> Iterator[Any]:
        made: list[FileClient] = []

        def make(**habits: Any) -> FileClient:
            made.append(FileClient(**{"local_cache_dir": home / "store", **habits}))
            return made[-1]

        yield make
        for client in made:
            client.cache.close()

    @pytest.fixture
    def at(self, home: Path) -> str:
        return f"file://{home}/bucket/"


class _OnS3(LocalPathSuite):
    @pytest.fixture
    def prefix(self, request: pytest.FixtureRequest) -> str:
        return f"{id(request.node):x}/"

    @pytest.fixture
    def ground(self, seaweed: S3Server, shared_bucket: str, prefix: str) -> RawBucket:
        return PrefixedRawBucket(S3RawBucket(seaweed.client(), shared_bucket), prefix)

    @pytest.fixture
    def make(self, make_client: MakeClient, home: Path) -> Iterator[Any]:
        made: list[S3Client] = []

        def make(**habits: Any) -> S3Client:
            made.append(make_client(**{"local_cache_dir": home / "store", **habits}))
            return made[-1]

        yield make
        for client in made:  # while `home` is there
            client.cache.close()

    @pytest.fixture
    def at(self, shared_bucket: str, prefix: str) -> str:
        return f"s3://{shared_bucket}/{prefix}"


class _AsWhoever:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return tmp_path


@pytest.mark.needs_root
class _AsNobody:
    """As an ordinary user, for whom permissions count; the process becomes root again."""

    @pytest.fixture
    def home(self) -> Iterator[Path]:
        home = Path(tempfile.mkdtemp())
        home.chmod(0o755)
        os.chown(home, _NOBODY, _NOBODY)
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
        yield home
        os.seteuid(0)
        os.setegid(0)
        shutil.rmtree(home)


class TestFiles(_AsWhoever, _OnFiles):
    pass


class TestS3(_AsWhoever, _OnS3):
    pass


@pytest.mark.sampled(16)
class TestFilesAsNobody(_AsNobody, _OnFiles):
    pass


@pytest.mark.sampled(16)
class TestS3AsNobody(_AsNobody, _OnS3):
    pass
