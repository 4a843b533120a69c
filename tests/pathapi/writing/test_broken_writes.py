"""Writing through a wire that breaks, and onto a disk that is full: the bytes are in the cloud, or kept and found
again, or there was an error before anything was promised.
"""

from __future__ import annotations

import os
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3.s3.transfer
import botocore.retries.standard
import pytest

import casstore
from casstore import Cache, PendingState, StoreFullError
from casstore.index import environment
from pathapi import FileClient, S3Client, S3Path
from pathapi.backends.file.backend import FileBackend
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileExistsError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from pathapi.writing import commit as delivering
from pathapi.writing import conditional_put as uploading
from tests.casstore.support.fill import forked
from tests.casstore.support.mounts import fill_up, small_disk
from tests.harness.faults import Action, Answer, Call, Cut, Fault, Reset
from tests.harness.http_messages import Head
from tests.harness.proxy import Proxy
from tests.harness.request_log import Record
from tests.harness.sampling import by_pass, sampled
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

PART = 5 << 20
"""The least that S3 takes for a part that is not the last."""
OLD, THEIRS = b"old bytes", b"their bytes"
SMALL, LARGE = os.urandom(100_000), os.urandom(2 * PART + 1000)


@dataclass(frozen=True, slots=True)
class Gone(Action):
    """The network: whatever is sent breaks off."""

    def before(self, request: Head) -> None:
        raise Cut(reset=True)


def is_part(record: Record) -> bool:
    return "partNumber" in record.query


def is_completion(record: Record) -> bool:
    return record.method == "POST" and "uploadId" in record.query


def is_conditional(record: Record) -> bool:
    return record.method in ("PUT", "POST") and bool(record.if_match or record.if_none_match)


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the SDK's, unless a test asks for them; then at once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda self, context: 0)


@pytest.fixture
def retries(no_retries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")


@pytest.fixture
def client(make_client: MakeClient) -> S3Client:
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=1)
    return make_client(boto3_transfer_config=config)


@pytest.fixture(params=["absent", "present"])
def before(request: pytest.FixtureRequest) -> bytes | None:
    return None if request.param == "absent" else OLD


@pytest.fixture
def path(client: S3Client, ground: S3RawBucket, at: str, before: bytes | None) -> S3Path:
    if before is not None:
        ground.plant(at + "object", before)
    return client.S3Path(f"s3://{ground.bucket}/{at}object")


def content(path: S3Path, ground: S3RawBucket) -> bytes | None:
    return ground.content(path.key)


def uploads_of(path: S3Path, ground: S3RawBucket) -> list[Any]:
    """What was begun in parts and neither completed nor aborted."""
    found = ground.client.list_multipart_uploads(Bucket=ground.bucket).get("Uploads", [])
    return [upload for upload in found if upload["Key"] == path.key]


def told_by_child(work: Callable[[], object], directory: Path) -> str:
    """What *work* gives in a process that then ends, as text."""
    answer = directory / "answer"

    def child() -> None:
        answer.write_text(str(work()))

    assert forked(child) == 0
    return answer.read_text()


def message_of_close(path: S3Path, data: bytes, error: type[Exception]) -> str:
    file = path.open("wb")
    file.write(data)
    with pytest.raises(error) as caught:
        file.close()
    return str(caught.value)


# --- the network goes away -------------------------------------------------------------------------------------------


@pytest.mark.needs_locks  # Else nobody can tell that the writer is dead.
@pytest.mark.parametrize("size", ["single", "multipart"])
def test_when_the_network_goes_away_the_bytes_are_kept_and_a_later_process_uploads_them(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, before: bytes | None, tmp_path: Path, size: str
) -> None:
    data = SMALL if size == "single" else LARGE

    def write() -> str:
        file = path.open("wb")
        file.write(data)
        with pytest.raises(CloudUnavailableError) as caught:
            file.close()
        return str(caught.value)

    proxy.add(Fault(Gone(), kind="PUT", nth=1 if size == "single" else 2, times=None))
    proxy.add(Fault(Gone(), kind="HEAD", nth=2, times=None))
    proxy.add(Fault(Gone(), kind="DELETE", times=None))
    message = told_by_child(write, tmp_path)
    proxy.clear_faults()
    assert content(path, ground) == before
    (waiting,) = path.pending
    assert waiting.state is PendingState.FAILED
    kept = path.client.cache.pending.path(waiting)
    assert kept in message
    assert "push()" in message
    assert Path(kept).read_bytes() == data
    with pytest.raises(PendingWriteError, match="push"):
        path.read_bytes()
    with pytest.raises(PendingWriteError, match="push"):
        path.open("ab")
    with path.open("rb", read_pending=True) as file:
        assert file.read() == data
    path.push()
    assert content(path, ground) == data
    assert path.read_bytes() == data
    assert not path.pending


@pytest.mark.parametrize("code", ["part", "completion"])
def test_an_upload_in_parts_that_fails_leaves_no_parts(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, before: bytes | None, code: str
) -> None:
    match = is_part if code == "part" else is_completion
    proxy.add(Fault(Answer(503, "SlowDown"), match=match, times=None))
    message_of_close(path, LARGE, CloudUnavailableError)
    assert uploads_of(path, ground) == []
    assert content(path, ground) == before
    proxy.clear_faults()
    path.push()
    assert content(path, ground) == LARGE
    assert uploads_of(path, ground) == []


# --- the answer is lost ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["single", "multipart"])
def lost(request: pytest.FixtureRequest) -> tuple[bytes, Fault]:
    """Bytes, and the loss of the answer that says that they are there."""
    if request.param == "single":
        return SMALL, Fault(Reset(after=None), kind="PUT")
    return LARGE, Fault(Reset(after=None), match=is_completion)


def test_an_upload_whose_answer_is_lost_is_no_failure(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, lost: tuple[bytes, Fault]
) -> None:
    data, fault = lost
    proxy.add(fault)
    path.write_bytes(data)
    check_one_upload(path, ground, proxy, data)


def test_an_upload_that_the_sdk_sends_again_is_no_conflict_with_itself(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, lost: tuple[bytes, Fault], retries: None
) -> None:
    data, fault = lost
    proxy.add(fault)
    path.write_bytes(data)
    assert proxy.count("PUT" if data is SMALL else "POST") == (2 if data is SMALL else 3), "it was sent twice"
    check_one_upload(path, ground, proxy, data)


def check_one_upload(path: S3Path, ground: S3RawBucket, proxy: Proxy, data: bytes) -> None:
    done = [record for record in proxy.records if record.method in ("PUT", "POST") and record.status == 200]
    assert len(done) == (0 if data is SMALL else 1 + -(-len(data) // PART)), "what made the object had no answer"
    assert content(path, ground) == data
    assert not path.pending
    assert path.read_bytes() == data
    assert proxy.count("GET", status=200) <= 1 or data is LARGE, "compared once; the entry is the version that arrived"
    assert uploads_of(path, ground) == []


def test_without_looking_the_same_is_a_conflict(
    path: S3Path, proxy: Proxy, lost: tuple[bytes, Fault], retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(uploading, "find_completed_upload", lambda *_: None)
    data, fault = lost
    proxy.add(fault)
    with pytest.raises((OverwriteNewerCloudError, CloudUnavailableError)):
        path.write_bytes(data)


@pytest.mark.parametrize("theirs", [THEIRS, SMALL[:-1] + b"?"], ids=["other size", "one byte differs"])
def test_a_conflict_is_not_taken_for_a_lost_answer(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, retries: None, theirs: bytes
) -> None:
    proxy.add(Fault(Call(lambda: ground.plant(path.key, theirs)), kind="PUT"))
    proxy.add(Fault(Reset(after=None), kind="PUT"))
    message = message_of_close(path, SMALL, OverwriteNewerCloudError)
    assert [record.status for record in proxy.records if record.kind == "PUT"] == [0, 412]
    assert content(path, ground) == theirs
    (waiting,) = path.pending
    assert path.client.cache.pending.path(waiting) in message
    with pytest.raises(OverwriteNewerCloudError):
        path.push()
    assert content(path, ground) == theirs
    path.push(force_overwrite_to_cloud=True)
    assert content(path, ground) == SMALL
    assert not path.pending


def test_a_creation_whose_answer_is_lost_is_no_creation_by_somebody_else(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str, retries: None
) -> None:
    path = client.S3Path(f"s3://{ground.bucket}/{at}object")
    proxy.add(Fault(Reset(after=None), kind="PUT"))
    with path.open("xb") as file:
        file.write(SMALL)
    assert content(path, ground) == SMALL
    with pytest.raises(CloudPathFileExistsError), path.open("xb") as file:
        file.write(b"other")
    assert content(path, ground) == SMALL


# --- what servers and roles do not do --------------------------------------------------------------------------------


def test_a_409_is_no_conflict_but_is_asked_again(path: S3Path, ground: S3RawBucket, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(409, "ConditionalRequestConflict"), kind="PUT", times=2))
    path.write_bytes(SMALL)
    assert proxy.count("PUT") == 3
    assert content(path, ground) == SMALL


def test_a_409_at_the_completion_of_an_upload_in_parts_is_no_conflict(
    path: S3Path, ground: S3RawBucket, proxy: Proxy
) -> None:
    proxy.add(Fault(Answer(409, "ConditionalRequestConflict"), match=is_completion, times=2))
    path.write_bytes(LARGE)
    completions = [record for record in proxy.records if is_completion(record)]
    assert [record.status for record in completions][-1] == 200
    assert all(record.if_match or record.if_none_match for record in completions)
    assert content(path, ground) == LARGE
    assert not path.pending
    assert uploads_of(path, ground) == []


REFUSALS = pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied")], ids=["501", "403"]
)


@REFUSALS
@pytest.mark.parametrize("size", ["single", "multipart"])
def test_where_conditions_are_refused_a_look_just_before_takes_their_place_and_it_is_said_once(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, status: int, code: str, size: str
) -> None:
    data = SMALL if size == "single" else LARGE
    proxy.add(Fault(Answer(status, code), match=is_conditional, times=None))
    with pytest.warns(UserWarning, match="cannot write conditionally") as warned:
        path.write_bytes(data)
    assert len(warned) == 1
    assert content(path, ground) == data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_bytes(b"again")
        (path.parent / "another").write_bytes(b"too")
    assert content(path, ground) == b"again"
    assert not path.pending


@REFUSALS
def test_where_conditions_are_refused_the_look_finds_a_conflict(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, status: int, code: str
) -> None:
    proxy.add(Fault(Answer(status, code), match=is_conditional, times=None))
    file = path.open("wb")
    file.write(SMALL)
    ground.plant(path.key, THEIRS)
    with pytest.raises(OverwriteNewerCloudError):
        file.close()
    assert content(path, ground) == THEIRS
    assert [write.state for write in path.pending] == [PendingState.FAILED]


@REFUSALS
def test_where_conditions_are_required_a_refusal_is_an_error(
    make_client: MakeClient, ground: S3RawBucket, proxy: Proxy, at: str, status: int, code: str
) -> None:
    client = make_client(conditional_writes="require")
    path = client.S3Path(f"s3://{ground.bucket}/{at}object")
    proxy.add(Fault(Answer(status, code), match=is_conditional, times=None))
    message = message_of_close(path, SMALL, CloudPathNotImplementedError if status == 501 else CloudPathPermissionError)
    (waiting,) = path.pending
    assert client.cache.pending.path(waiting) in message
    assert content(path, ground) is None


def test_a_role_that_may_not_write_at_all_is_told_so(
    path: S3Path, ground: S3RawBucket, proxy: Proxy, before: bytes | None
) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", times=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message_of_close(path, SMALL, CloudPathPermissionError)
    assert content(path, ground) == before
    proxy.clear_faults()
    path.push()
    assert content(path, ground) == SMALL


# --- the disk is full ------------------------------------------------------------------------------------------------

PAGE = 4096
DATA = os.urandom(10 * PAGE)


@pytest.fixture
def bucket_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "bucket"
    directory.mkdir()
    return directory


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def write_in_child(
    bucket: Path, store: Path, name: str, mode: str, directory: Path, *, limit: int | None = None, refuses: bool = False
) -> tuple[str, set[str]]:
    """ "done", or which error it was and where; and what could not be done on the way to that. With *refuses*, the
    cloud takes nothing.
    """

    def refuse(*_: object, **__: object) -> None:
        raise CloudUnavailableError("no network")

    def work() -> str:
        if refuses:
            setattr(FileBackend, "write", refuse)  # noqa: B010 (for mypy it is a method)
        warnings.simplefilter("ignore")  # that reads go by the store
        path = FileClient(local_cache_dir=store).CloudPath(f"file://{bucket}/{name}")
        path.client.cache.index.get(b"any")  # opens it
        lacks: set[str] = set()
        watch(delivering, "_record", lambda result: lacks.add("record") if result[0] is None else None)
        watch(Cache, "record_write", lambda result: lacks.add("entry") if result is None else None, lacks)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        where = "open"
        try:
            with path.open(mode) as file:
                where = "write"
                file.write(DATA)
                where = "close"
        except (StoreFullError, CloudPathException) as error:
            answer = f"{where}: {type(error).__name__}: {error}"
        else:
            answer = "done"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return f"{answer}\n{' '.join(lacks)}"

    answer, lacks = told_by_child(work, directory).rsplit("\n", 1)
    return answer, set(lacks.split())


def watch(owner: Any, name: str, see: Callable[[Any], None], raised: set[str] | None = None) -> None:
    """In a child: show what ``owner.name`` gives; or note that it raised."""
    real = getattr(owner, name)

    def call(*arguments: Any) -> Any:
        try:
            result = real(*arguments)
        except BaseException:
            if raised is not None:
                raised.add("commit")
            raise
        see(result)
        return result

    setattr(owner, name, call)


def check_after(bucket: Path, store: Path, name: str, answer: str, new: bytes) -> None:
    """There is room again."""
    path = FileClient(local_cache_dir=store).CloudPath(f"file://{bucket}/{name}")
    found = (bucket / name).read_bytes()
    assert found == new if answer == "done" else found in (OLD, new), answer
    kept = [Path(path.client.cache.pending.path(write)).read_bytes() for write in path.pending]
    assert kept in ([], [new]), answer
    if kept:
        path.push()
        assert (bucket / name).read_bytes() == new
    assert not path.pending
    assert path.read_bytes() == (bucket / name).read_bytes()
    assert [file.name for file in bucket.iterdir() if file.name.startswith(".")] == []
    verified = path.client.cache.verify()
    assert verified.is_sound, verified.problems


@pytest.mark.needs_root
@pytest.mark.needs_locks
@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_on_a_disk_that_fills_up_at_any_moment_a_write_is_done_or_a_clear_error(
    disk: Path, bucket_directory: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_RESERVE_TRANSACTIONS", 0)  # with pages of its own a new index lacks none
    answers: list[str] = []
    lacked: set[str] = set()
    for pages in [*sampled(range(39), 9, f"pages {mode}"), 39]:
        name = f"object{pages}"
        store = disk / f"store{pages}"
        (bucket_directory / name).write_bytes(OLD)
        # A store with nothing in it that could make room.
        cache = casstore.open(store)
        cache.index.get(b"any")
        cache.close()
        ballast = fill_up(disk)
        os.truncate(ballast, max(0, ballast.stat().st_size // PAGE - pages) * PAGE)
        answer, lacks = write_in_child(bucket_directory, store, name, mode, tmp_path)
        ballast.unlink()
        check_after(bucket_directory, store, name, answer, DATA if mode == "wb" else OLD + DATA)
        answers.append(answer)
        lacked |= lacks
        cache.close()
        shutil.rmtree(store)
    assert answers[-1] == "done"
    assert all(answer == "done" or "StoreFullError" in answer for answer in answers)
    at_every_step = {"write:", "close:", "done"}, {"record", "entry", "commit"}
    found = {answer.partition(" ")[0] for answer in answers} & at_every_step[0], lacked
    assert found == by_pass(quick=found, full=at_every_step), "it was full at every step"


@pytest.mark.needs_root
@pytest.mark.needs_locks
def test_on_a_disk_that_fills_up_while_the_network_is_gone_the_error_says_whether_the_bytes_are_kept(
    disk: Path, bucket_directory: Path, tmp_path: Path
) -> None:
    told: set[bool] = set()
    for pages in [0, *sampled(range(1, 39), 8, "pages"), 39]:
        name, store = f"object{pages}", disk / f"store{pages}"
        (bucket_directory / name).write_bytes(OLD)
        cache = casstore.open(store)
        cache.index.get(b"any")
        cache.close()
        ballast = fill_up(disk)
        os.truncate(ballast, max(0, ballast.stat().st_size // PAGE - pages) * PAGE)
        answer, _ = write_in_child(bucket_directory, store, name, "wb", tmp_path, refuses=True)
        ballast.unlink()
        assert (bucket_directory / name).read_bytes() == OLD
        kept = [Path(cache.pending.path(write)) for write in cache.pending.all()]
        assert all(file.read_bytes() == DATA for file in kept)
        if answer.startswith("close: CloudUnavailableError"):
            assert [str(file) in answer for file in kept] == [True] * len(kept)
            assert ("could not be kept either" in answer) == (not kept)
            told.add(bool(kept))
        else:
            assert "StoreFullError" in answer and not kept
        cache.close()
        shutil.rmtree(store)
    assert told == by_pass(quick=told, full={False, True})


@pytest.mark.needs_locks
def test_under_a_limit_of_file_sizes_a_write_is_done_or_a_clear_error(bucket_directory: Path, tmp_path: Path) -> None:
    answers = []
    for number, limit in enumerate((0, 100, PAGE, 2 * PAGE, len(DATA) - 1, len(DATA), 12 * PAGE, 1 << 20)):
        name, store = f"object{number}", tmp_path / f"store{number}"
        (bucket_directory / name).write_bytes(OLD)
        answer, _ = write_in_child(bucket_directory, store, name, "wb", tmp_path, limit=limit)
        check_after(bucket_directory, store, name, answer, DATA)
        answers.append(answer)
    assert answers[-1] == "done"
    assert all(answer == "done" or "StoreFullError" in answer for answer in answers)
