"""How Azure is logged in to: which settings win, what the origin is, and that no secret leaves."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from pathapi import AzureBlobClient
from pathapi.backends.azure.backend import AzureBackend, AzureConnection
from pathapi.backends.azure.connection import Login, origin_of
from pathapi.exceptions import InvalidConfigurationException, MissingCredentialsError, MissingDependenciesError
from pathapi.testing import in_forked_child, read
from tests.harness.azure_servers import AzureServer
from tests.pathapi.support.raw_buckets import AzureRawBucket, azure_connection_to

KEY = "UExBTlRFRDBTRUNSRVQ="
STRING = f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net"
URL = "https://acct.blob.core.windows.net"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({"account_url": URL}, "azure@acct.blob.core.windows.net"),
        ({"account_url": URL + "/"}, "azure@acct.blob.core.windows.net"),
        ({"account_url": URL + ":443/?sv=1&sig=hush"}, "azure@acct.blob.core.windows.net"),
        ({"account_url": "https://acct.dfs.core.windows.net"}, "azure@acct.blob.core.windows.net"),
        ({"account_url": "HTTPS://Acct.Blob.core.windows.net"}, "azure@acct.blob.core.windows.net"),
        ({"account_url": "http://user:hush@127.0.0.1:10000/dev/"}, "azure@127.0.0.1:10000/dev"),
        ({"account_url": "https://blobs.example.com/acct"}, "azure@blobs.example.com:443/acct"),
        ({"account_url": "http://[::1]:10000/dev"}, "azure@[::1]:10000/dev"),
        ({"connection_string": STRING}, "azure@acct.blob.core.windows.net"),
        ({"connection_string": f"AccountName=acct;AccountKey={KEY};"}, "azure@acct.blob.core.windows.net"),
        (
            {"connection_string": f"AccountName=acct;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn"},
            "azure@acct.blob.core.chinacloudapi.cn",
        ),
        ({"connection_string": "BlobEndpoint=http://a:1/dev;SharedAccessSignature=sv=1&sig=hush"}, "azure@a:1/dev"),
        ({"connection_string": "UseDevelopmentStorage=true"}, "azure@127.0.0.1:10000/devstoreaccount1"),
        ({"connection_string": STRING, "account_url": "https://other.blob.core.windows.net"}, origin_of(URL)),
    ],
)
def test_the_origin_is_the_account_and_holds_no_secret(settings: dict[str, Any], origin: str) -> None:
    connection = AzureConnection(**settings)
    assert connection.origin == origin
    assert "hush" not in repr(connection) + repr(connection.account) and KEY not in repr(connection)
    # The SDK means the same account.
    url = connection.service_client.primary_endpoint.partition("?")[0]
    assert origin_of(url) == origin


def test_an_argument_beats_the_environment_and_a_string_there_an_url_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", "https://byurl.blob.core.windows.net?sv=1&sig=hush")
    assert AzureConnection().origin == "azure@byurl.blob.core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", STRING)
    assert AzureConnection().origin == "azure@acct.blob.core.windows.net"
    assert AzureConnection(account_url="https://given.blob.core.windows.net").origin.startswith("azure@given.")


def test_an_account_of_the_environment_is_asked_with_default_credentials_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", URL)
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(MissingCredentialsError, match="azure-identity"):
        AzureBackend(AzureConnection(), "container").read("a")

    class Identity:
        class DefaultAzureCredential:
            def get_token(self, *_: object, **__: object) -> None:
                raise AssertionError("not asked here")

    monkeypatch.setitem(sys.modules, "azure.identity", Identity)
    assert type(AzureConnection().service_client.credential).__name__ == "DefaultAzureCredential"


def test_without_any_setting_the_message_says_which_there_are() -> None:
    for attempt in (
        lambda: AzureConnection().origin,
        lambda: AzureBackend(AzureConnection(), "container").read("a"),
        AzureBlobClient,
    ):
        with pytest.raises(MissingCredentialsError, match="AZURE_STORAGE_CONNECTION_STRING"):
            attempt()


@pytest.mark.parametrize(
    "settings",
    [
        {"account_url": "acct.blob.core.windows.net"},
        {"account_url": "http://u:hush@host:port"},
        {"connection_string": "hush"},
        {"connection_string": f"AccountKey={KEY}"},
        {"account_url": "http://acct.blob.core.windows.net", "credential": object()},
    ],
)
def test_settings_that_mean_nothing_are_refused_and_not_quoted(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigurationException) as caught:
        AzureBackend(AzureConnection(**settings), "container").read("a")
    assert "hush" not in f"{caught.value}{caught.value.__cause__}" and KEY not in str(caught.value)


def test_a_key_that_is_no_key_says_so_and_is_not_quoted() -> None:
    with pytest.raises(MissingCredentialsError, match="base64") as caught:
        AzureBackend(AzureConnection(account_url=URL, credential="hush-hush-hush-a"), "container").read("a")
    assert "hush-hush" not in f"{caught.value}{caught.value.__cause__}"


def test_the_origin_is_known_without_the_sdk() -> None:
    program = (
        "import sys, pathapi; from pathapi import AzureBlobClient, AzureBlobPath, CloudPath;"
        "print(AzureBlobClient().origin, CloudPath('az://c/b'));"
        "assert not {'azure', 'requests', 'urllib3'} & set(sys.modules)"
    )
    variables = {**os.environ, "AZURE_STORAGE_CONNECTION_STRING": STRING}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "azure@acct.blob.core.windows.net az://c/b\n")


def test_without_the_sdk_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.storage.blob", None)
    with pytest.raises(MissingDependenciesError, match=r"pip install 'casstore\[azure\]'"):
        AzureBackend(AzureConnection(account_url=URL), "container").read("a")


def test_threads_make_one_client() -> None:
    connection = AzureConnection(account_url=URL)
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda _: connection.service_client, range(32)))
    assert {id(client) for client in clients} == {id(connection.service_client)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_makes_a_client_of_its_own_even_from_a_fork_under_the_lock() -> None:
    connection = AzureConnection(account_url=URL)
    parents = connection.service_client
    with connection._process.lock:
        assert in_forked_child(
            lambda: connection.service_client is not parents and connection.service_client is connection.service_client
        )
    assert connection.service_client is parents


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.parametrize("is_used", [True, False])
def test_a_forked_child_does_not_use_the_sockets_of_a_client_that_was_given(
    azurite: AzureServer, shared_container: str, is_used: bool
) -> None:
    service = azurite.client()
    AzureRawBucket(service, shared_container).plant("forked", b"x")
    backend = AzureBackend(AzureConnection(blob_service_client=service), shared_container)
    if is_used:
        assert read(backend, "forked") == b"x"
    assert in_forked_child(lambda: backend.connection.service_client is not service and read(backend, "forked") == b"x")
    assert backend.connection.service_client is service


def test_a_client_of_a_data_lake_logs_in_with_its_key(azurite: AzureServer, shared_container: str) -> None:
    """Its credential is a policy of the SDK, which no client takes again."""
    service = azurite.client()
    assert type(service.credential).__name__ == "SharedKeyCredentialPolicy"
    AzureRawBucket(service, shared_container).plant("lake", b"x")
    url = azurite.account_url().replace(".blob.", ".dfs.")
    connection = AzureConnection(data_lake_client=SimpleNamespace(primary_endpoint=url, credential=service.credential))
    assert read(AzureBackend(connection, shared_container), "lake") == b"x"


def test_a_client_of_the_users_own_is_used_as_it_is(azurite: AzureServer, shared_container: str) -> None:
    service = azurite.client()
    AzureRawBucket(service, shared_container).plant("own", b"x")
    connection = AzureConnection(blob_service_client=service)
    assert connection.service_client is service
    assert connection.origin == origin_of(azurite.account_url())
    assert read(AzureBackend(connection, shared_container), "own") == b"x"


def test_a_pickle_carries_the_account_and_finds_the_key_in_the_environment(
    azurite: AzureServer, shared_container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    AzureRawBucket(azurite.client(), shared_container).plant("pickled", b"x")
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    for connection in (azure_connection_to(azurite), AzureConnection(blob_service_client=azurite.client())):
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
        pickled = pickle.dumps(connection.plain_settings())
        assert azurite.key.encode() not in pickled
        copied = AzureConnection(**pickle.loads(pickled))
        assert (copied.origin, copied.credential) == (connection.origin, Login.ENVIRONMENT)
        with pytest.raises(MissingCredentialsError):
            AzureBackend(copied, shared_container).read("pickled")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", STRING)  # another account's is not taken
        with pytest.raises(MissingCredentialsError):
            AzureBackend(AzureConnection(**pickle.loads(pickled)), shared_container).read("pickled")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string())
        assert read(AzureBackend(AzureConnection(**pickle.loads(pickled)), shared_container), "pickled") == b"x"


def test_an_anonymous_connection_stays_one_in_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", STRING)
    copied = AzureConnection(**AzureConnection(account_url=URL).plain_settings())
    assert not copied.account.is_signed


def _tell(client: AzureBlobClient, answers: Any) -> None:
    answers.put((client.connection.connection_string, client.origin, KEY.encode() in pickle.dumps(client)))


def test_secrets_travel_to_a_child_that_is_being_spawned_and_no_further() -> None:
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    child = spawn.Process(target=_tell, args=(AzureBlobClient(connection_string=STRING), answers))
    child.start()
    told = answers.get(timeout=1_000)
    child.join()
    assert told == (STRING, "azure@acct.blob.core.windows.net", False)


def test_a_line_of_netrc_does_not_take_the_place_of_the_signature(
    azurite: AzureServer, shared_container: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    backend = AzureBackend(azure_connection_to(azurite), shared_container)
    assert list(backend.list("netrc/")) == []
