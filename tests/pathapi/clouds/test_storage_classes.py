"""The class, or tier, in which Google and Azure keep what is written: the client's, and else the bucket's."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest

from pathapi import AzureBlobClient, GSClient
from pathapi.backends.azure import backend as azure
from pathapi.backends.azure import multipart as azure_blocks
from pathapi.backends.gs import multipart as gs_uploads
from pathapi.backends.gs.backend import GSBackend, GSConnection
from pathapi.exceptions import InvalidConfigurationException, VersionMismatchError
from tests.harness.azure_servers import AzureServer
from tests.harness.faults import Call
from tests.harness.proxy import Fault, Proxy
from tests.harness.servers import GCSServer
from tests.pathapi.conftest import MakeGSClient
from tests.pathapi.support.azure import MakeAzureClient, azure_ground, make_azure_client, prefix
from tests.pathapi.support.raw_buckets import gs_connection_to

__all__ = ["azure_ground", "make_azure_client", "prefix"]


# --- Google -----------------------------------------------------------------------------------------------------------


def bodies_of(connection: GSConnection, part: str) -> list[Any]:
    """The body of each request from now on whose URL holds *part*."""
    bodies: list[Any] = []

    def note(response: Any, **_: Any) -> None:
        if part in response.request.url:
            bodies.append(response.request.body)

    connection.session.hooks["response"].append(note)
    return bodies


def test_google_keeps_what_is_written_in_the_clients_class(
    make_gs: MakeGSClient, gcs: GCSServer, gcs_bucket: str, prefix: str
) -> None:
    for storage_class, expected in (("NEARLINE", "NEARLINE"), (None, "STANDARD")):
        path = make_gs(storage_class=storage_class).GSPath(f"gs://{gcs_bucket}/{prefix}{expected}")
        path.write_bytes(b"x")
        assert gcs.client().bucket(gcs_bucket).get_blob(path.blob).storage_class == expected


def test_an_upload_in_a_session_begins_with_the_clients_class(
    make_gs: MakeGSClient, gcs_bucket: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fake-gcs-server forgets it, so that the request is looked at.
    monkeypatch.setattr(gs_uploads, "THRESHOLD", 1 << 20)
    client = make_gs(storage_class="NEARLINE")
    bodies = bodies_of(client.connection, "uploadType=resumable")
    client.GSPath(f"gs://{gcs_bucket}/{prefix}large").write_bytes(os.urandom(2 << 20))
    assert json.loads(bodies[0])["storageClass"] == "NEARLINE"


def test_a_copy_of_googles_states_the_class_and_all_that_is_to_stay(gcs: GCSServer, gcs_bucket: str) -> None:
    # fake-gcs-server copies whatever is stated, so that the request is looked at.
    blob = gcs.client().bucket(gcs_bucket).blob("class/source")
    blob.metadata, blob.cache_control, blob.content_disposition = {"a": "b"}, "no-store", "inline"
    blob.upload_from_string(b"x", content_type="image/png")
    backend = GSBackend(gs_connection_to(gcs, storage_class="COLDLINE"), gcs_bucket)
    bodies = bodies_of(backend.connection, "rewriteTo")
    backend.copy("class/source", "class/target")
    backend.copy("class/source", "class/target", expect=backend.head("class/source").validator)
    stated = {"contentType": "image/png", "contentDisposition": "inline", "cacheControl": "no-store"}
    expected = {**stated, "metadata": {"a": "b"}, "storageClass": "COLDLINE"}
    assert [json.loads(body) for body in bodies] == [expected, expected]
    plain = GSBackend(gs_connection_to(gcs), gcs_bucket)
    bodies = bodies_of(plain.connection, "rewriteTo")
    plain.copy("class/source", "class/target")
    assert bodies == [None]


def test_a_copy_that_changes_the_class_is_of_the_version_that_it_describes(
    gcs: GCSServer, gcs_bucket: str, gcs_proxy: Proxy
) -> None:
    blob = gcs.client().bucket(gcs_bucket).blob("class/changing")
    blob.upload_from_string(b"first")
    backend = GSBackend(gs_connection_to(gcs, gcs_proxy.endpoint, storage_class="COLDLINE"), gcs_bucket)
    seen = backend.head("class/changing").validator
    gcs_proxy.add(Fault(Call(lambda: blob.upload_from_string(b"second")), kind="COPY"))
    with pytest.raises(VersionMismatchError):
        backend.copy("class/changing", "class/changed")
    with pytest.raises(VersionMismatchError):
        backend.copy("class/changing", "class/changed", expect=seen)
    assert not gcs.client().bucket(gcs_bucket).blob("class/changed").exists()


def test_a_pickled_client_of_google_keeps_its_class() -> None:
    client = GSClient(storage_class="ARCHIVE", endpoint_url="http://127.0.0.1:1")
    function, (cls, arguments, *_) = client.__reduce__()
    assert callable(function)
    assert (cls, arguments["storage_class"]) == (GSClient, "ARCHIVE")


# --- Azure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "expected"), [("cool", "Cool"), ("Cold", "Cold"), (None, "Hot")])
def test_azure_keeps_what_is_written_and_copied_in_the_clients_tier(
    make_azure_client: MakeAzureClient,
    azurite: AzureServer,
    shared_container: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    tier: str | None,
    expected: str,
) -> None:
    monkeypatch.setattr(azure, "THRESHOLD", 1 << 20)
    monkeypatch.setattr(azure_blocks, "BLOCK_SIZE", 1 << 20)
    root = make_azure_client(standard_blob_tier=tier).AzureBlobPath(f"az://{shared_container}/{prefix}")
    (root / "small").write_bytes(b"x")
    (root / "large").write_bytes(os.urandom(2 << 20))  # in blocks
    (root / "small").copy(root / "copied")
    container = azurite.client().get_container_client(shared_container)
    for name in ("small", "large", "copied"):
        assert container.get_blob_client(f"{prefix}{name}").get_blob_properties().blob_tier == expected, name


def test_a_tier_may_be_the_sdks_own(make_azure_client: MakeAzureClient) -> None:
    from azure.storage.blob import StandardBlobTier

    client = make_azure_client(standard_blob_tier=StandardBlobTier.COLD)
    assert client.connection.sdk_tier() is StandardBlobTier.COLD
    _, (cls, arguments, *_) = client.__reduce__()
    assert (cls, arguments["standard_blob_tier"]) == (AzureBlobClient, "Cold")


def test_a_tier_that_the_sdk_does_not_know_is_refused_before_anything_is_asked(
    make_azure_client: MakeAzureClient, azure_proxy: Proxy, shared_container: str
) -> None:
    path = make_azure_client(standard_blob_tier="Luke").AzureBlobPath(f"az://{shared_container}/a")
    with pytest.raises(InvalidConfigurationException, match=r"'Cool'.*'Luke'"):
        path.open("wb")
    assert not azure_proxy.records
    assert not list(path.client.cache.pending.all())


def test_a_tier_that_azure_does_not_take_is_told_in_its_words(
    make_azure_client: MakeAzureClient, shared_container: str
) -> None:
    client = make_azure_client(standard_blob_tier="Smart")  # which Azurite 3.37 has not heard of
    with pytest.raises(InvalidConfigurationException, match=r"az://.*(InvalidBlobTier|InvalidHeaderValue)"):
        client.backend(shared_container).write("a", io.BytesIO(b"x"), 1)
