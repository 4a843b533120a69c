"""Reads by obstore, behind the backend `s3`: the same contract, and the cases that are left to boto3."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import threading
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from pathapi.backends.s3 import obstore_reads as s3_fast
from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.obstore_reads import ObstoreBody
from pathapi.exceptions import ChecksumMismatchError, CloudPathFileNotFoundError
from pathapi.testing import BackendSuite
from tests.harness.servers import S3Server
from tests.pathapi.backends.s3.test_seaweedfs import TestSeaweedFS as _OnBoto3
from tests.pathapi.support.raw_buckets import S3RawBucket, connection_to

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASSTORE_FAST", raising=False)


@pytest.fixture(scope="module")
def connection(seaweed: S3Server) -> S3Connection:
    return connection_to(seaweed)


@pytest.fixture(scope="module")
def raw(seaweed: S3Server) -> Any:
    return seaweed.client(max_pool_connections=32)


@pytest.fixture
def backend(connection: S3Connection, shared_bucket: str) -> S3Backend:
    return S3Backend(connection, shared_bucket)


@pytest.mark.sampled(30)
class TestFastSeaweedFS(BackendSuite):
    defects = _OnBoto3.defects
    unusable_names = _OnBoto3.unusable_names

    @pytest.fixture
    def ground(self, raw: Any, shared_bucket: str) -> S3RawBucket:
        return S3RawBucket(raw, shared_bucket)

    @pytest.fixture
    def backend(self, connection: S3Connection, shared_bucket: str) -> S3Backend:
        return S3Backend(connection, shared_bucket)

    @pytest.fixture
    def missing_bucket(self, connection: S3Connection) -> S3Backend:
        return S3Backend(connection, "no-such-bucket-here")


def _planted(raw: Any, bucket: str, data: bytes) -> str:
    key = f"fast/{uuid.uuid4().hex}"
    raw.put_object(Bucket=bucket, Key=key, Body=data)
    return key


def test_an_ordinary_read_is_obstores(raw: Any, shared_bucket: str, backend: S3Backend) -> None:
    body = backend.read(_planted(raw, shared_bucket, b"abc" * 1000))
    assert isinstance(body, ObstoreBody)
    assert body.read() == b"abc" * 1000


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in pieces"])
def test_bytes_without_the_md5_of_their_etag_are_refused_and_boto3_takes_over(
    raw: Any, shared_bucket: str, backend: S3Backend, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    key = _planted(raw, shared_bucket, b"abc" * 1000)
    body = backend.read(key)
    assert isinstance(body, ObstoreBody)
    assert body.checksum is not None
    monkeypatch.setattr(body, "checksum", dataclasses.replace(body.checksum, expected="0" * 32))
    with pytest.raises(ChecksumMismatchError):
        body.read() if whole else body.readinto(memoryview(bytearray(4096)))
    again = backend.read(key)
    assert again is not None
    assert not isinstance(again, ObstoreBody)
    assert again.read() == b"abc" * 1000


def test_an_object_whose_etag_states_no_md5_is_left_to_boto3(raw: Any, shared_bucket: str, backend: S3Backend) -> None:
    key = f"fast/{uuid.uuid4().hex}"
    upload = raw.create_multipart_upload(Bucket=shared_bucket, Key=key)["UploadId"]
    part = raw.upload_part(Bucket=shared_bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 5000)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    raw.complete_multipart_upload(Bucket=shared_bucket, Key=key, UploadId=upload, MultipartUpload=parts)
    body = backend.read(key)
    assert body is not None
    assert not isinstance(body, ObstoreBody)
    assert body.read() == b"x" * 5000


def test_another_range_than_the_one_that_was_asked_for_is_left_to_boto3(
    raw: Any, shared_bucket: str, backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    key = _planted(raw, shared_bucket, b"0123456789")
    get = obstore.get

    def get_another(*arguments: Any, **options: Any) -> Any:
        result = get(*arguments, **options)
        shifted = (result.range[0] + 1, result.range[1] + 1)
        return SimpleNamespace(meta=result.meta, range=shifted, bytes=result.bytes, stream=result.stream)

    monkeypatch.setattr(obstore, "get", get_another)
    body = backend.read(key, 2, 5)
    assert body is not None
    assert not isinstance(body, ObstoreBody)
    assert body.read() == b"234"


def test_a_missing_object_is_explained_by_boto3(backend: S3Backend) -> None:
    with pytest.raises(CloudPathFileNotFoundError):
        backend.read("fast/nothing-here")


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", "a/./b", "../a", "line\nbreak"])
def test_a_key_that_obstore_reads_otherwise_is_left_to_boto3(backend: S3Backend, key: str) -> None:
    fast = s3_fast.fast_reads(backend.connection, backend.bucket)
    assert fast is not None
    assert not fast.supports(key)


def test_a_child_forked_after_obstore_was_loaded_reads_by_boto3(
    raw: Any, shared_bucket: str, backend: S3Backend
) -> None:
    key = _planted(raw, shared_bucket, b"inherited")
    assert isinstance(backend.read(key), ObstoreBody)
    assert "obstore" in sys.modules
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            body = backend.read(key)
            assert body is not None
            os.write(writer, type(body).__name__.encode() + b" " + body.read())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"RangedBody inherited"
    os.waitpid(child, 0)
    assert s3_fast._usable


def test_the_environment_switches_it_off(
    connection: S3Connection, shared_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASSTORE_FAST", "0")
    assert s3_fast.fast_reads(connection, shared_bucket) is None


def test_ctrl_c_is_heard_while_a_server_does_not_answer() -> None:
    was_outlasted = threading.Event()
    is_over = threading.Event()

    def accept_and_interrupt(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if not is_over.wait(10):
                was_outlasted.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept_and_interrupt, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        connection = S3Connection(
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            endpoint_url=url,
            region="us-east-1",
            addressing_style="path",
        )
        backend = S3Backend(connection, "bucket")
        with pytest.raises(KeyboardInterrupt):
            backend.read("key", 0, None)
        is_over.set()
    assert not was_outlasted.is_set()
