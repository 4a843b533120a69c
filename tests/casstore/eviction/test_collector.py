"""Evicting: what somebody still uses stays, and a fill beside it loses nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import casstore
from casstore import Cache, Digest, Entry, Validator
from casstore.errors import StoreFullError
from casstore.eviction import collector, removal
from casstore.eviction.collector import CollectResult
from casstore.format.keys import BLOB, ENTRY
from casstore.fs import files
from casstore.index.entries import put_entry
from casstore.index.transactions import Txn
from tests.casstore.support.fill import fill, fork, key_of, read, status_of, view
from tests.casstore.support.stores import HOUR, add_orphan, dangling, stored, used_at


def test_a_blob_that_another_entry_uses_stays(cache: casstore.Cache) -> None:
    fill(cache, key_of("a"), b"shared")
    fill(cache, key_of("b"), b"shared")
    fill(cache, key_of("c"), b"alone")
    freed = cache.evict(lambda entry: entry.uri != "s3://bucket/b")
    assert (freed.entries, freed.blobs, freed.bytes) == (2, 1, 5)
    assert (read(cache, key_of("a")), read(cache, key_of("b"))) == (None, b"shared")
    assert os.listdir(cache.layout.trash) == []


def test_only_what_lies_below_the_prefix_is_evicted(cache: casstore.Cache) -> None:
    for name in ("a/1", "a/2", "b/1"):
        fill(cache, key_of(name), name.encode())
    assert cache.evict(lambda _: True, "s3://bucket/a/").entries == 2
    assert [entry.uri for entry in cache.entries()] == ["s3://bucket/b/1"]


def test_a_blob_that_came_back_into_use_is_not_swept(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    assert collector.EntryRemoval(cache.index, cache.layout).sweep([entry.digest.value]) == {}
    assert read(cache, key_of("a")) == b"bytes"


def test_an_entry_that_changed_since_it_was_chosen_stays(cache: casstore.Cache) -> None:
    old = fill(cache, key_of("a"), b"old", "e1")

    def choose(entry: casstore.Entry) -> bool:
        fill(cache, key_of("a"), b"new", "e2")
        return True

    freed = cache.evict(choose)
    assert (freed.entries, freed.blobs) == (0, 1)
    assert read(cache, key_of("a")) == b"new"
    assert not os.path.exists(cache.blob_path(old))


def test_an_open_file_outlives_its_eviction(cache: casstore.Cache) -> None:
    descriptor = cache.open_entry(fill(cache, key_of("a"), b"bytes"))
    assert descriptor is not None
    cache.evict(lambda _: True)
    with open(descriptor, "rb") as file:
        assert file.read() == b"bytes"


def test_fills_beside_a_collector_never_serve_wrong_bytes_nor_lose_an_entry(
    cache: casstore.Cache, tmp_path: Path
) -> None:
    def collect() -> None:
        while not (tmp_path / "done").exists():
            cache.evict(lambda _: True)

    def work(number: int) -> None:
        for turn in range(40):
            data = b"%d" % (turn % 5)
            fill(cache, key_of(f"{number}-{turn % 3}"), data, f"e{turn}")
            # Evicted already, or right; also what another worker shares.
            assert read(cache, key_of(f"{number}-{turn % 3}")) in (None, data)

    collector = fork(collect)
    workers = [fork(partial(work, number)) for number in range(3)]
    try:
        statuses = [status_of(pid) for pid in workers]
    finally:
        (tmp_path / "done").touch()
    assert [*statuses, status_of(collector)] == [0] * 4
    for entry in cache.entries():
        assert read(cache, entry.key) is not None


# --- plans carried out -----------------------------------------------------------------------------------------------


def test_what_is_planned_goes_and_every_removal_is_told(cache: Cache) -> None:
    for name, hour in {"a": 1, "b": 2, "c": 3}.items():
        used_at(cache, fill(cache, key_of(name), name.encode() * 1000), HOUR + hour)
    used_at(cache, fill(cache, key_of("a2"), b"a" * 1000), HOUR)
    told: list[casstore.RemovedBlob] = []
    freed = cache.execute(cache.plan(max_size=1500, min_free=0), told.append)
    assert (freed.entries, freed.blobs, freed.bytes, freed.still_in_use, freed.shortfall) == (3, 2, 2000, 0, 0)
    assert [(sorted(removed.uris), removed.bytes) for removed in told] == [
        (["s3://bucket/a", "s3://bucket/a2"], 1000),
        (["s3://bucket/b"], 1000),
    ]
    assert (read(cache, key_of("a")), read(cache, key_of("c"))) == (None, b"c" * 1000)
    assert stored(cache) == 1000
    assert os.listdir(cache.layout.trash) == []


def _use(cache: Cache, entry: Entry) -> None:
    aged = used_at(cache, entry, HOUR)
    plan_hour = replace(aged, last_used_hour=HOUR + 1)
    cache.index.write(lambda txn: put_entry(txn, plan_hour, aged, None))


def _validate(cache: Cache, entry: Entry) -> None:
    cache.refresh(entry, cache.now())
    cache.flush()


def _fill_again(cache: Cache, entry: Entry) -> None:
    fill(cache, entry.key, b"a" * 1000, "e2")


def _share(cache: Cache, entry: Entry) -> None:
    fill(cache, key_of("another"), b"a" * 1000)


def _link_view(cache: Cache, entry: Entry) -> None:
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    view(cache, entry, descriptor, "a", "link")
    os.close(descriptor)


@pytest.mark.parametrize("come_back", [_use, _validate, _fill_again, _share, _link_view])
def test_what_came_back_into_use_since_the_plan_stays(cache: Cache, come_back: Callable[[Cache, Entry], None]) -> None:
    entry = fill(cache, key_of("a"), b"a" * 1000)
    plan = cache.plan(max_size=0, min_free=0)
    come_back(cache, entry)
    freed = cache.execute(plan)
    assert (freed.entries, freed.blobs, freed.still_in_use, freed.shortfall) == (0, 0, 1, 1000)
    assert read(cache, key_of("a")) == b"a" * 1000


def test_a_file_linked_since_the_plan_is_not_the_one_that_was_planned(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linked_since() -> tuple[bool, int]:
        digest = add_orphan(cache, b"orphan")
        plan = cache.plan(max_size=0, min_free=0)
        assert [blob.digest for blob in plan.victims] == [digest.value]
        collector.EntryRemoval(cache.index, cache.layout).sweep([digest.value])
        assert add_orphan(cache, b"orphan") == digest  # a publication in flight, which has no row yet
        freed = cache.execute(plan)
        return os.path.exists(cache.layout.blob(digest.value)), freed.still_in_use

    assert linked_since() == (True, 1)
    monkeypatch.setattr(collector, "_is_as_planned", lambda blob, status: True)
    assert linked_since() == (False, 0)


def _publish_before_sweeps(cache: Cache, monkeypatch: pytest.MonkeyPatch, key: casstore.Key, data: bytes) -> None:
    """Between the two transactions, dropping of entries and sweep, somebody links another entry to the same blob."""
    original: Callable[..., object] = removal.Removal.sweep_batch

    def interleaved(*arguments: object) -> object:
        if cache.lookup(key) is None:
            fill(cache, key, data)
        return original(*arguments)

    monkeypatch.setattr(removal.Removal, "sweep_batch", interleaved)


def test_a_blob_published_between_eviction_and_sweep_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, key_of("a"), b"shared")
    plan = cache.plan(max_size=0, min_free=0)
    _publish_before_sweeps(cache, monkeypatch, key_of("b"), b"shared")
    freed = cache.execute(plan)
    assert (freed.entries, freed.blobs) == (1, 0)
    assert (read(cache, key_of("b")), dangling(cache)) == (b"shared", [])


def test_without_the_check_in_the_sweeps_transaction_that_blob_is_lost(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, key_of("a"), b"shared")
    plan = cache.plan(max_size=0, min_free=0)
    _publish_before_sweeps(cache, monkeypatch, key_of("b"), b"shared")
    monkeypatch.setattr(removal, "_is_in_use", lambda txn, digest: False)
    cache.execute(plan)
    assert dangling(cache) == ["s3://bucket/b"]


def test_a_blob_linked_between_eviction_and_sweep_stays_for_it_would_free_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    plan = cache.plan(max_size=0, min_free=0)
    original: Callable[..., object] = removal.Removal.sweep_batch

    def linked_first(*arguments: object) -> object:
        os.link(cache.blob_path(entry), f"{cache.root}/elsewhere")
        return original(*arguments)

    monkeypatch.setattr(removal.Removal, "sweep_batch", linked_first)
    freed = cache.execute(plan)
    assert (freed.entries, freed.bytes, freed.still_in_use, freed.shortfall) == (1, 0, 1, 5)
    assert stored(cache) == 5


def test_a_publication_whose_blob_is_swept_before_its_commit_gets_it_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache.begin(key_of("a")) as filling:
        filling.write(b"in flight")
        submit = cache.committer.submit

        def swept_first(item: Any) -> None:
            cache.execute(cache.plan(max_size=0, min_free=0))
            assert stored(cache) == 0
            submit(item)

        monkeypatch.setattr(cache.committer, "submit", swept_first)
        descriptor = filling.publish(Validator(9, "e1")).descriptor
    os.close(descriptor)
    cache.flush()
    assert (read(cache, key_of("a")), dangling(cache)) == (b"in flight", [])


def test_views_and_open_files_outlive_a_collection(cache: Cache) -> None:
    paths, uses = [], []
    for mode in ("link", "copy"):
        entry = fill(cache, key_of(mode), mode.encode() * 100)
        uses.append(cache.local.use(entry.key))
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        paths.append((view(cache, entry, descriptor, mode, mode), descriptor, mode.encode() * 100))
    freed = cache.execute(cache.plan(max_size=0, min_free=0))
    assert (freed.blobs, freed.shortfall, len(uses)) == (1, 400, 2)
    for path, descriptor, data in paths:
        assert Path(path).read_bytes() == data
        with open(descriptor, "rb") as file:
            assert file.read() == data


@pytest.mark.needs_locks
def test_what_a_dead_process_had_linked_goes_in_the_same_collection(cache: Cache) -> None:
    entry = fill(cache, key_of("a"), b"a" * 1000)

    def link_and_die() -> None:
        _link_view(cache, entry)
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(fork(link_and_die)) == -signal.SIGKILL
    freed = cache.execute(cache.plan(max_size=0, min_free=0))
    assert (freed.bytes, freed.shortfall) == (1000, 0)


@pytest.mark.needs_locks
def test_what_a_killed_collector_had_moved_to_the_trash_holds_nothing(cache: Cache) -> None:
    entry = fill(cache, key_of("a"), b"a" * 1000)
    lease = cache.layout.trashed("0" * 16)
    os.mkdir(lease)
    os.link(cache.blob_path(entry), f"{lease}/its view")
    plan = cache.plan(max_size=0, min_free=0)
    assert (len(plan.victims), len(plan.retained)) == (0, 1)
    freed = cache.execute(plan)
    assert (freed.bytes, freed.shortfall, freed.retained) == (1000, 0, ())


# --- the index is replaced, the disk is full -------------------------------------------------------------------------


def _sweep_and_look(cache: Cache, digest: Digest) -> dict[bytes, os.stat_result | None]:
    swept = collector.EntryRemoval(cache.index, cache.layout).sweep([digest.value])
    list(cache.entries())
    return swept


def _replace_index(cache: Cache) -> None:
    cache.index._supersede(cache.index.generation, "for a test")


def test_a_plan_of_an_index_that_was_replaced_is_made_anew(cache: Cache) -> None:
    entry = fill(cache, key_of("a"), b"a" * 1000)
    plan = cache.plan(max_size=0, min_free=0)
    _replace_index(cache)
    told: list[casstore.RemovedBlob] = []
    with pytest.warns(UserWarning, match="index was damaged"):
        freed = cache.execute(plan, told.append)
    # Unknown to the new index, and within no budget of 0.
    assert (freed.entries, freed.bytes, freed.shortfall, freed.is_stale) == (0, 1000, 0, False)
    assert [(removed.digest, removed.uris) for removed in told] == [(entry.digest.value, ())]


def test_a_blob_swept_in_a_lost_transaction_gets_its_name_back(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = add_orphan(cache, b"orphan")
    rename = files.rename

    def rename_and_replace(source: str, target: str) -> None:
        rename(source, target)
        _replace_index(cache)

    monkeypatch.setattr(files, "rename", rename_and_replace)
    with pytest.warns(UserWarning, match="index was damaged"):
        swept = _sweep_and_look(cache, digest)
    assert swept == {}
    assert os.path.exists(cache.layout.blob(digest.value))
    assert os.listdir(cache.layout.trash) == []


def test_where_a_commit_finds_no_room_blobs_go_one_at_a_time(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        fill(cache, key_of(str(number)), b"%d" % number * 1000)
    original: Callable[..., object] = collector.PlanRemoval.drop
    sizes = []

    def drop_few(*arguments: Any) -> object:
        sizes.append(len(arguments[-1]))
        if sizes[-1] > 1:
            raise StoreFullError(28, "no room for the index")
        return original(*arguments)

    monkeypatch.setattr(collector.PlanRemoval, "drop", drop_few)
    assert cache.execute(cache.plan(max_size=0, min_free=0)).blobs == 5
    assert sizes == [5, 1, 2, 1, 2, 1, 2, 1, 1]


# --- how long writers wait -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize(
    "take", [lambda cache: cache.execute(cache.plan(max_size=0, min_free=0)), lambda cache: cache.evict(lambda _: True)]
)
def test_no_write_transaction_is_about_more_than_so_many_blobs(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, take: Callable[[Cache], CollectResult], most: int
) -> None:
    for number in range(10):
        fill(cache, key_of(str(number)), b"%d" % number * 1000)
    monkeypatch.setattr(removal, "FIRST_BATCH", 1)
    monkeypatch.setattr(removal, "LEAST_BATCH", 1)
    monkeypatch.setattr(removal, "MOST_BATCH", most)
    deleted: dict[Txn, list[bytes]] = {}
    original = Txn.delete

    def delete(txn: Txn, row: bytes) -> None:
        deleted.setdefault(txn, []).append(row[:1])
        original(txn, row)

    monkeypatch.setattr(Txn, "delete", delete)
    assert take(cache).blobs == 10
    for kind in (ENTRY, BLOB):
        counts = [kinds.count(kind) for kinds in deleted.values()]
        assert sum(counts) == 10
        assert max(counts) <= most


def test_a_batch_grows_while_there_is_time_and_is_never_without_bounds() -> None:
    pace = removal.BatchSizer()
    counts = []
    for _ in range(6):
        with pace.timed(pace.count):
            pass
        counts.append(pace.count)
    assert max(counts) <= removal.MOST_BATCH
    for _ in range(8):
        with pace.timed(pace.count):
            time.sleep(2 * removal._BATCH_SECONDS)
    assert pace.count == removal.LEAST_BATCH


# --- with other processes --------------------------------------------------------------------------------------------


def _work(cache: Cache, number: int, turns: int) -> None:
    """Fill and read objects that other workers share; every read is right or a miss."""
    for turn in range(turns):
        data = b"%d" % (turn % 7) * 500
        fill(cache, key_of(f"{number}-{turn % 5}"), data, f"e{turn}")
        assert read(cache, key_of(f"{number}-{turn % 5}")) in (None, data)
        # By content, so that whoever reads knows what is right.
        fill(cache, key_of(f"shared-{turn % 7}"), data)
        assert read(cache, key_of(f"shared-{(turn + number) % 7}")) in (None, b"%d" % ((turn + number) % 7) * 500)


def _check(cache: Cache) -> None:
    assert dangling(cache) == []
    for entry in cache.entries():
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None, entry.uri
        os.close(descriptor)


@pytest.mark.parametrize("collectors", [1, 2])
def test_workers_beside_collectors_with_a_tiny_budget_read_right_bytes_and_lose_no_entry(
    cache: Cache, tmp_path: Path, collectors: int
) -> None:
    def collect() -> None:
        while not (tmp_path / "done").exists():
            # Without the turn, so that two are at it at once.
            collector.execute(cache.index, cache.local, cache.plan(max_size=1200, min_free=0))

    others = [fork(collect) for _ in range(collectors)]
    workers = [fork(partial(_work, cache, number, 20)) for number in range(3)]
    statuses = [status_of(pid) for pid in workers]
    (tmp_path / "done").touch()
    assert [*statuses, *map(status_of, others)] == [0] * (3 + collectors)
    _check(cache)
    cache.execute(cache.plan(max_size=1200, min_free=0))
    assert stored(cache) <= 1200


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.05])
def test_a_collector_killed_at_any_moment_leaves_no_entry_without_its_blob(cache: Cache, delay: float) -> None:
    for number in range(100):
        with cache.begin(key_of(str(number))) as filling:
            filling.write(b"%d" % number * 100)
            os.close(filling.publish(Validator(len(b"%d" % number) * 100, "e1")).descriptor)
    cache.flush()

    def collect() -> None:
        for size in range(19_000, -1, -1000):
            collector.execute(cache.index, cache.local, cache.plan(max_size=size, min_free=0))

    pid = fork(collect)
    time.sleep(delay)  # where it is by then does not matter
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    _check(cache)
    assert cache.execute(cache.plan(max_size=0, min_free=0)).shortfall == 0
    assert (stored(cache), list(cache.entries()), os.listdir(cache.layout.trash)) == (0, [], [])


def test_emptying_the_trash_while_a_touched_blob_is_replaced_costs_its_reader_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    os.utime(cache.blob_path(entry))
    rename = files.rename

    def emptied_first(source: str, target: str) -> None:
        if source.startswith(cache.layout.trash):
            os.unlink(source)
        rename(source, target)

    with monkeypatch.context() as emptying:
        emptying.setattr(files, "rename", emptied_first)
        assert read(cache, key_of("a")) == b"bytes"
    assert read(cache, key_of("a")) == b"bytes"
    assert os.listdir(cache.layout.trash) == []


def test_a_blob_is_the_planned_one_only_with_its_inode_and_its_time_of_change(cache: Cache) -> None:
    path = cache.blob_path(fill(cache, key_of("k"), b"bytes"))
    (victim,) = cache.plan(max_size=0).victims
    status = os.lstat(path)
    assert collector._is_as_planned(victim, status)
    for changed in ((1, 0), (0, 1)):
        numbers = (status.st_ino + changed[0], status.st_ctime_ns + changed[1])
        other: Any = SimpleNamespace(st_ino=numbers[0], st_ctime_ns=numbers[1])
        assert not collector._is_as_planned(victim, other)
