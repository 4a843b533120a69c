"""The backend `gs` on fake-gcs-server: as it is, and behind the rules that Google documents."""

from __future__ import annotations

from typing import Any

import pytest

from pathapi.backends.gs import GSBackend
from pathapi.backends.gs_connection import GSConnection
from pathapi.testing import BackendSuite
from tests.bench.servers import GCSServer
from tests.pathapi.backends.grounds import GCSGround, gs_connection_to


class TestByTheRules(BackendSuite):
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
    def ground(self, raw: Any, bucket: str) -> GCSGround:
        return GCSGround(raw, bucket)

    @pytest.fixture
    def backend(self, connection: GSConnection, bucket: str) -> GSBackend:
        return GSBackend(connection, bucket)

    @pytest.fixture
    def nowhere(self, connection: GSConnection) -> GSBackend:
        return GSBackend(connection, "no-such-bucket-here")


class TestTheFakeAsItIs(TestByTheRules):
    defects = {}  # noqa: RUF012 (the suite declares it a ClassVar)

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, fake_gcs: GCSServer) -> GCSServer:
        return fake_gcs
