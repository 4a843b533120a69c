"""Which classes stand for which scheme, and what is said where none does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from pathapi import AzureBlobPath, CloudPath, FileClient, FilePath, GSClient, S3Client, S3Path, implementation_registry
from pathapi.backend import Backend
from pathapi.backends.file.backend import FileBackend
from pathapi.client import Client
from pathapi.cloudpath import CloudImplementation
from pathapi.exceptions import (
    AnyPathTypeError,
    ClientMismatchError,
    IncompleteImplementationError,
    InvalidPrefixError,
    MissingDependenciesError,
)
from pathapi.registry import register_client_class, register_path_class


@pytest.fixture(autouse=True)
def _same_registry() -> Iterator[None]:
    known = dict(implementation_registry)
    yield
    implementation_registry._known.clear()
    implementation_registry._known.update(known)


def test_a_scheme_gives_its_class_whatever_its_case() -> None:
    assert type(CloudPath("s3://bucket/key")) is type(CloudPath("S3://bucket/key")) is S3Path
    assert type(CloudPath("file:///a")) is FilePath
    assert type(CloudPath(CloudPath("file:///a"))) is FilePath
    assert {"s3", "file"} <= set(implementation_registry)
    assert implementation_registry["file"].client_class is FileClient


@pytest.mark.parametrize("text", ["nothing://bucket/key", "/local/path", "bucket/key", ""])
def test_an_unknown_scheme_is_refused(text: str) -> None:
    with pytest.raises(InvalidPrefixError):
        CloudPath(text)


@pytest.mark.parametrize("given", [None, 5, b"s3://bucket/key", ["s3://bucket/key"]])
def test_what_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(AnyPathTypeError, match=type(given).__name__):
        CloudPath(given)


def test_half_a_registration_says_which_half_lacks() -> None:
    @register_client_class("half")
    class HalfClient(Client[Any]):
        pass

    with pytest.raises(IncompleteImplementationError, match="half://: there is no path class"):
        CloudPath("half://bucket/key")
    with pytest.raises(IncompleteImplementationError, match="half://: there is no path class"):
        HalfClient()

    @register_path_class("other")
    class OtherPath(CloudPath):
        cloud_prefix = "other://"

    for make in (CloudPath, OtherPath):
        with pytest.raises(IncompleteImplementationError, match="other://: there is no client class"):
            make("other://bucket/key")


def test_only_paths_and_clients_are_registered() -> None:
    with pytest.raises(TypeError, match="CloudPath"):
        register_path_class("s3")(int)
    with pytest.raises(TypeError, match="Client"):
        register_client_class("s3")(int)
    assert implementation_registry["s3"].path_class is S3Path


def test_it_is_a_mapping_of_implementations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(implementation_registry, MutableMapping)
    assert {"s3", "gs", "azure", "http", "https", "file"} == {*implementation_registry.keys()}
    assert len(implementation_registry) == 6
    assert [found.name for found in implementation_registry.values()] == [*implementation_registry]
    assert implementation_registry.get("nothing") is None and "nothing" not in implementation_registry
    before, mine = implementation_registry["s3"], CloudImplementation()
    with monkeypatch.context() as patch:
        patch.setitem(implementation_registry, "s3", mine)
        patch.setitem(implementation_registry, "nothing", mine)
        assert implementation_registry["s3"] is implementation_registry["nothing"] is mine
        with pytest.raises(IncompleteImplementationError):
            CloudPath("s3://bucket/key")
    assert implementation_registry["s3"] is before and "nothing" not in implementation_registry
    assert implementation_registry.pop("gs").client_class is GSClient and "gs" not in implementation_registry


def test_it_gives_back_whatever_was_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Double:
        path_class = str

    double: Any = Double
    monkeypatch.setitem(implementation_registry, "s3", double)
    assert implementation_registry["s3"] is implementation_registry.get("s3") is double
    assert str(CloudPath("s3://bucket/key")) == "s3://bucket/key"
    with pytest.raises(InvalidPrefixError):
        CloudPath("unknown://bucket/key")


def test_azure_and_az_are_one() -> None:
    before, mine = implementation_registry["azure"], CloudImplementation()
    assert before is implementation_registry["az"] and before.path_class is AzureBlobPath and before.name == "azure"
    implementation_registry["azure"] = mine
    assert implementation_registry["az"] is mine


def test_without_its_sdk_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation_registry["s3"], "dependencies_loaded", False)
    for make in (lambda: CloudPath("s3://b/k"), lambda: S3Path("s3://b/k"), S3Client):
        with pytest.raises(MissingDependenciesError, match=r"S3Client.*casstore\[s3\]"):
            make()


def test_a_scheme_of_ones_own_has_its_classes() -> None:
    @register_path_class("mine")
    class MyPath(S3Path):
        cloud_prefix = "mys3://"

    @register_client_class("mine")
    class MyClient(S3Client):
        pass

    client = MyClient()
    assert type(client.CloudPath("mys3://b/k")) is type(CloudPath("mys3://b/k")) is MyPath
    assert type(MyPath("mys3://b/k").client) is MyClient and type(S3Path("s3://b/k").client) is S3Client
    assert implementation_registry["mine"].client_class is MyClient
    with pytest.raises(ClientMismatchError, match="use a client of type MyClient"):
        MyPath("mys3://b/k", client=S3Client())


def test_a_class_that_replaces_a_built_in_one_is_what_its_client_makes() -> None:
    before = implementation_registry["file"].path_class
    try:

        @register_path_class("file")
        class MyPath(FilePath):
            pass

        assert type(CloudPath("file:///a")) is type(FileClient().CloudPath("file:///a")) is MyPath
    finally:
        register_path_class("file")(before)


def test_a_client_for_cloudpathlib_is_told_what_is_never_called() -> None:
    with pytest.raises(IncompleteImplementationError, match=r"OldClient: _download_file, _list_dir: .*migrating\.md"):

        class OldClient(Client[Any]):
            def _list_dir(self, *_: Any) -> None: ...
            def _download_file(self, *_: Any) -> None: ...

    with pytest.warns(UserWarning, match=r"ChangedClient: _list_dir: not called here"):

        class ChangedClient(S3Client):
            def _list_dir(self, *_: Any) -> None: ...

    class NewClient(Client[Any]):
        def _make_backend(self, bucket: str) -> Backend:
            return FileBackend()


def test_an_import_that_an_interrupt_ended_is_made_again() -> None:
    code = """
import sys
from pathapi import CloudPath, registry

real = registry.register_client_class
def interrupt(name):
    raise KeyboardInterrupt
registry.register_client_class = interrupt
try:
    CloudPath("file:///")
except KeyboardInterrupt:
    registry.register_client_class = real
assert CloudPath("file:///").is_dir()
print("good")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "good\n", done.stderr
