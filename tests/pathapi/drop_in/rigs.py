"""One directory of each cloud, by pathapi and by the package that it stands in for, with raw access beside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from pathapi import client
from pathapi.testing import RawBucket
from tests.pathapi.support.raw_buckets import AzureRawBucket, GCSRawBucket, PrefixedRawBucket, S3RawBucket

CLOUDS = ("s3", "gs", "az", "http")


@dataclass
class Rig:
    """*root* is an empty directory; *raw* plants below it; *missing_bucket* names a bucket that does not exist."""

    api: ModuleType
    cloud: str
    make: Callable[..., Any]
    raw: RawBucket
    at: str
    missing_bucket: str
    new_bucket: Callable[[], str]

    def __post_init__(self) -> None:
        self.client = self.make()
        self.root = self.client.CloudPath(self.at)

    @property
    def is_http(self) -> bool:
        return self.cloud == "http"

    @property
    def is_ours(self) -> bool:
        return self.api.__name__ == "pathapi"

    def directory(self, name: str) -> Any:
        """The path of a directory below the root; an HTTP server's has a slash at its end."""
        return self.root / (name + "/" if self.is_http else name)

    def skip_if(self, cloud: str, why: str) -> None:
        """Skip the test on *cloud*, which has nothing of the kind."""
        if self.cloud == cloud:
            pytest.skip(why)

    def skip_peer(self, *clouds: str, why: str) -> None:
        """Skip the rest on these clouds if the package is the other one, which fails there."""
        if not self.is_ours and self.cloud in clouds:
            pytest.skip(f"cloudpathlib: {why}")

    def tick(self) -> None:
        """Wait until the server's clock, which may count whole seconds, shows another time."""
        time.sleep(1.1 if self.cloud != "http" else 0)
        self.raw.settle()

    def empty_bucket(self) -> str:
        """Create a bucket; return its URI."""
        return f"{self.root.cloud_prefix}{self.new_bucket()}"

    def forget_default(self) -> None:
        """Let paths without a client find their own again."""
        if self.is_ours:
            client._default_clients.pop(type(self.client), None)
        else:
            type(self.client)._default_client = None

    def plant(self, *names: str, data: bytes = b"planted") -> None:
        """Create objects below the root by other means."""
        for name in names:
            self.raw.plant(name, data)

    def names(self, paths: Any) -> list[str]:
        """Return what comes after the root in *paths*, without slashes at the end, sorted."""
        return sorted(str(path)[len(str(self.root)) :].strip("/") for path in paths)


def make_rig(api: ModuleType, cloud: str, request: Any) -> Iterator[Rig]:
    """Yield the rig of one package on one cloud, whose servers the fixtures of *request* start."""
    tmp_path, monkeypatch = request.getfixturevalue("tmp_path"), request.getfixturevalue("monkeypatch")
    monkeypatch.chdir(tmp_path)
    prefix = f"{tmp_path.name}-{api.__name__}/"
    maker = {"s3": _s3, "gs": _gs, "az": _az, "http": _http}[cloud]
    rig = maker(api, prefix, request)
    rig.client.set_as_default_client()  # a str with a scheme is a path of it
    yield rig
    rig.forget_default()


def _cached(request: Any, options: dict[str, Any]) -> dict[str, Any]:
    return {"local_cache_dir": request.getfixturevalue("tmp_path") / "cache", **options}


def _s3(api: ModuleType, prefix: str, request: Any) -> Rig:
    server, bucket = request.getfixturevalue("seaweed"), request.getfixturevalue("shared_bucket")
    request.getfixturevalue("monkeypatch").setenv("AWS_DEFAULT_REGION", server.region)

    def make(**options: Any) -> Any:
        return api.S3Client(
            server.access_key, server.secret_key, endpoint_url=server.endpoint, **_cached(request, options)
        )

    raw = PrefixedRawBucket(S3RawBucket(server.client(), bucket), prefix)
    return Rig(
        api, "s3", make, raw, f"s3://{bucket}/{prefix}"[:-1], "s3://no-such-bucket-of-drop-in", server.new_bucket
    )


def _gs(api: ModuleType, prefix: str, request: Any) -> Rig:
    server, bucket = request.getfixturevalue("gcs"), request.getfixturevalue("gcs_bucket")

    def make(**options: Any) -> Any:
        return api.GSClient(storage_client=server.client(), **_cached(request, options))

    raw = GCSRawBucket(server.client(), bucket, prefix)
    return Rig(
        api, "gs", make, raw, f"gs://{bucket}/{prefix}"[:-1], "gs://no-such-bucket-of-drop-in", server.new_bucket
    )


def _az(api: ModuleType, prefix: str, request: Any) -> Rig:
    server, container = request.getfixturevalue("azurite"), request.getfixturevalue("shared_container")

    def make(**options: Any) -> Any:
        return api.AzureBlobClient(connection_string=server.connection_string(), **_cached(request, options))

    raw = AzureRawBucket(server.client(), container, prefix)
    return Rig(
        api,
        "az",
        make,
        raw,
        f"az://{container}/{prefix}"[:-1],
        "az://no-such-container-of-drop-in",
        server.new_container,
    )


def _http(api: ModuleType, prefix: str, request: Any) -> Rig:
    server = request.getfixturevalue("origin")

    def make(**options: Any) -> Any:
        return api.HttpClient(**_cached(request, options))

    return Rig(api, "http", make, server, server.url + "/", "http://127.0.0.1:9", lambda: server.host)
