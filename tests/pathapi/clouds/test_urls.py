"""`as_url` on every cloud: plain URLs, and signed ones that whoever has them may open, with nothing but `urllib`."""

from __future__ import annotations

import logging
import pickle
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pathapi import CloudPath, GSClient, HttpsClient, S3Client
from pathapi.clouds.file import FileClient
from pathapi.exceptions import (
    CloudPathIsADirectoryError,
    CloudPathNotImplementedError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
)
from tests.harness import servers
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer, S3Server
from tests.pathapi.conftest import MakeClient, MakeGSClient
from tests.pathapi.support.azure import MakeAzureClient, azure_ground, make_azure_client, prefix
from tests.pathapi.support.raw_buckets import AzureRawBucket

__all__ = ["azure_ground", "make_azure_client", "prefix"]

KEYS = ["plain.txt", "dir/a b.txt", "ü/日本.csv", "50%2F", "what?versionId=3&x=1", "#1", "a+b=c;d,e:f@$!*'()~"]
"""Each would be another object's URL, or none, if it were not quoted."""


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fetched(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=1_000) as answer:
        data: bytes = answer.read()
    return data


def refusal(url: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as raised:
        fetched(url)
    with raised.value:
        return raised.value.code


# --- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict() -> Iterator[S3Server]:
    """An S3 server that looks at signatures."""
    with servers.seaweedfs(check_signatures=True) as server:
        yield server


@pytest.fixture(scope="module")
def strict_bucket(strict: S3Server) -> str:
    return strict.new_bucket()


@pytest.fixture
def strict_client(strict: S3Server, tmp_path: Path) -> Iterator[S3Client]:
    client = S3Client(
        strict.access_key,
        strict.secret_key,
        endpoint_url=strict.endpoint,
        region=strict.region,
        local_cache_dir=tmp_path / "store",
    )
    yield client
    client.cache.close()


@pytest.mark.parametrize("key", KEYS)
def test_a_signed_url_of_s3_opens_the_object_and_a_plain_one_names_it(
    strict: S3Server, strict_bucket: str, strict_client: S3Client, key: str
) -> None:
    strict.client().put_object(Bucket=strict_bucket, Key=key, Body=key.encode())
    path = strict_client.S3Path(f"s3://{strict_bucket}/{key}")
    signed, plain = path.as_url(presign=True, expire_seconds=60), path.as_url()
    assert fetched(signed) == key.encode()
    assert signed.startswith(f"{plain}?")
    assert parse_qs(urlsplit(signed).query)["X-Amz-Expires"] == ["60"]
    assert refusal(plain) == 403
    assert refusal(f"{plain}x?{urlsplit(signed).query}") == 403  # for this object alone


def test_a_url_costs_s3_no_request(make_client: MakeClient, proxy: Proxy) -> None:
    path = make_client().S3Path("s3://bucket/dir/key")
    assert path.as_url() == f"{proxy.endpoint}/bucket/dir/key"
    assert path.as_url(presign=True).startswith(f"{proxy.endpoint}/bucket/dir/key?")
    assert make_client().S3Path("s3://bucket").as_url() == f"{proxy.endpoint}/bucket"
    assert not proxy.records


ADDRESSES = [
    ({"region": "us-east-1"}, "bucket", "https://bucket.s3.amazonaws.com/a%20b"),
    ({"region": "eu-central-1"}, "bucket", "https://bucket.s3.eu-central-1.amazonaws.com/a%20b"),
    (
        {"region": "eu-central-1", "addressing_style": "path"},
        "bucket",
        "https://s3.eu-central-1.amazonaws.com/bucket/a%20b",
    ),
    ({"region": "eu-central-1"}, "dotted.bucket", "https://s3.eu-central-1.amazonaws.com/dotted.bucket/a%20b"),
    ({"endpoint_url": "https://minio.example:9000"}, "bucket", "https://minio.example:9000/bucket/a%20b"),
    (
        {"endpoint_url": "https://store.example", "addressing_style": "virtual"},
        "bucket",
        "https://bucket.store.example/a%20b",
    ),
]


@pytest.mark.parametrize(("arguments", "bucket", "url"), ADDRESSES)
def test_the_urls_of_s3_are_where_the_client_asks_itself(arguments: dict[str, Any], bucket: str, url: str) -> None:
    anybody = S3Client(**{"region": "us-east-1", **arguments})
    assert anybody.S3Path(f"s3://{bucket}/a b").as_url() == url
    client = S3Client("key", "secret", **{"region": "us-east-1", **arguments})
    signed = client.S3Path(f"s3://{bucket}/a b").as_url(presign=True)
    assert signed.partition("?")[0] == url
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in signed  # what newer buckets take


def test_a_signed_url_says_who_pays_since_no_header_will(strict: S3Server, strict_bucket: str) -> None:
    strict.client().put_object(Bucket=strict_bucket, Key="paid", Body=b"paid")
    arguments: dict[str, Any] = {"endpoint_url": strict.endpoint, "extra_args": {"RequestPayer": "requester"}}
    client = S3Client(strict.access_key, strict.secret_key, region=strict.region, **arguments)
    signed = client.S3Path(f"s3://{strict_bucket}/paid").as_url(presign=True)
    assert parse_qs(urlsplit(signed).query)["x-amz-request-payer"] == ["requester"]
    assert fetched(signed) == b"paid"


def test_what_takes_a_customers_key_has_no_signed_url() -> None:
    extra = {"SSECustomerKey": "k" * 32, "SSECustomerAlgorithm": "AES256"}
    path = S3Client("key", "secret", extra_args=extra, region="us-east-1").S3Path("s3://bucket/key")
    with pytest.raises(CloudPathNotImplementedError, match=r"s3://bucket/key: .* SSECustomerKey"):
        path.as_url(presign=True)
    assert path.as_url() == "https://bucket.s3.amazonaws.com/key"


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [({"no_sign_request": True}, "no_sign_request"), ({}, "AWS_ACCESS_KEY_ID")],
    ids=["anonymous", "no credentials"],
)
def test_without_credentials_s3_says_how_to_get_some(arguments: dict[str, Any], way_out: str) -> None:
    path = S3Client(region="us-east-1", **arguments).S3Path("s3://bucket/key")
    with pytest.raises(MissingCredentialsError, match=rf"s3://bucket/key\b.*{way_out}"):
        path.as_url(presign=True)


# --- Google -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_a_plain_url_of_google_names_the_object(
    make_gs: MakeGSClient, gcs: GCSServer, gcs_bucket: str, key: str
) -> None:
    gcs.client().bucket(gcs_bucket).blob(key).upload_from_string(key.encode())
    url = make_gs().GSPath(f"gs://{gcs_bucket}/{key}").as_url()
    assert fetched(url, Host="storage.googleapis.com") == key.encode()  # by which the server tells it from its API


def test_the_urls_of_google_are_its_own_hosts_unless_there_is_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    assert GSClient().GSPath("gs://bucket/a b").as_url() == "https://storage.googleapis.com/bucket/a%20b"
    elsewhere = GSClient(endpoint_url="http://127.0.0.1:1/")
    assert elsewhere.GSPath("gs://bucket").as_url() == "http://127.0.0.1:1/bucket"


# --- Azure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_a_signed_url_of_azure_opens_the_blob_and_a_plain_one_names_it(
    make_azure_client: MakeAzureClient,
    azure_proxy: Proxy,
    azure_ground: AzureRawBucket,
    shared_container: str,
    prefix: str,
    key: str,
) -> None:
    azure_ground.plant(key, key.encode())
    path = make_azure_client().AzureBlobPath(f"az://{shared_container}/{prefix}{key}")
    signed, plain = path.as_url(presign=True, expire_seconds=60), path.as_url()
    assert not azure_proxy.records
    assert fetched(signed) == key.encode()
    assert signed.startswith(f"{plain}?")
    assert refusal(plain) in (403, 404)
    assert refusal(f"{plain}x?{urlsplit(signed).query}") == 403


def test_the_urls_of_azure_are_the_accounts_without_its_signature(make_azure_client: MakeAzureClient) -> None:
    arguments = {"connection_string": None, "account_url": "https://account.blob.core.windows.net/?sv=1&sig=secret"}
    client = make_azure_client(**arguments)
    path = client.AzureBlobPath("az://container/dir/a b")
    assert path.as_url() == "https://account.blob.core.windows.net/container/dir/a%20b"
    with pytest.raises(InvalidUriError):
        client.AzureBlobPath("az://container/a/../b").as_url()


@pytest.mark.parametrize("query", ["", "?sv=2020-01-01&sig=c2VjcmV0"], ids=["anonymous", "a signature"])
def test_without_a_key_azure_says_what_signs(make_azure_client: MakeAzureClient, query: str) -> None:
    url = f"https://account.blob.core.windows.net{query}"
    path = make_azure_client(connection_string=None, account_url=url).AzureBlobPath("az://container/blob")
    with pytest.raises(MissingCredentialsError, match=r"az://container/blob: .*credential=") as raised:
        path.as_url(presign=True)
    assert "c2VjcmV0" not in str(raised.value)


# --- files, web servers, and all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain.txt", "a b#c?d%2Fe", "ü"])
def test_the_url_of_a_file_is_a_file_url(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    path = FileClient(local_cache_dir=tmp_path / "store").FilePath(f"file://{tmp_path}") / name
    assert path.as_url() == (tmp_path / name).as_uri()
    assert fetched(path.as_url()) == b"x"
    with pytest.raises(CloudPathNotImplementedError, match="signed"):
        path.as_url(presign=True)


def test_nobody_signs_a_web_servers_url() -> None:
    path = HttpsClient().HttpsPath("https://example.org/a b?x=1")
    assert path.as_url() == "https://example.org/a b?x=1"
    with pytest.raises(CloudPathNotImplementedError):
        path.as_url(presign=True)


@pytest.mark.parametrize("seconds", [0, -1, True, 1.5, "60", 604_801])
def test_a_time_that_cannot_be_is_refused_before_anything_happens(
    seconds: Any, make_client: MakeClient, make_gs: MakeGSClient, make_azure_client: MakeAzureClient
) -> None:
    s3, gs, azure = make_client(), make_gs(), make_azure_client()
    paths: list[CloudPath] = [s3.S3Path("s3://bucket/key"), gs.GSPath("gs://bucket/key")]
    if seconds != 604_801:  # Azure knows no longest time for what an account's key signs.
        paths.append(azure.AzureBlobPath("az://container/blob"))
    for path in paths:
        with pytest.raises(InvalidConfigurationException, match="expire_seconds"):
            path.as_url(presign=True, expire_seconds=seconds)
    assert not [client for client in (s3, gs) if "client" in client.connection._process.made]
    assert "service" not in azure.connection._process.made


def test_a_date_that_no_calendar_has_is_refused(make_azure_client: MakeAzureClient) -> None:
    with pytest.raises(InvalidConfigurationException, match="expire_seconds"):
        make_azure_client().AzureBlobPath("az://container/blob").as_url(presign=True, expire_seconds=10**14)


def test_a_bucket_is_no_object_to_sign_for(make_client: MakeClient) -> None:
    with pytest.raises(CloudPathIsADirectoryError):
        make_client().S3Path("s3://bucket/").as_url(presign=True)
    with pytest.raises(InvalidUriError):
        make_client().S3Path("s3://").as_url()


def test_a_signed_url_is_returned_and_kept_nowhere(
    make_client: MakeClient,
    make_azure_client: MakeAzureClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.WARNING, logger="botocore")  # whose debug log is its own
    caplog.set_level(logging.DEBUG)  # the last one is the handler's, too
    for path in (make_client().S3Path("s3://bucket/key"), make_azure_client().AzureBlobPath("az://container/blob")):
        signature = re.findall("(?:X-Amz-Signature|sig)=([^&]+)", path.as_url(presign=True))[0]
        path.client.cache.flush()
        held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        shown = f"{caplog.text}{capfd.readouterr()}{path!r}{path.client!r}{pickle.dumps(path)!r}"
        assert signature not in shown
        assert signature.encode() not in held
