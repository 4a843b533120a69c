"""The backend `file`: the common contract, and what only a file system can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathapi.backends.file.backend import FileBackend
from pathapi.testing import BackendSuite
from tests.pathapi.support.raw_buckets import FileRawBucket


class TestFile(BackendSuite):
    defects = {"test_an_object_that_is_also_a_prefix_is_both": "a file system has files or directories"}  # noqa: RUF012 (the suite declares it a ClassVar)

    @pytest.fixture
    def ground(self, tmp_path: Path) -> FileRawBucket:
        return FileRawBucket(tmp_path)

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FileBackend:
        return FileBackend(str(tmp_path))

    @pytest.fixture
    def missing_bucket(self, tmp_path: Path) -> FileBackend:
        return FileBackend(str(tmp_path / "nowhere"))
