"""Copies and moves between two buckets of one client: the server does them, and keeps what each object has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from pathapi.testing import interpose
from tests.harness.azure_servers import AzureServer
from tests.harness.servers import GCSServer, S3Server
from tests.pathapi.conftest import MakeClient, MakeGSClient
from tests.pathapi.support.azure import MakeAzureClient, make_azure_client

__all__ = ["make_azure_client"]

FACTS = {"type": "image/png", "owner": "ann", "cache": "max-age=5"}


class Buckets(NamedTuple):
    """Two directories of one client, and what other programs do there."""

    one: Any
    two: Any
    plant: Callable[[str], None]
    """Create an object in the first, with `FACTS`."""
    facts: Callable[[str], dict[str, str]]
    """What the second bucket states of an object."""


@pytest.fixture
def s3(make_client: MakeClient, seaweed: S3Server) -> Buckets:
    raw, client, (one, two) = seaweed.client(), make_client(), (seaweed.new_bucket(), seaweed.new_bucket())

    def plant(key: str) -> None:
        metadata = {"owner": FACTS["owner"]}
        raw.put_object(
            Bucket=one,
            Key=key,
            Body=b"bytes",
            ContentType=FACTS["type"],
            CacheControl=FACTS["cache"],
            Metadata=metadata,
        )

    def facts(key: str) -> dict[str, str]:
        head = raw.head_object(Bucket=two, Key=key)
        return {"type": head["ContentType"], "owner": head["Metadata"].get("owner"), "cache": head.get("CacheControl")}

    return Buckets(client.CloudPath(f"s3://{one}/d"), client.CloudPath(f"s3://{two}/d"), plant, facts)


@pytest.fixture
def gs(make_gs: MakeGSClient, gcs: GCSServer) -> Buckets:
    raw, client, (one, two) = gcs.client(), make_gs(), (gcs.new_bucket(), gcs.new_bucket())

    def plant(key: str) -> None:
        blob = raw.bucket(one).blob(key)
        blob.metadata, blob.cache_control = {"owner": FACTS["owner"]}, FACTS["cache"]
        blob.upload_from_string(b"bytes", content_type=FACTS["type"])

    def facts(key: str) -> dict[str, str]:
        blob = raw.bucket(two).get_blob(key)
        return {"type": blob.content_type, "owner": (blob.metadata or {}).get("owner"), "cache": blob.cache_control}

    return Buckets(client.CloudPath(f"gs://{one}/d"), client.CloudPath(f"gs://{two}/d"), plant, facts)


@pytest.fixture
def az(make_azure_client: MakeAzureClient, azurite: AzureServer) -> Buckets:
    raw, client = azurite.client(), make_azure_client()
    one, two = azurite.new_container(), azurite.new_container()

    def plant(key: str) -> None:
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_type=FACTS["type"], cache_control=FACTS["cache"])
        blob = raw.get_blob_client(one, key)
        blob.upload_blob(b"bytes", content_settings=settings, metadata={"owner": FACTS["owner"]})

    def facts(key: str) -> dict[str, str]:
        found = raw.get_blob_client(two, key).get_blob_properties()
        settings = found.content_settings
        return {"type": settings.content_type, "owner": found.metadata.get("owner"), "cache": settings.cache_control}

    return Buckets(client.CloudPath(f"az://{one}/d"), client.CloudPath(f"az://{two}/d"), plant, facts)


@pytest.fixture(params=["s3", "gs", "az"])
def buckets(request: pytest.FixtureRequest) -> Buckets:
    found: Buckets = request.getfixturevalue(request.param)
    return found


def test_a_copy_keeps_what_the_object_has(buckets: Buckets) -> None:
    buckets.plant("d/a")
    (buckets.one / "a").copy(buckets.two / "b")
    (buckets.one / "a").copy(buckets.two / "b")
    (buckets.one / "a").rename(buckets.two / "c")
    assert buckets.facts("d/b") == buckets.facts("d/c") == FACTS
    assert not (buckets.one / "a").exists()
    with pytest.raises(FileNotFoundError):
        (buckets.one / "a").copy(buckets.two / "new")


def test_touch_sets_the_time_and_keeps_what_the_object_has(buckets: Buckets) -> None:
    buckets.plant("d/a")
    path = buckets.two / "b"
    (buckets.one / "a").copy(path)
    assert path.read_bytes() == b"bytes"
    before = path.stat().st_mtime
    time.sleep(1.1)
    path.touch()
    assert path.stat().st_mtime > before
    assert buckets.facts("d/b") == FACTS
    assert path.read_bytes() == b"bytes"
    assert [entry.validator.etag for entry in path.client.cache.entries(str(path))] == [path.etag], "cached still"


def test_a_tree_is_moved_by_the_server(buckets: Buckets) -> None:
    names = ["a", "e/b", "e/c"]
    for name in names:
        buckets.plant(f"d/{name}")
    wires = [interpose(path.client, path.uri.bucket) for path in (buckets.one, buckets.two)]
    buckets.one.move(buckets.two)
    calls = sum((wire.calls for wire in wires), Counter[str]())
    assert (calls["copy_across"], calls["read"], calls["write"]) == (3, 0, 0)
    assert [buckets.facts(f"d/{name}") for name in names] == [FACTS] * 3
    assert list(buckets.one.rglob("*")) == []


def test_a_cached_object_stays_cached_under_its_new_name(buckets: Buckets) -> None:
    buckets.plant("d/a")
    assert (buckets.one / "a").read_bytes() == b"bytes"
    (buckets.one / "a").move(buckets.two / "b")
    assert (buckets.two / "b").read_bytes(freshness="offline") == b"bytes"


def test_a_copy_in_parts_keeps_it_too(s3: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 copies 5 GiB in one request."""
    monkeypatch.setattr("pathapi.backends.s3.backend.COPY_LIMIT", 1)
    s3.plant("d/a")
    (s3.one / "a").copy(s3.two / "b")
    assert s3.facts("d/b") == FACTS
