"""One object of each cloud, by a client through a proxy: fixtures for tests that hold on every cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pathapi import AzureBlobClient, GSClient, HttpClient, S3Client
from tests.harness.azure_servers import AzureServer
from tests.harness.faults import Action, Fault
from tests.harness.http_server import HttpOrigin
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer, S3Server
from tests.pathapi.support.raw_buckets import AzureRawBucket, GCSRawBucket, S3RawBucket

DATA = b"the same line\n"


class Cloud(NamedTuple):
    """One object through a proxy, by a client, and its bucket by other means; *make* gives a client of any endpoint."""

    path: Any
    ground: Any
    proxy: Proxy
    make: Callable[[str], Any]

    @property
    def content(self) -> bytes | None:
        found: bytes | None = self.ground.content(self.path.location.key)
        return found

    def plant(self, data: bytes = DATA) -> None:
        self.ground.plant(self.path.location.key, data)

    def fail(self, *actions: Action, nth: int = 1, times: int | None = 1) -> None:
        for action in actions:
            self.proxy.add(Fault(action, kind="PUT", nth=nth, times=times))


@pytest.fixture
def s3(seaweed: S3Server, proxy: Proxy, shared_bucket: str, tmp_path: Path) -> Cloud:
    def make(endpoint: str) -> S3Client:
        return S3Client(
            aws_access_key_id=seaweed.access_key,
            aws_secret_access_key=seaweed.secret_key,
            region=seaweed.region,
            endpoint_url=endpoint,
            local_cache_dir=tmp_path / "store",
        )

    path = make(proxy.endpoint).S3Path(f"s3://{shared_bucket}/{tmp_path.name}/a")
    return Cloud(path, S3RawBucket(seaweed.client(), shared_bucket), proxy, make)


@pytest.fixture
def gs(gcs: GCSServer, gcs_proxy: Proxy, gcs_bucket: str, tmp_path: Path) -> Cloud:
    def make(endpoint: str) -> GSClient:
        return GSClient(endpoint_url=endpoint, local_cache_dir=tmp_path / "store")

    path = make(gcs_proxy.endpoint).GSPath(f"gs://{gcs_bucket}/{tmp_path.name}/a")
    return Cloud(path, GCSRawBucket(gcs.client(), gcs_bucket), gcs_proxy, make)


@pytest.fixture
def az(azurite: AzureServer, azure_proxy: Proxy, shared_container: str, tmp_path: Path) -> Cloud:
    def make(endpoint: str) -> AzureBlobClient:
        return AzureBlobClient(
            connection_string=azurite.connection_string(endpoint), local_cache_dir=tmp_path / "store"
        )

    path = make(azure_proxy.endpoint).AzureBlobPath(f"az://{shared_container}/{tmp_path.name}/a")
    return Cloud(path, AzureRawBucket(azurite.client(), shared_container), azure_proxy, make)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Cloud]:
    def make(_: str) -> HttpClient:
        return HttpClient(local_cache_dir=tmp_path / "store")

    with HttpOrigin() as server, Proxy(server.url) as proxy:
        yield Cloud(make("").CloudPath(f"{proxy.endpoint}/d/a"), server, proxy, make)


@pytest.fixture(params=["s3", "gs", "az", "http"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.getfixturevalue(request.param)
    return found
