"""How the commands reach Google and Azure: options and variables, run as a process, as a user does."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pathapi.exceptions import MissingCredentialsError
from tests.harness.azure_servers import AzureServer
from tests.harness.servers import GCSServer
from tests.harness.warm_command import RunCasstore
from tests.pathapi.support.azure import azure_ground, prefix
from tests.pathapi.support.raw_buckets import AzureRawBucket

__all__ = ["azure_ground", "prefix"]

Casstore = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def casstore(environment: dict[str, str], run_casstore: RunCasstore) -> Casstore:
    def call(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return run_casstore(*arguments, env=environment)

    return call


def got(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """What ``get --json`` of one object says; its bytes were read."""
    assert (done.returncode, done.stderr) == (0, b"")
    facts: dict[str, Any] = json.loads(done.stdout)
    return {**facts, "bytes": Path(facts["path"]).read_bytes()}


def test_get_reads_gcs_at_an_endpoint(casstore: Casstore, gcs: GCSServer, gcs_bucket: str) -> None:
    gcs.client().bucket(gcs_bucket).blob("cli/a").upload_from_string(b"content")
    facts = got(casstore("get", "--json", "--endpoint-url", gcs.endpoint, f"gs://{gcs_bucket}/cli/a"))
    assert (facts["bytes"], facts["origin"]) == (b"content", gcs.endpoint.replace("http://", "gs@"))


def test_the_google_credentials_file_must_exist_and_be_valid(
    casstore: Casstore, gcs: GCSServer, tmp_path: Path
) -> None:
    options = ["--endpoint-url", gcs.endpoint, "--credentials"]
    done = casstore("get", *options, str(tmp_path / "none.json"), "gs://bucket/a")
    assert done.returncode == 2
    assert b"none.json" in done.stderr
    # One that is no such file is looked at, and not passed over for an anonymous request.
    (tmp_path / "bad.json").write_text("{}")
    done = casstore("get", *options, str(tmp_path / "bad.json"), "gs://bucket/a")
    assert done.returncode == 1
    assert b"bad.json" in done.stderr


def test_a_public_gcs_object_is_read_without_a_search_for_credentials(
    casstore: Casstore, environment: dict[str, str], gcs: GCSServer, gcs_bucket: str
) -> None:
    gcs.client().bucket(gcs_bucket).blob("cli/b").upload_from_string(b"public")
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = "/nonexistent"
    options = ["--json", "--no-sign-request", "--endpoint-url", gcs.endpoint]
    assert got(casstore("get", *options, f"gs://{gcs_bucket}/cli/b"))["bytes"] == b"public"


def test_a_blob_is_read_with_the_credentials_of_the_environment(
    casstore: Casstore,
    environment: dict[str, str],
    azurite: AzureServer,
    azure_ground: AzureRawBucket,
    prefix: str,
) -> None:
    azure_ground.plant("a", b"content")
    uri = f"az://{azure_ground.bucket}/{prefix}a"
    environment["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string()
    facts = got(casstore("get", "--json", "--account-url", azurite.account_url(), uri))
    assert (facts["bytes"], facts["was_held"]) == (b"content", False)
    assert got(casstore("get", "--json", uri))["was_held"] is True
    # Those of another account are not sent to this one.
    done = casstore("get", "--account-url", "http://127.0.0.1:1/other", uri)
    assert done.returncode == 1
    assert b"http://127.0.0.1:1/other: no credentials were found" in done.stderr


def test_a_public_container_is_read_without_credentials(
    casstore: Casstore, environment: dict[str, str], azurite: AzureServer
) -> None:
    from azure.storage.blob import PublicAccess

    container = azurite.new_container("public")
    raw = azurite.client().get_container_client(container)
    raw.set_container_access_policy({}, public_access=PublicAccess.BLOB)
    raw.upload_blob("a", b"public")
    uri = f"az://{container}/a"
    options = ["--json", "--no-sign-request"]
    assert got(casstore("get", *options, "--account-url", azurite.account_url(), uri))["bytes"] == b"public"
    environment["AZURE_STORAGE_ACCOUNT_URL"] = azurite.account_url()
    assert got(casstore("get", *options, uri))["was_held"] is True


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--account-url", "https://a.blob.core.windows.net", "s3://b/k"], "--account-url is for az:// URIs"),
        (["--credentials", __file__, "az://c/b"], "--credentials is for gs:// URIs"),
        (["--endpoint-url", "http://a:1", "az://c/b"], "--endpoint-url is for s3:// and gs:// URIs"),
        (["--no-sign-request", "file:///a"], "--no-sign-request is for s3://, gs:// and az:// URIs"),
        (["--no-sign-request", "az://c/b"], "needs --account-url"),
        (["--account-url", "nonsense", "az://c/b"], "malformed"),
        (["--endpoint-url", "nonsense", "gs://b/k"], "http://host:port"),
        (["--endpoint-url", "http://a:1", "gs://b/k", "s3://b/k"], "both an s3:// and a gs:// server"),
    ],
)
def test_an_option_that_does_not_apply_is_wrong_usage(casstore: Casstore, arguments: list[str], says: str) -> None:
    done = casstore("get", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert says in done.stderr.decode()


def test_without_an_account_the_error_names_the_option(casstore: Casstore) -> None:
    done = casstore("get", "az://container/blob")
    assert done.returncode == 1
    assert b"--account-url" in done.stderr and b"AZURE_STORAGE_CONNECTION_STRING" in done.stderr
    assert b"connection_string" not in done.stderr


def test_a_write_to_another_account_is_pushed_with_the_option_in_the_error(
    casstore: Casstore, environment: dict[str, str], azurite: AzureServer, azure_ground: AzureRawBucket, prefix: str
) -> None:
    uri = f"az://{azure_ground.bucket}/{prefix}k"
    code = (
        "import sys; from pathapi import AzureBlobClient\n"
        "client = AzureBlobClient(connection_string=sys.argv[1], conditional_writes='off')\n"
        "file = client.AzureBlobPath(sys.argv[2]).open('xb')\n"
        "file.write(b'pending'); client.backend(sys.argv[3]).write = None\n"
        "file.close()"
    )
    arguments = [azurite.connection_string(), uri, azure_ground.bucket]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True)
    assert b"TypeError" in done.stderr
    other = "DefaultEndpointsProtocol=https;AccountName=other;AccountKey=a2V5"
    environment["AZURE_STORAGE_CONNECTION_STRING"] = other
    done = casstore("push", uri)
    assert done.returncode == 1
    assert f"use --account-url {azurite.account_url()}" in done.stderr.decode()
    environment["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string()
    done = casstore("push", "--account-url", azurite.account_url(), uri)
    assert (done.returncode, done.stderr) == (0, b"")
    assert azure_ground.content("k") == b"pending"


def test_an_error_has_its_fix_in_python_and_for_the_command_line() -> None:
    """Also in another process, and with more text at its end."""
    error = MissingCredentialsError("s3://b/k: no credentials", hint="use f(x=True)", shell_hint="use --x")
    error = pickle.loads(pickle.dumps(error))
    assert str(error) == "s3://b/k: no credentials: use f(x=True)"
    assert error.shell_message == "s3://b/k: no credentials: use --x"
    longer = error.extended(". Kept", hint="push()", shell_hint="`casstore push`")
    assert str(longer) == "s3://b/k: no credentials: use f(x=True). Kept: push()"
    assert longer.shell_message == "s3://b/k: no credentials: use --x. Kept: `casstore push`"
    assert MissingCredentialsError("no fix").shell_message is None
