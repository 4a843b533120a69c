"""The backend `s3` on a real object store."""

from __future__ import annotations

from typing import Any

import pytest

from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.connection import S3Connection
from pathapi.testing import BackendSuite
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import S3RawBucket, connection_to


@pytest.fixture(scope="module")
def connection(seaweed: S3Server) -> S3Connection:
    return connection_to(seaweed)


@pytest.fixture(scope="module")
def raw(seaweed: S3Server) -> Any:
    return seaweed.client(max_pool_connections=32)


@pytest.fixture(scope="module")
def other_bucket(seaweed: S3Server) -> str:
    return seaweed.new_bucket()


class TestSeaweedFS(BackendSuite):
    defects = {  # noqa: RUF012 (the suite declares it a ClassVar)
        "test_a_write_to_a_missing_bucket_says_so": "SeaweedFS 4.48 answers 403, as if it were to be created",
        "test_a_listing_is_in_the_order_of_the_keys_bytes": "SeaweedFS 4.48 lists by directory: a/x before a-b",
        "test_a_directory_without_objects_does_not_exist": "SeaweedFS 4.48 keeps an emptied directory for a while",
    }
    unusable_names = {"back\\slash": "SeaweedFS 4.48 takes a backslash for a slash"}  # noqa: RUF012 (as above)

    @pytest.fixture
    def ground(self, raw: Any, shared_bucket: str) -> S3RawBucket:
        return S3RawBucket(raw, shared_bucket)

    @pytest.fixture
    def backend(self, connection: S3Connection, shared_bucket: str) -> S3Backend:
        return S3Backend(connection, shared_bucket)

    @pytest.fixture
    def missing_bucket(self, connection: S3Connection) -> S3Backend:
        return S3Backend(connection, "no-such-bucket-here")

    @pytest.fixture
    def other(self, connection: S3Connection, raw: Any, other_bucket: str) -> tuple[S3Backend, S3RawBucket]:
        return S3Backend(connection, other_bucket), S3RawBucket(raw, other_bucket)
