"""The clouds of the demonstration: for each a real server, a bucket on it, and a client for it."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from demos.reading.options import CLOUDS
from pathapi import AzureBlobClient, GSClient, HttpClient, S3Client
from tests.harness.azure_servers import AzureServer, azurite
from tests.harness.http_server import SAFE, http_process
from tests.harness.servers import GCSServer, S3Server, fake_gcs, s3_server
from tests.pathapi.support.raw_buckets import AzureRawBucket, GCSRawBucket, S3RawBucket

UPLOADS: Final = 8
"""Parallel PUTs; four keep two cores busy."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A bucket on a running server; *server* is its name, *endpoint* its address without the proxy.

    *plant* uploads an object with the cloud's SDK and without the proxy, so that the truth is independent of casstore.
    *client* and *root* (the bucket's URI, with a slash at its end) take the endpoint to use. *spelled* escapes a key
    for a URI. *note* is printed below the table.
    """

    server: str
    endpoint: str
    plant: Callable[[str, bytes], None]
    client: Callable[..., Any]
    root: Callable[[str], str]
    spelled: Callable[[str], str] = str
    note: str = ""
    states_checksums: bool = True
    """Whether a listing states checksums, so that equal bytes under two keys are sent once."""
    follows_rules: bool = True
    """False if the proxy has to answer the conditions of requests."""


@contextlib.contextmanager
def _s3() -> Iterator[Ground]:
    def client(endpoint: str, **habits: Any) -> S3Client:
        keys, region = (server.access_key, server.secret_key), server.region
        return S3Client(*keys, endpoint_url=endpoint, addressing_style="path", region=region, **habits)

    with s3_server() as server:
        bucket = server.new_bucket("demo")
        planting = S3RawBucket(server.client(max_pool_connections=UPLOADS), bucket)
        yield Ground(_shown("s3", server), server.endpoint, planting.plant, client, lambda _: f"s3://{bucket}/")


@contextlib.contextmanager
def _gs() -> Iterator[Ground]:
    def client(endpoint: str, **habits: Any) -> GSClient:
        return GSClient(endpoint_url=endpoint, **habits)

    with fake_gcs() as server:
        bucket = server.new_bucket("demo")
        yield Ground(
            _shown("gs", server),
            server.endpoint,
            GCSRawBucket(server.client(), bucket).plant,
            client,
            lambda _: f"gs://{bucket}/",
            note="The proxy answers conditions as Google documents it; fake-gcs-server ignores most of them.",
            follows_rules=False,
        )


@contextlib.contextmanager
def _az() -> Iterator[Ground]:
    def client(endpoint: str, **habits: Any) -> AzureBlobClient:
        return AzureBlobClient(connection_string=server.connection_string(endpoint), **habits)

    with azurite() as server:
        container = server.new_container("demo")
        planting = AzureRawBucket(server.client(), container)
        yield Ground(_shown("az", server), server.endpoint, planting.plant, client, lambda _: f"az://{container}/")


@contextlib.contextmanager
def _http() -> Iterator[Ground]:
    def client(_: str, **habits: Any) -> HttpClient:
        return HttpClient(**habits)

    with http_process() as endpoint:
        yield Ground(
            CLOUDS["http"],
            endpoint,
            partial(put_over_http, f"{endpoint}/demo/"),
            client,
            "{}/demo/".format,
            _escaped,
            note="An index page states no checksums: each object is sent once, and equal bytes are stored once.",
            states_checksums=False,
        )


def _shown(cloud: str, server: S3Server | GCSServer | AzureServer) -> str:
    return server.endpoint if server.name == "external" else CLOUDS[cloud]


def _escaped(key: str) -> str:
    """Return *key* as index pages spell it: another spelling is another entry of the store."""
    return quote(key, safe="/" + SAFE)


def put_over_http(root: str, key: str, data: bytes) -> None:
    """Upload *data* below the URL *root* by a plain PUT."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(root + _escaped(key), data, method="PUT")):
        pass


STARTED: Final[Mapping[str, Callable[[], AbstractContextManager[Ground]]]] = {
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "http": _http,
}
"""By the names of `options.CLOUDS`: start the server, or use the one that the environment names."""
