"""Azure's keys, signatures and connection strings are found nowhere; what `test_secrets` proves for S3."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest

from casstore.cli.main import run
from pathapi import AzureBlobClient, prefetch
from pathapi.backends.azure.connection import AzureConnection
from tests.harness.azure_servers import AzureServer
from tests.pathapi.support.azure import MakeAzureClient, azure_ground, make_azure_client, prefix
from tests.pathapi.support.raw_buckets import AzureRawBucket
from tests.pathapi.test_secrets import MARK, caught, found_in_files, shown, told

__all__ = ["azure_ground", "make_azure_client", "prefix"]

PLANTED_KEY = f"{MARK}{MARK}"
"""Base64 as a key has to be."""
assert len(PLANTED_KEY) % 4 == 0


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)


def _signature(azurite: AzureServer) -> str:
    from azure.storage.blob import generate_account_sas

    signature: str = generate_account_sas(
        azurite.account, azurite.key, "sco", "rwdlac", datetime.now(UTC) + timedelta(hours=1)
    )
    return signature


LOGINS: dict[str, Callable[[str, str, AzureServer], dict[str, Any]]] = {
    "connection string": lambda url, sas, server: {
        "connection_string": f"AccountName={server.account};AccountKey={server.key};BlobEndpoint={url}"
    },
    "key": lambda url, sas, server: {"account_url": url, "credential": server.key},
    "signature": lambda url, sas, server: {"account_url": url, "credential": sas},
    "signed URL": lambda url, sas, server: {"account_url": f"{url}?{sas}"},
    "signed string": lambda url, sas, server: {"connection_string": f"BlobEndpoint={url};SharedAccessSignature={sas}"},
}


@pytest.mark.parametrize("login", LOGINS)
def test_a_secret_reaches_neither_the_store_nor_a_log_nor_a_repr_nor_a_pickle(
    login: str,
    azurite: AzureServer,
    make_azure_client: MakeAzureClient,
    azure_ground: AzureRawBucket,
    shared_container: str,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG, "casstore")
    caplog.set_level(logging.DEBUG, "pathapi")
    sas = _signature(azurite)
    (signed,) = parse_qs(sas)["sig"]
    secrets = (azurite.key, signed, sas.partition("sig=")[2].partition("&")[0])
    azure_ground.plant("a", b"a" * 1000)
    azure_ground.plant("b/c", b"c" * 1000)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        settings = LOGINS[login](azurite.account_url(), sas, azurite)
        client = make_azure_client(**{"connection_string": None, **settings})
        root = client.AzureBlobPath(f"az://{shared_container}/{prefix}")
        (root / "new").write_bytes(b"new")
        (root / "new").rename(root / "newer")
        prefetch(root)
        seen: list[object] = [root, client, client.connection, client.connection.account, client.cache, client.origin]
        seen += [root / "a", (root / "a").read_bytes(), (root / "a").fspath, *root.iterdir(), client.reader]
        seen += [
            client.backend(shared_container),
            vars(client)["_arguments"],
            client.identity,
            caught((root / "no").read_bytes),
        ]
        client.cache.flush()
    texts = [shown(value) for value in seen] + [told(seen[-1])]  # type: ignore[arg-type]
    texts += [record.getMessage() for record in caplog.records if record.name.startswith(("casstore", "pathapi"))]
    texts += [str(warning.message) for warning in said]
    for command in (["info"], ["ls"], ["du", "--json"]):
        assert run(["--dir", str(client.cache.root), *command]) == 0
    out = capfd.readouterr()
    assert shared_container in out.out
    texts += [out.out, out.err]
    assert not [text for text in texts if any(secret in text for secret in secrets)]
    for directory, _, files in os.walk(client.cache.root):
        for name in files:
            data = Path(directory, name).read_bytes()
            assert not any(secret.encode() in data for secret in secrets), name
    for value in (root, client):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(value, protocol)
            assert not any(secret.encode() in pickled for secret in secrets)


class Telltale(BaseHTTPRequestHandler):
    """A server that refuses everything and quotes the whole request, as no decent one does."""

    def _refuse(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        path, _, query = self.path.partition("?")
        code = unquote((path.split("/") + ["", ""])[2]) or parse_qs(query).get("prefix", ["/"])[0].rstrip("/")
        quoted = f"{self.path} " + " ".join(f"{name}: {value};" for name, value in self.headers.items())
        quoted += f" key {PLANTED_KEY}" if "Authorization" in self.headers else ""
        quoted = quoted.replace("&", "&amp;").replace("<", "&lt;")
        body = (
            f"<?xml version='1.0' encoding='utf-8'?><Error><Code>{code}</Code><Message>{quoted}</Message>"
            f"<AuthenticationErrorDetail>{quoted}</AuthenticationErrorDetail></Error>"
        ).encode()
        self.send_response(int(code.rpartition("-")[2]) if code[-1:].isdigit() else 403, quoted[:200])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("x-ms-error-code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _refuse  # noqa: N815 (names that http.server looks for)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def telltale() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Telltale)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


CODES = ["AuthenticationFailed", "AuthorizationFailure", "InvalidUri-400", "Strange-400", "NotImplemented-501"]
CODES += ["BlobNotFound-404", "BlobArchived-409"]
PLANTED_SAS = f"sv=2024-01-01&ss=b&srt=sco&sp=rl&sig={MARK}%2F{MARK}%3D"
PLANTED: dict[str, Callable[[str], dict[str, Any]]] = {
    "key": lambda url: {"account_url": url, "credential": {"account_name": "acct", "account_key": PLANTED_KEY}},
    "signature": lambda url: {"account_url": url, "credential": PLANTED_SAS},
    "signed URL": lambda url: {"account_url": f"{url}?{PLANTED_SAS}"},
    "string": lambda url: {"connection_string": f"AccountName=acct;AccountKey={PLANTED_KEY};BlobEndpoint={url}"},
}


def _refused(client: AzureBlobClient) -> Iterator[BaseException]:
    for code in CODES:
        path = client.AzureBlobPath(f"az://container/{code}")
        backend = client.backend("container")
        works: list[Callable[[], object]] = [
            path.read_bytes,
            path.stat,
            lambda path=path: path.write_bytes(b"x"),  # type: ignore[misc]
            lambda path=path: list(path.iterdir()),  # type: ignore[misc]
            lambda backend=backend, code=code: backend.copy(code, code + "-target"),  # type: ignore[misc]
            lambda backend=backend, code=code: backend.delete([code, code + "2"]),  # type: ignore[misc]
        ]
        for work in works:
            try:
                work()
            except Exception as error:  # noqa: BLE001 (whatever it is, it is looked at)
                yield error


@pytest.mark.parametrize("login", PLANTED)
def test_a_server_that_quotes_the_request_is_not_quoted(
    login: str, make_azure_client: MakeAzureClient, telltale: str
) -> None:
    client = make_azure_client(**{"connection_string": None, **PLANTED[login](telltale)})
    errors = list(_refused(client))
    assert len(errors) > 20
    for error in errors:
        assert MARK not in told(error)
        assert "SharedKey acct:" not in told(error) or "SharedKey acct:***" in told(error)
        assert error.__cause__ is not None
        assert MARK.encode() not in pickle.dumps(error)
    assert found_in_files(client.cache.root) == []


def test_without_redaction_the_same_server_is_quoted(
    make_azure_client: MakeAzureClient, telltale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AzureConnection, "scrub", lambda _self, _error: None)
    client = make_azure_client(**{"connection_string": None, **PLANTED["key"](telltale)})
    assert any(MARK in told(error) for error in _refused(client))
