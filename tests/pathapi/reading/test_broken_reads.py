"""Reading through a wire that breaks and over objects that change: right bytes of one version or a clear error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from casstore import Cache
from pathapi import S3Client, S3Path
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathFileNotFoundError,
    CloudPathPermissionError,
    CloudUnavailableError,
    NotCachedError,
    StaleReadError,
    TruncatedBodyError,
)
from pathapi.parallel.part_threads import PartThreads
from pathapi.reading import download as transfer
from pathapi.reading import reader as reading
from tests.casstore.support.fill import eventually
from tests.casstore.support.threads import threads_in
from tests.harness.faults import (
    Action,
    Answer,
    Call,
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
from tests.harness.request_log import Record
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

PART = 1 << 18
SMALL = os.urandom(200_000)
LARGE = os.urandom(2 * PART + 150_000)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many reads in parts take no time."""
    monkeypatch.setattr(transfer, "PART", PART)
    monkeypatch.setattr(reading, "PART", PART)


@pytest.fixture
def client(make_client: MakeClient, request: pytest.FixtureRequest) -> S3Client:
    client = make_client()
    # Short only where that is the point: a busy machine may well be silent for a second.
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    stalls = isinstance(parameters.get("action"), Stall)
    object.__setattr__(client.connection, "read_timeout", 2.0 if stalls else 30.0)
    return client


@pytest.fixture(params=["small", "large"])
def data(request: pytest.FixtureRequest) -> bytes:
    return SMALL if request.param == "small" else LARGE


@pytest.fixture
def path(client: S3Client, ground: S3RawBucket, at: str, data: bytes) -> S3Path:
    ground.plant(at + "object", data)
    return client.S3Path(f"s3://{ground.bucket}/{at}object")


@pytest.fixture(autouse=True)
def sound(client: S3Client) -> Iterator[None]:
    """Whatever a test does: no blob with wrong bytes, no entry without its blob, no descriptor left."""
    client.connection.client  # noqa: B018 (its sockets and the store's files are not to be counted)
    _ = client.cache.lease
    client.cache.flush()
    before = open_files()
    yield
    client.cache.flush()
    check_store(client.cache)
    assert open_files() - before <= set(), "descriptors were left open"


def open_files() -> set[str]:
    """What regular files this process has open, by name; sockets, which are pooled, and the index, are left out."""
    names = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if "/blobs/" in name or "/staging/" in name:
            names.add(name)
    return names


def check_store(cache: Cache) -> None:
    for entry in cache.entries():
        descriptor = os.open(cache.blob_path(entry), os.O_RDONLY)
        try:
            assert os.fstat(descriptor).st_size == entry.size
            assert cache.blobs.verify(descriptor, entry.digest), f"{entry.uri} has wrong bytes in the store"
        finally:
            os.close(descriptor)


def read_by_open(path: S3Path) -> bytes:
    with path.open("rb") as file:
        data: bytes = file.read()
        return data


WAYS = [pytest.param(S3Path.read_bytes, id="read_bytes"), pytest.param(read_by_open, id="open", marks=pytest.mark.slow)]
ONCE: list[Action] = [
    Truncate(after=0),
    Truncate(after=100_000),
    Reset(after=0),
    Reset(after=100_000),
    Reset(after=None),
    Stall(60, after=100_000),
    Understate(by=100),
    Surplus(5, chunked=True),
    SetHeader("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    Answer(503, "SlowDown"),
    Answer(500),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("action", ONCE, ids=repr)
def test_what_breaks_once_is_read_all_the_same(
    path: S3Path, proxy: Proxy, data: bytes, action: Action, way: Callable[[S3Path], bytes]
) -> None:
    proxy.add(Fault(action, kind="GET"))
    assert way(path) == data


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("action", [Truncate(after=100_000), Reset(after=50_000), Stall(60, after=10)], ids=repr)
def test_any_part_of_a_large_object_may_break_once(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str, action: Action, nth: int
) -> None:
    ground.plant(at + "object", LARGE)
    proxy.add(Fault(action, kind="GET", nth=nth))
    assert client.S3Path(f"s3://{ground.bucket}/{at}object").read_bytes() == LARGE
    assert proxy.count("GET") == 4, "one part was read twice, and no other"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Truncate(after=100_000), TruncatedBodyError),
        (Reset(after=100_000), TruncatedBodyError),
        (Understate(by=100), TruncatedBodyError),
        (Answer(503, "SlowDown"), CloudUnavailableError),
        (Answer(500), CloudUnavailableError),
    ],
    ids=repr,
)
def test_what_stays_broken_is_a_clear_error(
    path: S3Path, proxy: Proxy, data: bytes, action: Action, error: type[Exception], way: Callable[[S3Path], bytes]
) -> None:
    proxy.add(Fault(action, kind="GET", times=None))
    with pytest.raises(error, match=r"s3://|bytes") as caught:
        way(path)
    assert len(data) == len(LARGE) or str(path) in str(caught.value)
    proxy.clear_faults()
    assert way(path) == data, "nothing of the failure is left"


def test_wrong_bytes_under_a_right_checksum_are_refused(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    ground.client.put_object(Bucket=ground.bucket, Key=at + "o", Body=SMALL, ChecksumAlgorithm="SHA256")
    # A listing's child: where the size is known, no range is asked for, and only then is the checksum stated.
    (path,) = client.S3Path(f"s3://{ground.bucket}/{at}").iterdir()
    proxy.add(Fault(FlipByte(1_000), kind="GET", times=None))
    with pytest.raises(ChecksumMismatchError):
        path.read_bytes()
    proxy.clear_faults()
    proxy.add(Fault(FlipByte(1_000), kind="GET"))
    assert path.read_bytes() == SMALL


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_object_replaced_between_two_parts_is_read_as_one_version(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str, nth: int
) -> None:
    versions = [LARGE, os.urandom(len(LARGE)), os.urandom(len(LARGE) // 2), b"short"]
    path = client.S3Path(f"s3://{ground.bucket}/{at}o")
    ground.plant(at + "o", versions[0])
    for other in versions[1:]:
        proxy.clear_faults()
        proxy.add(Fault(Call(lambda other=other: ground.plant(at + "o", other)), kind="GET", nth=nth))  # type: ignore[misc]
        read = path.read_bytes()
        assert read in versions, "a mixture of two versions"
        client.clear_cache()
        ground.plant(at + "o", versions[0])


def test_an_object_that_never_holds_still_is_a_clear_error(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    path = client.S3Path(f"s3://{ground.bucket}/{at}o")
    ground.plant(at + "o", LARGE)
    lock = threading.Lock()

    def replace() -> None:
        with lock:
            ground.plant(at + "o", os.urandom(16) + LARGE[16:])

    proxy.add(Fault(Call(replace), kind="GET", match=lambda record: record.if_match is not None, times=None))
    with pytest.raises(StaleReadError, match="changed"):
        path.read_bytes()


def test_a_part_that_fails_for_good_ends_the_others_at_once(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    data = os.urandom(6 * PART)
    ground.plant(at + "o", data)
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="GET", nth=2))
    proxy.add(Fault(Stall(0.3, after=1_000), kind="GET", nth=3, times=None))
    with pytest.raises(CloudPathPermissionError):
        client.S3Path(f"s3://{ground.bucket}/{at}o").read_bytes()
    assert proxy.count("GET") <= 6, "a part was asked for again though the read had failed"


def test_a_403_is_not_a_404_and_leaves_the_entry(path: S3Path, proxy: Proxy, data: bytes) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), times=None))
    with pytest.raises(PermissionError):
        path.read_bytes()
    with pytest.raises(PermissionError):
        path.exists()
    with pytest.raises(PermissionError):
        path.is_file()
    proxy.clear_faults()
    assert path.read_bytes() == data
    proxy.add(Fault(Answer(403, "AccessDenied"), times=None))
    with pytest.raises(PermissionError):
        path.read_bytes()
    assert path.read_bytes(freshness="immutable") == data


def test_what_was_deleted_is_missing_although_a_copy_is_held(
    client: S3Client, ground: S3RawBucket, at: str, path: S3Path, data: bytes
) -> None:
    path.read_bytes()
    ground.remove(at + "object")
    with pytest.raises(CloudPathFileNotFoundError):
        path.read_bytes()
    assert path.read_bytes(freshness="offline") == data
    assert not path.exists()


def test_without_a_network_the_error_says_that_a_copy_is_held(
    make_client: MakeClient, path: S3Path, proxy: Proxy, data: bytes
) -> None:
    path.read_bytes()
    cold = path.with_name("never-read")
    proxy.add(Fault(Reset(after=None), times=None))
    with pytest.raises(CloudUnavailableError, match=r"A copy of s3://.* is cached, .* freshness='offline'") as caught:
        path.read_bytes()
    assert "CASSTORE_OFFLINE=1" in str(caught.value)
    with pytest.raises(CloudUnavailableError) as bare:
        cold.read_bytes()
    assert "is cached" not in str(bare.value)
    assert path.read_bytes(freshness="offline") == data
    with pytest.raises(NotCachedError, match="not cached, and the policy is offline"):
        cold.read_bytes(freshness="offline")


def test_an_interrupt_of_a_read_in_parts_waits_for_no_server(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    data = os.urandom(12 * PART)  # more parts than threads
    ground.plant(at + "o", data)
    path = client.S3Path(f"s3://{ground.bucket}/{at}o")
    proxy.add(Fault(Stall(seconds=600, after=10), kind="GET", match=_is_later_part, times=None))

    def interrupt() -> None:
        eventually(lambda: proxy.count("GET") >= 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        path.read_bytes()
    thread.join()
    assert threads_in(PartThreads._run), "they still wait for the server"
    proxy.clear_faults()
    # Nothing of it is in the way: neither its flight, nor the places of its threads.
    assert path.read_bytes() == data


def _is_later_part(record: Record) -> bool:
    return record.range is not None and not record.range.startswith("bytes=0-")
