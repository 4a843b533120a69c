"""One read, one write, and a wire that breaks: the right bytes or a clear error, never a mixture; on Azurite."""

from __future__ import annotations

import gc
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from casstore import Validator
from pathapi.backend import ABSENT
from pathapi.backends.azure import backend as azure
from pathapi.backends.azure import multipart as azure_blocks
from pathapi.backends.azure.backend import AzureBackend, AzureConnection
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
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
from tests.harness.azure_servers import AzureServer
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
from tests.harness.http_messages import Head
from tests.harness.proxy import Proxy
from tests.pathapi.support.faulty_reads import DATA, RANGE, WHOLE, both_ways
from tests.pathapi.support.raw_buckets import AzureRawBucket, azure_connection_to


@dataclass(frozen=True, slots=True)
class Note(Action):
    """Nothing wrong: the MD5 that goes with each request's body is noted."""

    found: list[str | None]

    def before(self, request: Head) -> None:
        self.found.append(request.get("content-md5"))


@dataclass(frozen=True, slots=True)
class Shorten(Action):
    """A body in chunks that ends in good order, and too soon."""

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set("Content-Length", None)
        response.set("Transfer-Encoding", "chunked")

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        yield b"".join(chunks)[:100_000]


@pytest.fixture(scope="module")
def ground(azurite: AzureServer, shared_container: str) -> AzureRawBucket:
    ground = AzureRawBucket(azurite.client(), shared_container)
    ground.plant("big", DATA)
    return ground


@pytest.fixture
def backend(
    azurite: AzureServer, azure_proxy: Proxy, ground: AzureRawBucket, request: pytest.FixtureRequest
) -> Iterator[AzureBackend]:
    # Short only where that is the point: a busy machine may well be silent for a second.
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    stalls = isinstance(parameters.get("action"), Stall)
    read_timeout = 2.0 if stalls else 30.0
    connection = azure_connection_to(azurite, azure_proxy.endpoint, read_timeout=read_timeout, connect_timeout=30.0)
    yield AzureBackend(connection, ground.bucket)
    connection.close()


@pytest.fixture
def by_signature(azurite: AzureServer, azure_proxy: Proxy, ground: AzureRawBucket) -> AzureBackend:
    """A backend whose requests stay valid when a header is taken away, as those signed with the key do not."""
    signature = _signature(azurite, ground.bucket, "rwdl", 60)
    return AzureBackend(
        AzureConnection(account_url=azurite.account_url(azure_proxy.endpoint), credential=signature), ground.bucket
    )


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [WHOLE, RANGE])
@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Truncate(after=0), CloudUnavailableError),
        (Truncate(after=100_000), TruncatedBodyError),
        (Reset(after=100_000), TruncatedBodyError),
        (Shorten(), TruncatedBodyError),
        (Stall(60, after=100_000), CloudUnavailableError),
    ],
    ids=repr,
)
def test_a_body_that_does_not_arrive_whole_is_an_error(
    backend: AzureBackend, azure_proxy: Proxy, action: Action, error: type[Exception], start: int, end: int | None
) -> None:
    azure_proxy.add(Fault(action, kind="GET", times=None))
    for attempt in both_ways(backend, start, end):
        with pytest.raises(error, match="big"):
            attempt()
    azure_proxy.clear_faults()
    assert read(backend, "big", start, end) == DATA[start:end]


@pytest.mark.parametrize(
    "action", [Surplus(10, chunked=True), Understate(10), SetHeader("Content-Length", "199010")], ids=repr
)
def test_a_range_that_is_longer_than_announced_or_asked_is_an_error(
    backend: AzureBackend, azure_proxy: Proxy, action: Action
) -> None:
    azure_proxy.add(Fault(action, kind="GET", times=None))
    for attempt in both_ways(backend, *RANGE):
        with pytest.raises(CloudUnavailableError, match=r"big|announced"):
            attempt()


def test_a_flipped_byte_is_found_by_the_md5_that_the_server_states(backend: AzureBackend, azure_proxy: Proxy) -> None:
    azure_proxy.add(Fault(FlipByte(at=1_234), kind="GET", times=None))
    for attempt in both_ways(backend, *WHOLE):
        with pytest.raises(ChecksumMismatchError, match="big"):
            attempt()
    body, buffer, filled = opened(backend, "big"), memoryview(bytearray(len(DATA))), 0

    def fill() -> None:
        nonlocal filled
        while filled < len(DATA):
            filled += body.readinto(buffer[filled:])

    with pytest.raises(ChecksumMismatchError):  # whoever stops at the announced length has still seen it
        fill()


def test_an_md5_of_another_kind_of_blob_is_nobodys_word(backend: AzureBackend, ground: AzureRawBucket) -> None:
    """Appending does not change what was once set."""
    from azure.storage.blob import ContentSettings

    settings = ContentSettings(content_md5=bytearray(16))
    ground.client.upload_blob("appended", b"abc", blob_type="AppendBlob", overwrite=True)
    ground.client.get_blob_client("appended").set_http_headers(settings)
    assert read(backend, "appended") == b"abc"
    assert backend.head("appended").checksums == ()


def test_a_server_that_ignores_if_match_is_caught_by_its_own_answer(
    by_signature: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket
) -> None:
    ground.plant("changing", b"first")
    version = by_signature.head("changing").validator
    ground.plant("changing", b"other")
    azure_proxy.add(Fault(DropRequestHeader("If-Match"), kind="GET", times=None))
    with pytest.raises(VersionMismatchError):
        by_signature.read("changing", expect=version)


@pytest.mark.parametrize(("start", "end"), [(0, 100), (1_000, 200_000), (299_999, 300_000), (5, None), (0, 10**9)])
def test_a_server_that_ignores_ranges_still_gives_the_range(
    by_signature: AzureBackend, azure_proxy: Proxy, start: int, end: int | None
) -> None:
    azure_proxy.add(Fault(DropRequestHeader("x-ms-range"), kind="GET", times=None))
    for attempt in both_ways(by_signature, start, end):
        assert attempt() == DATA[start:end]
    body = opened(by_signature, "big", start, end)
    body.close()
    assert (body.info.size, body.length) == (len(DATA), len(DATA[start:end]))


def test_an_object_that_is_filled_after_it_answered_as_empty_is_read(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket
) -> None:
    ground.plant("growing", b"")
    azure_proxy.add(Fault(Call(lambda: ground.plant("growing", DATA)), kind="HEAD", key="growing"))
    # Asked with a condition: without one, "empty" is the answer, and the second request is not made.
    body = backend.read("growing", 0, 1_000, unless=Validator(1, "another"))
    assert body is not None
    assert drain(body) == DATA[:1_000]


@pytest.mark.parametrize("single", [1 << 16, 1 << 10])
def test_a_read_is_not_cut_where_the_sdk_would_begin_another_part(
    azurite: AzureServer, azure_proxy: Proxy, ground: AzureRawBucket, single: int
) -> None:
    from azure.storage.blob import BlobServiceClient

    text = azurite.connection_string(azure_proxy.endpoint)
    ground.plant("empty", b"")
    with BlobServiceClient.from_connection_string(text, max_single_get_size=single) as service:
        backend = AzureBackend(AzureConnection(blob_service_client=service), ground.bucket)
        for start, end in (WHOLE, RANGE, (5, None), (0, len(DATA)), (0, 10**9), (299_999, None)):
            azure_proxy.reset()
            for attempt in both_ways(backend, start, end):
                assert attempt() == DATA[start:end]
            assert len(azure_proxy.records) == 2
        assert read(backend, "empty") == read(backend, "empty", 0, 10**6) == read(backend, "empty", 5) == b""
        found = backend.head("big").validator
        assert backend.read("big", unless=found) is None
        assert read(backend, "big", expect=found) == DATA


def test_an_object_that_is_larger_than_what_the_sdk_asks_for_at_once_is_read(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket
) -> None:
    data = os.urandom(1 << 20) * 33
    ground.plant("over 32 MiB", data)
    azure_proxy.reset()
    assert read(backend, "over 32 MiB") == data
    assert len(azure_proxy.records) == 1


def test_one_read_is_one_request(backend: AzureBackend, azure_proxy: Proxy) -> None:
    version = backend.head("big").validator
    azure_proxy.reset()
    read(backend, "big")
    read(backend, "big", 5, 10)
    assert backend.read("big", unless=version) is None
    assert len(azure_proxy.records) == 3


# --- a server that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "ServerBusy")])
def test_a_server_that_recovers_is_asked_again(
    backend: AzureBackend, azure_proxy: Proxy, status: int, code: str
) -> None:
    azure_proxy.add(Fault(Answer(status, code), kind="GET", times=2))
    assert read(backend, "big") == DATA
    assert azure_proxy.count("GET") == 3


def attempts(backend: AzureBackend) -> list[Callable[[], object]]:
    return [
        lambda: backend.read("big"),
        lambda: backend.head("big"),
        lambda: list(backend.list("big")),
        lambda: write(backend, "refused", b"x"),
        lambda: backend.copy("big", "refused"),
        lambda: backend.delete(["refused"]),
        lambda: backend.delete(["refused", "too"]),
    ]


@pytest.mark.parametrize(("status", "code", "tries"), [(503, "ServerBusy", 4), (429, "TooManyRequests", 1)])
def test_a_server_that_does_not_recover_is_unavailable_and_nothing_is_absent(
    backend: AzureBackend, azure_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, status: int, code: str, tries: int
) -> None:
    monkeypatch.setattr("pathapi.backends.azure.connection._BACKOFF", 0.1)
    azure_proxy.add(Fault(Answer(status, code, (("x-ms-error-code", code),)), times=None))
    for attempt in attempts(backend):
        azure_proxy.reset()
        with pytest.raises(CloudUnavailableError, match=code) as caught:
            attempt()
        assert not isinstance(caught.value, FileNotFoundError)
        assert caught.value.__cause__ is not None
        assert len(azure_proxy.records) == tries
        assert azure_proxy.connections == 1, "each answer was read, or its connection could not serve the next request"
        del caught
    gc.collect()  # which finds no socket of an answer that was left unread


def test_403_is_not_404_and_says_what_lacks(backend: AzureBackend, azure_proxy: Proxy) -> None:
    code = "AuthorizationPermissionMismatch"
    azure_proxy.add(Fault(Answer(403, code, (("x-ms-error-code", code),)), times=None))
    for attempt in attempts(backend):
        with pytest.raises(CloudPathPermissionError, match="Storage Blob Data") as caught:
            attempt()
        assert not isinstance(caught.value, FileNotFoundError)


def test_an_endpoint_that_nobody_listens_on_is_unavailable_soon(azurite: AzureServer) -> None:
    with Proxy(azurite.endpoint) as gone:
        endpoint = gone.endpoint
    backend = AzureBackend(azure_connection_to(azurite, endpoint, connect_timeout=0.5), "container")
    began = time.monotonic()
    with pytest.raises(CloudUnavailableError, match=endpoint.removeprefix("http://")):
        backend.head("a")
    assert time.monotonic() - began < 300


def test_a_missing_container_is_told_by_every_call(azurite: AzureServer) -> None:
    for attempt in attempts(AzureBackend(azure_connection_to(azurite), "no-such-container")):
        with pytest.raises(BucketNotFoundError, match="no-such-container"):
            attempt()


def _signature(azurite: AzureServer, container: str, permission: str, minutes: int) -> str:
    from azure.storage.blob import generate_container_sas

    signature: str = generate_container_sas(
        azurite.account,
        container,
        account_key=azurite.key,
        permission=permission,
        start=datetime.now(UTC) - timedelta(days=1),
        expiry=datetime.now(UTC) + timedelta(minutes=minutes),
    )
    return signature


def test_a_signature_opens_what_it_permits_and_no_longer_than_it_may(
    azurite: AzureServer, ground: AzureRawBucket
) -> None:
    def backend(permission: str, minutes: int, *, in_url: bool) -> AzureBackend:
        signature = _signature(azurite, ground.bucket, permission, minutes)
        url = azurite.account_url()
        given: dict[str, Any] = {"account_url": f"{url}?{signature}"} if in_url else {"credential": signature}
        return AzureBackend(AzureConnection(**{"account_url": url, **given}), ground.bucket)

    for in_url in (True, False):
        reader = backend("rl", 60, in_url=in_url)
        assert read(reader, "big") == DATA
        assert [item.key for item in reader.list("big")] == ["big"]
        with pytest.raises(CloudPathPermissionError, match="to write blobs"):
            write(reader, "unwritten", b"x")
        writer = backend("rwd", 60, in_url=in_url)
        write(writer, "source", b"signed")
        writer.copy("source", "target")
        assert ground.content("target") == b"signed"
        writer.delete(["source"])
        for attempt in attempts(backend("rwdl", -60, in_url=in_url)):
            with pytest.raises(CloudPathPermissionError) as caught:
                attempt()
            texts = f"{caught.value}{caught.value.__cause__}{caught.value.__cause__!r}"
            assert "sig=" not in texts
    assert ground.content("unwritten") is None


def test_a_wrong_key_is_refused_and_not_quoted(azurite: AzureServer, ground: AzureRawBucket) -> None:
    wrong = "d3Jvbmc" + azurite.key[7:]
    backend = AzureBackend(AzureConnection(account_url=azurite.account_url(), credential=wrong), ground.bucket)
    for attempt in attempts(backend):
        with pytest.raises(CloudPathPermissionError, match="must be this account's") as caught:
            attempt()
        assert wrong not in f"{caught.value}{caught.value.__cause__}"


def test_without_credentials_only_public_containers_are_read(azurite: AzureServer, ground: AzureRawBucket) -> None:
    public = azurite.new_container()
    azurite.client().get_container_client(public).set_container_access_policy({}, public_access="container")
    AzureRawBucket(azurite.client(), public).plant("a", b"for all")
    anonymous = AzureConnection(account_url=azurite.account_url())
    assert read(AzureBackend(anonymous, public), "a") == b"for all"
    assert [item.key for item in AzureBackend(anonymous, public).list()] == ["a"]
    with pytest.raises(CloudPathPermissionError, match="not public"):
        AzureBackend(anonymous, ground.bucket).read("big")


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_creation_whose_answer_was_lost_says_that_it_may_have_been_us(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket
) -> None:
    azure_proxy.add(Fault(Reset(after=None), kind="PUT"))
    with pytest.raises(VersionMismatchError) as caught:
        write(backend, "lost", b"mine", ABSENT)
    assert caught.value.outcome_unknown
    assert ground.content("lost") == b"mine"
    with pytest.raises(VersionMismatchError) as caught:
        write(backend, "lost", b"mine", ABSENT)
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize("size", [10, (1 << 20) + 3])
def test_an_upload_states_the_md5_of_its_bytes(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    import hashlib

    monkeypatch.setattr(azure, "THRESHOLD", 1 << 20)
    monkeypatch.setattr(azure_blocks, "BLOCK_SIZE", 100_000)
    data = os.urandom(size)
    expected = hashlib.md5(data).hexdigest()
    with_bodies: list[str | None] = []
    azure_proxy.add(Fault(Note(with_bodies), match=lambda record: "blocklist" not in record.query, times=None))
    info = backend.write("stated", io.BytesIO(data), size, content_type="text/x-stated")
    assert with_bodies and all(with_bodies), "what is damaged on its way is refused"
    azure_proxy.clear_faults()
    (listed,) = backend.list("stated")
    body = opened(backend, "stated", 1, 2)
    body.close()
    for said in (info, backend.head("stated"), listed, body.info):
        assert [(one.kind, one.value) for one in said.checksums] == [("md5", expected)]  # type: ignore[union-attr]
        assert said.content_type == "text/x-stated"  # type: ignore[union-attr]


def test_an_upload_in_blocks_carries_its_condition(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "THRESHOLD", 1 << 20)
    monkeypatch.setattr(azure_blocks, "BLOCK_SIZE", 1 << 20)
    data = os.urandom((3 << 20) + 3)
    info = write(backend, "blocks", data, ABSENT)
    assert ground.content("blocks") == data
    assert backend.head("blocks").validator.same_version(info.validator)
    with pytest.raises(VersionMismatchError):
        write(backend, "blocks", data, ABSENT)
    second = write(backend, "blocks", data[::-1], info.validator)
    with pytest.raises(VersionMismatchError):
        write(backend, "blocks", data, info.validator)
    assert ground.content("blocks") == data[::-1]
    azure_proxy.add(Fault(Answer(403, "AuthorizationFailure"), match=_is_block, nth=2, times=None))
    with pytest.raises(CloudPathPermissionError, match="blocks"):
        write(backend, "blocks", data, second.validator)
    azure_proxy.clear_faults()
    with pytest.raises(TruncatedBodyError):
        backend.write("blocks", io.BytesIO(data[:-1]), len(data))
    assert ground.content("blocks") == data[::-1]
    eventually(lambda: not threads_in(PartThreads._run))


def _is_block(record: Any) -> bool:
    return "comp=block&" in record.query + "&"


def test_two_uploads_in_blocks_at_one_time_are_never_mixed(
    backend: AzureBackend, ground: AzureRawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "THRESHOLD", 1)
    monkeypatch.setattr(azure_blocks, "BLOCK_SIZE", 10_000)
    contents = [bytes([number]) * 100_000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(write, backend, "mixed", data) for data in contents]
    won = [future for future in futures if future.exception() is None]
    assert won and ground.content("mixed") in contents
    for future in futures:
        assert isinstance(future.exception(), CloudUnavailableError | None)


def test_blocks_that_another_writers_commit_discarded_are_sent_again(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "THRESHOLD", 1)

    def intervene() -> None:
        azure_proxy.add(Fault(Call(lambda: ground.plant("between", b"theirs")), match=_is_commit))
        # Azure says so; Azurite keeps blocks that another's write should discard.
        azure_proxy.add(Fault(Answer(400, "InvalidBlockList"), match=_is_commit))

    intervene()
    write(backend, "between", DATA)
    assert ground.content("between") == DATA
    ground.remove("between")
    intervene()
    with pytest.raises(VersionMismatchError):
        write(backend, "between", DATA, ABSENT)
    assert ground.content("between") == b"theirs"
    azure_proxy.add(Fault(Answer(400, "InvalidBlockList"), match=_is_commit, times=None))
    with pytest.raises(CloudUnavailableError, match="kept writing"):
        write(backend, "between", DATA)


def _is_commit(record: Any) -> bool:
    return "comp=blocklist" in record.query


# --- copying and deleting -------------------------------------------------------------------------------------------


def test_a_copy_that_goes_on_after_its_answer_is_waited_for(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket
) -> None:
    azure_proxy.add(Fault(SetHeader("x-ms-copy-status", "pending"), kind="COPY", times=None))
    azure_proxy.add(Fault(SetHeader("x-ms-copy-status", "pending"), kind="HEAD", key="slow", times=2))
    info = backend.copy("big", "slow", expect=backend.head("big").validator)
    assert azure_proxy.count("HEAD", key="slow") == 3
    assert info.size == len(DATA)
    assert backend.head("slow").validator.same_version(info.validator)


def test_a_copy_that_fails_after_its_answer_is_an_error(backend: AzureBackend, azure_proxy: Proxy) -> None:
    azure_proxy.add(Fault(SetHeader("x-ms-copy-status", "pending"), kind="COPY", times=None))
    azure_proxy.add(Fault(SetHeader("x-ms-copy-status", "failed"), kind="HEAD", key="failing"))
    with pytest.raises(CloudUnavailableError, match="failing"):
        backend.copy("big", "failing", expect=backend.head("big").validator)


def test_a_copy_keeps_type_md5_and_metadata(backend: AzureBackend, ground: AzureRawBucket) -> None:
    from azure.storage.blob import ContentSettings

    settings = ContentSettings(content_type="text/x-kept")
    ground.client.upload_blob("kept", b"kept", overwrite=True, metadata={"a": "b"}, content_settings=settings)
    backend.copy("kept", "kept2")
    properties = ground.client.get_blob_client("kept2").get_blob_properties()
    assert (properties.metadata, properties.content_settings.content_type) == ({"a": "b"}, "text/x-kept")
    assert backend.head("kept2").checksums == backend.head("kept").checksums != ()


def test_a_server_without_batches_is_asked_one_by_one(
    backend: AzureBackend, azure_proxy: Proxy, ground: AzureRawBucket
) -> None:
    names = [f"batch/{number}" for number in range(5)]
    for name in names:
        ground.plant(name, b"")
    code = (("x-ms-error-code", "NotImplemented"),)
    azure_proxy.add(Fault(Answer(501, "NotImplemented", code), match=lambda record: "comp=batch" in record.query))
    backend.delete([*names, "batch/missing"])
    assert list(backend.list("batch/")) == []


def test_more_deletes_than_one_batch_takes_are_several(
    backend: AzureBackend, ground: AzureRawBucket, azure_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure.AzureBackend, "_batch", 2)
    names = [f"many/{number}" for number in range(5)]
    for name in names:
        ground.plant(name, b"")
    backend.delete(names)
    assert azure_proxy.count("DELETE") == 3
    assert list(backend.list("many/")) == []


def test_a_delete_that_is_refused_among_others_is_an_error(backend: AzureBackend, ground: AzureRawBucket) -> None:
    ground.plant("leased", b"")
    lease = ground.client.get_blob_client("leased").acquire_lease()
    ground.plant("free", b"")
    for names in (["leased"], ["free", "leased"]):
        with pytest.raises(CloudPathPermissionError, match="has a lease"):
            backend.delete(names)
    assert (ground.content("free"), ground.content("leased")) == (None, b"")
    with pytest.raises(CloudPathPermissionError, match="has a lease"):
        write(backend, "leased", b"x", backend.head("leased").validator)
    lease.break_lease(0)


def test_an_object_with_snapshots_is_not_deleted_with_them(backend: AzureBackend, ground: AzureRawBucket) -> None:
    ground.plant("snapped", b"x")
    ground.client.get_blob_client("snapped").create_snapshot()
    with pytest.raises(CloudPathPermissionError, match="has snapshots"):
        backend.delete(["snapped"])
    assert ground.content("snapped") == b"x"


def test_a_server_without_conditions_is_told_apart(backend: AzureBackend, azure_proxy: Proxy) -> None:
    azure_proxy.add(Fault(Answer(501, "NotImplemented"), kind="PUT", times=None))
    with pytest.raises(CloudPathNotImplementedError, match="NotImplemented"):
        write(backend, "unconditional", b"mine", ABSENT)
