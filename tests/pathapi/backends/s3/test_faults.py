"""One read, one write, and a wire that breaks: the right bytes or a clear error, never a mixture."""

from __future__ import annotations

import gc
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from casstore import Validator
from pathapi.backend import ABSENT
from pathapi.backends.s3 import backend as s3
from pathapi.backends.s3 import multipart as s3_parts
from pathapi.backends.s3.backend import S3Backend
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathException,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.parallel.part_threads import PartThreads
from pathapi.testing import drain, opened, read, write
from tests.casstore.support.fill import eventually
from tests.casstore.support.threads import threads_in
from tests.harness.faults import (
    Action,
    Answer,
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
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server
from tests.pathapi.support.faulty_reads import DATA, RANGE, WHOLE, both_ways
from tests.pathapi.support.raw_buckets import S3RawBucket, connection_to


@pytest.fixture(scope="module")
def ground(seaweed: S3Server, shared_bucket: str) -> S3RawBucket:
    ground = S3RawBucket(seaweed.client(), shared_bucket)
    ground.plant("big", DATA)
    return ground


@pytest.fixture
def backend(
    seaweed: S3Server, proxy: Proxy, ground: S3RawBucket, request: pytest.FixtureRequest
) -> Iterator[S3Backend]:
    # Short only where that is the point: a busy machine may well be silent for a second.
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    stalls = isinstance(parameters.get("action"), Stall)
    connection = connection_to(seaweed, proxy.endpoint, read_timeout=2.0 if stalls else 30.0, connect_timeout=30.0)
    yield S3Backend(connection, ground.bucket)
    connection.client.close()


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
    backend: S3Backend, proxy: Proxy, action: Action, error: type[Exception], start: int, end: int | None
) -> None:
    proxy.add(Fault(action, kind="GET", times=None))
    for attempt in both_ways(backend, start, end):
        with pytest.raises(error, match="big"):
            attempt()
    proxy.clear_faults()
    assert read(backend, "big", start, end) == DATA[start:end]


@pytest.mark.parametrize(
    "action", [Surplus(10, chunked=True), Understate(10), SetHeader("Content-Length", "199010")], ids=repr
)
def test_a_range_that_is_longer_than_announced_or_asked_is_an_error(
    backend: S3Backend, proxy: Proxy, action: Action
) -> None:
    proxy.add(Fault(action, kind="GET", times=None))
    for attempt in both_ways(backend, *RANGE):
        with pytest.raises(CloudUnavailableError, match=r"big|announced"):
            attempt()


def test_surplus_bytes_do_not_reach_the_next_answer(backend: S3Backend, proxy: Proxy) -> None:
    proxy.add(Fault(Surplus(10), kind="GET"))
    assert read(backend, "big") == DATA
    assert read(backend, "big") == DATA


def test_a_wrong_checksum_is_an_error_before_the_last_byte(backend: S3Backend, proxy: Proxy) -> None:
    proxy.add(Fault(SetHeader("x-amz-checksum-crc32", "AAAAAA=="), kind="GET", times=None))
    with pytest.raises(ChecksumMismatchError, match="big"):
        read(backend, "big")
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


def test_a_flipped_byte_is_found_where_the_server_states_a_checksum(
    backend: S3Backend, proxy: Proxy, ground: S3RawBucket
) -> None:
    if "ChecksumCRC32" not in ground.client.get_object(Bucket=ground.bucket, Key="big", ChecksumMode="ENABLED"):
        pytest.skip("this server states no checksum")
    proxy.add(Fault(FlipByte(at=1_234), kind="GET"))
    with pytest.raises(ChecksumMismatchError):
        read(backend, "big")


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_recovers_is_asked_again(backend: S3Backend, proxy: Proxy, status: int) -> None:
    proxy.add(Fault(Answer(status, "SlowDown"), kind="GET", times=2))
    assert read(backend, "big") == DATA
    assert proxy.count("GET") == 3


def test_a_server_that_does_not_recover_is_unavailable_and_nothing_is_absent(backend: S3Backend, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(503, "SlowDown"), times=None))
    for attempt in (lambda: backend.read("big"), lambda: backend.head("big"), lambda: list(backend.list("big"))):
        with pytest.raises(CloudUnavailableError, match=r"SlowDown|503") as caught:
            attempt()
        assert not isinstance(caught.value, FileNotFoundError)
        del caught
    assert proxy.connections == 1, "each answer was read, or its connection could not serve the next request"
    gc.collect()  # which finds no socket of an answer that was left unread


def test_403_is_not_404(backend: S3Backend, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), times=None))
    for attempt in (lambda: backend.read("big"), lambda: backend.head("big"), lambda: list(backend.list("big"))):
        with pytest.raises(CloudPathPermissionError, match="s3:") as caught:
            attempt()
        assert not isinstance(caught.value, FileNotFoundError)


def test_a_server_that_ignores_if_match_is_caught_by_its_own_answer(
    backend: S3Backend, proxy: Proxy, ground: S3RawBucket
) -> None:
    ground.plant("changing", b"first")
    version = backend.head("changing").validator
    ground.plant("changing", b"other")
    proxy.add(Fault(DropRequestHeader("If-Match"), kind="GET", times=None))
    with pytest.raises(VersionMismatchError):
        backend.read("changing", expect=version)


@pytest.mark.parametrize(("start", "end"), [(0, 100), (1_000, 200_000), (299_999, 300_000), (5, None), (0, 10**9)])
def test_a_server_that_ignores_ranges_still_gives_the_range(
    backend: S3Backend, proxy: Proxy, start: int, end: int | None
) -> None:
    proxy.add(Fault(DropRequestHeader("Range"), kind="GET", times=None))
    for attempt in both_ways(backend, start, end):
        assert attempt() == DATA[start:end]
    body = opened(backend, "big", start, end)
    body.close()
    assert (body.info.size, body.length) == (len(DATA), len(DATA[start:end]))


def test_an_object_that_is_filled_after_it_answered_as_empty_is_read(
    backend: S3Backend, proxy: Proxy, ground: S3RawBucket
) -> None:
    ground.plant("growing", b"")
    proxy.add(Fault(Call(lambda: ground.plant("growing", DATA)), kind="GET", key="growing", nth=2))
    # Asked with a condition: without one, "empty" is the answer, and the second request is not made.
    body = backend.read("growing", 0, 1_000, unless=Validator(1, "another"))
    assert body is not None
    assert drain(body) == DATA[:1_000]


def test_one_read_is_one_request(backend: S3Backend, proxy: Proxy) -> None:
    version = backend.head("big").validator
    proxy.reset()
    read(backend, "big")
    read(backend, "big", 5, 10)
    assert backend.read("big", unless=version) is None
    assert len(proxy.records) == 3


def test_a_conflict_of_two_writes_is_asked_again(backend: S3Backend, proxy: Proxy, ground: S3RawBucket) -> None:
    proxy.add(Fault(Answer(409, "ConditionalRequestConflict"), kind="PUT", times=2))
    write(backend, "contended", b"mine", ABSENT)
    assert ground.content("contended") == b"mine"
    assert proxy.count("PUT") == 3


def test_a_server_without_conditions_is_told_apart(backend: S3Backend, proxy: Proxy, ground: S3RawBucket) -> None:
    proxy.add(Fault(Answer(501, "NotImplemented"), kind="PUT", times=None))
    with pytest.raises(CloudPathNotImplementedError, match="NotImplemented"):
        write(backend, "unconditional", b"mine", ABSENT)


def test_an_upload_in_parts_carries_its_condition_and_leaves_nothing_behind(
    seaweed: S3Server, proxy: Proxy, ground: S3RawBucket
) -> None:
    transfer: Any = pytest.importorskip("boto3.s3.transfer")
    config = transfer.TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20, max_concurrency=3)
    backend = S3Backend(connection_to(seaweed, proxy.endpoint, boto3_transfer_config=config), ground.bucket)
    data = os.urandom((11 << 20) + 3)
    info = write(backend, "parts", data, ABSENT)
    assert ground.content("parts") == data
    assert backend.head("parts").validator.same_version(info.validator)
    with pytest.raises(VersionMismatchError):
        write(backend, "parts", data, ABSENT)
    second = write(backend, "parts", data[::-1], info.validator)
    with pytest.raises(VersionMismatchError):
        write(backend, "parts", data, info.validator)
    assert ground.content("parts") == data[::-1]
    proxy.add(Fault(Answer(403, "AccessDenied"), match=lambda record: "partNumber=2" in record.query, times=None))
    with pytest.raises(CloudPathPermissionError, match="parts"):
        write(backend, "parts", data, second.validator)
    with pytest.raises(TruncatedBodyError):
        backend.write("parts", io.BytesIO(data[:-1]), len(data))
    assert ground.content("parts") == data[::-1]
    uploads = ground.client.list_multipart_uploads(Bucket=ground.bucket).get("Uploads", [])
    assert [upload["Key"] for upload in uploads if upload["Key"] == "parts"] == []


def test_an_interrupted_upload_in_parts_is_aborted_again_after_parts_that_arrive_later(
    seaweed: S3Server, proxy: Proxy, ground: S3RawBucket
) -> None:
    transfer: Any = pytest.importorskip("boto3.s3.transfer")
    config = transfer.TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
    backend = S3Backend(connection_to(seaweed, proxy.endpoint, boto3_transfer_config=config), ground.bucket)
    released = threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        released.wait()

    proxy.reset()
    proxy.add(Fault(Call(interrupt), match=lambda record: "partNumber=2" in record.query))
    try:
        with pytest.raises(KeyboardInterrupt):
            write(backend, "late", bytes(11 << 20))
        # The other parts may end later than the interrupt, too; then the second one is the only one that is left.
        eventually(lambda: _aborts(proxy) and threads_in(PartThreads._run) == 1)
        before = _aborts(proxy)
    finally:
        released.set()
    eventually(lambda: not threads_in(PartThreads._run))
    assert _aborts(proxy) == before + 1
    uploads = ground.client.list_multipart_uploads(Bucket=ground.bucket).get("Uploads", [])
    assert [upload["Key"] for upload in uploads if upload["Key"] == "late"] == []
    assert ground.content("late") is None


def _aborts(proxy: Proxy) -> int:
    return len([record for record in proxy.records if record.method == "DELETE" and "uploadId" in record.query])


def test_the_parts_of_an_upload_travel_side_by_side(seaweed: S3Server, proxy: Proxy, ground: S3RawBucket) -> None:
    transfer: Any = pytest.importorskip("boto3.s3.transfer")
    config = transfer.TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20, max_concurrency=2)
    backend = S3Backend(connection_to(seaweed, proxy.endpoint, boto3_transfer_config=config), ground.bucket)
    both = threading.Barrier(2, timeout=1_000)
    proxy.add(Fault(Call(both.wait), match=lambda record: "partNumber=1" in record.query))
    proxy.add(Fault(Call(both.wait), match=lambda record: "partNumber=2" in record.query))
    write(backend, "side-by-side", b"x" * (11 << 20), ABSENT)
    assert not both.broken


def test_a_copy_in_parts_carries_its_condition_and_leaves_nothing_behind(
    backend: S3Backend, ground: S3RawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "COPY_LIMIT", 5 << 20)
    monkeypatch.setattr(s3_parts, "COPY_PART_SIZE", 5 << 20)
    data = os.urandom((11 << 20) + 3)
    ground.plant("whole", data)
    source = backend.head("whole").validator
    first = backend.copy("whole", "copied", expect=source, over=ABSENT)
    assert ground.content("copied") == data
    assert backend.head("copied").validator.same_version(first.validator)
    with pytest.raises(VersionMismatchError):
        backend.copy("whole", "copied", expect=source, over=ABSENT)
    ground.plant("copied", b"theirs")
    with pytest.raises(VersionMismatchError):
        backend.copy("whole", "copied", expect=source, over=first.validator)
    assert ground.content("copied") == b"theirs"
    ground.remove("copied")
    with pytest.raises(VersionMismatchError):
        backend.copy("whole", "copied", expect=source, over=first.validator)
    assert ground.content("copied") is None
    uploads = ground.client.list_multipart_uploads(Bucket=ground.bucket).get("Uploads", [])
    assert [upload["Key"] for upload in uploads if upload["Key"] == "copied"] == []


def test_an_endpoint_that_nobody_listens_on_is_unavailable_soon(seaweed: S3Server, bucket: str) -> None:
    with Proxy(seaweed.endpoint) as gone:
        endpoint = gone.endpoint
    backend = S3Backend(connection_to(seaweed, endpoint, connect_timeout=0.5), bucket)
    began = time.monotonic()
    with pytest.raises(CloudUnavailableError, match=endpoint.removeprefix("http://")):
        backend.head("a")
    assert time.monotonic() - began < 300


def test_no_message_holds_a_credential(backend: S3Backend, proxy: Proxy, seaweed: S3Server) -> None:
    for status, code in (
        (403, "SignatureDoesNotMatch"),
        (403, "InvalidAccessKeyId"),
        (400, "ExpiredToken"),
        (500, "X"),
    ):
        proxy.clear_faults()
        proxy.add(Fault(Answer(status, code), times=None))
        with pytest.raises(CloudPathException) as caught:
            backend.read("big")
        texts = f"{caught.value}{caught.value.__cause__}"
        assert seaweed.secret_key not in texts
        assert seaweed.access_key not in texts
        assert "Signature=" not in texts
