"""Clients of Azurite, each with a store of its own; imported as fixtures by the modules that test them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import AzureBlobClient
from tests.harness.azure_servers import AzureServer
from tests.harness.proxy import Proxy
from tests.pathapi.support.raw_buckets import AzureRawBucket

MakeAzureClient = Callable[..., AzureBlobClient]


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of the module's container that no other test uses, with its slash."""
    return f"{id(request.node):x}/"


@pytest.fixture
def azure_ground(azurite: AzureServer, shared_container: str, prefix: str) -> AzureRawBucket:
    """What lies below `prefix`, by the raw SDK."""
    return AzureRawBucket(azurite.client(), shared_container, prefix)


@pytest.fixture
def make_azure_client(azurite: AzureServer, azure_proxy: Proxy, tmp_path: Path) -> Iterator[MakeAzureClient]:
    """Clients of `azurite` through `azure_proxy`; all of one test share a store unless told otherwise."""
    made: list[AzureBlobClient] = []

    def make(**arguments: Any) -> AzureBlobClient:
        settings: dict[str, Any] = {
            "connection_string": azurite.connection_string(azure_proxy.endpoint),
            "local_cache_dir": tmp_path / "store",
        }
        made.append(AzureBlobClient(**{**settings, **arguments}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
    gc.collect()
