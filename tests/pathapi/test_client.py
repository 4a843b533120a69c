"""Clients: what their arguments mean, who is the default, what a pickle carries, and how long entries are kept."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import context
from pathlib import Path
from typing import Any

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials

import casstore
import pathapi
from pathapi import AzureBlobClient, CloudPath, FileClient, FilePath, GSClient, HttpClient, S3Client, S3Path
from pathapi.enums import FileCacheMode
from pathapi.exceptions import ClientMismatchError, InvalidConfigurationException, MissingCredentialsError
from tests.harness.proxy import Proxy
from tests.pathapi.support.raw_buckets import S3RawBucket

KEY, SECRET, TOKEN = "AKIA-THE-KEY-ID", "THE-SECRET-ACCESS-KEY", "THE-SESSION-TOKEN"


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "choices"),
    [
        ("dedup_by_checksum", "sometimes", "'origin', 'all', 'off'"),
        ("conditional_writes", "maybe", "'auto', 'require', 'off'"),
        ("views", "hardlink", "'auto', 'copy', 'link'"),
        ("file_cache_mode", "forever", "'persistent', 'tmp_dir', 'cloudpath_object', 'close_file'"),
        ("freshness", "sometimes", "'always', 'immutable', 'offline' or a number of seconds"),
        ("freshness", -1, "'always', 'immutable', 'offline'"),
        ("freshness", float("nan"), "'always', 'immutable', 'offline'"),
        ("freshness", True, "'always', 'immutable', 'offline'"),
        ("freshness", [], "'always', 'immutable', 'offline'"),
        ("freshness", {"s3://b/": None}, "'always', 'immutable', 'offline'"),
    ],
)
def test_an_argument_that_means_nothing_is_refused_with_the_choices(argument: str, value: Any, choices: str) -> None:
    with pytest.raises(InvalidConfigurationException) as caught:
        FileClient(**{argument: value})
    assert choices in str(caught.value)
    assert repr(value if not isinstance(value, dict) else None) in str(caught.value)


def test_a_client_of_another_cloud_is_refused() -> None:
    with pytest.raises(ClientMismatchError, match="FilePath: use a client of type FileClient, not S3Client"):
        FilePath("file:///a", client=S3Client())
    with pytest.raises(ClientMismatchError):
        CloudPath("s3://bucket/key", client=FileClient())


def test_paths_without_a_client_share_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathapi.client._default_clients", {})
    first, second = CloudPath("file:///a"), CloudPath("file:///b")
    assert first.client is second.client is FileClient.get_default_client()
    mine = FileClient(local_cache_dir=tmp_path)
    mine.set_as_default_client()
    assert CloudPath("file:///a").client is mine
    assert first.client is not mine
    assert CloudPath(CloudPath("file:///a", client=FileClient()) / "b").client is not mine


def test_the_environment_names_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in FileCacheMode:
        monkeypatch.setenv("CLOUDPATHLIB_FILE_CACHE_MODE", mode.value)
        assert FileClient().file_cache_mode is mode
    monkeypatch.setenv("CLOUDPATHLIB_FILE_CACHE_MODE", "forever")
    with pytest.raises(InvalidConfigurationException, match=r"CLOUDPATHLIB_FILE_CACHE_MODE: use one of .*'forever'"):
        FileClient()
    assert FileClient(file_cache_mode="persistent").file_cache_mode is FileCacheMode.persistent


def test_a_store_that_is_set_offline_makes_its_clients_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    casstore.open(tmp_path / "store").close()
    (tmp_path / "store/config.toml").write_text("offline = true\n")
    code = (
        "import sys; from pathapi import FileClient; from pathapi.exceptions import NotCachedError\n"
        "path = FileClient(local_cache_dir=sys.argv[1]).CloudPath('file://' + sys.argv[2])\n"
        "assert not path.exists()\n"
        "try: path.read_bytes()\n"
        "except NotCachedError: print('offline')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "a")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "offline\n"


def test_a_client_may_trust_the_directory_of_its_store(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    code = """
import sys, warnings; warnings.simplefilter("error")
from pathapi import FileClient
client = FileClient(local_cache_dir=sys.argv[1] + "/shared/store", trust_root=True if sys.argv[2:] else None)
print(client.CloudPath(f"file://{sys.argv[1]}/a").read_text(), client.cache.settings.trust_root)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert "every user can write to" in refused.stderr and "CASSTORE_TRUST_ROOT=1" in refused.stderr
    assert subprocess.run([*command, "trust"], capture_output=True, text=True).stdout == "1 True\n"
    trusting = {**os.environ, "CASSTORE_TRUST_ROOT": "1"}
    assert subprocess.run(command, capture_output=True, text=True, env=trusting).stdout == "1 True\n"


# --- pickling -------------------------------------------------------------------------------------------------------


def test_a_pickle_holds_the_configuration_and_no_secret(tmp_path: Path) -> None:
    client = S3Client(
        KEY,
        SECRET,
        TOKEN,
        endpoint_url="http://127.0.0.1:1",
        local_cache_dir=tmp_path,
        freshness=60,
        extra_args={"SSECustomerKey": "THE-CUSTOMER-KEY", "RequestPayer": "requester"},
    )
    path = client.CloudPath("s3://bucket/key")
    for text in (pickle.dumps(path), pickle.dumps(client)):
        for secret in (KEY, SECRET, TOKEN, "THE-CUSTOMER-KEY"):
            assert secret.encode() not in text
    assert pickle.loads(pickle.dumps(path)).client is client, "in its own process the client is found again"
    code = (
        "import pickle, sys; path = pickle.loads(sys.stdin.buffer.read()); client = path.client\n"
        "print(path, client.origin, client.cache.root, client.policy.default.max_age_ns, client.connection.extra_args)"
    )
    seen = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(path), capture_output=True)
    assert seen.stdout.decode().split(" ", 4) == [
        "s3://bucket/key", "s3@127.0.0.1:1", str(tmp_path), str(60 * 10**9), "{'RequestPayer': 'requester'}\n"
    ]  # fmt: skip


_SAME_EVERYWHERE = """
import pickle, sys
from pathapi import AzureBlobClient, CloudPath, FileClient, FilePath, GSClient, HttpsClient, S3Client
S3Client("other", "keys", endpoint_url="http://127.0.0.1:2")
clients = [
    S3Client("key", "secret", endpoint_url="http://127.0.0.1:1", extra_args={"ACL": "x"}, freshness={"s3://b/": 5}),
    GSClient(endpoint_url="http://127.0.0.1:1", timeout=5.0),
    AzureBlobClient("http://127.0.0.1:1/account", {"account_name": "account", "account_key": "c2VjcmV0"}),
    HttpsClient(auth=("user", "password")),
    FileClient(local_cache_dir="/nowhere"),
]
kinds = [(client, client._cloud_meta.path_class) for client in clients]
paths = [kind(kind.cloud_prefix + "/b/k"[kind is not FilePath :], client=client) for client, kind in kinds]
for _ in range(2):
    default = CloudPath("s3://bucket/key")
    _ = default.client
    unused = CloudPath("s3://bucket/key")
    assert pickle.dumps(unused) == pickle.dumps(default), "the first use changes nothing"
    paths.append(default)
    S3Client(profile_name="mine").set_as_default_client()
pickled = [pickle.dumps(path) for path in paths]
assert pickle.loads(pickled[0]).client is clients[0]
print(*(text.hex() for text in pickled), *map(hash, paths), *(str(path.__dask_tokenize__()) for path in paths))
"""


def test_a_pickle_is_the_same_in_every_process_and_so_is_a_hash_with_a_fixed_seed() -> None:
    """Caches that are keyed by arguments (joblib, dask, datasets) find their results again."""
    command, environment = [sys.executable, "-c", _SAME_EVERYWHERE], {**os.environ, "PYTHONHASHSEED": "1"}
    first, second = (subprocess.check_output(command, text=True, env=environment).split() for _ in range(2))
    assert first == second
    again = (
        "import pickle, sys; [print(pickle.dumps(pickle.loads(bytes.fromhex(text))).hex()) for text in sys.argv[1:]]"
    )
    carried = subprocess.check_output([sys.executable, "-c", again, *first[:5]], text=True).split()
    assert carried == first[:5], "a path that a worker returns is the same, too"
    path = CloudPath("s3://bucket/key")
    assert path.__dask_tokenize__() == CloudPath("s3://bucket/key").__dask_tokenize__()
    assert (
        path.__dask_tokenize__() != S3Client(endpoint_url="http://127.0.0.1:1").CloudPath(str(path)).__dask_tokenize__()
    )


def test_each_login_of_one_configuration_is_unpickled_as_itself() -> None:
    def client(secret: str) -> S3Client:
        return S3Client("key", secret, endpoint_url="http://127.0.0.1:9", local_cache_dir="/nowhere")

    def again(client: S3Client) -> Any:
        return pickle.loads(pickle.dumps(client.CloudPath("s3://bucket/key"))).client

    first, second = client("first"), client("second")
    none = S3Client(endpoint_url="http://127.0.0.1:9", local_cache_dir="/nowhere")
    assert [again(one) for one in (first, second, none)] == [first, second, none]
    text = pickle.dumps(second)
    del second
    assert pickle.dumps(client("second")) == text, "with the same keys, a later client is the same"
    lost = pickle.loads(text)
    assert (lost.connection.aws_secret_access_key, lost.has_lost_keys) == (None, True)
    assert pickle.dumps(lost) == text
    session = boto3.Session("key", "third")
    by_session = S3Client(boto3_session=session, endpoint_url="http://127.0.0.1:9", local_cache_dir="/nowhere")
    assert again(by_session) is by_session
    plain = S3Client(extra_args={"ACL": "private"}, endpoint_url="http://127.0.0.1:9")
    context.set_spawning_popen(object())  # type: ignore[arg-type]
    try:
        spawned = pickle.dumps([client("spawned"), plain])
    finally:
        context.set_spawning_popen(None)
    del plain
    spawned_client, spawned_plain = pickle.loads(spawned)
    assert spawned_client.connection.aws_secret_access_key == "spawned"
    assert (spawned_client.identity[2], spawned_plain.identity[2]) == (4, 0)


def _read_text(path: Any) -> str:
    try:
        return str(path.read_text())
    except MissingCredentialsError as error:
        return f"{path.client.cache.root} {error}"


def _set_default(endpoint: str, directory: str) -> None:
    pathapi.set_default_client(S3Client(KEY, SECRET, endpoint_url=endpoint, local_cache_dir=directory))


def test_a_worker_that_runs_already_says_that_the_keys_stayed_behind_and_takes_those_that_it_has(
    ground: S3RawBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.plant("a", b"hello")
    endpoint = ground.client.meta.endpoint_url
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    for name in (*keys, "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    path = S3Client(KEY, SECRET, endpoint_url=endpoint, local_cache_dir=tmp_path / "s").CloudPath(
        f"s3://{ground.bucket}/a"
    )
    spawn = multiprocessing.get_context("spawn")

    def ask(*initializer: Any) -> str:
        with ProcessPoolExecutor(1, spawn, *initializer) as pool:
            return pool.submit(_read_text, path).result()

    assert re.search(
        r"/s s3://.*no AWS credentials.*keys of this client stayed behind: its pickle has none: .*"
        r"environment variables or a named profile, or call pathapi.set_default_client in its initializer$",
        ask(),
    )
    assert ask(_set_default, (endpoint, str(tmp_path / "other"))) == "hello"
    assert "stayed behind" in ask(_set_default, ("http://127.0.0.1:1", str(tmp_path / "other"))), "another origin"
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    assert ask() == "hello"


class _Refusing(BaseHTTPRequestHandler):
    """Refuses every request."""

    def do_GET(self) -> None:  # (a name that http.server looks for)
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("kind", "login", "uri"),
    [
        (S3Client, {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}, "s3://bucket/key"),
        (GSClient, {"credentials": AnonymousCredentials()}, "gs://bucket/key"),
        (AzureBlobClient, {"credential": "c2VjcmV0"}, "az://container/key"),
        (HttpClient, {"auth": ("user", "password")}, "http://{host}/key"),
    ],
)
def test_the_error_of_every_cloud_says_that_the_keys_stayed_behind(
    kind: Any, login: dict[str, Any], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        place = {GSClient: {"endpoint_url": f"http://{host}"}, S3Client: {"endpoint_url": f"http://{host}"}}
        place[AzureBlobClient] = {"account_url": f"http://{host}/account"}
        client = kind(**login, **place.get(kind, {}), local_cache_dir=tmp_path)
        path = client.CloudPath(uri.format(host=host))
        with pytest.raises(PermissionError) as refused:
            path.read_bytes()
        assert "stayed behind" not in str(refused.value)
        text = pickle.dumps(path)
        del path, client, refused
        gc.collect()
        with pytest.raises(PermissionError, match="keys of this client stayed behind: its pickle has none: give"):
            pickle.loads(text).read_bytes()
        server.shutdown()


def _read_in_child(path: S3Path, other: Any, answers: Any) -> None:
    answers.put((path.read_bytes(), other.get().read_bytes(), path.client.cache.root))


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_child_reads_with_its_parents_keys_endpoint_and_store(
    proxy: Proxy, ground: S3RawBucket, tmp_path: Path, method: str
) -> None:
    ground.plant(method, method.encode())
    client = S3Client(KEY, SECRET, endpoint_url=proxy.endpoint, local_cache_dir=tmp_path, freshness="immutable")
    path = client.S3Path(f"s3://{ground.bucket}/{method}")
    assert path.read_bytes() == method.encode()
    client.cache.flush()  # else the child waits for the commit, or downloads again where locks are no locks
    ground.plant(method + "2", b"cold")
    proxy.reset()
    context: Any = multiprocessing.get_context(method)
    later, answers = context.Queue(), context.Queue()
    child = context.Process(target=_read_in_child, args=(path, later, answers))
    child.start()
    later.put(path.with_name(method + "2"))  # a plain pickle, without the keys: the child has them
    assert answers.get(timeout=1_000) == (method.encode(), b"cold", str(tmp_path))
    child.join()
    assert proxy.counts.kinds == {"GET": 1}
    client.cache.close()


# --- how long entries are kept --------------------------------------------------------------------------------------


class Bucket:
    """Two objects, and the store that a client of some mode reads them through."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("a", "b"):
            (directory / name).write_bytes(name.encode() * 1000)
        self.cache = casstore.open(directory / "store")

    def client(self, mode: str) -> FileClient:
        return FileClient(mode, self.directory / "store")

    def path(self, client: FileClient, name: str) -> Any:
        return client.CloudPath(f"file://{self.directory}/{name}")

    def held(self, expected: list[str] | None = None) -> list[str]:
        """Names of what is held; waits a while for *expected*."""
        deadline = time.monotonic() + 1_000
        while True:
            gc.collect()
            names = [entry.uri.rpartition("/")[2] for entry in self.cache.entries()]
            if names == expected or time.monotonic() > deadline:
                return names
            time.sleep(0.01)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path)


def test_close_file_drops_an_entry_when_its_last_file_is_closed(bucket: Bucket) -> None:
    path = bucket.path(bucket.client("close_file"), "a")
    first, second = path.open("rb"), path.open()
    first.close()
    time.sleep(0.05)
    assert bucket.held(["a"]) == ["a"]
    assert second.read() == "a" * 1000
    second.close()
    assert bucket.held([]) == []
    assert path.read_bytes() == b"a" * 1000
    assert bucket.held([]) == []
    view = path.fspath
    assert bucket.held([]) == []
    assert Path(view).read_bytes() == b"a" * 1000


def test_cloudpath_object_drops_an_entry_with_its_last_path(bucket: Bucket) -> None:
    client = bucket.client("cloudpath_object")
    first, second, other = bucket.path(client, "a"), bucket.path(client, "a"), bucket.path(client, "b")
    assert first.read_bytes() == second.read_bytes() == b"a" * 1000
    with other.open("rb") as file:
        file.read()
    del first
    time.sleep(0.05)
    assert bucket.held(["a", "b"]) == ["a", "b"]
    del second
    assert bucket.held(["b"]) == ["b"]


def test_tmp_dir_drops_all_entries_with_the_client(bucket: Bucket) -> None:
    client = bucket.client("tmp_dir")
    paths = [bucket.path(client, name) for name in "ab"]
    assert [path.read_bytes()[:1] for path in paths] == [b"a", b"b"]
    time.sleep(0.05)
    assert bucket.held(["a", "b"]) == ["a", "b"]
    del client, paths
    assert bucket.held([]) == []


def test_what_another_client_filled_stays(bucket: Bucket) -> None:
    bucket.path(bucket.client("persistent"), "a").read_bytes()
    path = bucket.path(bucket.client("close_file"), "a")
    path.read_bytes()
    path.with_name("b").read_bytes()
    assert bucket.held(["a"]) == ["a"]


@pytest.mark.parametrize("mode", ["tmp_dir", "cloudpath_object", "close_file"])
def test_at_exit_nothing_is_left_of_what_was_to_go(bucket: Bucket, mode: str) -> None:
    code = (
        "import sys; from pathapi import FileClient\n"
        "client = FileClient(sys.argv[1], sys.argv[2] + '/store')\n"
        "path = client.CloudPath('file://' + sys.argv[2] + '/a'); file = path.open('rb'); file.read()\n"
        "client.set_as_default_client()\n"
        "print(len(list(client.cache.entries())))"
    )
    command = [sys.executable, "-c", code, mode, str(bucket.directory)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "1\n"
    assert bucket.held([]) == []


@pytest.mark.parametrize(
    "client",
    [
        S3Client(endpoint_url="http://127.0.0.1:1"),
        GSClient(endpoint_url="http://127.0.0.1:1"),
        AzureBlobClient(account_url="http://127.0.0.1:1/account"),
    ],
    ids=lambda client: type(client).__name__,
)
def test_an_origin_is_worked_out_once_for_all_paths(client: Any) -> None:
    assert client.origin is client.origin


def test_the_shell_options_of_a_client_reach_its_server_and_contain_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert S3Client().push_options == FileClient().push_options == GSClient().push_options == ""
    secret = S3Client(endpoint_url="https://user:password@127.0.0.1:9000", profile_name="my work", no_sign_request=True)
    assert secret.push_options == "--profile 'my work' --endpoint-url https://127.0.0.1:9000 --no-sign-request"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:password@127.0.0.1:9001")
    assert S3Client().push_options == "--endpoint-url http://127.0.0.1:9001"
    google = GSClient(endpoint_url="http://127.0.0.1:9002", application_credentials=tmp_path / "key.json")
    assert google.push_options == f"--credentials {tmp_path}/key.json --endpoint-url http://127.0.0.1:9002"
    azure = AzureBlobClient(account_url="http://127.0.0.1:9003/name?sig=secret")
    assert azure.push_options == "--account-url http://127.0.0.1:9003/name"
