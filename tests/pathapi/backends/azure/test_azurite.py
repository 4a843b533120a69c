"""The backend `az` on Microsoft's own emulator."""

from __future__ import annotations

from typing import Any

import pytest

from pathapi.backends.azure import backend as azure
from pathapi.backends.azure.backend import AzureBackend, AzureConnection
from pathapi.testing import BackendSuite
from tests.harness.azure_servers import AzureServer
from tests.pathapi.support.raw_buckets import AzureRawBucket, azure_connection_to


@pytest.fixture(scope="module")
def connection(azurite: AzureServer) -> AzureConnection:
    return azure_connection_to(azurite)


@pytest.fixture(scope="module")
def raw(azurite: AzureServer) -> Any:
    return azurite.client()


class TestAzurite(BackendSuite):
    unusable_names = {  # noqa: RUF012 (the suite declares it a ClassVar)
        "\x01control": "Azurite 3.37 puts it into a listing's XML as it is, and answers 500",
        "back\\slash": "Azurite 3.37 takes a backslash for a slash",
    }

    @pytest.fixture(autouse=True)
    def _pages_that_are_soon_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(azure, "PAGE", 1_000)

    @pytest.fixture
    def ground(self, raw: Any, shared_container: str) -> AzureRawBucket:
        return AzureRawBucket(raw, shared_container)

    @pytest.fixture
    def backend(self, connection: AzureConnection, shared_container: str) -> AzureBackend:
        return AzureBackend(connection, shared_container)

    @pytest.fixture
    def missing_bucket(self, connection: AzureConnection) -> AzureBackend:
        return AzureBackend(connection, "no-such-container-here")

    @pytest.fixture
    def other(self, connection: AzureConnection, raw: Any, azurite: AzureServer) -> tuple[AzureBackend, AzureRawBucket]:
        container = azurite.new_container()
        return AzureBackend(connection, container), AzureRawBucket(raw, container)
