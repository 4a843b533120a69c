"""Logging in to Google Cloud Storage: where credentials and the endpoint come from, and what shows of them."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pathapi.backends.gs.backend import GSBackend
from pathapi.backends.gs.connection import GSConnection, origin_of
from pathapi.exceptions import InvalidConfigurationException, MissingDependenciesError
from pathapi.testing import in_forked_child

MARK = "PLANTED0SECRET"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE", "GOOGLE_CLOUD_PROJECT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def credentials(token: str = MARK) -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials(token, refresh_token=f"{MARK}-refresh", client_id="id", client_secret=f"{MARK}-client")


def user_file(path: Path) -> Path:
    told = {"type": "authorized_user", "client_id": "id", "client_secret": MARK, "refresh_token": MARK}
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://storage.googleapis.com", "gs"),
        ("https://STORAGE.googleapis.com/", "gs"),
        ("https://storage-vialink1.p.googleapis.com", "gs"),
        ("http://storage.googleapis.com", "gs@storage.googleapis.com:80"),
        ("https://storage.googleapis.com.example.org", "gs@storage.googleapis.com.example.org:443"),
        ("http://127.0.0.1:4443", "gs@127.0.0.1:4443"),
        ("http://user:word@LocalHost:1/", "gs@localhost:1"),
        ("http://[::1]:4443/below", "gs@[::1]:4443/below"),
    ],
)
def test_an_endpoint_has_one_origin(endpoint: str, origin: str) -> None:
    assert origin_of(endpoint) == origin
    assert GSConnection(endpoint_url=endpoint).origin == origin


@pytest.mark.parametrize(
    "endpoint", [f"host/{MARK}", f"ftp://user:{MARK}@host", f"http://host/?x={MARK}", f"http://u:{MARK}@host:port"]
)
def test_an_endpoint_without_a_host_is_refused_and_not_quoted(endpoint: str) -> None:
    with pytest.raises(InvalidConfigurationException) as caught:
        GSConnection(endpoint_url=endpoint)
    assert MARK not in str(caught.value)


def test_the_environment_names_the_endpoint_with_or_without_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GSConnection().origin == "gs"
    for written in ("http://127.0.0.1:9", "127.0.0.1:9", "http://127.0.0.1:9/"):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", written)
        connection = GSConnection()
        assert (connection.origin, connection.base_url) == ("gs@127.0.0.1:9", NOBODY)
    assert GSConnection(endpoint_url="http://127.0.0.1:8").origin == "gs@127.0.0.1:8"


def test_google_gets_what_google_auth_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(user_file(tmp_path / "found.json")))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "a-project")
    connection = GSConnection()
    assert connection.is_signed
    assert connection.base_url == "https://storage.googleapis.com"
    assert connection.client.project == "a-project"
    assert GSConnection(project="mine").client.project == "mine"


def test_another_server_gets_no_credentials_that_were_not_given_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = user_file(tmp_path / "found.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(found))
    assert not GSConnection(endpoint_url=NOBODY).is_signed
    assert GSConnection(endpoint_url=NOBODY, application_credentials=found).is_signed
    assert GSConnection(endpoint_url=NOBODY, credentials=credentials()).is_signed


def test_where_there_are_no_credentials_requests_are_anonymous() -> None:
    assert not GSConnection().is_signed


@pytest.mark.parametrize("content", ["{", f'{{"type": "service_account", "private_key": "{MARK}"}}', "{}", None])
@pytest.mark.parametrize("by", ["environment", "argument"])
def test_a_file_of_credentials_that_cannot_be_used_is_an_error_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, by: str
) -> None:
    file = tmp_path / "broken.json"
    if content is not None:
        file.write_text(content)
    if by == "environment":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    connection = GSConnection(application_credentials=file if by == "argument" else None)
    with pytest.raises(InvalidConfigurationException) as caught:
        GSBackend(connection, "bucket").head("key")
    assert MARK not in f"{caught.value}{caught.value.__cause__}"


def test_a_storage_client_of_the_users_own_is_used_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.cloud import storage

    own = storage.Client(project="p", credentials=credentials(), client_options={"api_endpoint": NOBODY})
    connection = GSConnection(storage_client=own)
    assert connection.client is own
    assert connection.origin == "gs@127.0.0.1:9"
    own = storage.Client(project="p", credentials=credentials())
    assert GSConnection(storage_client=own).origin == "gs"
    assert in_forked_child(lambda: connection.client is not own and connection.client._credentials.token == MARK)


def test_without_the_sdk_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("google"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependenciesError, match=r"casstore\[gs\]"):
        GSBackend(GSConnection(), "bucket").head("key")


def test_origin_and_paths_need_no_sdk() -> None:
    code = (
        "import sys, pathapi; client = pathapi.GSClient(); path = client.GSPath('gcs://b/k');"
        "assert (client.origin, str(path), path.bucket, path.blob) == ('gs', 'gs://b/k', 'b', 'k');"
        "assert not {'google.cloud.storage', 'google.auth', 'requests', 'google_crc32c'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4], env={**os.environ})


def test_threads_make_one_client() -> None:
    connection = GSConnection(endpoint_url=NOBODY)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(client) for client in pool.map(lambda _: connection.client, range(32))}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_makes_a_client_of_its_own_even_from_a_fork_under_the_lock() -> None:
    connection = GSConnection(endpoint_url=NOBODY, credentials=credentials())
    parents = connection.client
    with connection._process.lock:
        assert in_forked_child(lambda: connection.client is not parents and connection.is_signed)
    assert connection.client is parents


def test_settings_are_pickled_with_a_client_and_secrets_are_not() -> None:
    from google.api_core.retry import Retry, if_exception_type

    connection = GSConnection(
        endpoint_url=f"http://user:{MARK}@127.0.0.1:9",
        project="p",
        timeout=3.0,
        credentials=credentials(),
        retry=Retry(if_exception_type(OSError)),
    )
    assert MARK not in repr(connection)
    assert MARK.encode() not in pickle.dumps(connection.plain_settings())
    again = GSConnection(**pickle.loads(pickle.dumps(connection.plain_settings())))
    assert (again.origin, again.project, again.timeout) == ("gs@127.0.0.1:9", "p", 3.0)
    assert not again.is_signed
    spawned = GSConnection(**pickle.loads(pickle.dumps(connection.plain_settings() | connection.secret_settings())))
    assert spawned.credentials.token == MARK


def test_a_retry_of_the_users_own_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.api_core.retry import Retry

    tries: list[BaseException] = []

    def once_more(error: BaseException) -> bool:
        tries.append(error)
        return len(tries) < 3

    connection = GSConnection(endpoint_url=NOBODY, retry=Retry(once_more, initial=0.001), timeout=5)
    with pytest.raises(ConnectionError):
        GSBackend(connection, "bucket").head("key")
    assert len(tries) == 3
