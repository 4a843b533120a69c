"""Filling keeps the store within its budget, out of everybody's way; what does not fit is streamed through."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casstore
from casstore import Cache, StoreFullError, Validator
from casstore.eviction import background as trims
from casstore.eviction import collector
from casstore.eviction.collector import CollectResult
from casstore.eviction.evictor import Evictor
from casstore.eviction.plan import Plan
from tests.casstore.support.fill import eventually, fill, fork, key_of, read, release, status_of, view
from tests.casstore.support.stores import HOUR, dangling, stored, used_at

Open = Callable[..., Cache]


@pytest.fixture
def open_with(root: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the store with these settings."""

    def open_store(**settings: int) -> Cache:
        for name, value in settings.items():
            monkeypatch.setenv(f"CASSTORE_{name.upper()}", str(value))
        return casstore.open(root)

    return open_store


def _stream(cache: Cache, name: str, data: bytes) -> tuple[bytes, bool]:
    """Fill, and the bytes that the reader gets; whether they were stored."""
    with cache.begin(key_of(name)) as filling:
        filling.write(data)
        result = filling.publish(Validator(len(data), "e1"))
    with open(result.descriptor, "rb") as file:
        return file.read(), result.entry is not None


def _wait(cache: Cache) -> None:
    cache.flush()
    eventually(lambda: not cache.background._is_running)


# --- max_size --------------------------------------------------------------------------------------------------------


def test_a_store_that_is_filled_beyond_its_budget_is_trimmed_least_recently_used_first(
    open_with: Open, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_with(max_size=10_000)
    for number in range(5):
        used_at(cache, fill(cache, key_of(f"\x1b[2Jold-{number}"), b"%d" % number * 1000), HOUR + number)
    _wait(cache)
    for number in range(5, 13):
        fill(cache, key_of(f"new-{number}"), (b"%d" % number * 1000)[:1000])
        _wait(cache)
    # Twice it was passed, and each time two went: one would have left not a byte of room.
    held = {entry.uri for entry in cache.entries()}
    assert held == {"s3://bucket/\x1b[2Jold-4", *(f"s3://bucket/new-{number}" for number in range(5, 13))}
    assert stored(cache) == 9000
    assert dangling(cache) == []
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1  # once, and then on the log
    assert r"s3://bucket/\x1b[2Jold-0" in warned[0] and cache.root in warned[0]
    assert warned[0].isprintable()


def test_the_rows_of_other_processes_count(open_with: Open) -> None:
    cache = open_with(max_size=10_000)
    assert status_of(fork(lambda: [fill(cache, key_of(str(n)), b"%d" % n * 900) for n in range(10)])) == 0
    assert stored(cache) == 9000
    fill(cache, key_of("own"), b"x" * 2000)  # its first look adds up what there is
    _wait(cache)
    assert stored(cache) <= 10_000
    assert read(cache, key_of("own")) == b"x" * 2000


def test_a_process_that_ends_at_once_leaves_the_store_within_its_budget(open_with: Open) -> None:
    cache = open_with(max_size=3000)
    for number in range(6):

        def work(number: int = number) -> None:
            fill(cache, key_of(str(number)), b"%d" % number * 1000)
            cache.close()

        assert status_of(fork(work)) == 0
    assert stored(cache) <= 3000


def test_what_was_filled_since_the_trims_plan_stays(open_with: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_with(max_size=2500)
    fill(cache, key_of("a"), b"a" * 1000, "e1")
    _wait(cache)
    fill(cache, key_of("b"), b"b" * 1000, "e1")
    _wait(cache)
    original, done = Evictor.collect, threading.Event()

    def collect(self: Evictor, plan: Plan, *arguments: object, **options: bool) -> CollectResult:
        if not done.is_set():
            done.set()
            fill(cache, key_of("a"), b"a" * 1000, "e2")  # the very one that the plan takes first
        return original(self, plan, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Evictor, "collect", collect)
    fill(cache, key_of("c"), b"c" * 1000, "e1")
    assert done.wait(1_000)
    _wait(cache)
    assert read(cache, key_of("a")) == b"a" * 1000


def test_an_object_larger_than_the_budget_is_streamed_through(
    open_with: Open, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_with(max_size=1000)
    fill(cache, key_of("small"), b"s" * 500)
    for _ in range(2):
        assert _stream(cache, "large", b"l" * 1001) == (b"l" * 1001, False)
    _wait(cache)
    assert [entry.uri for entry in cache.entries()] == ["s3://bucket/small"]
    assert stored(cache) == 500
    assert cache.counts()["streamed"] == 2
    assert len(caplog.records) == 1
    assert cache.publisher.fills == set()


def test_a_write_of_an_object_larger_than_the_budget_leaves_no_entry(open_with: Open) -> None:
    cache = open_with(max_size=1000)
    noted, staging = cache.snapshot(key_of("a")), cache.stage()
    staging.write(b"x" * 1001)
    assert cache.record_write(noted, staging, Validator(1001, "e1"), cache.now()) is None
    assert (list(cache.entries()), stored(cache)) == ([], 0)


def test_where_all_is_held_fills_are_streamed_until_it_is_given_back(
    open_with: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trims, "_COST", 0)
    monkeypatch.setattr(trims, "CHECK_SECONDS", 0.0)
    cache = open_with(max_size=2500)
    paths, uses = [], []
    monkeypatch.setattr(cache.background, "_limit", None)
    for name in ("a", "b", "c"):
        entry = fill(cache, key_of(name), name.encode() * 1200)
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        paths.append(view(cache, entry, descriptor, name, "link"))
        uses.append(cache.local.use(entry.key))
        os.close(descriptor)
    monkeypatch.setattr(cache.background, "_limit", 2500)
    fill(cache, key_of("d"), b"d" * 1200)
    _wait(cache)
    assert read(cache, key_of("d")) is None  # the only one whose going frees anything, and not enough
    assert _stream(cache, "e", b"e" * 1200) == (b"e" * 1200, False)
    uses.clear()
    for path in paths:
        release(cache, path)
    eventually(lambda: _stream(cache, "g", b"g" * 1200)[1])
    streamed = [record for record in caplog.records if "without being stored" in record.getMessage()]
    assert len(streamed) == 1


# --- the cost of looking ---------------------------------------------------------------------------------------------


def test_small_fills_look_at_the_disk_no_more_than_once_a_second(
    open_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_with()
    looks: list[str] = []
    statvfs = os.statvfs

    def counted(path: str) -> os.statvfs_result:
        looks.append(path)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", counted)
    monkeypatch.setattr(cache.background, "_pause", float("inf"))  # within the second, however slow this machine is
    for number in range(50):
        with cache.begin(key_of(str(number))) as filling:
            filling.write(b"%d" % number)
            os.close(filling.publish(Validator(len(str(number)), "e1")).descriptor)
    assert len(looks) == 1
    monkeypatch.setattr(trims, "CHECK_BYTES", 100)
    cache.background.record_fill(trims.CHECK_BYTES + (64 << 20))
    assert len(looks) == 2
    cache.flush()


def test_reading_looks_at_nothing(open_with: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_with(max_size=100)
    fill(cache, key_of("a"), b"a")
    _wait(cache)
    with monkeypatch.context() as without:
        without.setattr(cache, "background", None)
        without.setattr(cache.publisher, "background", None)
        assert read(cache, key_of("a")) == b"a"


def test_without_a_limit_no_thread_is_started(open_with: Open) -> None:
    cache = open_with()
    fill(cache, key_of("a"), b"a")
    assert cache.background._checked > 0 and not cache.background._is_running


@pytest.mark.needs_locks
def test_a_trim_leaves_it_to_another_process_that_collects(open_with: Open, tmp_path: Path) -> None:
    cache = open_with(max_size=1000)
    with cache.evictor.lock.acquire(0) as file:
        assert file.is_locked
        fill(cache, key_of("a"), b"a" * 900)
        fill(cache, key_of("b"), b"b" * 900)
        _wait(cache)
        assert stored(cache) == 1800


# --- min_free --------------------------------------------------------------------------------------------------------


def _fake_disk(cache: Cache, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A disk of *size* bytes with nothing on it but the store's blobs."""

    def statvfs(path: str) -> os.statvfs_result:
        free = size - stored(cache)
        return os.statvfs_result((1, 1, size, free, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_a_fill_that_leaves_too_little_free_disk_makes_the_oldest_go(
    open_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CASSTORE_MIN_FREE")
    cache = open_with()
    monkeypatch.setattr(trims, "CHECK_BYTES", 0)
    _fake_disk(cache, monkeypatch, 100_000)  # of which a twentieth is to stay free
    for number in range(12):
        used_at(cache, fill(cache, key_of(str(number)), (b"%d" % number * 9000)[:9000]), HOUR + number)
        _wait(cache)
    assert stored(cache) <= 95_000
    held = {entry.uri for entry in cache.entries()}
    assert "s3://bucket/0" not in held and "s3://bucket/11" in held


def test_min_free_0_lets_the_disk_fill(open_with: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_with(min_free=0)
    monkeypatch.setattr(trims, "CHECK_BYTES", 0)
    _fake_disk(cache, monkeypatch, 10_000)
    for number in range(10):
        fill(cache, key_of(str(number)), b"%d" % number * 1000)
    _wait(cache)
    assert stored(cache) == 10_000


@pytest.mark.needs_locks
def test_a_trim_reaps_what_a_dead_process_held_before_fills_go_by_unstored(open_with: Open) -> None:
    cache = open_with(max_size=2500)

    def link_and_die() -> None:
        cache.background._limit = None
        for name in ("a", "b"):
            entry = fill(cache, key_of(name), name.encode() * 2000)
            descriptor = cache.open_entry(entry)
            assert descriptor is not None
            view(cache, entry, descriptor, name, "link")
        os._exit(0)

    assert status_of(fork(link_and_die)) == 0
    cache.background._reaped = time.monotonic()  # not its turn
    fill(cache, key_of("c"), b"c" * 400)
    _wait(cache)
    assert stored(cache) <= 2500
    assert _stream(cache, "d", b"d" * 400)[1]


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """A disk of 8 MiB at *root*."""
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", root], check=True)
    yield root
    with contextlib.suppress(KeyError):
        casstore.opening._caches[os.path.realpath(root)].close()
    subprocess.run(["umount", "-l", root], check=True)


def _fill_large(cache: Cache) -> None:
    with cache.begin(key_of("large")) as filling:
        for _ in range(9):
            filling.write(os.urandom(1 << 20))


def _fill_many(cache: Cache) -> None:
    for number in range(12):
        fill(cache, key_of(str(number)), os.urandom(1 << 20))


@pytest.mark.needs_root
def test_a_fill_that_finds_the_disk_full_takes_the_place_of_the_oldest(small_disk: Path, open_with: Open) -> None:
    cache = open_with(min_free=0)
    piece = os.urandom(1 << 20)
    for number in range(12):
        data = bytes([number]) + piece
        used_at(cache, fill(cache, key_of(str(number)), data), HOUR + number)
        assert read(cache, key_of(str(number))) == data
    held = {entry.uri for entry in cache.entries()}
    assert "s3://bucket/0" not in held and "s3://bucket/11" in held
    assert dangling(cache) == []


@pytest.mark.needs_root
def test_parts_written_by_threads_find_room_too(small_disk: Path, open_with: Open) -> None:
    cache = open_with(min_free=0)
    for number in range(6):
        fill(cache, key_of(str(number)), os.urandom(1 << 20))
    data = os.urandom(5 << 20)
    with cache.begin(key_of("parts")) as filling:
        filling.expect(len(data))
        filling.resize(len(data))
        threads = [
            threading.Thread(target=filling.write_at, args=(memoryview(data)[start : start + (1 << 20)], start))
            for start in range(0, len(data), 1 << 20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        filling.staging.rehash()
        os.close(filling.publish(Validator(len(data), "e1")).descriptor)
    cache.flush()
    assert read(cache, key_of("parts")) == data


@pytest.mark.needs_root
def test_an_object_that_no_trim_makes_room_for_is_a_clear_error_and_the_store_goes_on(
    small_disk: Path, open_with: Open
) -> None:
    cache = open_with(min_free=0)
    fill(cache, key_of("small"), b"s" * 1000)
    with pytest.raises(StoreFullError, match="no room"):
        _fill_large(cache)
    assert cache.publisher.fills == set()
    fill(cache, key_of("after"), b"a" * 1000)
    assert read(cache, key_of("after")) == b"a" * 1000
    assert dangling(cache) == []


@pytest.mark.needs_root
def test_an_object_that_can_never_fit_evicts_nothing(
    small_disk: Path, open_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_with(min_free=0)
    for number in range(5):
        fill(cache, key_of(str(number)), os.urandom(1 << 20))
    total = os.statvfs(small_disk)
    plans: list[int] = []
    plan = Evictor.plan

    def count(self: Evictor, *, at_least: int = 0) -> Plan:
        plans.append(at_least)
        return plan(self, at_least=at_least)

    monkeypatch.setattr(Evictor, "plan", count)
    monkeypatch.setattr(trims, "CHECK_SECONDS", 3600.0)
    for _ in range(3):
        with cache.begin(key_of("huge")) as filling:
            filling.expect(total.f_blocks * total.f_frsize + 1)
            filling.write(os.urandom(2 << 20))
            with pytest.raises(StoreFullError, match="no room"):
                filling.write(os.urandom(6 << 20))
    assert len(list(cache.entries())) == 5
    assert len(plans) <= 2, "what was refused a moment ago is not planned again"
    with cache.begin(key_of("large")) as filling:
        filling.expect(5 << 20)
        for _ in range(5):
            filling.write(bytes(1 << 20))


@pytest.mark.needs_root
def test_files_of_dead_processes_make_room_before_that_is_decided(small_disk: Path, open_with: Open) -> None:
    cache = open_with(min_free=0)
    fill(cache, key_of("held"), os.urandom(1 << 20))
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize

    def die() -> None:
        staging = Path(cache.lease.paths.staging)
        staging.mkdir(exist_ok=True)
        (staging / "left").write_bytes(bytes(free - (1 << 20)))
        os._exit(0)

    assert status_of(fork(die)) == 0
    with cache.begin(key_of("large")) as filling:
        filling.expect(free)
        for _ in range(free >> 20):
            filling.write(bytes(1 << 20))
        os.close(filling.publish(Validator(free >> 20 << 20, "e1")).descriptor)


@pytest.mark.needs_root
def test_without_the_trim_the_same_fill_fails(
    small_disk: Path, open_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_with(min_free=0)
    monkeypatch.setattr(cache.background, "make_room", lambda needed: False)
    with pytest.raises(StoreFullError):
        _fill_many(cache)


@pytest.mark.needs_root
def test_a_disk_without_a_free_byte_can_still_be_collected(small_disk: Path, open_with: Open) -> None:
    cache = open_with(min_free=0)
    for number in range(200):
        fill(cache, key_of(str(number)), os.urandom(10_000))
    with open(small_disk / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with open(small_disk / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(1))
    freed = cache.execute(cache.plan(max_size=0, min_free=0))
    assert (freed.blobs, freed.shortfall, stored(cache)) == (200, 0, 0)


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_failed_trim_is_said_on_the_log_and_the_fill_stands(
    open_with: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_with(max_size=100)

    def fail(*arguments: object) -> CollectResult:
        raise StoreFullError(28, "no room for the index")

    monkeypatch.setattr(collector, "execute", fail)
    fill(cache, key_of("a"), b"a" * 90)
    fill(cache, key_of("b"), b"b" * 90)
    _wait(cache)
    assert read(cache, key_of("b")) == b"b" * 90
    eventually(lambda: any("background eviction failed" in record.getMessage() for record in caplog.records))


def test_what_is_filled_after_a_trim_has_added_up_is_trimmed_too(
    open_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_with(max_size=1000)
    original, added_up, go_on = trims.BackgroundEvictor._sum, threading.Event(), threading.Event()

    def add_up(self: trims.BackgroundEvictor) -> int:
        free = original(self)
        added_up.set()
        assert go_on.wait(1_000)
        return free

    monkeypatch.setattr(trims.BackgroundEvictor, "_sum", add_up)
    try:
        fill(cache, key_of("a"), b"a" * 900)
        cache.background._check_budget()  # starts the first sum, if the fill has not
        assert added_up.wait(1_000)
        fill(cache, key_of("b"), b"b" * 900)
    finally:
        go_on.set()
    _wait(cache)
    assert stored(cache) == 900


def test_a_child_forked_while_its_parent_trims_begins_anew(open_with: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_with(max_size=1000)
    original, at_it, go_on = Evictor.collect, threading.Event(), threading.Event()

    def collect(self: Evictor, plan: Plan, *arguments: object, **options: bool) -> CollectResult:
        at_it.set()
        assert go_on.wait(1_000)
        return original(self, plan, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Evictor, "collect", collect)

    def work() -> None:
        monkeypatch.undo()
        assert not cache.background._is_running
        fill(cache, key_of("c"), b"c" * 90)
        cache.close()

    try:
        fill(cache, key_of("a"), b"a" * 900)
        fill(cache, key_of("b"), b"b" * 900)
        assert at_it.wait(1_000)
        pid = fork(work)
    finally:
        go_on.set()
    assert status_of(pid) == 0
    _wait(cache)
    assert stored(cache) <= 1000
