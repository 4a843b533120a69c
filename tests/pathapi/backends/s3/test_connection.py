"""Logging in: the origin without boto3 where that is safe, one client per process, no secret on show."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.connection import S3Connection, origin_of
from pathapi.exceptions import InvalidConfigurationException, MissingDependenciesError
from pathapi.testing import in_forked_child, read, write
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import S3RawBucket, connection_to

SECRETS: dict[str, Any] = {
    "aws_access_key_id": "AKIDEXAMPLE",
    "aws_secret_access_key": "hush",
    "aws_session_token": "whisper",
}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.mark.parametrize(
    ("endpoint", "region", "origin"),
    [
        ("https://s3.amazonaws.com", "", "s3"),
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
        ("https://bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com", "", "s3"),
        ("https://s3.dualstack.us-west-2.api.aws", "us-west-2", "s3"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "s3@cn"),
        ("https://s3.us-gov-west-1.amazonaws.com", "", "s3@us-gov"),
        ("https://amazonaws.com.example.org", "", "s3@amazonaws.com.example.org:443"),
        ("http://127.0.0.1:8333", "", "s3@127.0.0.1:8333"),
        ("http://127.0.0.1:8333/", "", "s3@127.0.0.1:8333"),
        ("http://minio", "", "s3@minio:80"),
        ("https://MinIO.example", "", "s3@minio.example:443"),
        ("http://user:hush@minio:9000/", "", "s3@minio:9000"),
        ("http://gateway/one/", "", "s3@gateway:80/one"),
        ("http://gateway/two", "", "s3@gateway:80/two"),
        ("http://[::1]:9000", "", "s3@[::1]:9000"),
    ],
)
def test_an_endpoint_has_one_origin(endpoint: str, region: str, origin: str) -> None:
    assert origin_of(endpoint, region) == origin


@pytest.mark.parametrize(
    "endpoint", ["", "minio:9000", "http://", "http://a:port", "ftp://a", "http://[::1", "http://a?x=y", "http://a/#x"]
)
def test_an_endpoint_without_a_host_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidConfigurationException, match="http://host:port"):
        origin_of(endpoint)


@pytest.mark.parametrize(
    ("config", "environment", "origin"),
    [
        ("", {}, "s3"),
        ("[default]\nregion = eu-west-1\n", {}, "s3"),
        ("[default]\nregion = cn-north-1\n", {}, "s3@cn"),
        ("", {"AWS_DEFAULT_REGION": "us-gov-west-1"}, "s3@us-gov"),
        ("", {"AWS_REGION": "us-gov-west-1"}, "s3"),
        ("", {"AWS_ENDPOINT_URL": "http://a:1"}, "s3@a:1"),
        ("", {"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:2"}, "s3@b:2"),
        ("[default]\nendpoint_url = http://c:3\n", {}, "s3@c:3"),
        ("[default]\nservices = x\n[services x]\ns3 =\n  endpoint_url = http://d:4\n", {}, "s3@d:4"),
        ("[default]\nendpoint_url = http://c:3\n", {"AWS_ENDPOINT_URL": "http://a:1"}, "s3@a:1"),
        ("[profile p]\nendpoint_url = http://c:3\n", {}, "s3"),
        ("[profile p]\nendpoint_url = http://c:3\n", {"AWS_PROFILE": "p"}, "s3@c:3"),
        ("", {"AWS_ENDPOINT_URL": "http://a:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, "s3"),
        ("[default]\nignore_configured_endpoint_urls = true\n", {"AWS_ENDPOINT_URL": "http://a:1"}, "s3"),
    ],
)
def test_the_origin_is_the_endpoint_that_botocore_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, environment: dict[str, str], origin: str
) -> None:
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    connection = S3Connection(**SECRETS)
    known = connection._known_origin()
    assert connection.origin == origin
    region = str(connection.client.meta.region_name)
    assert origin_of(connection.client.meta.endpoint_url, region) == origin
    assert known in (None, origin)


def test_an_endpoint_given_beats_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://b:2")
    connection = S3Connection(endpoint_url="http://a:1", **SECRETS)
    assert connection.origin == "s3@a:1"
    assert connection.client.meta.endpoint_url == "http://a:1"


@pytest.mark.parametrize("variables", [{}, {"AWS_ENDPOINT_URL": "http://a:1"}, {"AWS_REGION": "eu-west-1"}])
def test_the_origin_is_known_without_boto3(variables: dict[str, str]) -> None:
    program = (
        "import sys; from pathapi.backends.s3.backend import S3Backend;"
        "from pathapi.backends.s3.connection import S3Connection;"
        "print(S3Backend(S3Connection(), 'b').origin); assert not {'boto3', 'botocore'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("s3")


def test_without_boto3_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependenciesError, match=r"pip install 'casstore\[s3\]'"):
        S3Backend(S3Connection(), "b").read("a")


def test_threads_make_one_client() -> None:
    connection = S3Connection(region="us-east-1", **SECRETS)
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda _: connection.client, range(32)))
    assert {id(client) for client in clients} == {id(connection.client)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_makes_a_client_of_its_own_even_from_a_fork_under_the_lock() -> None:
    connection = S3Connection(region="us-east-1", **SECRETS)
    parents = connection.client
    with connection._process.lock:
        assert in_forked_child(lambda: connection.client is not parents and connection.client is connection.client)
    assert connection.client is parents


def test_a_profile_that_does_not_exist_is_a_configuration_error() -> None:
    with pytest.raises(InvalidConfigurationException, match="nobody"):
        S3Backend(S3Connection(profile_name="nobody"), "b").read("a")


def test_secrets_are_not_shown() -> None:
    connection = S3Connection(endpoint_url="http://user:hush@a:1", extra_args={"SSECustomerKey": "hush"}, **SECRETS)
    assert not any(secret in repr(connection) + connection.origin for secret in SECRETS.values())


def test_settings_are_pickled_with_a_client_and_secrets_are_not(
    seaweed: S3Server, shared_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3RawBucket(seaweed.client(), shared_bucket).plant("pickled", b"x")
    connection = connection_to(seaweed)
    assert connection.client is not None
    with pytest.raises(TypeError, match="S3Connection: it may contain keys: pickle a client or a path instead"):
        pickle.dumps(connection)
    copied = S3Connection(**connection.plain_settings())
    assert copied.origin == connection.origin
    assert copied.aws_secret_access_key is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    assert read(S3Backend(copied, shared_bucket), "pickled") == b"x"


@pytest.mark.parametrize("name", ["VersionId", "Range", "PartNumber", "Bucket", "Key", "IfMatch"])
def test_an_extra_argument_that_would_file_other_bytes_under_a_uri_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfigurationException, match=f"extra_args: {name} would select"):
        S3Connection(extra_args={name: "x", "RequestPayer": "requester"})


def test_a_misspelt_extra_argument_is_refused_before_anything_is_sent(
    proxy: Proxy, seaweed: S3Server, shared_bucket: str
) -> None:
    """Else the objects would be stored without what was asked for."""
    for name, fix in (("ServerSideEncyption", "write 'ServerSideEncryption'"), ("StartAfter", "leave it out|write")):
        backend = S3Backend(connection_to(seaweed, proxy.endpoint, extra_args={name: "aws:kms"}), shared_bucket)
        with pytest.raises(InvalidConfigurationException, match=f"no request of S3 accepts '{name}': {fix}"):
            write(backend, "misspelt", b"x")
    assert not proxy.count()


def test_extra_arguments_go_to_the_requests_that_know_them(proxy: Proxy, seaweed: S3Server, shared_bucket: str) -> None:
    S3RawBucket(seaweed.client(), shared_bucket).plant("extra", b"x")
    connection = connection_to(seaweed, proxy.endpoint, extra_args={"RequestPayer": "requester", "ACL": "private"})
    backend = S3Backend(connection, shared_bucket)
    seen: list[tuple[str, dict[str, Any]]] = []
    connection.client.meta.events.register(
        "before-call.s3", lambda model, params, **_: seen.append((model.name, dict(params["headers"])))
    )
    read(backend, "extra")
    backend.copy("extra", "extra2")
    assert [name for name, headers in seen if headers.get("x-amz-request-payer")] == [name for name, _ in seen]
    assert [name for name, headers in seen if headers.get("x-amz-acl")] == ["CopyObject"]


@pytest.mark.parametrize("kind", ["boto3", "botocore"])
def test_a_session_of_the_users_own_is_used_and_its_client_settings_win(kind: str) -> None:
    import boto3
    import botocore.config
    import botocore.session

    core = botocore.session.Session()
    core.set_default_client_config(botocore.config.Config(read_timeout=7))
    core.set_credentials("AKIDOWN", "hush")
    given: dict[str, Any] = {"botocore_session": core}
    if kind == "boto3":
        given = {"boto3_session": boto3.Session(botocore_session=core, region_name="eu-west-3")}
    for connection in (S3Connection(region="eu-west-3", **given), S3Connection(region="eu-west-3", **given)):
        assert connection.client.meta.config.read_timeout == 7
        assert connection.client.meta.config.max_pool_connections == 64
        assert connection.session.get_credentials().access_key == "AKIDOWN"
        assert connection.origin == "s3"
        assert not hasattr(os, "fork") or in_forked_child(
            lambda made=connection: made.client.meta.config.read_timeout == 7  # type: ignore[misc]
        )


def test_clients_share_the_models_of_the_api_unless_they_are_told_to_look_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def connection() -> S3Connection:
        return S3Connection(aws_access_key_id="key", aws_secret_access_key="secret", region="us-east-1")

    _ = connection().client
    parsed: list[str] = []
    load = JSONFileLoader.load_file

    def noted(self: Any, path: str) -> Any:
        parsed.append(path)
        return load(self, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", noted)
    _ = connection().client
    assert not parsed
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    _ = connection().client
    assert parsed
