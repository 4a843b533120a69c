"""Planted secrets are found nowhere: not in the store, a log, a repr, a pickle, a message, a traceback or a warning.

Every secret holds `MARK`, so that one scan finds whichever got through; the scanner is first shown to find some.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import pickle
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import context as multiprocessing_context
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Key, Validator
from casstore.cli.main import run
from pathapi import CloudPath, S3Client, prefetch
from pathapi.backends.s3.backend import S3Backend
from pathapi.backends.s3.connection import S3Connection
from pathapi.exceptions import (
    CloudPathException,
    CloudUnavailableError,
    InvalidConfigurationException,
)
from pathapi.writing.opening import ReadOptions, read_request
from tests.harness.proxy import Proxy
from tests.pathapi.support.raw_buckets import S3RawBucket

MARK = "PLANTED0SECRET"
KEYS = {
    "aws_access_key_id": f"AKIA{MARK}KEYID",
    "aws_secret_access_key": f"{MARK}/access+key",
    "aws_session_token": f"{MARK}/session+token==",
}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def found_in_files(root: str | os.PathLike[str]) -> list[str]:
    """Files and directories at or below *root* that hold the mark, in their bytes or their names."""
    found = []
    for at, directories, files in os.walk(root):
        found += [os.path.join(at, name) for name in (*directories, *files) if MARK in name]
        found += [os.path.join(at, name) for name in files if MARK.encode() in Path(at, name).read_bytes()]
    return found


def shown(value: object) -> str:
    """All that Python shows of a value without being asked twice."""
    return f"{value!r} {value!s} {value:} {getattr(value, '__notes__', '')}"


def told(error: BaseException) -> str:
    """What a program, a log or a person sees of an error, with all that it was raised from."""
    return "".join(traceback.format_exception(error)) + shown(error) + repr(error.args)


def caught(work: Callable[[], object], kind: type[BaseException] = CloudPathException) -> BaseException:
    with pytest.raises(kind) as raised:
        work()
    return raised.value


# --- the scanner itself ---------------------------------------------------------------------------------------------


def test_the_scanner_finds_what_is_planted(tmp_path: Path) -> None:
    cache = casstore.open(tmp_path)

    def fill(uri: str, data: bytes) -> None:
        with cache.begin(Key(uri, "s3")) as filling:
            filling.write(data)
            stored = filling.publish(Validator(len(data), "e"), ())
        os.close(stored.descriptor)
        cache.flush()

    fill("s3://b/harmless", b"harmless")
    assert found_in_files(tmp_path) == []
    fill(f"s3://b/{MARK}", b"other")
    assert [os.path.basename(path) for path in found_in_files(tmp_path)] == ["data.mdb"]
    fill("s3://b/in the bytes", MARK.encode())
    (tmp_path / "leases" / f"x{MARK}").mkdir()
    assert len(found_in_files(tmp_path)) == 3
    cache.close()
    try:
        raise ValueError(MARK)
    except ValueError as error:
        outer = RuntimeError("harmless")
        outer.__cause__ = error
    assert MARK in told(outer)


# --- the store, logs, reprs, warnings, commands ---------------------------------------------------------------------


def _by_arguments(_: pytest.MonkeyPatch) -> dict[str, Any]:
    return {**KEYS, "extra_args": {"ACL": "private"}}


def _by_environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name.upper(), value)
    return {}


def _by_session(_: pytest.MonkeyPatch) -> dict[str, Any]:
    import boto3

    return {"boto3_session": boto3.Session(**KEYS, region_name="us-east-1")}


def _by_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    lines = [f"{name} = {value}" for name, value in KEYS.items()]
    path = Path(os.environ["PYTEST_SECRETS_FILE"])
    path.write_text("\n".join(["[planted]", *lines]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return {"profile_name": "planted"}


Login = Callable[[pytest.MonkeyPatch], dict[str, Any]]
every_login = pytest.mark.parametrize("login", [_by_arguments, _by_environment, _by_session, _by_file])


@pytest.fixture
def make(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., S3Client]]:
    """Clients whose keys, and whose endpoint's user and password, are secrets; the server takes any."""
    monkeypatch.setenv("PYTEST_SECRETS_FILE", str(tmp_path_factory.mktemp("elsewhere") / "credentials"))
    made: list[S3Client] = []

    def make(login: Login, **arguments: Any) -> S3Client:
        endpoint = proxy.endpoint.replace("://", f"://user{MARK}:{MARK}%2F@")
        settings = {"region": "us-east-1", "endpoint_url": endpoint, "local_cache_dir": tmp_path / "store"}
        made.append(S3Client(**{**settings, **login(monkeypatch), **arguments}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
        client.client.close()


def _use(client: S3Client, ground: S3RawBucket, at: str) -> list[object]:
    """Everything that leaves traces: reads, writes, listings, views, a conflict, an absence; all that came back."""
    ground.plant(at + "a", b"a" * 1000)
    ground.plant(at + "b/c", b"c" * 1000)
    root: CloudPath = client.CloudPath(f"s3://{ground.bucket}/{at}")
    path = root / "a"
    assert path.read_bytes() == b"a" * 1000
    with (root / "new").open("wb") as file:
        file.write(b"new")
        seen: list[object] = [file]
    prefetch(root)
    children = list(root.iterdir())
    local = path.fspath
    lines = [repr(child.stat()) for child in children if child.is_file()]
    with path.open("rb") as reading:
        seen += [reading, reading.name]
    seen += [
        root,
        path,
        client,
        client.connection,
        client.backend(ground.bucket),
        client.cache,
        client.reader,
        path.info,
    ]
    seen += [local, lines, children, client.origin, client.policy, client.listings, vars(client)["_arguments"]]
    seen += [
        path._store_key(),
        read_request(path.location, ReadOptions()),
        path.location,
        client.cache.lease,
        client.cache.settings,
    ]
    seen.append(caught((root / "missing").read_bytes))
    client.cache.lease.report_progress(path._store_key().name, 1)
    (root / "new").unlink()
    client.cache.flush()
    return seen


@every_login
def test_a_secret_reaches_neither_the_store_nor_a_log_nor_a_repr(
    login: Login,
    make: Callable[..., S3Client],
    ground: S3RawBucket,
    at: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG, "casstore")
    caplog.set_level(logging.DEBUG, "pathapi")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        client = make(login)
        seen = _use(client, ground, at)
    for value in seen:
        assert MARK not in shown(value)
        if isinstance(value, BaseException):
            assert MARK not in told(value)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("casstore", "pathapi"))]
    assert MARK not in "".join(ours) + "".join(str(warning.message) for warning in said)
    store = client.cache.root
    assert found_in_files(store) == []
    capfd.readouterr()
    for command in (["info"], ["ls"], ["du"], ["info", "--json"], ["ls", "--json"], ["du", "--json"]):
        assert run(["--dir", store, *command]) == 0
    out = capfd.readouterr()
    assert ground.bucket in out.out
    assert MARK not in out.out + out.err


@every_login
def test_a_pickle_or_a_copy_holds_no_secret(
    login: Login, make: Callable[..., S3Client], ground: S3RawBucket, at: str
) -> None:
    ground.plant(at + "a", b"a")
    client = make(login, extra_args={"SSECustomerKey": MARK, "RequestPayer": "requester", "SSEKMSKeyId": "kms"})
    path = client.CloudPath(f"s3://{ground.bucket}/{at}a")
    pickled: list[object] = [path, client, [path.parent, {"client": client}]]
    for unpicklable in (client.connection, S3Backend(client.connection, ground.bucket)):
        with pytest.raises(TypeError, match="may contain keys: pickle a client or a path instead"):
            pickle.dumps(unpicklable)
    for value in pickled:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert MARK.encode() not in pickle.dumps(value, protocol)
    assert copy.deepcopy(path).client is client
    assert client.connection.plain_settings()["extra_args"] == {"RequestPayer": "requester", "SSEKMSKeyId": "kms"}


def _tell_secrets(path: CloudPath, answers: Any) -> None:
    connection = path.client.connection  # type: ignore[attr-defined]
    answers.put([getattr(connection, name) for name in KEYS] + [connection.endpoint_url])
    answers.put(MARK.encode() in pickle.dumps([path, path.client]))


def test_secrets_travel_to_a_child_that_is_being_spawned_and_no_further(make: Callable[..., S3Client]) -> None:
    path = make(_by_arguments).CloudPath("s3://bucket/key")
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    child = spawn.Process(target=_tell_secrets, args=(path, answers))
    child.start()
    told_by_child, carries = answers.get(timeout=1_000), answers.get(timeout=1_000)
    child.join()
    assert told_by_child[:3] == [*KEYS.values()]
    assert MARK not in told_by_child[3]
    assert not carries


def test_another_thread_pickles_no_secret_while_one_spawns(make: Callable[..., S3Client]) -> None:
    client = make(_by_arguments)
    pickled: dict[str, bytes] = {}

    def pickle_it(name: str) -> None:
        pickled[name] = pickle.dumps(client)

    multiprocessing_context.set_spawning_popen(object())  # type: ignore[arg-type]
    try:
        thread = threading.Thread(target=pickle_it, args=("other",))
        thread.start()
        thread.join()
        pickle_it("own")
    finally:
        multiprocessing_context.set_spawning_popen(None)
    assert (MARK.encode() in pickled["own"], MARK.encode() in pickled["other"]) == (True, False)


# --- errors ---------------------------------------------------------------------------------------------------------


class Telltale(BaseHTTPRequestHandler):
    """A server that refuses everything and quotes the whole request, as no decent one does."""

    def _refuse(self) -> None:
        quoted = " ".join(f"{name}: {value};" for name, value in self.headers.items()).replace("&", "&amp;")
        code = self.path.split("/")[2].split("?")[0]
        body = (
            f"<Error><Code>{code}</Code><Message>{self.path.replace('&', '&amp;')} {quoted} key {MARK}/access+key"
            f"</Message><CanonicalRequest>{quoted}</CanonicalRequest><StringToSign>{quoted}</StringToSign></Error>"
        ).encode()
        self.send_response(int(code.rpartition("-")[2]) if code[-1].isdigit() else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _refuse  # noqa: N815 (names that http.server looks for)

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


CODES = ["AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "AuthorizationHeaderMalformed"]
CODES += ["PermanentRedirect", "Strange-400", "InvalidBucketName-400", "NotImplemented-501", "NoSuchKey-404"]


@every_login
def test_a_server_that_quotes_the_request_is_not_quoted(
    login: Login, make: Callable[..., S3Client], telltale: str
) -> None:
    client = make(login, endpoint_url=telltale)
    for code in CODES:
        path = client.CloudPath(f"s3://bucket/{code}")
        works: list[Callable[[], object]] = [
            path.read_bytes,
            path.stat,
            lambda path=path: path.write_bytes(b"x"),  # type: ignore[misc]
            lambda path=path: list(path.iterdir()),  # type: ignore[misc]
        ]
        for work in works:
            error = caught(work)
            assert MARK not in told(error)
            assert error.__cause__ is not None
            assert MARK.encode() not in pickle.dumps(error)
    assert found_in_files(client.cache.root) == []


def test_without_redaction_the_same_server_is_quoted(
    make: Callable[..., S3Client], telltale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Connection, "scrub", lambda _self, _error: None)
    client = make(_by_arguments, endpoint_url=telltale)
    assert MARK in told(caught(client.CloudPath("s3://bucket/AccessDenied").read_bytes))


def test_what_the_sdk_quotes_of_its_settings_is_not_told(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.close()
    nobody = proxy.endpoint

    def read(**settings: Any) -> BaseException:
        keys = {"region": "us-east-1", **KEYS, **settings}
        return caught(lambda: S3Backend(S3Connection(connect_timeout=5.0, **keys), "bucket").read("key"))

    unreachable = nobody.replace("://", f"://user:{MARK}@")
    assert isinstance(read(endpoint_url=unreachable), CloudUnavailableError)
    errors = [read(endpoint_url=unreachable)]
    # What cannot stand in a header is quoted by the standard library.
    for name in ("aws_access_key_id", "aws_session_token"):
        errors.append(read(endpoint_url=nobody, **{name: KEYS[name] + "\n"}))
        errors.append(read(endpoint_url=nobody, **{name: f"short\n{MARK}"}))
    monkeypatch.setenv("AWS_ENDPOINT_URL", unreachable)
    errors.append(read())
    for endpoint in (f"{nobody}/?X-Amz-Signature={MARK}", f"user:{MARK}@host", f"http://u:{MARK}@host:port"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        errors.append(read())
        assert isinstance(errors[-1], InvalidConfigurationException)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for text in (f"aws_secret_access_key = {MARK}", f"[default]\naws_secret_access_key {MARK}"):
        (tmp_path / "credentials").write_text(text)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        errors.append(read(**dict.fromkeys(KEYS)))
    for error in errors:
        assert MARK not in told(error)
        assert error.__suppress_context__ or error.__cause__ is not None or error.__context__ is None


@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://user:pa/{MARK}@host",
        f"http://user:{MARK}@host:port",
        f"user:{MARK}@host",
        f"ftp://user:{MARK}@host",
        f"http://user:{MARK}@host\u2100",
        f"http://host/bucket/key?X-Amz-Signature={MARK}",
        f"http://host/#{MARK}",
    ],
)
def test_a_malformed_endpoint_is_not_quoted(endpoint: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = caught(lambda: S3Client(endpoint_url=endpoint), InvalidConfigurationException)
    assert MARK not in told(error)
    assert run(["--dir", str(tmp_path / "store"), "get", "--endpoint-url", endpoint, "s3://bucket/key"]) == 2
    out = capfd.readouterr()
    assert MARK not in out.out + out.err


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{MARK}@bucket/key",
        f"s3://AKIA:a/{MARK}@bucket/key",
        f"gs+signed://bucket/key?X-Goog-Signature={MARK}",
        f"https:/bucket.s3.amazonaws.com/key?Signature={MARK}",
    ],
)
def test_a_uri_that_signs_or_logs_in_is_not_quoted(uri: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert MARK not in told(caught(lambda: CloudPath(uri)))
    store = tmp_path / "store"
    casstore.open(store).close()
    for command in ("get", "prefetch"):
        assert run(["--dir", str(store), command, uri]) == 2
    out = capfd.readouterr()
    assert MARK not in out.out + out.err
    assert found_in_files(store) == []


def test_an_error_of_a_group_of_keys_is_redacted_too(make: Callable[..., S3Client], telltale: str) -> None:
    backend = make(_by_arguments, endpoint_url=telltale).backend("bucket")
    assert MARK not in told(caught(lambda: backend.delete(["a", "b"])))
