"""Paths of Google Cloud Storage through the store: what every backend promises, and what is `GSPath`'s own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import GSClient
from pathapi.testing import EditSuite, Ground, ReadSuite, WriteSuite
from tests.bench.servers import GCSServer
from tests.pathapi.backends.grounds import GCSGround

MakeClient = Callable[..., GSClient]


@pytest.fixture
def at(gcs_bucket: str, prefix: str) -> str:
    return f"gs://{gcs_bucket}/{prefix}"


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"{id(request.node):x}/"


@pytest.fixture(scope="module")
def raw(gcs: GCSServer) -> Any:
    return gcs.client()


@pytest.fixture
def ground(raw: Any, gcs_bucket: str, prefix: str) -> Ground:
    return GCSGround(raw, gcs_bucket, prefix)


@pytest.fixture
def make(gcs: GCSServer, tmp_path: Path) -> Iterator[MakeClient]:
    """Clients of `gcs`; all of one test share a store unless told otherwise."""
    made: list[GSClient] = []

    def make(**arguments: Any) -> GSClient:
        made.append(GSClient(**{"endpoint_url": gcs.endpoint, "local_cache_dir": tmp_path / "store", **arguments}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
        if client.connection._made.client is not None:
            client.connection._made.client.close()
    gc.collect()


class _OnGCS:
    """The fixtures of the suites, which they would else define to raise."""

    @pytest.fixture
    def at(self, gcs_bucket: str, prefix: str) -> str:
        return f"gs://{gcs_bucket}/{prefix}"

    @pytest.fixture
    def ground(self, raw: Any, gcs_bucket: str, prefix: str) -> Ground:
        return GCSGround(raw, gcs_bucket, prefix)

    @pytest.fixture
    def make(self, gcs: GCSServer, make: MakeClient) -> MakeClient:
        return make


class TestReading(_OnGCS, ReadSuite):
    pass


class TestWriting(_OnGCS, WriteSuite):
    pass


class TestEditing(_OnGCS, EditSuite):
    pass
