"""The content type that an upload states, guessed from the name, whether it goes in one request or in several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import CloudPath, HttpClient
from pathapi.backends.azure import backend as azure
from pathapi.backends.azure import multipart as azure_blocks
from pathapi.backends.gs import multipart as gs_uploads
from tests.harness.azure_servers import AzureServer
from tests.harness.http_server import HttpOrigin
from tests.harness.servers import GCSServer, S3Server
from tests.pathapi.conftest import MakeClient, MakeGSClient
from tests.pathapi.support.azure import MakeAzureClient, azure_ground, make_azure_client, prefix

__all__ = ["azure_ground", "make_azure_client", "prefix"]

At = Callable[[CloudPath], str | None]
"""What the server says, to somebody else, is the type of an object."""
Make = Callable[..., tuple[CloudPath, At]]
"""A directory by a client with these arguments, whose uploads from 6 MiB on go in several requests."""

SIZES = [pytest.param(10, id="in one"), pytest.param(6 << 20, id="in several")]
NAME, TYPE = "a.mht", "message/rfc822"
"""A type that Python knows and SeaweedFS does not: that guesses where it is told none, by name and by bytes."""
UNKNOWN = {None, "", "application/octet-stream", "binary/octet-stream"}
"""What servers say of what nobody has told them the type of."""


@pytest.fixture
def on_s3(make_client: MakeClient, seaweed: S3Server, shared_bucket: str, prefix: str) -> Make:
    from boto3.s3.transfer import TransferConfig

    raw = seaweed.client()

    def make(**arguments: Any) -> tuple[CloudPath, At]:
        config = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
        root = make_client(boto3_transfer_config=config, **arguments).S3Path(f"s3://{shared_bucket}/{prefix}")
        return root, lambda path: str(raw.head_object(Bucket=shared_bucket, Key=path.key)["ContentType"])

    return make


@pytest.fixture
def on_gs(make_gs: MakeGSClient, gcs: GCSServer, gcs_bucket: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(gs_uploads, "THRESHOLD", 6 << 20)
    raw = gcs.client().bucket(gcs_bucket)

    def make(**arguments: Any) -> tuple[CloudPath, At]:
        root = make_gs(**arguments).GSPath(f"gs://{gcs_bucket}/{prefix}")
        return root, lambda path: raw.get_blob(path.key).content_type

    return make


@pytest.fixture
def on_azure(
    make_azure_client: MakeAzureClient,
    azurite: AzureServer,
    shared_container: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    monkeypatch.setattr(azure, "THRESHOLD", 6 << 20)
    monkeypatch.setattr(azure_blocks, "BLOCK_SIZE", 4 << 20)
    raw = azurite.client().get_container_client(shared_container)

    def type_of(path: CloudPath) -> str | None:
        found: str | None = raw.get_blob_client(path.key).get_blob_properties().content_settings.content_type
        return found

    def make(**arguments: Any) -> tuple[CloudPath, At]:
        return make_azure_client(**arguments).AzureBlobPath(f"az://{shared_container}/{prefix}"), type_of

    return make


@pytest.fixture
def on_http(tmp_path: Path) -> Iterator[Make]:
    clients: list[HttpClient] = []
    with HttpOrigin() as server:

        def make(**arguments: Any) -> tuple[CloudPath, At]:
            clients.append(HttpClient(local_cache_dir=tmp_path / "store", **arguments))
            root = clients[-1].HttpPath(f"{server.url}/d/")
            return root, lambda path: server.objects[path.key].content_type

        yield make
        for client in clients:
            client.cache.close()


@pytest.fixture(params=["on_s3", "on_gs", "on_azure", "on_http"])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.getfixturevalue(request.param)
    return made


@pytest.mark.parametrize("size", SIZES)
def test_an_upload_states_the_type_that_its_name_tells(make: Make, size: int) -> None:
    root, type_of = make()
    path = root / NAME
    path.write_bytes(os.urandom(size))
    assert type_of(path) == TYPE


@pytest.mark.parametrize("size", SIZES)
def test_the_clients_own_method_is_asked_by_the_key(make: Make, size: int) -> None:
    asked: list[str] = []

    def tell(name: str) -> tuple[str | None, str | None]:
        asked.append(name)
        return "text/x-mine", None

    root, type_of = make(content_type_method=tell)
    path = root / NAME
    path.write_bytes(os.urandom(size))
    assert type_of(path) == "text/x-mine"
    assert set(asked) == {path.key}


@pytest.mark.parametrize("size", SIZES)
def test_no_method_and_no_guess_state_no_type(make: Make, size: int) -> None:
    root, type_of = make(content_type_method=None)
    (root / NAME).write_bytes(os.urandom(size))
    assert type_of(root / NAME) != TYPE
    root, type_of = make()
    (root / "a.no-such-type").write_bytes(bytes(size))  # random bytes look like text now and then, to SeaweedFS
    assert type_of(root / "a.no-such-type") in UNKNOWN
