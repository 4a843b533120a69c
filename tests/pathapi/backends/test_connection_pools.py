"""No pool of connections has a lock that an interrupt could leave locked.

`tests/end_to_end/test_interrupts.py` interrupts whole reads and writes of an HTTP server.
"""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from pathapi.backends.connection_pools import IdleConnections
from pathapi.clouds.azure import AzureBlobClient
from pathapi.clouds.gs import GSClient
from pathapi.clouds.http import HttpClient
from pathapi.clouds.s3 import S3Client

URL = "http://127.0.0.1:9"


def test_idle_connections_are_a_stack_that_never_waits() -> None:
    idle = IdleConnections(2)
    idle.put(1)
    idle.put(2)
    with pytest.raises(queue.Full):
        idle.put(3, block=False)
    assert idle.qsize() == 2
    assert [idle.get(block=False), idle.get(timeout=9)] == [2, 1]
    with pytest.raises(queue.Empty):
        idle.get()


def pools_of_s3(path: Path) -> Any:
    client = S3Client("key", "secret", endpoint_url=URL, region="us-east-1", local_cache_dir=path).client
    return [client._endpoint.http_session._manager]


def pools_of_gs(path: Path) -> Any:
    client = GSClient(endpoint_url=URL, no_sign_request=True, local_cache_dir=path)
    session = client.connection.session
    return [session.get_adapter(URL).poolmanager, session.get_adapter(URL).proxy_manager_for("http://proxy:1")]


def pools_of_azure(path: Path) -> Any:
    key = "AccountName=name;AccountKey=c2VjcmV0;BlobEndpoint=" + URL
    service = AzureBlobClient(connection_string=key, local_cache_dir=path).connection.service_client
    session = service._pipeline._transport.session
    return [session.get_adapter(url).poolmanager for url in (URL, "https://host")]


def pools_of_http(path: Path) -> Any:
    return [HttpClient(local_cache_dir=path).connection._pool(URL)]


@pytest.mark.parametrize("pools", [pools_of_s3, pools_of_gs, pools_of_azure, pools_of_http])
def test_each_cloud_has_pools_without_locks(tmp_path: Path, pools: Any) -> None:
    for manager in pools(tmp_path):
        assert isinstance(manager.connection_from_url(URL).pool, IdleConnections)
        assert isinstance(manager.connection_from_url("https://127.0.0.1:9").pool, IdleConnections)
