"""The backend `s3` on moto: a second opinion, never the only one."""

from __future__ import annotations

from typing import Any

import pytest

from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.connection import S3Connection
from pathapi.testing import BackendSuite
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import TESTS_OF_COPY_CONDITIONS, S3RawBucket, connection_to


@pytest.fixture(scope="module")
def connection(moto: S3Server) -> S3Connection:
    return connection_to(moto)


@pytest.fixture(scope="module")
def bucket_on_moto(moto: S3Server) -> str:
    return moto.new_bucket()


@pytest.fixture(scope="module")
def raw(moto: S3Server) -> Any:
    return moto.client(max_pool_connections=32)


@pytest.mark.sampled(20)
class TestMoto(BackendSuite):
    defects = dict.fromkeys(TESTS_OF_COPY_CONDITIONS, "moto 5.2 ignores conditions on a copy") | {
        "test_a_delete_of_many_takes_only_the_versions_named": "moto 5.2 ignores ETags in DeleteObjects"
    }
    unusable_names = {"tab\tnewline\n": "moto 5.2 loses a key with a newline"}  # noqa: RUF012 (the suite declares it a ClassVar)

    @pytest.fixture
    def ground(self, raw: Any, bucket_on_moto: str) -> S3RawBucket:
        return S3RawBucket(raw, bucket_on_moto)

    @pytest.fixture
    def backend(self, connection: S3Connection, bucket_on_moto: str) -> S3Backend:
        return S3Backend(connection, bucket_on_moto)

    @pytest.fixture
    def missing_bucket(self, connection: S3Connection) -> S3Backend:
        return S3Backend(connection, "no-such-bucket-here")

    @pytest.fixture
    def other(self, connection: S3Connection, raw: Any, moto: S3Server) -> tuple[S3Backend, S3RawBucket]:
        bucket = moto.new_bucket()
        return S3Backend(connection, bucket), S3RawBucket(raw, bucket)
