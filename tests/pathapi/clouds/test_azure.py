"""Reading, writing and editing through the store, on Azurite: the same suites as every other cloud."""

from __future__ import annotations

from typing import Any

import pytest

from pathapi import AzureBlobPath, CloudPath
from pathapi.exceptions import InvalidUriError
from pathapi.testing import EditSuite, RawBucket, ReadSuite, WriteSuite
from tests.harness.proxy import Proxy
from tests.pathapi.support.azure import MakeAzureClient, azure_ground, make_azure_client, prefix
from tests.pathapi.support.raw_buckets import AzureRawBucket

__all__ = ["azure_ground", "make_azure_client", "prefix"]


class _OnAzurite:
    @pytest.fixture
    def ground(self, azure_ground: AzureRawBucket) -> RawBucket:
        return azure_ground

    @pytest.fixture
    def make(self, make_azure_client: MakeAzureClient) -> Any:
        return make_azure_client

    @pytest.fixture
    def at(self, shared_container: str, prefix: str) -> str:
        return f"az://{shared_container}/{prefix}"


@pytest.mark.sampled(10)
class TestReading(_OnAzurite, ReadSuite):
    """See `ReadSuite`."""


@pytest.mark.sampled(10)
class TestWriting(_OnAzurite, WriteSuite):
    """See `WriteSuite`."""


@pytest.mark.sampled(10)
class TestEditing(_OnAzurite, EditSuite):
    """See `EditSuite`."""


def test_a_path_has_the_pieces_that_azures_users_know() -> None:
    path = CloudPath("az://container/dir/blob.txt")
    assert isinstance(path, AzureBlobPath)
    assert (path.container, path.blob, path.drive, path.key) == ("container", "dir/blob.txt", "container", path.blob)


@pytest.mark.parametrize("text", ["azure://c/d/e", "AZURE://c/d/e"])
def test_the_long_scheme_is_another_spelling_of_the_short_one(text: str) -> None:
    path = CloudPath(text)
    assert (type(path), str(path), str(path / "f")) == (AzureBlobPath, "az://c/d/e", "az://c/d/e/f")
    assert path == AzureBlobPath(text) == CloudPath("az://c/d/e")
    assert CloudPath("azure://c/d", "e") == path


def test_etag_and_md5_are_told(
    make_azure_client: MakeAzureClient, azure_ground: AzureRawBucket, shared_container: str, prefix: str
) -> None:
    azure_ground.plant("a", b"0123456789")
    path = make_azure_client().AzureBlobPath(f"az://{shared_container}/{prefix}a")
    assert path.md5 == "781e5e245d69b566979b86e28d23f2c7"
    assert path.etag == azure_ground.client.get_blob_client(path.blob).get_blob_properties().etag.strip('"')
    with pytest.raises(FileNotFoundError):
        _ = (path.parent / "missing").md5


def test_the_md5_is_asked_for_where_the_entry_alone_is_fresh_and_may_be_asked_for(
    make_azure_client: MakeAzureClient,
    azure_ground: AzureRawBucket,
    azure_proxy: Proxy,
    shared_container: str,
    prefix: str,
) -> None:
    azure_ground.plant("a", b"0123456789")
    uri = f"az://{shared_container}/{prefix}a"
    for freshness in (60, "immutable", "offline"):
        path = make_azure_client(freshness=freshness).AzureBlobPath(uri)
        if freshness != "offline":
            path.read_bytes()
        azure_proxy.reset()
        assert path.md5 == (None if freshness == "offline" else "781e5e245d69b566979b86e28d23f2c7")
        assert azure_proxy.count() == azure_proxy.count("HEAD") == (freshness != "offline")
    azure_ground.remove("a")
    with pytest.raises(FileNotFoundError):
        _ = make_azure_client(freshness="immutable").AzureBlobPath(uri).md5


def test_a_name_that_would_become_another_on_its_way_is_refused(
    make_azure_client: MakeAzureClient, azure_ground: AzureRawBucket, shared_container: str, prefix: str
) -> None:
    azure_ground.plant("b", b"another object")
    client = make_azure_client()
    for name in ("a/../b", "./b", "b/."):
        path = client.AzureBlobPath(f"az://{shared_container}/{prefix}{name}")
        for attempt in (path.read_bytes, path.exists, lambda path=path: path.write_bytes(b"mine")):
            with pytest.raises(InvalidUriError, match="Azure blobs cannot have"):
                attempt()
    assert azure_ground.content("b") == b"another object"


def test_a_mark_of_a_directory_is_no_object(
    make_azure_client: MakeAzureClient, azure_ground: AzureRawBucket, shared_container: str, prefix: str
) -> None:
    """As accounts with a hierarchical namespace have them."""
    azure_ground.plant("d/a", b"a")
    for name in ("d", "empty"):
        azure_ground.client.upload_blob(prefix + name, b"", metadata={"hdi_isfolder": "true"})
    root = make_azure_client().AzureBlobPath(f"az://{shared_container}/{prefix}")
    assert [child.name for child in root.iterdir()] == ["d"]
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["a"]
    assert (root / "d").is_dir() and not (root / "empty").exists()
    for name in ("d", "empty"):
        assert not make_azure_client().AzureBlobPath(str(root / name)).is_file()
