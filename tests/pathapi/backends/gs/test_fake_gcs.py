"""The backend `gs` on fake-gcs-server: as it is, and behind the rules that Google documents."""

from __future__ import annotations

from typing import Any

import pytest

from pathapi.backends.gs.backend import GSBackend
from pathapi.backends.gs.connection import GSConnection
from pathapi.testing import BackendSuite
from tests.harness.servers import GCSServer
from tests.pathapi.support.raw_buckets import TESTS_OF_COPY_CONDITIONS, GCSRawBucket, gs_connection_to

_COPIES = "fake-gcs-server 1.x ignores every condition on a copy"
_DELETES = "fake-gcs-server 1.x ignores ifGenerationMatch on a delete"


_BATCHES = "neither fake-gcs-server 1.x nor the proxy with Google's rules looks at a condition inside a batch"


class TestByTheRules(BackendSuite):
    defects = {"test_a_delete_of_many_takes_only_the_versions_named": _BATCHES}  # noqa: RUF012 (a ClassVar there)

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, gcs: GCSServer) -> GCSServer:
        return gcs

    @pytest.fixture(scope="class")
    @classmethod
    def connection(cls, server: GCSServer) -> GSConnection:
        return gs_connection_to(server)

    @pytest.fixture(scope="class")
    @classmethod
    def raw(cls, server: GCSServer) -> Any:
        return server.client()

    @pytest.fixture(scope="class")
    @classmethod
    def bucket(cls, server: GCSServer) -> str:
        return server.new_bucket()

    @pytest.fixture
    def ground(self, raw: Any, bucket: str) -> GCSRawBucket:
        return GCSRawBucket(raw, bucket)

    @pytest.fixture
    def backend(self, connection: GSConnection, bucket: str) -> GSBackend:
        return GSBackend(connection, bucket)

    @pytest.fixture
    def missing_bucket(self, connection: GSConnection) -> GSBackend:
        return GSBackend(connection, "no-such-bucket-here")

    @pytest.fixture
    def other(self, connection: GSConnection, raw: Any, server: GCSServer) -> tuple[GSBackend, GCSRawBucket]:
        bucket = server.new_bucket()
        return GSBackend(connection, bucket), GCSRawBucket(raw, bucket)


@pytest.mark.sampled(20)
class TestTheFakeAsItIs(TestByTheRules):
    defects = dict.fromkeys(TESTS_OF_COPY_CONDITIONS, _COPIES) | {
        "test_a_delete_takes_only_the_version_expected": _DELETES,
        "test_a_delete_of_many_takes_only_the_versions_named": _BATCHES,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, fake_gcs: GCSServer) -> GCSServer:
        return fake_gcs
