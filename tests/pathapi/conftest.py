"""Clients of the code under test, each with a store of its own, in front of a bucket that is planted by other means."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import opening
from pathapi import GSClient, S3Client
from pathapi.freshness import FreshnessLike
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer, S3Server
from tests.pathapi.support import kill_points as kills
from tests.pathapi.support.proxied import az, cloud, gs, http, s3  # noqa: F401 (fixtures)
from tests.pathapi.support.raw_buckets import S3RawBucket

pytest.register_assert_rewrite("pathapi.testing", "tests.pathapi.support.local_path_suite")

MakeClient = Callable[..., S3Client]
MakeGSClient = Callable[..., GSClient]


@pytest.fixture(autouse=True)
def _no_store_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close and forget the stores below the test's `tmp_path`: a fork closes and reopens each store that is open.

    With the stores of a thousand tests open, forks took most of the suite's time, and 500 MB.
    """
    yield
    directory = request.node.funcargs.get("tmp_path")
    for name, cache in list(opening._caches.items()):
        if directory is not None and directory in Path(cache.root).parents:
            with contextlib.suppress(Exception):  # a test may have damaged its store, or removed it
                cache.close()
            opening._caches.pop(name, None)


@pytest.fixture(scope="module")
def ground(seaweed: S3Server, shared_bucket: str) -> S3RawBucket:
    """The module's bucket by raw boto3."""
    return S3RawBucket(seaweed.client(max_pool_connections=32), shared_bucket)


@pytest.fixture
def make_client(seaweed: S3Server, proxy: Proxy, tmp_path: Path) -> Iterator[MakeClient]:
    """Clients of `seaweed` through `proxy`; all of one test share a store unless told otherwise."""
    made: list[S3Client] = []

    def make(**arguments: Any) -> S3Client:
        settings: dict[str, Any] = {
            "aws_access_key_id": seaweed.access_key,
            "aws_secret_access_key": seaweed.secret_key,
            "region": seaweed.region,
            "endpoint_url": proxy.endpoint,
            "local_cache_dir": tmp_path / "store",
        }
        made.append(S3Client(**{**settings, **arguments}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
        sdk_client = client.connection._process.made.get("client")
        if sdk_client is not None:
            sdk_client.close()
    gc.collect()


@pytest.fixture
def md5_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients take equal MD5s of one origin for equal bytes."""
    monkeypatch.setenv("CASSTORE_DEDUP_BY_CHECKSUM", "origin")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a command that is run: a store of the test's own, and no cloud."""
    clouds = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_", "CASSTORE_", "CLOUDPATHLIB_")
    own = {"CASSTORE_DIR": str(tmp_path / "store"), "CASSTORE_MIN_FREE": "0", "HOME": str(tmp_path / "home")}
    return {name: value for name, value in os.environ.items() if not name.startswith(clouds)} | own


@pytest.fixture
def s3_environment(environment: dict[str, str], seaweed: S3Server) -> dict[str, str]:
    """The same with the keys of `seaweed`, and no endpoint."""
    return environment | {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_DEFAULT_REGION": seaweed.region,
    }


@pytest.fixture
def make_gs(gcs: GCSServer, tmp_path: Path) -> Iterator[MakeGSClient]:
    """Clients of `gcs`; all of one test share a store unless told otherwise."""
    made: list[GSClient] = []

    def make(**arguments: Any) -> GSClient:
        made.append(GSClient(**{"endpoint_url": gcs.endpoint, "local_cache_dir": tmp_path / "store", **arguments}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
        sdk_client = client.connection._process.made.get("client")
        if sdk_client is not None:
            sdk_client.close()
    gc.collect()


@pytest.fixture
def client(make_client: MakeClient) -> S3Client:
    """One client under ``always``."""
    return make_client()


@pytest.fixture
def at(request: pytest.FixtureRequest) -> str:
    """A prefix of the module's bucket that no other test uses, with its slash."""
    return f"{request.node.name.replace('/', '-')[:80]}-{id(request.node):x}/"


@pytest.fixture
def cache(client: S3Client) -> casstore.Cache:
    """The store of `client`."""
    return client.cache


# --- processes that are killed ---------------------------------------------------------------------------------------


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `kills.leave_unsynced`."""
    kills.leave_unsynced(monkeypatch)


@pytest.fixture
def steady_steps(unsynced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """See `kills.make_steps_steady`."""
    kills.make_steps_steady(monkeypatch)


@pytest.fixture(scope="session")
def warm_session(seaweed: S3Server) -> Any:
    """A boto3 session that has made a client: in a forked child the next one then takes 10 ms, and not 200."""
    import boto3

    session = boto3.session.Session(seaweed.access_key, seaweed.secret_key, region_name=seaweed.region)
    session.client("s3", endpoint_url=seaweed.endpoint).close()
    return session


@pytest.fixture
def s3_place(seaweed: S3Server, shared_bucket: str, warm_session: Any) -> Callable[[Path], kills.Place]:
    """Makes objects and stores of their own in one bucket of a real server; what is larger goes in parts of 5 MiB."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=kills.PART, multipart_chunksize=kills.PART, max_concurrency=1)
    ground = S3RawBucket(seaweed.client(), shared_bucket)
    clients: dict[tuple[int, Path, FreshnessLike], S3Client] = {}

    def client(local_cache_dir: Path, freshness: FreshnessLike) -> S3Client:
        # One per process: making it takes longer than all that it is then asked for.
        name = os.getpid(), local_cache_dir, freshness
        if name not in clients:
            clients[name] = S3Client(
                boto3_session=warm_session,
                region=seaweed.region,
                endpoint_url=seaweed.endpoint,
                boto3_transfer_config=config,
                local_cache_dir=local_cache_dir,
                freshness=freshness,
            )
        return clients[name]

    def place(directory: Path) -> kills.Place:
        prefix = f"{directory.parent.name}/{directory.name}/"
        return kills.Place(ground, prefix, f"s3://{shared_bucket}/{prefix}", directory, client)

    return place
