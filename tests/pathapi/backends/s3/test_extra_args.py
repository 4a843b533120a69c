"""`extra_args` on the wire: each goes to exactly the requests that know it."""

from __future__ import annotations

import base64
import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pathapi.backends.s3 import backend as s3
from pathapi.backends.s3.backend import S3Backend
from pathapi.exceptions import CloudPathNotImplementedError, InvalidConfigurationException
from tests.harness.faults import Action
from tests.harness.http_messages import Head
from tests.harness.proxy import Fault, Proxy
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import connection_to

WRITES = {"PutObject", "CreateMultipartUpload", "CopyObject"}
"""The requests that make an object, or begin to."""
PARTS = {"UploadPart", "UploadPartCopy", "CompleteMultipartUpload"}
READS = {"GetObject", "HeadObject"}
REST = {"ListObjectsV2", "DeleteObject", "DeleteObjects"}


@dataclass(frozen=True)
class Seen(Action):
    """Remembers each request: which it was, and its headers."""

    requests: list[tuple[str, dict[str, str]]]

    def before(self, request: Head) -> None:
        self.requests.append((_operation(request), {name.lower(): value for name, value in request.headers}))

    def with_header(self, name: str) -> set[str]:
        """The requests that had it; raises where one of them came without."""
        had = {operation for operation, headers in self.requests if name in headers}
        assert not [one for one, headers in self.requests if one in had and name not in headers]
        return had


def _operation(request: Head) -> str:
    method, target, _ = request.start
    query = target.partition("?")[2]
    is_copy = request.get("x-amz-copy-source") is not None
    if method == "GET":
        return "ListObjectsV2" if "list-type" in query else "GetObject"
    if method == "POST":
        if "uploadId" in query:
            return "CompleteMultipartUpload"
        return "CreateMultipartUpload" if "uploads" in query else "DeleteObjects"
    if method == "PUT":
        name = "UploadPart" if "partNumber" in query else "PutObject"
        return {"UploadPart": "UploadPartCopy", "PutObject": "CopyObject"}[name] if is_copy else name
    return {"HEAD": "HeadObject", "DELETE": "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"}[method]


@pytest.fixture
def seen(proxy: Proxy) -> Seen:
    seen = Seen([])
    proxy.add(Fault(seen, times=None))
    return seen


Use = Callable[..., S3Backend]


@pytest.fixture
def use(proxy: Proxy, seaweed: S3Server, shared_bucket: str, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> Use:
    """Does everything once that a backend can do, with the extra arguments given."""

    def everything(**extra: Any) -> S3Backend:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
        backend = S3Backend(
            connection_to(seaweed, proxy.endpoint, extra_args=extra, boto3_transfer_config=config), shared_bucket
        )
        large = os.urandom(6 << 20)
        backend.write("extra/small", io.BytesIO(b"small"), 5)
        backend.write("extra/large", io.BytesIO(large), len(large))
        backend.copy("extra/small", "extra/copied")
        with monkeypatch.context() as patch:
            patch.setattr(s3, "COPY_LIMIT", 1)
            # SeaweedFS 4.48 copies no parts of what is under a customer's key, and says so; the request was right.
            is_refused = "SSECustomerKey" in extra and seaweed.name == "seaweedfs"
            with pytest.raises(CloudPathNotImplementedError) if is_refused else contextlib.nullcontext():
                backend.copy("extra/large", "extra/pieces")
        held = {"small": b"small", "large": large, "copied": b"small"} | ({} if is_refused else {"pieces": large})
        for name, data in held.items():
            body = backend.read(f"extra/{name}")
            assert body is not None and body.read() == data, name
            body.close()
        assert {item.key for item in backend.list("extra/")} == {f"extra/{name}" for name in held}
        backend.delete(["extra/small"])
        backend.delete(["extra/large", "extra/copied", "extra/pieces"])
        assert {operation for operation, _ in seen.requests} - {"AbortMultipartUpload"} == WRITES | PARTS | READS | REST
        return backend

    return everything


def test_what_says_how_an_object_is_kept_goes_to_the_requests_that_make_one(use: Use, seen: Seen) -> None:
    use(StorageClass="STANDARD_IA", ACL="private", ServerSideEncryption="AES256")
    for name in ("x-amz-storage-class", "x-amz-acl", "x-amz-server-side-encryption"):
        assert seen.with_header(name) == WRITES, name
    values = {headers.get("x-amz-storage-class") for operation, headers in seen.requests if operation in WRITES}
    assert values == {"STANDARD_IA"}


def test_who_pays_is_said_with_every_request(use: Use, seen: Seen) -> None:
    use(RequestPayer="requester")
    assert seen.with_header("x-amz-request-payer") == WRITES | PARTS | READS | REST


def test_a_customers_key_goes_to_what_writes_or_reads_bytes_and_opens_the_source_of_a_copy(
    use: Use, seen: Seen
) -> None:
    key = base64.b64encode(os.urandom(24)).decode()
    use(SSECustomerKey=key, SSECustomerAlgorithm="AES256")
    assert seen.with_header("x-amz-server-side-encryption-customer-key") == WRITES | PARTS | READS
    named = seen.with_header("x-amz-copy-source-server-side-encryption-customer-key")
    assert named == {"CopyObject", "UploadPartCopy"}


def test_a_storage_class_that_the_server_does_not_know_is_told_as_such(
    proxy: Proxy, seaweed: S3Server, shared_bucket: str
) -> None:
    backend = S3Backend(connection_to(seaweed, proxy.endpoint, extra_args={"StorageClass": "NONE"}), shared_bucket)
    with pytest.raises(InvalidConfigurationException, match="InvalidStorageClass"):
        backend.write("extra/none", io.BytesIO(b""), 0)
