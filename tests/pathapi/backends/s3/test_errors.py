"""Every line of the error table, and the errors that a real server and the SDK give by themselves."""

from __future__ import annotations

import builtins
from typing import Any

import botocore.exceptions
import botocore.parsers
import pytest
import urllib3.exceptions

from pathapi import exceptions
from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.errors import BY_CODE, BY_EXCEPTION, BY_STATUS, translate
from pathapi.exceptions import (
    BucketNotFoundError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathPermissionError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
)
from pathapi.testing import read
from tests.harness import servers
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import S3RawBucket, connection_to

WHERE: dict[str, Any] = {"uri": "s3://b/k", "bucket": "b", "endpoint": "127.0.0.1:1", "operation": "GetObject"}


def client_error(status: int, code: str, **detail: str) -> botocore.exceptions.ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "said the server", **detail},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return botocore.exceptions.ClientError(answer, "GetObject")


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_gives_a_message_that_names_the_object_or_its_bucket(code: str) -> None:
    error = translate(client_error(400, code), **WHERE)
    assert type(error) is BY_CODE[code].error
    assert "s3://b/k" in str(error)
    assert "{" not in str(error)


@pytest.mark.parametrize("status", [*sorted(BY_STATUS), 418, 500, 502, 599])
def test_a_bare_status_as_of_a_head_has_a_meaning(status: int) -> None:
    error = translate(client_error(status, str(status)), **WHERE)
    assert isinstance(error, CloudPathException)
    assert isinstance(error, FileNotFoundError) == (status == 404)
    assert isinstance(error, ConnectionError) == (status == 429 or (status >= 500 and status != 501))


def test_every_name_in_the_table_of_exceptions_exists() -> None:
    known = {*dir(botocore.exceptions), *dir(botocore.parsers), *dir(urllib3.exceptions), *dir(builtins)}
    assert set(BY_EXCEPTION) <= known


def test_every_exception_of_the_sdk_becomes_ours_and_nothing_else_does() -> None:
    for name in dir(botocore.exceptions):
        kind = getattr(botocore.exceptions, name)
        if isinstance(kind, type) and issubclass(kind, botocore.exceptions.BotoCoreError):
            error: Exception = kind.__new__(kind)  # type: ignore[call-overload]
            Exception.__init__(error, "text")
            assert isinstance(translate(error, **WHERE), CloudPathException), name
    assert translate(KeyError("ours"), **WHERE) is None


def test_only_a_404_is_absence() -> None:
    table = {**BY_CODE, **BY_EXCEPTION}
    absent = {code for code, meaning in table.items() if issubclass(meaning.error, FileNotFoundError)}
    assert absent == {"NoSuchKey", "NoSuchVersion", "NoSuchBucket"}


def test_a_bucket_elsewhere_names_its_region() -> None:
    error = translate(client_error(301, "PermanentRedirect", Region="eu-south-2"), **WHERE)
    assert isinstance(error, InvalidConfigurationException)
    assert "eu-south-2" in str(error)


def test_a_read_that_is_refused_does_not_claim_absence() -> None:
    assert "403 for objects that do not exist" in str(translate(client_error(403, "AccessDenied"), **WHERE))
    written = translate(client_error(403, "AccessDenied"), **{**WHERE, "operation": "PutObject"})
    assert "s3:PutObject" in str(written)
    assert "not exist" not in str(written)


def test_without_credentials_the_message_says_how_to_read_a_public_bucket(
    seaweed: S3Server, shared_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3RawBucket(seaweed.client(), shared_bucket).plant("public", b"for all")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    settings: dict[str, Any] = {"endpoint_url": seaweed.endpoint, "region": "us-east-1"}
    with pytest.raises(MissingCredentialsError, match="no_sign_request=True"):
        S3Backend(S3Connection(**settings), shared_bucket).read("public")
    assert read(S3Backend(S3Connection(**settings, no_sign_request=True), shared_bucket), "public") == b"for all"


@pytest.mark.slow
def test_a_server_that_checks_signatures_refuses_what_it_does_not_know() -> None:
    with servers.seaweedfs(check_signatures=True) as server:
        ground = S3RawBucket(server.client(), server.new_bucket())
        ground.plant("a", b"a")
        assert read(S3Backend(connection_to(server), ground.bucket), "a") == b"a"
        for known, secret in ((server.access_key, "wrong"), ("unknown", server.secret_key)):
            settings: dict[str, Any] = {
                "aws_access_key_id": known,
                "aws_secret_access_key": secret,
                "region": server.region,
            }
            backend = S3Backend(S3Connection(endpoint_url=server.endpoint, **settings), ground.bucket)
            with pytest.raises(CloudPathPermissionError) as caught:
                backend.read("a")
            assert secret not in str(caught.value)
            with pytest.raises(CloudPathPermissionError):
                backend.head("a")


def test_a_missing_bucket_and_a_missing_key_on_the_wire(seaweed: S3Server, shared_bucket: str) -> None:
    connection = connection_to(seaweed)
    with pytest.raises(BucketNotFoundError, match="no-such-bucket-here"):
        S3Backend(connection, "no-such-bucket-here").read("a")
    with pytest.raises(CloudPathFileNotFoundError, match=f"s3://{shared_bucket}/a%20b"):
        S3Backend(connection, shared_bucket).read("a%20b")


@pytest.mark.parametrize("bucket", ["No_Good!", "a b", "x/y"])
def test_a_name_that_no_bucket_can_have_is_an_invalid_uri(seaweed: S3Server, bucket: str) -> None:
    with pytest.raises(InvalidUriError):
        S3Backend(connection_to(seaweed), bucket).read("a")


def test_an_empty_key_is_an_invalid_uri(seaweed: S3Server, shared_bucket: str) -> None:
    with pytest.raises(InvalidUriError):
        S3Backend(connection_to(seaweed), shared_bucket).read("")


def test_an_error_of_the_table_is_one_of_the_closed_list() -> None:
    closed = {value for value in vars(exceptions).values() if isinstance(value, type)}
    for meaning in (*BY_CODE.values(), *BY_STATUS.values(), *BY_EXCEPTION.values()):
        assert meaning.error in closed
