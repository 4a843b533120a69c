"""The local doubles: a directory in place of a cloud, for tests without a network."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import pathapi
from pathapi import (
    AzureBlobClient,
    AzureBlobPath,
    CloudPath,
    GSClient,
    GSPath,
    S3Client,
    S3Path,
    implementation_registry,
)
from pathapi.backends.file.backend import FileBackend
from pathapi.exceptions import (
    CloudPathLocalPathTraversalError,
    CloudPathNotImplementedError,
    MissingCredentialsError,
    OverwriteNewerCloudError,
)
from pathapi.local import (
    LocalAzureBlobClient,
    LocalAzureBlobPath,
    LocalClient,
    LocalGSClient,
    LocalGSPath,
    LocalPath,
    LocalS3Client,
    LocalS3Path,
    local_gs_implementation,
    local_s3_implementation,
)
from pathapi.local import local_azure_blob_implementation as azure
from pathapi.testing import BackendSuite
from tests.pathapi.support.raw_buckets import FileRawBucket

EVERY_DOUBLE = pytest.mark.parametrize(
    ("name", "client_class", "path_class", "implementation", "client", "path"),
    [
        ("s3", LocalS3Client, LocalS3Path, local_s3_implementation, S3Client, S3Path),
        ("gs", LocalGSClient, LocalGSPath, local_gs_implementation, GSClient, GSPath),
        ("azure", LocalAzureBlobClient, LocalAzureBlobPath, azure, AzureBlobClient, AzureBlobPath),
    ],
)
CLIENTS: Any = [(LocalS3Client, "s3://"), (LocalGSClient, "gs://"), (LocalAzureBlobClient, "az://")]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "")
    yield
    for client, _ in CLIENTS:
        client.reset_default_storage_dir()


class TestLocalS3(BackendSuite):
    defects = {  # noqa: RUF012 (the suite declares it a ClassVar)
        "test_an_object_that_is_also_a_prefix_is_both": "a file system has files or directories",
        "test_a_missing_bucket_differs_from_a_missing_object": "the first write makes a bucket",
        "test_a_write_to_a_missing_bucket_says_so": "the first write makes a bucket",
    }

    @pytest.fixture
    def ground(self, tmp_path: Path) -> FileRawBucket:
        (tmp_path / "bucket").mkdir()
        return FileRawBucket(tmp_path / "bucket")

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Any:
        backend = LocalS3Client(local_storage_dir=tmp_path).backend("bucket")
        assert isinstance(backend, FileBackend)
        return backend

    @pytest.fixture
    def missing_bucket(self, tmp_path: Path) -> Any:
        return LocalS3Client(local_storage_dir=tmp_path).backend("nowhere")


@EVERY_DOUBLE
def test_it_stands_for_the_real_classes(
    name: str, client_class: Any, path_class: Any, implementation: Any, client: Any, path: Any
) -> None:
    assert implementation.client_class is client_class and implementation.path_class is path_class
    assert implementation.name == name and implementation_registry[name].path_class is path
    made = path_class(f"{path.cloud_prefix}b/d/k")
    assert isinstance(made, path) and isinstance(made, LocalPath) and isinstance(made.client, client)
    assert repr(made) == repr(path(str(made))) and made.drive == "b"
    assert isinstance(client_class(), LocalClient)
    for real, local in ((client, client_class), (path, path_class)):
        for attribute in (attribute for attribute in dir(real) if not attribute.startswith("_")):
            assert type(getattr(real, attribute)) is type(getattr(local, attribute))
            if callable(getattr(real, attribute)):
                assert signature(getattr(real, attribute)) == signature(getattr(local, attribute))


def test_a_class_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathapi, "S3Path", LocalS3Path)
    path = pathapi.S3Path("s3://any/cumulonimbus.txt")
    path.write_text("cumulonimbus")
    assert isinstance(path, LocalS3Path) and path.read_text() == "cumulonimbus"


@EVERY_DOUBLE
def test_an_implementation_can_be_replaced(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    client_class: Any,
    path_class: Any,
    implementation: Any,
    client: Any,
    path: Any,
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(implementation_registry, name, implementation)
        made = CloudPath(f"{path.cloud_prefix}any/cirrus.txt")
        made.write_text("cirrus")
        assert type(made) is path_class
        directory = client_class.get_default_storage_dir() / "any"
        (directory / "nimbus.txt").write_text("nimbus")
        assert {p.name: p.read_text() for p in made.parent.iterdir()} == {
            "cirrus.txt": "cirrus",
            "nimbus.txt": "nimbus",
        }
        assert all(str(p).startswith(f"{path.cloud_prefix}any/") for p in made.parent.glob("**/*"))
        (directory / "nimbus.txt").unlink()
        assert not (made.parent / "nimbus.txt").exists() and not made.with_name("x").exists()
    assert type(CloudPath(f"{path.cloud_prefix}any/cirrus.txt")) is path


@pytest.mark.parametrize(("client_class", "prefix"), CLIENTS)
def test_clients_of_a_class_share_one_directory_until_it_is_reset(client_class: Any, prefix: str) -> None:
    one, two = (client_class().CloudPath(f"{prefix}b/k.txt") for _ in range(2))
    assert not one.exists() and not two.exists()
    one.write_text("hello")
    assert two.read_text() == "hello"
    before = client_class.get_default_storage_dir()
    assert one.client.local_storage_dir == before
    after = client_class.reset_default_storage_dir()
    assert after == client_class.get_default_storage_dir() != before and not before.exists()
    for path in (one, two, client_class().CloudPath(f"{prefix}b/k.txt")):
        assert not path.exists()
        with pytest.raises(FileNotFoundError, match=f"{prefix}b/k.txt"):
            path.read_text()
    two.write_text("again")
    assert one.read_text() == "again"


def test_a_directory_of_ones_own(tmp_path: Path) -> None:
    client = LocalS3Client(
        "key", "secret", local_storage_dir=tmp_path / "a", endpoint_url="http://nowhere", verify=True
    )
    path = client.CloudPath("s3://b/d/k.txt")
    path.write_text("x")
    assert (tmp_path / "a/b/d/k.txt").read_text() == "x" and client.local_storage_dir == tmp_path / "a"
    assert client.verify and not (tmp_path / "a/b/d").joinpath("k.txt").is_symlink()
    assert not LocalS3Client(local_storage_dir=tmp_path / "b").CloudPath("s3://b/d/k.txt").exists()
    again: Any = pickle.loads(pickle.dumps(path))
    assert again.read_text() == "x" and again.client.local_storage_dir == tmp_path / "a"


def test_what_users_look_at() -> None:
    path = LocalGSPath("gs://b/d/k.txt")
    path.write_bytes(b"hello")
    assert path.etag == path.md5 == "5d41402abc4b2a76b9719d911017c592"
    assert path.stat().st_size == 5 and path.as_url() == "gs://b/d/k.txt"
    assert path.as_url(presign=True, expire_seconds=5) == "gs://b/d/k.txt?expires=5&signature=local"
    path.copy("gs://other/k.txt")
    assert [*map(str, LocalGSPath("gs://other").iterdir())] == ["gs://other/k.txt"]
    path.parent.rmtree()
    assert not path.exists() and not path.parent.exists()


def test_a_write_in_between_is_found_as_in_a_cloud() -> None:
    path = LocalS3Path("s3://b/k.txt")
    path.write_text("one")
    file = path.open("a")
    file.write("two")
    (LocalS3Client.get_default_storage_dir() / "b/k.txt").write_text("somebody else's")
    with pytest.raises(OverwriteNewerCloudError, match=r"s3://b/k\.txt"):
        file.close()
    path.drop()


@pytest.mark.parametrize(("client", "scheme"), CLIENTS)
def test_the_scheme_alone_lists_the_buckets(client: Any, scheme: str) -> None:
    account = client().CloudPath(scheme)
    assert account.is_dir() and list(account.iterdir()) == []
    (account / "one" / "k").write_text("x")
    (account / "two" / "d" / "k").write_text("x")
    assert sorted(map(str, account.iterdir())) == [f"{scheme}one", f"{scheme}two"]
    for refused in (account.rmtree, lambda: list(account.walk()), lambda: list(account.glob("*"))):
        with pytest.raises(CloudPathNotImplementedError):
            refused()
    assert (account / "one" / "k").read_text() == "x"


def test_no_bucket_leads_out_of_the_directory() -> None:
    with pytest.raises(CloudPathLocalPathTraversalError, match=r"s3://\.\./"):
        LocalS3Path("s3://../k").write_text("x")


@pytest.mark.parametrize("variable", ["AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL"])
def test_azure_wants_a_login(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    with pytest.raises(MissingCredentialsError):
        LocalAzureBlobClient()
    LocalAzureBlobClient(connection_string="any")
    monkeypatch.setenv(variable, "any")
    LocalAzureBlobClient()


def test_the_directories_of_a_process_go_with_it(tmp_path: Path) -> None:
    code = """
import os, sys
from pathapi.local import LocalS3Path
path = LocalS3Path("s3://b/k.txt")
path.write_text("x")
child = os.fork()
if child == 0:
    sys.exit(path.read_text() != "x")
assert os.waitpid(child, 0)[1] == 0
print(path.read_text(), len(os.listdir(os.environ["TMPDIR"])))
"""
    environment = {"TMPDIR": str(tmp_path), "PATH": "/bin:/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        # Python 3.12 and later warn of a fork beside threads.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(pathapi.__file__).parents[1],
    )
    assert (done.stdout, done.stderr) == ("x 2\n", "")
    assert [*tmp_path.iterdir()] == []


def test_a_store_that_was_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDPATHLIB_LOCAL_CACHE_DIR", str(tmp_path / "named"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LocalS3Client(local_storage_dir=tmp_path / "s").CloudPath("s3://b/k").write_text("x")
    assert (tmp_path / "named/store.json").exists()
