"""No pool of connections has a lock that an interrupt could leave locked.

`tests/end_to_end/test_interrupts.py` interrupts whole reads and writes of an HTTP server.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
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
    renewing = session._auth_request_session.get_adapter("https://host").poolmanager
    return [
        session.get_adapter(URL).poolmanager,
        session.get_adapter(URL).proxy_manager_for("http://proxy:1"),
        renewing,
    ]


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


STALLED = """
import os, signal, socket, sys, time
from pathapi import AzureBlobClient, GSClient, HttpClient, S3Client

def stalls(*_, **__):
    # As the resolver of C does, in the thread that calls it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    print("resolving", flush=True)
    time.sleep(600)
    os._exit(1)

socket.getaddrinfo = stalls
store = {"local_cache_dir": sys.argv[1]}
url = "http://host.invalid"
key = f"AccountName=name;AccountKey=c2VjcmV0;BlobEndpoint={url}"
path = {
    "s3": lambda: S3Client("key", "secret", endpoint_url=url, region="us-east-1", **store).CloudPath("s3://b/key"),
    "gs": lambda: GSClient(endpoint_url=url, no_sign_request=True, **store).CloudPath("gs://b/key"),
    "azure": lambda: AzureBlobClient(connection_string=key, **store).CloudPath("az://b/key"),
    "http": lambda: HttpClient(**store).CloudPath(f"{url}/key"),
}[sys.argv[2]]()
try:
    path.read_bytes()
except KeyboardInterrupt:
    print("heard", flush=True)
"""


@pytest.mark.parametrize("cloud", ["s3", "gs", "azure", "http"])
def test_an_interrupt_is_heard_while_the_name_of_the_host_is_resolved(tmp_path: Path, cloud: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STALLED, str(tmp_path), cloud],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "CASSTORE_FAST": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "resolving\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[0] == "heard\n"
        finally:
            process.kill()
