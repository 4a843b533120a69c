"""Clearing: all goes but pins, pending writes and local edits, whoever works beside it and whenever it is killed."""

from __future__ import annotations

import os
import pkgutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Cache, NotAStoreError, StoreReadOnlyError
from casstore.errors import StoreFullError
from casstore.eviction import clear as clearing
from casstore.eviction import removal
from casstore.eviction.clear import ClearResult
from casstore.eviction.local_copies import InUse
from casstore.format.keys import USER
from casstore.index.transactions import Txn
from casstore.index.updates import IndexUpdate
from casstore.locks.lock_files import create_locked
from casstore.pass_through import PassThroughCache
from tests.casstore.support.fill import eventually, fill, fork, hand_out, key_of, read, status_of
from tests.casstore.support.local_edits import outbox_of
from tests.casstore.support.pending_writes import interrupt, pend
from tests.casstore.support.stores import add_orphan, dangling, stored, tree_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")

A, B, C = "s3://bucket/a", "s3://bucket/b", "s3://bucket/d/c"
NOTHING = ClearResult(0, 0, 0, 0, 0, (), (), (), (), (), 0, 0, None)


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Three objects of 1000 bytes."""
    for name in ("a", "b", "d/c"):
        fill(cache, key_of(name), name[-1:].encode() * 1000)
    return cache


def _uris(cache: Cache) -> list[str]:
    return [entry.uri for entry in cache.entries()]


def _view(cache: Cache, name: str, mode: str = "link") -> Path:
    entry = cache.lookup(key_of(name))
    assert entry is not None
    return hand_out(cache, entry, mode)


def _edit(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"mine")


# --- what goes -------------------------------------------------------------------------------------------------------


def test_everything_goes_and_the_store_serves_on(filled: Cache) -> None:
    told: list[casstore.RemovedBlob] = []
    cleared = filled.clear(on_removed=told.append)
    assert (cleared.entries, cleared.blobs, cleared.bytes) == (3, 3, 3000)
    assert sorted((removed.uris, removed.bytes) for removed in told) == [((uri,), 1000) for uri in (A, B, C)]
    assert (_uris(filled), stored(filled), os.listdir(filled.layout.trash)) == ([], 0, [])
    assert (cleared.pins, cleared.pending, cleared.in_use, cleared.unreadable, cleared.young) == ((), (), (), (), 0)
    assert read(filled, key_of("a")) is None
    fill(filled, key_of("a"), b"again")
    assert read(filled, key_of("a")) == b"again"


def test_clearing_twice_and_an_empty_store_are_no_errors(cache: Cache) -> None:
    assert (cache.clear().is_nothing, cache.clear(dry_run=True)) == (True, NOTHING)
    fill(cache, key_of("a"), b"a")
    assert (cache.clear().is_nothing, cache.clear().is_nothing) == (False, True)


def test_below_a_prefix_only_its_entries_go_and_the_blobs_that_nobody_else_uses(filled: Cache) -> None:
    fill(filled, key_of("d/shared"), b"a" * 1000)
    fill(filled, key_of("d/" + "long" * 200), b"l" * 1000)
    orphan = add_orphan(filled, b"orphan")
    told: list[casstore.RemovedBlob] = []
    cleared = filled.clear("s3://bucket/d/", told.append)
    assert (cleared.entries, cleared.blobs, cleared.bytes) == (3, 2, 2000)
    assert {uri: removed.bytes for removed in told for uri in removed.uris}["s3://bucket/d/shared"] == 0
    assert (_uris(filled), dangling(filled)) == ([A, B], [])
    assert os.path.exists(filled.layout.blob(orphan.value))


def test_a_prefix_is_an_object_or_a_directory_and_no_part_of_a_name(cache: Cache) -> None:
    names = ("1", "1/a", "1/b/c", "10", "10/a", "1.txt", "1 /a")
    for name in names:
        fill(cache, key_of(name), name.encode())
    cache.pin("s3://bucket/10/")
    pend(cache, "11")
    cleared = cache.clear("s3://bucket/1", dry_run=True)
    assert (cleared.entries, cleared.pins, cleared.pending) == (3, (), ())
    assert cache.clear("s3://bucket/1").entries == 3
    assert _uris(cache) == sorted(f"s3://bucket/{name}" for name in ("10", "10/a", "1.txt", "1 /a"))
    assert cache.clear("s3://buck").entries == 0
    assert cache.clear("s3://bucket").entries == 3  # one is pinned


def test_a_prefix_that_is_longer_than_the_rows_keys_takes_no_more_than_what_begins_so(cache: Cache) -> None:
    long = "x" * 600
    for name in (f"{long}/a", f"{long}/b", f"{long}y", long[:550]):
        fill(cache, key_of(name), name.encode())
    assert cache.clear(f"s3://bucket/{long}/", dry_run=True).entries == 2
    assert cache.clear(f"s3://bucket/{long}/").entries == 2
    assert sorted(_uris(cache)) == sorted(f"s3://bucket/{name}" for name in (f"{long}y", long[:550]))


def test_entries_of_one_blob_in_many_batches_let_it_go_with_the_last(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearing, "_PAGE", 2)
    for number in range(7):
        fill(cache, key_of(str(number)), b"shared" if number % 2 else b"also shared")
    told: list[casstore.RemovedBlob] = []
    assert cache.clear(on_removed=told.append, dry_run=True).bytes == 17
    assert (cache.clear(on_removed=told.append).blobs, stored(cache)) == (2, 0)
    dry, wet = told[: len(told) // 2], told[len(told) // 2 :]
    assert sum(removed.bytes for removed in wet) == sum(removed.bytes for removed in dry) == 17
    assert sorted(uri for removed in wet for uri in removed.uris) == [f"s3://bucket/{n}" for n in range(7)]


def test_blobs_without_entries_go_and_those_that_may_be_in_flight_stay_and_are_told(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = add_orphan(filled, b"orphan")
    cleared = filled.clear()
    assert (cleared.blobs, cleared.young, cleared.young_bytes, stored(filled)) == (3, 1, 6, 6)
    # Of a clock that was set back nothing is ever young.
    later = os.lstat(filled.layout.blob(orphan.value)).st_ctime + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert (filled.clear(dry_run=True).blobs, stored(filled)) == (1, 6)
    cleared = filled.clear()
    assert (cleared.blobs, cleared.bytes, cleared.young, stored(filled)) == (1, 6, 0, 0)


def test_a_download_that_has_its_name_and_not_yet_its_row_loses_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearing, "IN_FLIGHT_SECONDS", -1)  # not even by that rule
    submit = cache.committer.submit
    cleared: list[ClearResult] = []

    def cleared_first(item: Any) -> None:
        monkeypatch.setattr(cache.committer, "submit", submit)
        cleared.append(cache.clear())
        assert stored(cache) == 0
        submit(item)

    monkeypatch.setattr(cache.committer, "submit", cleared_first)
    fill(cache, key_of("a"), b"in flight")
    assert cleared[0].blobs == 1
    assert (read(cache, key_of("a")), dangling(cache)) == (b"in flight", [])


def test_blobs_that_an_index_of_before_knew_go_once_they_are_old(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.index._supersede(filled.index.generation, "for a test")
    monkeypatch.setattr(clearing, "IN_FLIGHT_SECONDS", -1)
    with pytest.warns(UserWarning, match="index was damaged"):
        cleared = filled.clear()
    assert (cleared.entries, cleared.blobs, stored(filled)) == (0, 3, 0)


def test_damaged_rows_and_rows_of_users_that_are_none_hold_nothing(filled: Cache) -> None:
    entry = filled.lookup(key_of("a"))
    assert entry is not None

    def damage(txn: Txn) -> None:
        txn.put(entry.key.row_key, b"\1damaged")

    filled.index.write(damage)
    assert filled.clear().entries == 2
    assert (stored(filled), list(filled.index.scan(USER)), filled.index.get(entry.key.row_key)) == (0, [], None)


def test_what_verification_found_bad_goes_from_quarantine_and_nothing_else_there(filled: Cache) -> None:
    entry = filled.lookup(key_of("a"))
    assert entry is not None
    filled.quarantine(entry.digest, "for a test")
    quarantine = Path(filled.layout.quarantine)
    (quarantine / "notes.txt").write_text("somebody's")
    (quarantine / ("ab" * 16 + "-01234567")).mkdir()
    assert len(list(quarantine.iterdir())) == 4
    assert (filled.clear("s3://bucket/").bad, len(list(quarantine.iterdir()))) == (0, 4)
    assert filled.clear(dry_run=True).bad == 1
    cleared = filled.clear()
    assert (cleared.bad, cleared.bad_bytes) == (1, 1000)
    assert sorted(path.name for path in quarantine.iterdir()) == ["ab" * 16 + "-01234567", "notes.txt"]


# --- what stays ------------------------------------------------------------------------------------------------------


def test_pins_stay_with_their_entries_and_are_named(filled: Cache) -> None:
    fill(filled, key_of("a2"), b"a" * 1000)
    (pin,) = filled.pin(A)
    cleared = filled.clear()
    assert (cleared.pins, cleared.entries, cleared.blobs, cleared.bytes) == ((pin,), 3, 2, 2000)
    assert (_uris(filled), read(filled, key_of("a"))) == ([A], b"a" * 1000)
    filled.unpin(A)
    assert (filled.clear().entries, stored(filled)) == (1, 0)


def test_without_the_look_for_pins_they_are_lost(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.pin(A)
    monkeypatch.setattr(clearing, "is_pinned", lambda layout, name: False)
    filled.clear()
    assert _uris(filled) == []


def test_a_pin_that_cannot_be_read_holds_and_is_told(filled: Cache) -> None:
    filled.pin(A)
    path = filled.layout.pin(key_of("a").name)
    Path(path).write_bytes(b"damaged")
    entry = filled.lookup(key_of("a"))
    assert entry is not None
    cleared = filled.clear()
    assert (cleared.pins, cleared.unreadable, _uris(filled)) == ((), (path,), [A])


def test_where_it_cannot_be_told_what_is_pinned_nothing_goes(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = os.lstat

    def fail(path: str) -> os.stat_result:
        if path.startswith(filled.layout.pins):
            raise OSError(5, os.strerror(5), path)
        return lstat(path)

    with monkeypatch.context() as failing:
        failing.setattr(os, "lstat", fail)
        with pytest.raises(OSError, match="Input/output"):
            filled.clear()
    assert len(_uris(filled)) == 3


@pytest.mark.parametrize("state", [one for one in casstore.PendingState if one != "unreadable"])
def test_pending_writes_and_the_entries_that_they_are_of_stay(filled: Cache, state: casstore.PendingState) -> None:
    write = pend(filled, "a", state=state)
    cleared = filled.clear()
    assert (cleared.pending, [entry.uri for entry in cleared.bases], cleared.entries) == ((write,), [A], 2)
    assert Path(filled.pending.path(write)).read_bytes() == b"mine"
    # What a drop goes back to.
    assert (filled.discard_pending(write), read(filled, key_of("a"))) == (True, b"a" * 1000)
    assert (filled.clear().entries, stored(filled)) == (1, 0)


def test_writes_of_dead_uploads_and_unreadable_records_stay(filled: Cache, root: Path) -> None:
    interrupt(root, "b")
    damaged = pend(filled, "a")
    path = filled.layout.pending_record(key_of("a").name, damaged.name)
    Path(path).write_text("{")
    cleared = filled.clear()
    assert ([write.uri for write in cleared.pending], cleared.unreadable) == ([B], (path,))
    assert (_uris(filled), Path(filled.pending.path(damaged)).read_bytes()) == ([A, B], b"mine")


def test_pending_writes_of_other_prefixes_are_none_of_its_business(filled: Cache) -> None:
    pend(filled, "a")
    filled.pin(B)
    cleared = filled.clear("s3://bucket/d/")
    assert (cleared.pending, cleared.pins, cleared.entries) == ((), (), 1)


@pytest.mark.needs_locks
def test_an_edit_of_a_dead_process_becomes_a_pending_write_and_stays(filled: Cache) -> None:
    def edit() -> None:
        _edit(_view(filled, "a"))
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(fork(edit)) == -signal.SIGKILL
    cleared = filled.clear()
    assert cleared.reaped is not None
    (write,) = cleared.reaped.recorded
    assert (cleared.pending, write.uri, write.state) == ((write,), A, "edit")
    assert Path(filled.pending.path(write)).read_bytes() == b"mine"
    assert stored(filled) == 1000  # the version that it started from


def test_local_paths_of_a_living_process_stay_readable_and_edits_of_it_are_kept(filled: Cache, tmp_path: Path) -> None:
    def work() -> None:
        paths = [_view(filled, name, mode) for name, mode in (("a", "link"), ("b", "copy"), ("d/c", "link"))]
        made = outbox_of(filled, "new")
        made.write_bytes(b"made")
        _edit(paths[2])
        uses = [filled.local.use(key_of(name)) for name in ("a", "b", "d/c", "new")]
        (tmp_path / "ready").touch()
        eventually((tmp_path / "cleared").exists)
        assert [path.read_bytes() for path in paths] == [b"a" * 1000, b"b" * 1000, b"mine"]
        assert read(filled, key_of("a")) is None
        fill(filled, key_of("a"), b"anew")
        assert read(filled, key_of("a")) == b"anew"
        assert len(uses) == 4
        filled.close()

    pid = fork(work)
    eventually((tmp_path / "ready").exists)
    dry = filled.clear(dry_run=True)
    cleared = filled.clear()
    (tmp_path / "cleared").touch()
    assert status_of(pid) == 0
    # The version that the edit started from stays once it is recorded, and the link holds the bytes of one.
    assert (dry.entries, cleared.entries, dry.bytes, cleared.bytes) == (3, 2, 2000, 1000)
    for result, is_changed in ((dry, True), (cleared, False)):
        told = {file.uris: (file.size, file.is_changed) for file in result.in_use}
        new = ("s3://bucket/new",)
        assert told == {(A,): (1000, False), (B,): (1000, False), (C,): (4, is_changed), new: (4, is_changed)}
    assert sorted((write.uri, write.state.value) for write in filled.pending.all()) == [
        (C, "edit"),
        ("s3://bucket/new", "incomplete"),
    ]


def test_an_edit_and_a_file_that_somebody_put_beside_are_recorded_and_then_cleared(filled: Cache) -> None:
    path = _view(filled, "a")
    path.with_name("beside").write_bytes(b"beside")
    _edit(path)
    assert filled.clear(dry_run=True).in_use == (InUse((A,), str(path), 4, is_changed=True),)
    cleared = filled.clear()
    assert (cleared.in_use, path.exists(), path.with_name("beside").exists()) == ((), False, False)
    saved = {write.uri: Path(filled.pending.path(write)).read_bytes() for write in cleared.pending}
    assert saved == {A: b"mine", "s3://bucket/beside": b"beside"}


def test_a_link_outside_of_the_store_is_told_since_it_holds_the_bytes(filled: Cache, tmp_path: Path) -> None:
    entry = filled.lookup(key_of("a"))
    assert entry is not None
    os.link(filled.blob_path(entry), tmp_path / "linked")
    cleared = filled.clear()
    assert (cleared.bytes, cleared.in_use) == (2000, (InUse((A,), None, 1000),))
    assert (tmp_path / "linked").read_bytes() == b"a" * 1000


def test_an_open_file_is_read_to_its_end(filled: Cache) -> None:
    entry = filled.lookup(key_of("a"))
    assert entry is not None
    descriptor = filled.open_entry(entry)
    assert descriptor is not None
    filled.clear()
    with open(descriptor, "rb") as file:
        assert file.read() == b"a" * 1000


# --- only what is the store's ----------------------------------------------------------------------------------------


def test_foreign_files_stay_wherever_they_lie(filled: Cache) -> None:
    entry = filled.lookup(key_of("a"))
    assert entry is not None
    shard = Path(filled.blob_path(entry)).parent
    foreign = [
        Path(filled.root, "notes"),
        Path(filled.root, "photos", "a.png"),
        Path(filled.layout.blobs, "README"),
        Path(filled.layout.blobs, "zz", "ab"),
        shard / "notes",
        shard / "cafe",  # in hex, and no blob's name
        shard / ("AB" * 15),
        shard / ("ab" * 15) / "in a directory",
        Path(filled.layout.pins, "notes"),
        Path(filled.layout.pending("notes")),
        Path(filled.layout.quarantine, "notes"),
        Path(filled.layout.leases, "notes"),
        Path(filled.layout.locks, "notes"),
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"somebody's")
    (shard / ("cd" * 15)).symlink_to(foreign[0])
    filled.clear()
    filled.execute(filled.plan(max_size=0, min_free=0))
    assert (_uris(filled), filled.plan(max_size=0, min_free=0).stored) == ([], 0)
    assert [path for path in foreign if not path.exists()] == []
    assert (shard / ("cd" * 15)).is_symlink()


def test_what_stands_in_the_place_of_a_blob_is_somebodys(filled: Cache) -> None:
    entry = filled.lookup(key_of("a"))
    assert entry is not None
    path = Path(filled.blob_path(entry))
    path.unlink()
    path.mkdir()
    (path / "file").write_bytes(b"somebody's")
    assert filled.clear(dry_run=True).bytes == 2000
    cleared = filled.clear()
    assert (cleared.entries, cleared.blobs, cleared.bytes) == (3, 2, 2000)
    assert (path / "file").read_bytes() == b"somebody's"


@pytest.mark.parametrize("marker", [None, '{"format": 1, "digest": "xxh3-128", "id": "another"}'])
def test_a_directory_whose_marker_is_gone_or_anothers_is_not_cleared(filled: Cache, marker: str | None) -> None:
    os.unlink(filled.layout.store)
    if marker is not None:
        Path(filled.layout.store).write_text(marker)
    before = tree_of(filled.root)
    for dry_run in (False, True):
        with pytest.raises(NotAStoreError, match="nothing was cleared"):
            filled.clear(dry_run=dry_run)
    assert tree_of(filled.root) == before


def test_what_stands_in_for_a_store_that_cannot_serve_says_so(tmp_path: Path) -> None:
    error = StoreReadOnlyError(30, "this user cannot write to the store", str(tmp_path))
    with pytest.raises(StoreReadOnlyError, match="cannot write"):
        PassThroughCache(str(tmp_path), error).clear()


def test_a_dry_run_changes_nothing_and_says_the_same(filled: Cache) -> None:
    fill(filled, key_of("a2"), b"a" * 1000)
    filled.pin(B)
    pend(filled, "d/c")
    _view(filled, "a")
    add_orphan(filled, b"orphan")
    filled.flush()
    before = tree_of(filled.root)
    dry = filled.clear(dry_run=True)
    assert tree_of(filled.root) == before
    wet = filled.clear()
    assert (dry.entries, dry.blobs, dry.bytes, dry.young) == (2, 1, 1000, 1)
    assert dry == replace(wet, reaped=None)


# --- beside others ---------------------------------------------------------------------------------------------------


@pytest.mark.needs_locks
def test_it_waits_for_its_turn_and_gives_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_LOCK_TIMEOUT", "0.05")
    cache = casstore.open(root)
    fill(cache, key_of("a"), b"a")
    with create_locked(cache.layout.collector_lock):
        with pytest.raises(casstore.LockTimeoutError, match="another process collects"):
            cache.clear()
        assert cache.clear(dry_run=True).entries == 1
    assert cache.clear().entries == 1


def test_fillers_beside_a_clearing_read_right_bytes_and_lose_no_entry(cache: Cache, tmp_path: Path) -> None:
    def clear() -> None:
        while not (tmp_path / "done").exists():
            cache.clear()

    def work(number: int) -> None:
        for turn in range(30):
            data = b"%d" % (turn % 5) * 300
            fill(cache, key_of(f"{number}-{turn % 3}"), data, f"e{turn}")
            assert read(cache, key_of(f"{number}-{turn % 3}")) in (None, data)
            fill(cache, key_of(f"shared-{turn % 5}"), data)
        fill(cache, key_of(f"pinned-{number}"), b"pinned")

    clearer = fork(clear)
    workers = [fork(partial(work, number)) for number in range(3)]
    try:
        statuses = [status_of(pid) for pid in workers]
    finally:
        (tmp_path / "done").touch()
    assert [*statuses, status_of(clearer)] == [0] * 4
    assert dangling(cache) == []
    for entry in cache.entries():
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None
        os.close(descriptor)
    assert (cache.clear().young, stored(cache)) == (0, 0)


def test_without_the_sweeps_check_in_its_transaction_an_entry_filled_beside_a_clearing_is_lost(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled_between(*arguments: object) -> object:
        if cache.lookup(key_of("b")) is None:
            fill(cache, key_of("b"), b"shared")
        return sweep(*arguments)

    sweep: Callable[..., object] = removal.Removal.sweep_batch
    monkeypatch.setattr(removal.Removal, "sweep_batch", filled_between)
    fill(cache, key_of("a"), b"shared")
    cache.clear(A)
    assert (read(cache, key_of("b")), dangling(cache)) == (b"shared", [])
    cache.clear()
    fill(cache, key_of("a"), b"shared")
    monkeypatch.setattr(removal, "_is_in_use", lambda txn, digest: False)
    cache.clear(A)
    assert dangling(cache) == [B]


def test_what_was_filled_and_not_yet_committed_goes_too(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, flush = cache.committer.submit, cache.committer.flush
    waiting: list[IndexUpdate] = []

    def flush_now(*arguments: float) -> None:
        while waiting:
            submit(waiting.pop())
        flush(*arguments)

    monkeypatch.setattr(cache.committer, "submit", waiting.append)
    monkeypatch.setattr(cache.committer, "flush", flush_now)
    with cache.begin(key_of("a")) as filling:
        filling.write(b"recent")
        os.close(filling.publish(casstore.Validator(6, "e1")).descriptor)
    assert (cache.clear(dry_run=True).entries, cache.clear().entries) == (1, 1)
    assert (read(cache, key_of("a")), stored(cache)) == (None, 0)


def test_where_a_commit_finds_no_room_entries_go_one_at_a_time(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., object] = removal.Removal.drop
    sizes = []

    def drop_few(self: object, rows: list[bytes]) -> object:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise StoreFullError(28, "no room for the index")
        return original(self, rows)

    monkeypatch.setattr(removal.Removal, "drop", drop_few)
    assert filled.clear().entries == 3
    assert sizes == [3, 1, 2, 1, 1]


# --- kills -----------------------------------------------------------------------------------------------------------


def _kill_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, calls: int) -> None:
    """Let the process die at its so-manieth call of that function."""
    original: Callable[..., object] = getattr(owner, name)
    left = [calls]

    def killed(*arguments: object, **options: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, killed)


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        ("casstore.eviction.removal:Removal", "sweep", 0),  # the rows are dropped, and nothing is swept
        ("casstore.eviction.removal:Removal", "sweep", 3),
        ("casstore.eviction.removal:Removal", "sweep_batch", 2),
        ("casstore.fs.files", "rename", 1),  # inside the sweep's transaction
        ("casstore.fs.files", "rename", 2),
        ("casstore.fs.files", "unlink_quietly", 0),  # swept, and still in the trash
        ("casstore.fs.files", "unlink_quietly", 5),
        ("casstore.eviction.clear", "is_pinned", 5),  # inside the transaction that drops rows
    ],
)
def test_a_clearing_killed_at_any_point_leaves_no_entry_without_its_blob_and_the_next_one_finishes(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, owner: str, name: str, calls: int
) -> None:
    monkeypatch.setattr(clearing, "_PAGE", 4)
    for number in range(20):
        fill(cache, key_of(f"{number:02}"), b"%d" % (number // 2) * 100)
    cache.pin("s3://bucket/07")
    write = pend(cache, "11")

    def clear() -> None:
        _kill_at(monkeypatch, pkgutil.resolve_name(owner), name, calls)
        cache.clear()

    assert status_of(fork(clear)) == -signal.SIGKILL
    assert dangling(cache) == []
    for entry in cache.entries():
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None
        os.close(descriptor)
    cleared = cache.clear()
    assert ([pin.uri for pin in cleared.pins], cleared.pending) == (["s3://bucket/07"], (write,))
    assert _uris(cache) == ["s3://bucket/07", "s3://bucket/11"]
    assert (stored(cache), os.listdir(cache.layout.trash), cleared.young) == (200, [], 0)
