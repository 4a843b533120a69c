"""Reading, writing and editing through the store, on Azurite: the same suites as every other cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathapi import AzureBlobPath, CloudPath
from pathapi.exceptions import DirectoryNotEmptyError, InvalidUriError
from pathapi.testing import EditSuite, RawBucket, ReadSuite, WriteSuite, keys
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


def folders(ground: AzureRawBucket, prefix: str, *names: str) -> None:
    """Create directories as accounts with a hierarchical namespace have them."""
    for name in names:
        ground.client.upload_blob(prefix + name, b"", metadata={"hdi_isfolder": "true"})


def names_in(ground: AzureRawBucket, prefix: str) -> list[str]:
    return [blob.name.removeprefix(prefix) for blob in ground.client.list_blobs(name_starts_with=prefix)]


def test_a_directory_of_a_hierarchical_namespace_is_one_everywhere(
    make_azure_client: MakeAzureClient,
    azure_ground: AzureRawBucket,
    shared_container: str,
    prefix: str,
    tmp_path: Path,
) -> None:
    folders(azure_ground, prefix, "d", "d/e", "empty")
    for name in ("d/a", "d/e/b", "d-1"):
        azure_ground.plant(name, b"bytes")
    root = make_azure_client().AzureBlobPath(f"az://{shared_container}/{prefix}")
    assert sorted(child.name for child in root.iterdir()) == ["d", "d-1", "empty"]
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["a", "b", "d-1"]
    assert sorted(path.name for path in root.glob("*")) == ["d", "d-1", "empty"]
    for name in ("d", "empty"):
        path = make_azure_client().AzureBlobPath(str(root / name))
        assert (path.exists(), path.is_dir(), path.is_file()) == (True, True, False)
        for read in (path.read_bytes, path.open, path.read_text):
            with pytest.raises(IsADirectoryError):
                read()
    for name in ("d", "empty"):
        (root / name).download_to(tmp_path / name)
    assert (tmp_path / "d/e/b").read_bytes() == (tmp_path / "d/a").read_bytes() == b"bytes"
    assert list((tmp_path / "empty").iterdir()) == []
    make_azure_client().AzureBlobPath(str(root / "d")).copy(CloudPath((tmp_path / "copy").as_uri()))
    assert (tmp_path / "copy/e/b").read_bytes() == b"bytes"
    with pytest.raises(DirectoryNotEmptyError):
        (root / "d").rmdir()
    (root / "empty").rmdir()
    assert names_in(azure_ground, prefix) == ["d", "d-1", "d/a", "d/e", "d/e/b"]


def test_directories_of_a_hierarchical_namespace_are_moved_and_deleted_after_what_is_below(
    make_azure_client: MakeAzureClient,
    azure_ground: AzureRawBucket,
    shared_container: str,
    prefix: str,
    tmp_path: Path,
) -> None:
    client = make_azure_client()
    root = client.AzureBlobPath(f"az://{shared_container}/{prefix}")
    deleted: list[str] = []
    backend: Any = client.backend(shared_container)
    send, send_batch = backend._send_delete, backend._delete_batch

    def delete(key: str, *arguments: Any) -> Any:
        deleted.append(key.removeprefix(prefix))
        return send(key, *arguments)

    def delete_batch(keys: Any, conditions: Any) -> Any:
        deleted.extend(key.removeprefix(prefix) for key in keys if not key.endswith("/"))
        return send_batch(keys, conditions)

    backend._send_delete, backend._delete_batch = delete, delete_batch
    for act in (
        lambda: (root / "d").move(tmp_path / "here"),
        lambda: (root / "d").move(root / "there"),
        (root / "d").rmtree,
    ):
        folders(azure_ground, prefix, "d", "d/e", "d/e/f")
        azure_ground.plant("d/e/b", b"bytes")
        deleted.clear()
        act()
        assert deleted == ["d/e/b", "d/e/f/", "d/e/", "d/"]
        assert not [name for name in names_in(azure_ground, prefix) if name.startswith("d")]
    assert (tmp_path / "here/e/b").read_bytes() == (root / "there/e/b").read_bytes() == b"bytes"
    assert (tmp_path / "here/e/f").is_dir() and (root / "there/e/f").is_dir()
    (root / "there").rmtree()
    assert names_in(azure_ground, prefix) == []


def test_a_listing_of_many_pages_has_each_directory_once(
    make_azure_client: MakeAzureClient,
    azure_ground: AzureRawBucket,
    shared_container: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A directory's object has its name without the slash: other names are listed between it and what is below."""
    monkeypatch.setattr("pathapi.backends.azure.backend.PAGE", 1)
    folders(azure_ground, prefix, "d", "d-2", "e")
    for name in ("d-1", "d/a", "d/b", "e.txt"):
        azure_ground.plant(name, b"")
    backend = make_azure_client().backend(shared_container)
    assert keys(backend, prefix) == [prefix + name for name in ("d-1", "d-2/", "d/", "d/a", "d/b", "e.txt", "e/")]
    assert keys(backend, prefix, delimited=True) == [prefix + name for name in ("d-1", "d-2/", "d/", "e.txt", "e/")]
