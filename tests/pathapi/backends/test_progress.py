"""Servers that ask for the same once more, for ever: uploads and copies end with an error that says so."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pathapi.backends.azure import backend as azure
from pathapi.backends.azure.backend import AzureBackend
from pathapi.backends.gs import multipart
from pathapi.backends.gs import requests as gs_requests
from pathapi.backends.gs.backend import GSBackend
from pathapi.backends.gs.multipart import Progress
from pathapi.exceptions import CloudUnavailableError
from pathapi.testing import write
from tests.harness.azure_servers import AzureServer
from tests.harness.faults import Action, Fault, SetHeader
from tests.harness.http_messages import Head
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer
from tests.pathapi.support.raw_buckets import AzureRawBucket, GCSRawBucket, azure_connection_to, gs_connection_to

PIECE = 256 << 10


@dataclass(frozen=True, slots=True)
class Replies(Action):
    """One reply after the other: status, body, and a ``Range`` if there is one."""

    replies: Iterator[tuple[int, object, str | None]]

    def answer(self, request: Head) -> tuple[Head, bytes]:
        status, body, arrived = next(self.replies)
        data = json.dumps(body).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        return Head(("HTTP/1.1", str(status), "-"), headers + ([("Range", arrived)] if arrived else [])), data


@dataclass(frozen=True, slots=True)
class Endless(Action):
    """A body that goes on until the client closes the connection."""

    status: str

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.start = ("HTTP/1.1", self.status, "-")
        response.set("Content-Length", None)
        response.set("Transfer-Encoding", "chunked")

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        while not stop.is_set():
            yield b" " * (1 << 18)


class Packed(Action):
    """64 MiB of JSON, compressed."""

    def answer(self, request: Head) -> tuple[Head, bytes]:
        data = gzip.compress(b"{" + b" " * (64 << 20) + b"}", 1)
        headers = [("Content-Encoding", "gzip"), ("Content-Length", str(len(data)))]
        return Head(("HTTP/1.1", "200", "OK"), headers), data


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "_LONGEST_PAUSE", 0.001)


@pytest.fixture
def backend(gcs: GCSServer, gcs_proxy: Proxy, gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[GSBackend]:
    monkeypatch.setattr(multipart, "THRESHOLD", 1)
    monkeypatch.setattr(multipart, "PIECE", PIECE)
    connection = gs_connection_to(gcs, gcs_proxy.endpoint)
    yield GSBackend(connection, gcs_bucket)
    connection.client.close()


def test_only_a_position_beyond_all_before_is_progress() -> None:
    bound = Progress("s3://b/k: the upload")
    for position in (1, 1, 1, 1, 1, 5, 3, 5, 3, 5, 6, 6, 0, 6, 0):
        bound.reach(position)
    with pytest.raises(CloudUnavailableError, match=r"^s3://b/k: the upload makes no progress at the server"):
        bound.reach(5)


@pytest.mark.parametrize(
    "ranges", [[None], [f"bytes=0-{PIECE - 1}"], [f"bytes=0-{PIECE - 1}", None], ["bytes=0-9", "bytes=0-5"]]
)
def test_a_session_that_takes_no_more_bytes_is_ended(
    backend: GSBackend, gcs_proxy: Proxy, gcs: GCSServer, ranges: list[str | None]
) -> None:
    replies = Replies((308, {}, arrived) for arrived in itertools.cycle(ranges))
    gcs_proxy.add(Fault(replies, kind="PUT", nth=2, times=None))
    with pytest.raises(CloudUnavailableError, match="stuck: the upload makes no progress"):
        write(backend, "stuck", bytes(3 * PIECE))
    pieces = [record for record in gcs_proxy.records if record.sent_bytes >= PIECE - 10]
    assert len(pieces) <= 6
    assert gcs_proxy.records[-1].method == "DELETE"
    assert GCSRawBucket(gcs.client(), backend.bucket).content("stuck") is None


def test_a_session_that_once_took_nothing_goes_on(backend: GSBackend, gcs_proxy: Proxy, gcs: GCSServer) -> None:
    data = os.urandom(3 * PIECE)
    gcs_proxy.add(Fault(Replies(itertools.repeat((308, {}, None))), kind="PUT", nth=2, times=2))
    write(backend, "slow", data)
    assert GCSRawBucket(gcs.client(), backend.bucket).content("slow") == data


def copying(*positions: int) -> Iterator[tuple[int, object, None]]:
    for position in positions:
        yield 200, {"done": False, "rewriteToken": "t", "totalBytesRewritten": str(position)}, None


def test_a_rewrite_without_progress_is_an_error(backend: GSBackend, gcs_proxy: Proxy) -> None:
    gcs_proxy.add(Fault(Replies(copying(*itertools.repeat(1, 99))), kind="COPY", times=None))
    with pytest.raises(CloudUnavailableError, match="from: the copy makes no progress"):
        backend.copy("from", "to")
    assert gcs_proxy.count("COPY") <= 6


@pytest.mark.parametrize("reply", [{}, {"done": False}], ids=str)
def test_a_rewrite_that_says_nothing_is_an_error(backend: GSBackend, gcs_proxy: Proxy, reply: object) -> None:
    gcs_proxy.add(Fault(Replies(itertools.repeat((200, reply, None))), kind="COPY", times=None))
    with pytest.raises(CloudUnavailableError, match="from: the server did not answer as Google Cloud Storage does"):
        backend.copy("from", "to")


def test_a_rewrite_in_many_requests_is_complete_once_it_is_done(backend: GSBackend, gcs_proxy: Proxy) -> None:
    done = {"done": True, "resource": {"name": "to", "size": "9", "generation": "7"}}
    replies = itertools.chain(copying(0, 0, *range(20)), [(200, done, None)])
    gcs_proxy.add(Fault(Replies(replies), kind="COPY", times=None))
    info = backend.copy("from", "to")
    assert (info.size, info.validator.version) == (9, "7")
    assert gcs_proxy.count("COPY") == 23


def test_a_copy_on_azure_without_progress_is_given_up(
    azurite: AzureServer, azure_proxy: Proxy, shared_container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "_COPY_POLLS", (0.001, 0.001))
    monkeypatch.setattr(azure, "_COPY_PATIENCE", 0.01)
    AzureRawBucket(azurite.client(), shared_container).plant("from", b"data")
    connection = azure_connection_to(azurite, azure_proxy.endpoint)
    azure_proxy.add(Fault(SetHeader("x-ms-copy-status", "pending"), times=None))
    with pytest.raises(CloudUnavailableError, match="to: the copy makes no progress at the server: try again"):
        AzureBackend(connection, shared_container).copy("from", "to")
    connection.close()
    assert azure_proxy.count("HEAD", key="to") <= 14


@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_of_google_without_end_is_an_error(
    backend: GSBackend, gcs_proxy: Proxy, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gs_requests, "MOST_ANSWERED", 3 << 20)
    gcs_proxy.add(Fault(Endless(str(status)), times=None))
    for call in (lambda: backend.head("a"), lambda: list(backend.list("a")), lambda: backend.copy("a", "b")):
        with pytest.raises(CloudUnavailableError, match="did not answer as Google Cloud Storage does"):
            call()
    assert len(gcs_proxy.records) == 3, "such a server is not asked again"
    assert max(record.body_bytes for record in gcs_proxy.records) < 32 << 20


def test_an_answer_of_google_that_grows_when_it_is_decompressed_is_an_error(
    backend: GSBackend, gcs_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gs_requests, "MOST_ANSWERED", 3 << 20)
    gcs_proxy.add(Fault(Packed(), times=None))
    with pytest.raises(CloudUnavailableError, match="did not answer as Google Cloud Storage does"):
        backend.head("a")
