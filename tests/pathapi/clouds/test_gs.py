"""Paths of Google Cloud Storage through the store: what every backend promises, and what is `GSPath`'s own."""

from __future__ import annotations

import base64
import copy
import hashlib
import inspect
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import pathapi
from pathapi import CloudPath, GSClient, GSPath, S3Client, prefetch
from pathapi.exceptions import ClientMismatchError, CloudPathException, InvalidPrefixError
from pathapi.testing import EditSuite, RawBucket, ReadSuite, WriteSuite
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer
from tests.pathapi.conftest import MakeGSClient as MakeClient
from tests.pathapi.support.raw_buckets import GCSRawBucket


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"{id(request.node):x}/"


@pytest.fixture(scope="module")
def raw(gcs: GCSServer) -> Any:
    return gcs.client()


@pytest.fixture
def ground(raw: Any, gcs_bucket: str, prefix: str) -> GCSRawBucket:
    return GCSRawBucket(raw, gcs_bucket, prefix)


@pytest.fixture
def root(make_gs: MakeClient, gcs_bucket: str, prefix: str) -> GSPath:
    """The directory that `ground` plants in."""
    return make_gs().GSPath(f"gs://{gcs_bucket}/{prefix}")


class _OnGCS:
    """What the suites stand on."""

    @pytest.fixture
    def at(self, gcs_bucket: str, prefix: str) -> str:
        return f"gs://{gcs_bucket}/{prefix}"

    @pytest.fixture
    def ground(self, raw: Any, gcs_bucket: str, prefix: str) -> RawBucket:
        return GCSRawBucket(raw, gcs_bucket, prefix)

    @pytest.fixture
    def make(self, make_gs: MakeClient) -> MakeClient:
        return make_gs


@pytest.mark.sampled(10)
class TestReading(_OnGCS, ReadSuite):
    pass


@pytest.mark.sampled(10)
class TestWriting(_OnGCS, WriteSuite):
    pass


@pytest.mark.sampled(10)
class TestEditing(_OnGCS, EditSuite):
    pass


# --- what is GSPath's own -------------------------------------------------------------------------------------------


def test_a_path_has_cloudpathlibs_pieces(root: GSPath, ground: GCSRawBucket) -> None:
    ground.plant("dir/a.txt", b"content")
    path = root / "dir" / "a.txt"
    assert (path.bucket, path.blob) == (ground.bucket, path.key)
    assert path.blob.endswith("/dir/a.txt")
    digest = base64.b64encode(hashlib.md5(b"content").digest()).decode()
    assert path.md5 == digest
    assert path.etag
    (child,) = path.parent.iterdir()
    assert (child.md5, child.etag) == (digest, path.etag)
    questions: list[Callable[[], object]] = [lambda: (root / "missing").md5, lambda: (root / "missing").etag]
    for question in questions:
        with pytest.raises(FileNotFoundError):
            question()


def test_the_md5_is_asked_for_where_the_entry_alone_is_fresh_and_may_be_asked_for(
    root: GSPath, ground: GCSRawBucket, gcs_proxy: Proxy, make_gs: MakeClient
) -> None:
    ground.plant("a", b"content")
    stated = base64.b64encode(hashlib.md5(b"content").digest()).decode()
    for freshness in (60, "immutable", "offline"):
        path = make_gs(freshness=freshness, endpoint_url=gcs_proxy.endpoint).GSPath(str(root / "a"))
        if freshness != "offline":
            assert path.read_bytes() == b"content"
        gcs_proxy.reset()
        assert path.md5 == (None if freshness == "offline" else stated)
        assert gcs_proxy.count() == (freshness != "offline")
    ground.remove("a")
    with pytest.raises(FileNotFoundError):
        _ = make_gs(freshness="immutable", endpoint_url=gcs_proxy.endpoint).GSPath(str(root / "a")).md5


@pytest.mark.parametrize("scheme", ["gs", "GS", "gcs", "GCS"])
def test_an_alias_is_the_same_object(root: GSPath, ground: GCSRawBucket, scheme: str) -> None:
    ground.plant("a", b"content")
    path = root.client.CloudPath(f"{scheme}://{root.bucket}/{root.key}a")
    assert isinstance(path, GSPath)
    assert path.read_bytes() == b"content"
    assert [entry.uri for entry in root.client.cache.entries(str(root))] == [str(root / "a")]
    assert isinstance(CloudPath(f"{scheme}://bucket/key"), GSPath)
    assert GSPath.is_valid_cloudpath(f"{scheme}://bucket/key")


def test_another_scheme_is_refused() -> None:
    assert not GSPath.is_valid_cloudpath("s3://bucket/key")
    with pytest.raises(InvalidPrefixError):
        GSPath("s3://bucket/key")
    with pytest.raises(ClientMismatchError, match="GSClient"):
        CloudPath("gs://bucket/key", client=S3Client())


def test_the_constructor_takes_what_cloudpathlibs_does(gcs: GCSServer, tmp_path: Path) -> None:
    cloudpathlib = pytest.importorskip("cloudpathlib.gs.gsclient")
    theirs = list(inspect.signature(cloudpathlib.GSClient.__init__).parameters)
    ours = list(inspect.signature(GSClient.__init__).parameters)
    assert ours[: len(theirs)] == theirs
    client = GSClient(storage_client=gcs.client(), local_cache_dir=tmp_path / "store", timeout=5, retry=None)
    assert client.client is client.connection.storage_client
    assert client.origin == "gs@" + gcs.endpoint.removeprefix("http://")
    assert pathapi.implementation_registry["gs"].client_class is GSClient


def test_timeout_and_retry_are_there_as_cloudpathlib_has_them(make_gs: MakeClient) -> None:
    from google.api_core.retry import Retry

    retry = Retry()
    assert make_gs(timeout=3, retry=retry).blob_kwargs == {"timeout": 3, "retry": retry}
    assert make_gs().blob_kwargs == {}


@pytest.mark.usefixtures("md5_believed")
def test_bytes_that_are_held_are_recognised_by_the_md5_that_a_listing_states(
    root: GSPath, ground: GCSRawBucket, gcs_proxy: Proxy, make_gs: MakeClient
) -> None:
    data = os.urandom(100_000)
    for name in ("dir/a", "dir/b"):
        ground.plant(name, data)
    client = make_gs(endpoint_url=gcs_proxy.endpoint)
    path = client.GSPath(str(root / "dir"))
    assert path.joinpath("a").read_bytes() == data
    client.cache.flush()
    gcs_proxy.reset()
    prefetch(path)
    assert gcs_proxy.body_bytes == 0
    assert path.joinpath("b").read_bytes() == data
    client.cache.flush()
    assert client.cache.usage(str(root)).blobs == 1


def test_a_rename_keeps_the_type_and_the_bytes(root: GSPath, raw: Any, ground: GCSRawBucket) -> None:
    path = root / "a.png"
    path.write_bytes(b"not really")
    path.rename(root / "b")
    assert ground.content("a.png") is None
    blob = raw.bucket(root.bucket).get_blob((root / "b").key)
    assert (blob.content_type, ground.content("b")) == ("image/png", b"not really")


def test_a_pickled_path_reads_with_its_settings_and_a_copy_with_its_client(root: GSPath, ground: GCSRawBucket) -> None:
    ground.plant("a", b"content")
    path = root / "a"
    assert copy.deepcopy(path).client is path.client
    code = f"import pickle; print(pickle.loads({pickle.dumps(path)!r}).read_text())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "content\n"


def _client_of(path: GSPath) -> GSClient:
    client = path.client
    assert isinstance(client, GSClient)
    return client


def _tell_token(path: GSPath, answers: Any) -> None:
    answers.put((_client_of(path).connection.credentials.token, b"A TOKEN" in pickle.dumps([path, path.client])))


def test_credentials_travel_to_a_child_that_is_being_spawned_and_no_further(make_gs: MakeClient) -> None:
    from google.oauth2.credentials import Credentials

    path = make_gs(credentials=Credentials("A TOKEN")).GSPath("gs://bucket/key")
    assert b"A TOKEN" not in pickle.dumps([path, path.client])
    assert "A TOKEN" not in f"{path!r}{path.client!r}{_client_of(path).connection!r}"
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    child = spawn.Process(target=_tell_token, args=(path, answers))
    child.start()
    assert answers.get(timeout=1_000) == ("A TOKEN", False)
    child.join()


class Telltale(BaseHTTPRequestHandler):
    """A server that refuses everything and quotes the whole request, as no decent one does."""

    def _refuse(self) -> None:
        status = int(self.path.partition("status-")[2][:3] or 403)
        quoted = f"{self.path} " + " ".join(f"{name}: {value};" for name, value in self.headers.items())
        told = {"code": status, "message": quoted, "errors": [{"reason": "forbidden", "message": quoted}]}
        body = json.dumps({"error": told}).encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _refuse  # noqa: N815 (names that http.server looks for)

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


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 501])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK forgets the refused answer
def test_a_server_that_quotes_the_request_is_not_quoted(telltale: str, make_gs: MakeClient, status: int) -> None:
    from google.oauth2.credentials import Credentials

    mark = "PLANTED0SECRET"
    endpoint = telltale.replace("://", f"://user:{mark}@")
    client = make_gs(endpoint_url=endpoint, credentials=Credentials(mark))
    path = client.GSPath(f"gs://bucket/status-{status}")
    works: list[Callable[[], object]] = [
        path.read_bytes,
        path.stat,
        lambda: path.write_bytes(b"x"),
        lambda: list(path.iterdir()),
        path.unlink,
    ]
    for work in works:
        with pytest.raises((CloudPathException, OSError)) as caught:
            work()
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
        assert mark not in told
        assert mark.encode() not in pickle.dumps(caught.value)
    client.cache.flush()
    files = [file for file in Path(client.cache.root).rglob("*") if file.is_file()]
    assert not [file for file in files if mark.encode() in file.read_bytes()]
