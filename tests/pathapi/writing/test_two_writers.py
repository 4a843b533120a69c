"""Two writers of one object: every order of their opening, writing and closing, in every pair of modes.

What must come of it is worked out by a model of a few lines, which knows versions and nothing of the code under test,
and is what the table in ``docs/writes.md`` says. On two machines (two stores) the cloud's condition decides; on one,
the second waits until the first has closed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from casstore import LockTimeoutError, PendingState, ReentrantWriteError
from casstore.locks import write_locks
from casstore.locks.lock_files import polls_until
from casstore.locks.write_locks import WriteLocks
from pathapi import FileClient, S3Client
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from tests.casstore.support.fill import eventually, fork, status_of
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import FileRawBucket, S3RawBucket

MODES = ("w", "a", "r+", "x")
PAIRS = [f"{first} {second}" for first in MODES for second in MODES]
STEPS = ("open", "write", "close")
ORDERS = sorted(set(itertools.permutations("111222")))
"""Whose turn it is, six times."""
SAMPLE = [tuple(order) for order in ("111222", "112122", "121212", "122211")]
BEFORE = b"what was there before"
DOCUMENT = Path(__file__).parents[3] / "docs" / "writes.md"

# How a writer ends; as the table in the document says it.
WRITTEN, CONFLICT, EXISTS, MISSING = "written", "conflict", "exists", "missing"
PENDING: dict[str, list[PendingState]] = {
    WRITTEN: [],
    CONFLICT: [PendingState.FAILED],
    EXISTS: [PendingState.INCOMPLETE],
    MISSING: [],
}


# --- the model -------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """An object that counts its versions; 0 is absence. Writers note the version they open and change only that one."""

    version: int
    content: bytes
    based_on: dict[str, int] = field(default_factory=dict)
    drafts: dict[str, bytes] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)

    def step(self, who: str, step: str, mode: str, data: bytes) -> None:
        if who in self.ends:
            return
        if step == "open" and mode == "r+" and not self.version:
            self.ends[who] = MISSING
        elif step == "open":
            self.based_on[who] = 0 if mode == "x" else self.version
            self.drafts[who] = self.content if mode in ("a", "r+") else b""
        elif step == "write":
            draft = self.drafts[who]
            self.drafts[who] = draft + data if mode == "a" else data + draft[len(data) :]
        elif self.version == self.based_on[who]:
            self.version, self.content, self.ends[who] = self.version + 1, self.drafts[who], WRITTEN
        else:
            self.ends[who] = EXISTS if mode == "x" else CONFLICT


def turns(order: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Who does what, one after the other."""
    done = {"1": iter(STEPS), "2": iter(STEPS)}
    for who in order:
        yield who, next(done[who])


def data_of(who: str) -> bytes:
    return f"<{who}>".encode() * int(who)


def model_of(order: Sequence[str], modes: dict[str, str], *, is_there: bool) -> Model:
    model = Model(1, BEFORE) if is_there else Model(0, b"")
    for who, step in turns(order):
        model.step(who, step, modes[who], data_of(who))
    return model


# --- the code under test ---------------------------------------------------------------------------------------------


class Writer:
    """Does what it is told to one path, and notes how it ended."""

    def __init__(self, path: Any, mode: str, data: bytes) -> None:
        self.path, self.mode, self.data = path, mode, data
        self.file: Any = None
        self.end: str | None = None

    def step(self, step: str) -> None:
        if self.end is None:
            getattr(self, step)()

    def open(self) -> None:
        try:
            self.file = self.path.open(self.mode + "b")
        except CloudPathFileNotFoundError:
            self.end = MISSING

    def write(self) -> None:
        self.file.write(self.data)

    def close(self) -> None:
        try:
            self.file.close()
        except OverwriteNewerCloudError:
            self.end = CONFLICT
        except CloudPathFileExistsError:
            self.end = EXISTS
        else:
            self.end = WRITTEN

    def write_it_all(self) -> None:
        for step in STEPS:
            self.step(step)

    def check_pending(self) -> None:
        """What was not written is kept; a conflict stands in the way of reading until somebody decides."""
        assert self.end is not None
        assert [write.state for write in self.path.pending] == PENDING[self.end]
        if self.end == CONFLICT:
            with pytest.raises(PendingWriteError):
                self.path.read_bytes()


@dataclass(frozen=True)
class Machines:
    """One bucket, and two clients that have a store each."""

    ground: Any
    bucket: str
    clients: dict[str, Any]

    def play(self, order: Sequence[str], pair: str, *, is_there: bool) -> dict[str, str]:
        """Play it on an object of its own, compare with the model, and return how the two ended."""
        modes = dict(zip("12", pair.split(), strict=True))
        key = f"{''.join(order)} {pair} {is_there}"
        if is_there:
            self.ground.plant(key, BEFORE)
        writers = {
            who: Writer(client.CloudPath(f"{self.bucket}/{key}"), modes[who], data_of(who))
            for who, client in self.clients.items()
        }
        for who, step in turns(order):
            writers[who].step(step)
        model = model_of(order, modes, is_there=is_there)
        ends = {who: str(writer.end) for who, writer in writers.items()}
        assert ends == model.ends, key
        assert self.ground.content(key) == (model.content if model.version else None), key
        for writer in writers.values():
            writer.check_pending()
        return ends


@pytest.fixture
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def files(tmp_path: Path, no_power_cut: None) -> Iterator[Machines]:
    """A directory as the bucket."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    clients = {who: FileClient(local_cache_dir=tmp_path / f"store{who}") for who in "12"}
    yield Machines(FileRawBucket(bucket), f"file://{bucket}", clients)
    for client in clients.values():
        client.cache.close()


@pytest.fixture
def objects(tmp_path: Path, seaweed: S3Server, bucket: str, no_power_cut: None) -> Iterator[Machines]:
    """A bucket of a real server."""
    clients = {
        who: S3Client(
            aws_access_key_id=seaweed.access_key,
            aws_secret_access_key=seaweed.secret_key,
            region=seaweed.region,
            endpoint_url=seaweed.endpoint,
            local_cache_dir=tmp_path / f"store{who}",
        )
        for who in "12"
    }
    yield Machines(S3RawBucket(seaweed.client(), bucket), f"s3://{bucket}", clients)
    for client in clients.values():
        client.cache.close()
        client.client.close()


@pytest.mark.sampled(16)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("is_there", [False, True], ids=["absent", "present"])
def test_on_two_machines_the_second_to_close_overwrites_nothing_that_it_has_not_seen(
    files: Machines, pair: str, is_there: bool
) -> None:
    assert len(ORDERS) == 20
    for order in ORDERS:
        files.play(order, pair, is_there=is_there)


@pytest.mark.parametrize("is_there", [False, True], ids=["absent", "present"])
@pytest.mark.parametrize("orders", [SAMPLE, pytest.param(ORDERS, marks=pytest.mark.slow)])
def test_on_two_machines_a_server_decides_the_same(
    objects: Machines, orders: Sequence[Sequence[str]], is_there: bool
) -> None:
    for order, pair in itertools.product(orders, PAIRS):
        objects.play(order, pair, is_there=is_there)


def test_without_the_condition_a_version_is_overwritten_that_was_never_seen(files: Machines) -> None:
    """The negative control."""
    for client in files.clients.values():
        client.conditional_writes = "off"
    with pytest.raises(AssertionError):
        files.play(tuple("121212"), "a a", is_there=True)
    assert files.ground.content("121212 a a True") == BEFORE + data_of("2"), "what the first had added is gone"


# --- one machine -----------------------------------------------------------------------------------------------------


def _polls(on_try: Callable[[], object]) -> Callable[[float], Iterator[None]]:
    """Polls of a write lock that call *on_try* after each try that failed."""

    def polls(deadline: float) -> Iterator[None]:
        for tries, _ in enumerate(polls_until(deadline)):
            if tries:
                on_try()
            yield

    return polls


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows whenever somebody who waits for a write lock has looked in vain."""
    looked: list[None] = []
    monkeypatch.setattr(write_locks, "polls_until", _polls(lambda: looked.append(None)))
    return looked


@pytest.mark.needs_locks
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("is_there", [False, True], ids=["absent", "present"])
def test_on_one_machine_a_second_thread_waits_until_the_first_has_closed(
    files: Machines, looks: list[None], pair: str, is_there: bool
) -> None:
    modes = dict(zip("12", pair.split(), strict=True))
    if is_there:
        files.ground.plant("object", BEFORE)
    first, second = (
        Writer(files.clients["1"].CloudPath(f"{files.bucket}/object"), modes[who], data_of(who)) for who in "12"
    )
    first.step("open")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.write_it_all)
        if first.end is None:
            eventually(lambda: len(looks) > 1)
            assert second.file is None
        first.step("write")
        first.step("close")
        waiting.result(timeout=1_000)
    model = model_of("111222", modes, is_there=is_there)
    assert {"1": first.end, "2": second.end} == model.ends
    assert files.ground.content("object") == (model.content if model.version else None)


@pytest.mark.needs_locks
@pytest.mark.parametrize("pair", ["w w", "a a", "r+ a", "x x", "w x"])
def test_on_one_machine_a_second_process_waits_until_the_first_has_closed(
    files: Machines, monkeypatch: pytest.MonkeyPatch, pair: str
) -> None:
    modes = dict(zip("12", pair.split(), strict=True))
    is_there = "r+" in pair
    if is_there:
        files.ground.plant("object", BEFORE)
    path = files.clients["1"].CloudPath(f"{files.bucket}/object")
    reader, writer = os.pipe()

    def work() -> None:
        monkeypatch.setattr(write_locks, "polls_until", _polls(lambda: os.write(writer, b".")))
        second = Writer(path, modes["2"], data_of("2"))
        second.write_it_all()
        os.write(writer, str(second.end).encode())

    first = Writer(path, modes["1"], data_of("1"))
    first.step("open")
    child = fork(work)
    os.close(writer)
    assert os.read(reader, 1) == b".", "it waits"
    first.step("write")
    first.step("close")
    assert status_of(child) == 0
    with open(reader, "rb") as told:
        end = told.read().decode().lstrip(".")
    model = model_of("111222", modes, is_there=is_there)
    assert {"1": first.end, "2": end} == model.ends
    assert files.ground.content("object") == model.content


@pytest.mark.needs_locks
def test_waiting_ends_with_an_error_that_names_the_holder(files: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.clients["1"].CloudPath(f"{files.bucket}/object")
    monkeypatch.setattr(path.client.cache.write_locks, "_timeout", 0.05)
    failures: list[BaseException] = []

    def open_too() -> None:
        try:
            path.open("wb")
        except LockTimeoutError as error:
            failures.append(error)

    with path.open("wb") as file:
        thread = threading.Thread(target=open_too)
        thread.start()
        thread.join()
        file.write(b"mine")
    assert "another thread of this process" in str(failures[0])
    assert __file__ in str(failures[0])
    assert files.ground.content("object") == b"mine"


@pytest.mark.parametrize("pair", PAIRS)
def test_one_thread_that_opens_the_same_object_again_is_told_so_at_once(files: Machines, pair: str) -> None:
    files.ground.plant("object", BEFORE)
    path = files.clients["1"].CloudPath(f"{files.bucket}/object")
    first, second = pair.split()
    file = path.open(first + "b")
    file.write(b"first")
    with pytest.raises(ReentrantWriteError, match="already has it open for writing"):
        path.open(second + "b")
    file.abort()
    assert files.ground.content("object") == BEFORE


def test_without_the_lock_the_second_gets_a_conflict_and_keeps_its_bytes(
    files: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control; and locks save work, not bytes."""
    monkeypatch.setattr(WriteLocks, "_refuse_reentry", lambda self, key: None)
    monkeypatch.setattr(WriteLocks, "_try_acquire", lambda self, lock: True)
    files.ground.plant("object", BEFORE)
    path = files.clients["1"].CloudPath(f"{files.bucket}/object")
    first, second = Writer(path, "a", b"first"), Writer(path, "a", b"second")
    for step in STEPS:
        first.step(step)
        second.step(step)
    assert (first.end, second.end) == (WRITTEN, CONFLICT)
    assert files.ground.content("object") == BEFORE + b"first"
    with path.open("rb", read_pending=True) as file:
        assert file.read() == BEFORE + b"second"


# --- the document ----------------------------------------------------------------------------------------------------


def table() -> dict[tuple[str, str, str, str], tuple[str, str]]:
    """The object, when the second opens, the mode of the first to close, that of the second: how the two end."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    start = next(number for number, row in enumerate(rows) if row[:3] == ["the object", "the second opens", "first"])
    modes = [cell.removeprefix("second ").strip("`") for cell in rows[start][3:]]
    found = {}
    for there, when, first, *cells in rows[start + 2 : start + 18]:
        for second, cell in zip(modes, cells, strict=True):
            one, other = cell.split(", ")
            found[there, when, first.strip("`"), second] = (one, other)
    return found


def in_words(order: Sequence[str], modes: dict[str, str], *, is_there: bool) -> tuple[str, str, str, str]:
    """Where the table has it. "First" is who is first to close."""
    done = list(turns(order))
    first, second = (who for who, step in done if step == "close")
    is_after = done.index((second, "open")) > done.index((first, "close"))
    return (
        "is there" if is_there else "is absent",
        "after the first's close" if is_after else "before the first's close",
        modes[first],
        modes[second],
    )


def test_the_document_says_what_comes_of_every_order() -> None:
    said, seen = table(), set()
    assert len(said) == 64
    for order, pair, is_there in itertools.product(ORDERS, PAIRS, [False, True]):
        modes = dict(zip("12", pair.split(), strict=True))
        place = in_words(order, modes, is_there=is_there)
        ends = model_of(order, modes, is_there=is_there).ends
        closes = [who for who, step in turns(order) if step == "close"]
        assert said[place] == (ends[closes[0]], ends[closes[1]]), place
        seen.add(place)
    assert seen == set(said)
