"""Azurite, Microsoft's own emulator of Azure Blob Storage, on a free port of 127.0.0.1: `azurite()`.

It comes from npm (``scripts/devtools/environment.py`` puts it beside the environment's Python). A developer points
the tests at another one with ``CASSTORE_TEST_AZURITE`` (the program), or at another server with
``CASSTORE_TEST_AZURE_CONNECTION_STRING``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.harness import supervisor
from tests.harness.servers import ServerStartError, _stop, _supervise, free_ports

_EXTERNAL_VARIABLE: Final = "CASSTORE_TEST_AZURE_CONNECTION_STRING"
_PROGRAM_VARIABLE: Final = "CASSTORE_TEST_AZURITE"
_START_TIMEOUT: Final = 900.0
"""Seconds; Node takes six to load Azurite from a cold disk."""
_TRIES: Final = 5

ACCOUNT: Final = "devstoreaccount1"
KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The published key of every emulator."""


class NoAzuriteError(ServerStartError):
    """Azurite, or the Node.js that runs it, is not installed here."""


@dataclass(frozen=True, slots=True)
class AzureServer:
    """Where an Azure Blob server listens (*endpoint*, without the account) and how to log in to it."""

    endpoint: str
    account: str
    key: str
    name: str

    def account_url(self, endpoint: str | None = None) -> str:
        """The URL of the account; *endpoint* is that of a proxy in front."""
        return f"{endpoint or self.endpoint}/{self.account}"

    def connection_string(self, endpoint: str | None = None) -> str:
        """Everything in one text, as users have it."""
        return f"AccountName={self.account};AccountKey={self.key};BlobEndpoint={self.account_url(endpoint)}"

    def client(self, endpoint: str | None = None) -> Any:
        """A raw `BlobServiceClient`, for planting fixtures around the code under test; without retries."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection_string(endpoint), retry_total=0)

    def new_container(self, stem: str = "t") -> str:
        """Create a container with a name that nobody else has and return the name."""
        name = f"{stem}-{uuid.uuid4().hex[:12]}"
        with self.client() as client:
            client.create_container(name)
        return name


@contextlib.contextmanager
def azurite(*arguments: str) -> Iterator[AzureServer]:
    """An Azurite that keeps everything in memory, or the server that the environment names. Raises ServerStartError.

    With *arguments* always one of our own; ``--cert`` (and ``--key``) make it speak TLS.
    """
    external = os.environ.get(_EXTERNAL_VARIABLE)
    if external and not arguments:
        yield _external(external)
        return
    command = find_azurite()
    for attempt in range(_TRIES):
        directory = Path(tempfile.mkdtemp(prefix="casstore-azurite-"))
        (port,) = free_ports(1)
        process = _supervise(directory, [*command, *_options(port), *arguments], _environment(directory), leftovers=[])
        scheme = "https" if "--cert" in arguments else "http"
        server = AzureServer(f"{scheme}://127.0.0.1:{port}", ACCOUNT, KEY, "azurite")
        try:
            _await_answer(server, process, directory)
        except BaseException as error:
            _stop(process, directory)
            if isinstance(error, ServerStartError) and "EADDRINUSE" in str(error) and attempt + 1 < _TRIES:
                continue
            raise
        break
    else:
        raise AssertionError("unreachable")
    try:
        yield server
    finally:
        _stop(process, directory)


def _external(text: str) -> AzureServer:
    settings = {name.lower(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    endpoint, _, account = settings["blobendpoint"].rstrip("/").rpartition("/")
    return AzureServer(endpoint, account, settings["accountkey"], "external")


def find_azurite() -> Sequence[str]:
    """What starts it. Raises NoAzuriteError."""
    given = os.environ.get(_PROGRAM_VARIABLE)
    if given:
        return [given]
    node, beside = shutil.which("node"), Path(sys.prefix) / "node/node_modules/.bin/azurite-blob"
    if node is not None and beside.exists():
        return [node, str(beside.resolve())]
    on_path = shutil.which("azurite-blob")
    if on_path is None:
        raise NoAzuriteError(
            "no Azurite: install Node.js 20 (with npm) and start this script again, or name an `azurite-blob` by "
            f"{_PROGRAM_VARIABLE}"
        )
    return [on_path]


def _options(port: int) -> list[str]:
    return [
        "--inMemoryPersistence",
        "--extentMemoryLimit",
        "2048",
        "--silent",
        "--disableTelemetry",
        # The SDK speaks versions that the emulator has not heard of yet.
        "--skipApiVersionCheck",
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
    ]


def _environment(directory: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "TMPDIR": str(directory)}


def _await_answer(server: AzureServer, process: Any, directory: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            path = directory / supervisor.LOG_NAME
            log = path.read_bytes()[-2000:].decode(errors="replace") if path.exists() else ""
            state = "ended" if process.poll() is not None else "did not answer in time"
            raise ServerStartError(f"Azurite {state}; its log ends:\n{log}")
        try:
            server.new_container("ready")
        except Exception:  # noqa: BLE001 - whatever a server that is half up answers; the deadline above ends it
            time.sleep(0.1)
        else:
            return
