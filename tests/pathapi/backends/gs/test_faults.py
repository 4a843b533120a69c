"""One read, one write, and a wire that breaks: the right bytes or a clear error, never a mixture."""

from __future__ import annotations

import base64
import gc
import gzip
import io
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import google_crc32c
import pytest
import urllib3.connection

from casstore import Validator
from pathapi.backend import ABSENT
from pathapi.backends.gs import backend as gs
from pathapi.backends.gs import multipart as gs_uploads
from pathapi.backends.gs import requests as gs_requests
from pathapi.backends.gs.backend import GSBackend
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathFileNotFoundError,
    CloudPathPermissionError,
    CloudUnavailableError,
    MissingCredentialsError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.testing import drain, keys, opened, read, write
from tests.harness.faults import (
    Action,
    Call,
    DropRequestHeader,
    Fault,
    FlipByte,
    Reset,
    SetHeader,
    Stall,
    Surplus,
    Truncate,
    Understate,
)
from tests.harness.gcs_conditions import DropParameter, Refuse, RefuseInBatch
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer
from tests.pathapi.support.faulty_reads import DATA, RANGE, WHOLE, both_ways
from tests.pathapi.support.raw_buckets import GCSRawBucket, gs_connection_to


@pytest.fixture(scope="module")
def ground(gcs: GCSServer, gcs_bucket: str) -> GCSRawBucket:
    ground = GCSRawBucket(gcs.client(), gcs_bucket)
    ground.plant("big", DATA)
    return ground


@pytest.fixture
def backend(
    gcs: GCSServer, gcs_proxy: Proxy, ground: GCSRawBucket, request: pytest.FixtureRequest
) -> Iterator[GSBackend]:
    # Short only where that is the point: a busy machine may well be silent for a second.
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    timeout = (30.0, 2.0 if isinstance(parameters.get("action"), Stall) else 30.0)
    connection = gs_connection_to(gcs, gcs_proxy.endpoint, timeout=timeout)
    yield GSBackend(connection, ground.bucket)
    connection.client.close()


@pytest.fixture
def logged_in(gcs: GCSServer, gcs_proxy: Proxy, ground: GCSRawBucket) -> Iterator[GSBackend]:
    """The same with a token that nobody can renew."""
    from google.oauth2.credentials import Credentials

    connection = gs_connection_to(gcs, gcs_proxy.endpoint, credentials=Credentials("a-token-of-google"))
    yield GSBackend(connection, ground.bucket)
    connection.client.close()


def every_call(backend: GSBackend) -> list[Callable[[], Any]]:
    return [
        lambda: backend.read("big"),
        lambda: backend.head("big"),
        lambda: list(backend.list("big")),
        lambda: backend.copy("big", "other"),
        lambda: write(backend, "other", b""),
        lambda: backend.delete(["other"]),
        lambda: backend.delete(["other", "another"]),
    ]


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [WHOLE, RANGE])
@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Truncate(after=0), CloudUnavailableError),
        (Truncate(after=100_000), TruncatedBodyError),
        (Reset(after=100_000), TruncatedBodyError),
        (Stall(60, after=100_000), CloudUnavailableError),
    ],
    ids=repr,
)
def test_a_body_that_does_not_arrive_whole_is_an_error(
    backend: GSBackend, gcs_proxy: Proxy, action: Action, error: type[Exception], start: int, end: int | None
) -> None:
    gcs_proxy.add(Fault(action, kind="GET", times=None))
    for attempt in both_ways(backend, start, end):
        with pytest.raises(error, match="big") as caught:
            attempt()
        assert caught.value.__cause__ is not None
    gcs_proxy.clear_faults()
    assert read(backend, "big", start, end) == DATA[start:end]


@pytest.mark.parametrize(
    "action", [Surplus(10, chunked=True), Understate(10), SetHeader("Content-Length", "199010")], ids=repr
)
def test_a_range_that_is_longer_than_announced_or_asked_is_an_error(
    backend: GSBackend, gcs_proxy: Proxy, action: Action
) -> None:
    gcs_proxy.add(Fault(action, kind="GET", times=None))
    for attempt in both_ways(backend, *RANGE):
        with pytest.raises(CloudUnavailableError, match=r"big|announced"):
            attempt()


def test_surplus_bytes_do_not_reach_the_next_answer(backend: GSBackend, gcs_proxy: Proxy) -> None:
    gcs_proxy.add(Fault(Surplus(10), kind="GET"))
    assert read(backend, "big") == DATA
    assert read(backend, "big") == DATA


@pytest.mark.parametrize(
    "action", [FlipByte(at=1_234), SetHeader("x-goog-hash", "crc32c=AAAAAA=="), SetHeader("x-goog-hash", "md5=AAAA")]
)
def test_bytes_without_the_stated_checksum_are_an_error_before_the_last_one(
    backend: GSBackend, gcs_proxy: Proxy, action: Action
) -> None:
    gcs_proxy.add(Fault(action, kind="GET", times=None))
    for end in (None, len(DATA), 10**9):
        with pytest.raises(ChecksumMismatchError, match="big"):
            read(backend, "big", 0, end)
    body = opened(backend, "big")
    buffer = memoryview(bytearray(len(DATA)))

    def fill() -> None:
        filled = 0
        while filled < len(DATA):
            filled += body.readinto(buffer[filled:])

    # Whoever stops at the announced length has still seen it.
    with pytest.raises(ChecksumMismatchError):
        fill()
    body.close()


@pytest.mark.parametrize(("start", "end"), [(0, 100), (1_000, 200_000), (299_999, 300_000), (5, None), (0, 10**9)])
def test_a_server_that_ignores_ranges_still_gives_the_range(
    backend: GSBackend, gcs_proxy: Proxy, start: int, end: int | None
) -> None:
    gcs_proxy.add(Fault(DropRequestHeader("Range"), kind="GET", times=None))
    for attempt in both_ways(backend, start, end):
        assert attempt() == DATA[start:end]
    body = opened(backend, "big", start, end)
    body.close()
    assert (body.info.size, body.length) == (len(DATA), len(DATA[start:end]))


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 10**9), (3, 10)])
def test_what_is_stored_as_gzip_comes_as_it_is_stored(
    backend: GSBackend, ground: GCSRawBucket, start: int, end: int | None
) -> None:
    packed = gzip.compress(b"x" * 100_000)
    blob = ground._blob("packed")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed)
    body = opened(backend, "packed", start, end)
    assert body.info.size == len(packed)
    assert drain(body) == packed[start:end]


def test_a_server_that_unpacks_is_an_error(backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket) -> None:
    blob = ground._blob("unpacked")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"x" * 100_000))
    gcs_proxy.add(Fault(DropRequestHeader("Accept-Encoding"), kind="GET"))
    with pytest.raises(CloudUnavailableError, match="decompressed"):
        backend.read("unpacked")


def test_one_read_is_one_request(backend: GSBackend, gcs_proxy: Proxy) -> None:
    info = backend.head("big")
    gcs_proxy.reset()
    body = opened(backend, "big")
    assert body.info.validator.same_version(info.validator)
    assert (body.info.checksums, body.info.content_type) == (info.checksums, info.content_type)
    assert drain(body) == DATA
    read(backend, "big", 5, 10)
    assert backend.read("big", unless=info.validator) is None
    assert [record.status for record in gcs_proxy.records] == [200, 206, 304]


def test_answers_without_bytes_keep_the_connection(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections, connect = [0], urllib3.connection.HTTPConnection.connect

    def count(self: Any) -> None:
        connections[0] += gcs_proxy.endpoint.endswith(f":{self.port}")  # not those of other threads
        connect(self)

    ground.plant("empty", b"")
    version, empty = backend.head("big").validator, backend.head("empty").validator
    backend.connection.client.close()

    def use() -> None:
        assert backend.read("big", unless=version) is None
        assert read(backend, "empty") == b""
        assert read(backend, "empty", 0, 10) == b""
        assert backend.read("empty", 0, 10, unless=empty) is None
        assert read(backend, "big", len(DATA), None) == b""
        assert read(backend, "big", 5, 10) == DATA[5:10]
        assert read(backend, "big") == DATA
        with pytest.raises(CloudPathFileNotFoundError):
            backend.read("missing")

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", count)
    for _ in range(3):
        use()
    assert connections == [1]


def test_an_empty_answer_that_does_not_say_of_which_version_is_asked_again(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket
) -> None:
    ground.plant("nothing", b"")
    version = backend.head("nothing").validator
    for name, value in (("Content-Range", "bytes */0"), ("x-goog-generation", None), ("ETag", None)):
        gcs_proxy.add(Fault(SetHeader(name, value), match=lambda record: record.range is not None))
    assert read(backend, "nothing", 0, 10, expect=version) == b""
    assert [record.status for record in gcs_proxy.records] == [200, 416, 200]


def test_an_object_that_is_filled_after_it_answered_as_empty_is_read(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket
) -> None:
    ground.plant("growing", b"")
    gcs_proxy.add(Fault(SetHeader("x-goog-hash", None), kind="GET"))
    gcs_proxy.add(Fault(Call(lambda: ground.plant("growing", DATA)), kind="GET", key="growing", nth=2))
    body = backend.read("growing", 0, 1_000, unless=Validator(1, version="1"))
    assert body is not None
    assert drain(body) == DATA[:1_000]


def test_a_prefix_that_each_page_repeats_is_listed_once(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gs, "PAGE", 2)
    names = ["a", "b", "c", "d", "e/x", "f/x", "g"]
    for name in names:
        ground.plant(f"pages/{name}", b"")
    found = keys(backend, "pages/", delimited=True)
    assert len(gcs_proxy.records) > 1
    assert sorted(found) == [f"pages/{name.replace('x', '')}" for name in names]


# --- conditions -----------------------------------------------------------------------------------------------------


def test_a_server_that_ignores_the_generation_is_caught_by_its_own_answer(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket
) -> None:
    ground.plant("changing", b"first")
    version = backend.head("changing").validator
    gcs_proxy.add(Fault(DropParameter("ifGenerationNotMatch"), times=None))
    gcs_proxy.add(Fault(DropParameter("generation"), times=None))
    assert backend.read("changing", unless=version) is None
    ground.plant("changing", b"other")
    with pytest.raises(VersionMismatchError):
        backend.read("changing", expect=version)
    assert read(backend, "changing", unless=version) == b"other"


def test_a_condition_without_a_generation_is_refused_here(backend: GSBackend) -> None:
    with pytest.raises(NotImplementedError, match="generation"):
        write(backend, "never", b"", Validator(3, "an etag"))


def test_a_refusal_after_a_lost_answer_says_that_it_may_be_our_own_doing(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket
) -> None:
    gcs_proxy.add(Fault(Reset(after=None), kind="PUT"))
    with pytest.raises(VersionMismatchError) as caught:
        write(backend, "lost", b"mine", ABSENT)
    assert caught.value.outcome_unknown
    assert ground.content("lost") == b"mine"
    with pytest.raises(VersionMismatchError) as caught:
        write(backend, "lost", b"other", ABSENT)
    assert not caught.value.outcome_unknown


# --- uploads in a session -------------------------------------------------------------------------------------------


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What is uploaded in three requests, and one to begin."""
    monkeypatch.setattr(gs_uploads, "THRESHOLD", 1)
    monkeypatch.setattr(gs_uploads, "PIECE", 256 << 10)
    return os.urandom((512 << 10) + 3)


def test_an_upload_in_pieces_carries_its_condition(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket, pieces: bytes
) -> None:
    info = write(backend, "pieces", pieces, ABSENT)
    assert gcs_proxy.count("PUT") == 4
    assert ground.content("pieces") == pieces
    assert backend.head("pieces").validator.same_version(info.validator)
    with pytest.raises(VersionMismatchError):
        write(backend, "pieces", pieces, ABSENT)
    write(backend, "pieces", pieces[::-1], info.validator)
    with pytest.raises(VersionMismatchError):
        write(backend, "pieces", pieces, info.validator)
    assert ground.content("pieces") == pieces[::-1]


def test_an_upload_says_the_checksum_of_its_bytes_ahead_of_them(
    backend: GSBackend, pieces: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    send = gs_requests.GSRequests.send

    def spy(self: Any, *arguments: Any, **named: Any) -> Any:
        sent.append(named["data"])
        return send(self, *arguments, **named)

    monkeypatch.setattr(gs_requests.GSRequests, "send", spy)
    stated = base64.b64encode(google_crc32c.value(pieces).to_bytes(4, "big"))
    for threshold in (1, 1 << 30):
        monkeypatch.setattr(gs_uploads, "THRESHOLD", threshold)
        sent.clear()
        write(backend, "stated", pieces)
        assert b'"crc32c": "%b"' % stated in sent[0]


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("action", [Refuse(503), Reset(after=None)], ids=repr)
def test_an_upload_in_pieces_goes_on_where_it_broke(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket, pieces: bytes, action: Action, nth: int
) -> None:
    name = f"resumed-{nth}-{type(action).__name__}"
    gcs_proxy.add(Fault(action, kind="PUT", nth=nth, times=1))
    write(backend, name, pieces, ABSENT)
    assert ground.content(name) == pieces


def test_the_uri_of_an_upload_which_lets_anybody_write_is_not_told(
    backend: GSBackend, gcs_proxy: Proxy, pieces: bytes
) -> None:
    gcs_proxy.add(Fault(Reset(after=None), kind="PUT", nth=2, times=None))
    with pytest.raises(CloudUnavailableError, match="told") as caught:
        write(backend, "told", pieces)
    uploads = {parse_qs(record.query).get("upload_id", [""])[0] for record in gcs_proxy.records} - {""}
    assert len(uploads) == 1
    told = "".join(traceback.format_exception(caught.value))
    assert not [upload for upload in uploads if upload in told]


def test_an_upload_in_pieces_that_fails_is_ended(
    backend: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket, pieces: bytes
) -> None:
    gcs_proxy.add(Fault(Refuse(403, "forbidden"), kind="PUT", nth=3))
    with pytest.raises(MissingCredentialsError):
        write(backend, "failing", pieces)
    assert gcs_proxy.records[-1].method == "DELETE"
    with pytest.raises(TruncatedBodyError):
        backend.write("failing", io.BytesIO(pieces[:-1]), len(pieces))
    assert ground.content("failing") is None


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [Refuse(429, "rateLimitExceeded"), Refuse(500), Refuse(503, "backendError"), Refuse(403, "rateLimitExceeded")],
    ids=repr,
)
def test_a_server_that_recovers_is_asked_again(backend: GSBackend, gcs_proxy: Proxy, action: Action) -> None:
    gcs_proxy.add(Fault(action, kind="GET", times=2))
    assert read(backend, "big") == DATA
    assert gcs_proxy.count("GET") == 3


def test_a_connection_that_breaks_before_the_answer_is_made_again(backend: GSBackend, gcs_proxy: Proxy) -> None:
    gcs_proxy.add(Fault(Reset(after=None), times=2))
    assert read(backend, "big") == DATA
    assert gcs_proxy.count("GET") == 3


@pytest.mark.parametrize("number", range(7))
def test_a_server_that_does_not_recover_is_unavailable_and_nothing_is_absent(
    backend: GSBackend, gcs_proxy: Proxy, number: int
) -> None:
    gcs_proxy.add(Fault(Refuse(503, "backendError"), times=None))
    with pytest.raises(CloudUnavailableError, match="503") as caught:
        every_call(backend)[number]()
    assert not isinstance(caught.value, FileNotFoundError)
    assert len(gcs_proxy.records) == 5
    assert gcs_proxy.connections == 1, "each answer was read, or its connection could not serve the next request"
    del caught
    gc.collect()  # which finds no socket of an answer that was left unread


def test_a_deletion_of_many_reports_what_was_not_deleted(
    logged_in: GSBackend, gcs_proxy: Proxy, ground: GCSRawBucket
) -> None:
    for name in ("many/a", "many/b"):
        ground.plant(name, b"")
    logged_in.delete(["many/a", "many/b", "many/missing"])
    assert keys(logged_in, "many/") == []
    assert gcs_proxy.count("DELETE") == 1
    gcs_proxy.add(Fault(RefuseInBatch((204, 503)), kind="DELETE"))
    logged_in.delete(["a", "b"])
    assert gcs_proxy.count("DELETE") == 3, "those that failed are sent again"
    for statuses, error, number in (((204, 403), CloudPathPermissionError, 1), ((404, 404), BucketNotFoundError, 2)):
        gcs_proxy.add(Fault(RefuseInBatch(statuses), kind="DELETE"))
        with pytest.raises(error) as caught:
            logged_in.delete(["a", "b"])
        assert caught.value.__notes__ == [f"{number} of 2 objects were not deleted"]
    gcs_proxy.add(Fault(RefuseInBatch((204,)), kind="DELETE"))
    with pytest.raises(CloudUnavailableError, match="1 of 2"):
        logged_in.delete(["a", "b"])


def test_403_is_not_404_and_names_the_permission(logged_in: GSBackend, gcs_proxy: Proxy) -> None:
    gcs_proxy.add(Fault(Refuse(403, "forbidden", "x does not have access"), times=None))
    for attempt in every_call(logged_in):
        with pytest.raises(CloudPathPermissionError, match=r"need storage\.objects\.") as caught:
            attempt()
        assert not isinstance(caught.value, FileNotFoundError)
        assert caught.value.__cause__ is not None


def test_without_credentials_the_message_says_how_to_log_in(backend: GSBackend, gcs_proxy: Proxy) -> None:
    for status, reason in ((401, "required"), (403, "forbidden")):
        gcs_proxy.clear_faults()
        gcs_proxy.add(Fault(Refuse(status, reason, "Anonymous caller does not have access"), times=None))
        for attempt in every_call(backend):
            with pytest.raises(MissingCredentialsError, match="gcloud auth application-default login"):
                attempt()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK forgets the refused answer
def test_a_token_that_is_refused_and_cannot_be_renewed_says_so(logged_in: GSBackend, gcs_proxy: Proxy) -> None:
    gcs_proxy.add(Fault(Refuse(401, "authError", "Invalid Credentials"), times=None))
    for attempt in every_call(logged_in):
        with pytest.raises(CloudPathPermissionError, match="log in again") as caught:
            attempt()
        assert "a-token-of-google" not in f"{caught.value}{caught.value.__cause__!r}"


def test_a_missing_bucket_and_a_missing_key_on_the_wire(backend: GSBackend, gcs_proxy: Proxy) -> None:
    missing_bucket = GSBackend(backend.connection, "no-such-bucket-here")
    for attempt in every_call(missing_bucket)[:-1]:  # the proxy does not look into a batch
        with pytest.raises(BucketNotFoundError, match="no-such-bucket-here"):
            attempt()
    gcs_proxy.reset()
    for missing in (lambda: backend.read("a%20b"), lambda: backend.head("a%20b"), lambda: backend.copy("a%20b", "c")):
        with pytest.raises(CloudPathFileNotFoundError, match="a%20b") as caught:
            missing()
        assert type(caught.value) is CloudPathFileNotFoundError
    assert len(gcs_proxy.records) == 3


def test_a_404_that_does_not_say_what_is_missing_is_asked_about(backend: GSBackend, gcs_proxy: Proxy) -> None:
    gcs_proxy.add(Fault(Refuse(404, "notFound", "Not Found"), kind="HEAD", times=None))
    with pytest.raises(CloudPathFileNotFoundError) as caught:
        backend.head("big")
    assert type(caught.value) is CloudPathFileNotFoundError
    with pytest.raises(BucketNotFoundError):
        GSBackend(backend.connection, "no-such-bucket-here").head("big")
    assert gcs_proxy.counts.kinds == {"HEAD": 2, "LIST": 2}


def test_an_endpoint_that_nobody_listens_on_is_unavailable_soon(gcs: GCSServer) -> None:
    with Proxy(gcs.endpoint) as gone:
        endpoint = gone.endpoint
    backend = GSBackend(gs_connection_to(gcs, endpoint, timeout=(1.0, 1.0)), "bucket")
    with pytest.raises(CloudUnavailableError, match=endpoint.removeprefix("http://")):
        backend.head("a")


def test_an_object_of_another_size_than_was_sent_is_an_error(
    backend: GSBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = gs_uploads.upload

    def state_another(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {**upload(*arguments, **options), "size": "3"}

    monkeypatch.setattr(gs, "upload", state_another)
    with pytest.raises(ChecksumMismatchError, match="4 bytes were sent, and the object has 3"):
        write(backend, "sized", b"data")
