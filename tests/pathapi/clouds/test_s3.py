"""What is `S3Path`'s and `S3Client`'s own: the MD5 that an ETag is, or is not; what boto3 is told."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any

import pytest

from pathapi import S3Client
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

DATA = b"content"
MD5 = hashlib.md5(DATA).hexdigest()


def test_the_md5_is_told_of_what_came_in_one_part(
    make_client: MakeClient, proxy: Proxy, ground: S3RawBucket, at: str
) -> None:
    ground.plant(f"{at}a", DATA)
    path = make_client().S3Path(f"s3://{ground.bucket}/{at}a")
    assert path.md5 == MD5
    assert proxy.count() == proxy.count("HEAD") == 1
    (child,) = path.parent.iterdir()
    assert child.md5 == MD5
    with pytest.raises(FileNotFoundError):
        _ = (path.parent / "missing").md5


def test_what_came_in_several_parts_has_no_md5(
    make_client: MakeClient, seaweed: S3Server, ground: S3RawBucket, at: str
) -> None:
    raw, where = seaweed.client(), {"Bucket": ground.bucket, "Key": f"{at}a"}
    upload = raw.create_multipart_upload(**where)["UploadId"]
    part = raw.upload_part(**where, UploadId=upload, PartNumber=1, Body=DATA)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    raw.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)
    path = make_client().S3Path(f"s3://{ground.bucket}/{at}a")
    assert path.md5 is None
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("freshness", ["immutable", "offline"])
def test_the_md5_of_what_is_held_is_asked_for_where_it_may_be(
    make_client: MakeClient, ground: S3RawBucket, at: str, freshness: str
) -> None:
    ground.plant(f"{at}a", DATA)
    path = make_client(freshness=freshness).S3Path(f"s3://{ground.bucket}/{at}a")
    assert make_client().S3Path(str(path)).read_bytes() == DATA
    assert path.md5 == (None if freshness == "offline" else MD5)


def test_an_etag_under_kms_is_no_md5_though_a_listing_shows_it_as_one(moto: S3Server, tmp_path: Any) -> None:
    bucket = moto.new_bucket()
    moto.client().put_object(Bucket=bucket, Key="d/a", Body=DATA, ServerSideEncryption="aws:kms")
    client = S3Client("a", "b", region=moto.region, endpoint_url=moto.endpoint, local_cache_dir=tmp_path / "store")
    (path,) = client.S3Path(f"s3://{bucket}/d").iterdir()
    assert path.md5 is None
    client.cache.close()


def test_an_etag_of_a_directory_bucket_is_no_md5(
    make_client: MakeClient, seaweed: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", "true")  # SeaweedFS has no such buckets, but the name
    bucket, raw = f"{seaweed.new_bucket()}--x-s3", seaweed.client(max_pool_connections=1)  # a new one, for the variable
    raw.create_bucket(Bucket=bucket)
    raw.put_object(Bucket=bucket, Key="a", Body=DATA)
    path = make_client().S3Path(f"s3://{bucket}/a")
    assert path.etag == MD5
    assert path.md5 is None


def test_a_client_has_what_cloudpathlibs_has(make_client: MakeClient, ground: S3RawBucket, at: str) -> None:
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig()
    extra = {"RequestPayer": "requester", "ACL": "private", "ChecksumMode": "ENABLED", "MetadataDirective": "COPY"}
    client = make_client(boto3_transfer_config=config, extra_args=extra)
    assert client.boto3_transfer_config is config
    payer = {"RequestPayer": "requester"}
    assert client.boto3_list_extra_args == payer
    assert client.boto3_dl_extra_args == payer | {"ChecksumMode": "ENABLED"}
    assert client.boto3_ul_extra_args == payer | {"ACL": "private"}
    assert client.boto3_copy_extra_args.items() >= {"MetadataDirective": "COPY"}.items()
    ground.plant(f"{at}a", DATA)
    assert client.s3.Object(ground.bucket, f"{at}a").get()["Body"].read() == DATA


def test_parts_below_the_minimum_of_s3_are_larger(make_client: MakeClient, ground: S3RawBucket, at: str) -> None:
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=10 << 10, multipart_chunksize=1 << 10)
    data = os.urandom((5 << 20) + 60_000)
    make_client(boto3_transfer_config=config).S3Path(f"s3://{ground.bucket}/{at}a").write_bytes(data)
    assert ground.content(f"{at}a") == data


def test_without_threads_the_caller_sends_every_request(make_client: MakeClient, ground: S3RawBucket, at: str) -> None:
    from boto3.s3.transfer import TransferConfig

    client = make_client(boto3_transfer_config=TransferConfig(use_threads=False))
    path = client.S3Path(f"s3://{ground.bucket}/{at}a")
    callers: list[tuple[str, int]] = []
    events = client.client.meta.events
    events.register("before-call.s3", lambda model, **_: callers.append((model.name, threading.get_ident())))
    data = os.urandom(20 << 20)
    path.write_bytes(data)
    path.clear_cache()
    assert path.read_bytes() == data
    names = [name for name, _ in callers]
    assert (names.count("UploadPart"), names.count("GetObject")) == (3, 3)
    assert {caller for _, caller in callers} == {threading.get_ident()}
