"""Repairing: what is damaged is put right or taken away, what is sound stays, whatever else happens meanwhile."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from casstore import BlobDamagedError, Cache, ProblemKind, RepairSummary, Validator, VerifyReport
from casstore.format.keys import blob_row
from casstore.format.records import BlobRecord, pack_blob, unpack_blob
from casstore.fs import files
from casstore.locks.lock_files import LockFile
from casstore.reading.blob_checker import BlobChecker
from casstore.verify import repair as repairs
from casstore.verify.repair import StoreRepairer
from casstore.verify.report import Leftovers
from tests.casstore.support import damage as damaging
from tests.casstore.support.damage import DAMAGE, blob_of, change, edit, entry_of, fill_variously, put
from tests.casstore.support.fill import fill, fork, forked, key_of, read, status_of, view
from tests.casstore.support.stores import add_orphan, dangling

CONTENTS = {"a": b"alpha", "b": b"beta" * 1000, "b2": b"beta" * 1000, "c" * 600: b"long", "e": b""}

LEFT_ALONE = {
    damaging.add_foreign_name,
    damaging.add_upper_case_name,
    damaging.add_foreign_directory,
    damaging.add_upper_case_directory,
    damaging.put_a_file_for_a_shard,
    damaging.link_a_shard,
    damaging.link_all_blobs,
    damaging.remove_marker,
    damaging.garble_marker,
    damaging.swap_marker,
}
"""What somebody else put there is his; what describes the store is nothing to guess."""

WARNS = {
    damaging.cut_index,
    damaging.zero_index,
    damaging.empty_index,
    damaging.remove_index,
    damaging.remove_all_of_index,
}


@pytest.fixture
def filled(cache: Cache) -> Cache:
    return fill_variously(cache)


def _repair(cache: Cache) -> tuple[VerifyReport, RepairSummary]:
    verified = cache.verify(repair=True)
    assert verified.repairs is not None
    return verified, verified.repairs


def _sound_in_quarantine(cache: Cache) -> list[str]:
    """Files in quarantine that hold the bytes of the blob that they were."""
    found = []
    for name in os.listdir(cache.layout.quarantine):
        path = Path(cache.layout.quarantined(name))
        if path.suffix != ".txt" and path.is_file() and not path.is_symlink():
            hasher = _hasher(cache)
            hasher.update(path.read_bytes())
            if hasher.digest().hex() == name.rpartition("-")[0]:
                found.append(name)
    return found


def _hasher(cache: Cache):  # type: ignore[no-untyped-def]  # the protocol is digest.py's own
    from casstore import new_hasher

    return new_hasher(cache.algorithm)


# --- each kind once --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*the index was damaged:UserWarning")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_each_kind_of_damage_is_repaired_or_left_and_every_read_is_right_or_a_miss(
    filled: Cache, damage: Callable[[Cache], None]
) -> None:
    damage(filled)
    filled.index.close()
    verified, mended = _repair(filled)
    assert verified.wrong
    again = filled.verify()
    if damage in LEFT_ALONE:
        assert (mended.problems, verified.left, again.wrong) == (0, verified.wrong, verified.wrong)
        return
    assert (verified.left, again.problems) == (0, ())
    assert all(problem.repair is not None and problem.repair.is_done for problem in verified.problems)
    for name, data in CONTENTS.items():
        assert read(filled, key_of(name)) in (data, None)
    assert _sound_in_quarantine(filled) == []
    for name, data in CONTENTS.items():
        fill(filled, key_of(name), data, "e2")
        assert read(filled, key_of(name)) == data
    assert filled.verify().is_sound


def test_a_sound_store_is_unchanged(filled: Cache) -> None:
    verified, mended = _repair(filled)
    assert (verified.wrong, mended.problems, mended.adopted, mended.stale_rows) == (0, 0, 0, 0)
    assert [read(filled, key_of(name)) for name in CONTENTS] == list(CONTENTS.values())


def test_a_blob_with_wrong_bytes_is_quarantined_and_its_entries_are_listed(filled: Cache) -> None:
    path = blob_of(filled, "b")
    change(path, lambda path: path.write_bytes(b"wrong"))
    (problem,) = _repair(filled)[0].problems
    assert problem.repair is not None
    assert sorted(problem.repair.uris) == ["s3://bucket/b", "s3://bucket/b2"]
    assert problem.repair.path is not None
    assert Path(problem.repair.path).read_bytes() == b"wrong"
    assert "its bytes are not those of its name" in Path(problem.repair.path + ".txt").read_text()
    assert not path.exists()
    assert [entry.uri for entry in filled.entries("s3://bucket/b")] == []
    assert read(filled, key_of("a")) == b"alpha"


def test_dangling_rows_are_dropped_and_their_uris_listed(filled: Cache) -> None:
    blob_of(filled, "b").unlink()
    verified, mended = _repair(filled)
    assert [problem.repair and problem.repair.uris for problem in verified.problems] == [
        ("s3://bucket/b",),
        ("s3://bucket/b2",),
    ]
    assert mended.problems == 2
    assert dangling(filled) == []
    assert filled.verify().leftovers == Leftovers(leases=filled.verify().leftovers.leases)


@pytest.mark.parametrize("damage", [damaging.drop_blob_row, damaging.resize_blob_row, damaging.flip_blob_row])
def test_a_blobs_row_is_rebuilt_from_the_file_and_no_entry_is_lost(
    filled: Cache, damage: Callable[[Cache], None]
) -> None:
    damage(filled)
    assert _repair(filled)[0].left == 0
    assert [read(filled, key_of(name)) for name in CONTENTS] == list(CONTENTS.values())
    assert filled.verify().is_sound


def test_a_touched_blob_gets_an_untouched_copy_and_its_entries_stay(filled: Cache) -> None:
    before = blob_of(filled).stat().st_ino
    os.utime(blob_of(filled))
    (problem,) = _repair(filled)[0].problems
    assert problem.repair is not None
    assert problem.repair.uris == ("s3://bucket/a",)
    assert blob_of(filled).stat().st_ino != before
    assert read(filled, key_of("a")) == b"alpha"


def test_orphans_with_right_bytes_are_adopted_and_others_quarantined(filled: Cache) -> None:
    digest = add_orphan(filled, b"nobody knows me")
    wrong = add_orphan(filled, b"nor me")
    change(Path(filled.layout.blob(wrong.value)), lambda path: path.write_bytes(b"changed"))
    verified, mended = _repair(filled)
    assert (verified.wrong, verified.left, mended.adopted, mended.adopted_bytes) == (1, 0, 1, 15)
    again = filled.verify()
    assert (again.wrong, again.leftovers.unknown, again.leftovers.unused) == (0, 0, 1)
    assert not os.path.exists(filled.layout.blob(wrong.value))
    # What is adopted goes first when there is no room.
    assert filled.execute(filled.plan(min_free=0, at_least=1)).blobs == 1
    assert not os.path.exists(filled.layout.blob(digest.value))


@pytest.mark.filterwarnings("ignore:.*the index was damaged:UserWarning")
def test_blobs_of_a_damaged_index_are_adopted_by_the_new_one_and_not_stored_again(filled: Cache) -> None:
    damaging.cut_index(filled)
    inode = blob_of_content(filled, b"alpha").stat().st_ino
    verified, mended = _repair(filled)
    assert ([problem.kind for problem in verified.problems], mended.adopted) == ([ProblemKind.DAMAGED_INDEX], 4)
    assert filled.index.generation == 2
    fill(filled, key_of("a"), b"alpha")
    assert blob_of(filled).stat().st_ino == inode


def blob_of_content(cache: Cache, data: bytes) -> Path:
    hasher = _hasher(cache)
    hasher.update(data)
    return Path(cache.layout.blob(hasher.digest()))


def test_stale_rows_of_deleted_blobs_are_dropped(filled: Cache) -> None:
    gone = blob_row(b"g" * 16)
    put(filled, gone, pack_blob(gone, BlobRecord(1, 0)))
    assert _repair(filled)[1].stale_rows == 1
    assert filled.index.get(gone) is None


@pytest.mark.needs_locks
def test_leftovers_of_a_killed_process_are_reaped(filled: Cache) -> None:
    def stage_and_die() -> None:
        Path(filled.lease.paths.staging).mkdir()
        Path(filled.lease.paths.staging, "half").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(stage_and_die) == -signal.SIGKILL
    reaped = _repair(filled)[1].reaped
    assert reaped is not None
    assert reaped.leases == 1


@pytest.mark.needs_locks
def test_beside_a_collector_nothing_is_reaped_and_the_rest_is_repaired(filled: Cache) -> None:
    edit(filled)
    with LockFile(filled.layout.collector_lock).acquire(0) as file:
        assert file.is_locked
        verified, mended = _repair(filled)
    assert (verified.left, mended.problems, mended.reaped) == (0, 1, None)


def test_bytes_written_through_a_view_become_a_local_edit_not_damage(filled: Cache) -> None:
    entry = entry_of(filled)
    descriptor = filled.open_entry(entry)
    assert descriptor is not None
    path = Path(view(filled, entry, descriptor, "a", "link"))
    os.close(descriptor)
    change(path, lambda path: path.write_bytes(b"my work"))
    (problem,) = _repair(filled)[0].problems
    assert problem.repair is not None
    assert (problem.repair.is_done, problem.repair.path) == (True, None)
    assert [Path(filled.pending.path(write)).read_bytes() for write in filled.pending.all()] == [b"my work"]
    assert os.listdir(filled.layout.quarantine) == []


def test_a_failed_repair_is_reported_and_the_others_are_made(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(filled)
    blob_of(filled, "b").unlink()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "create_synced", fail)
    verified, mended = _repair(filled)
    assert (verified.wrong, mended.problems, verified.left) == (3, 2, 1)
    (failed,) = [problem.repair for problem in verified.problems if problem.kind is ProblemKind.WRONG_BYTES]
    assert failed is not None
    assert failed.action == "not repaired: No space left on device"
    assert read(filled, key_of("b")) is None


@pytest.mark.parametrize("at", ["before the rows go", "before the file is moved", "after the file is moved"])
def test_a_repair_that_is_killed_leaves_no_entry_without_its_blob_and_the_next_one_finishes(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    change(blob_of(filled), lambda path: path.write_bytes(b"wrong"))
    digest = entry_of(filled).digest
    filled.close()

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def rename_and_die(source: str, target: str) -> None:
        os.rename(source, target)
        die()

    def repair() -> None:
        if at == "before the rows go":
            monkeypatch.setattr(repairs, "drop_users", die)
        else:
            monkeypatch.setattr(files, "rename", die if at == "before the file is moved" else rename_and_die)
        filled.verify(repair=True)

    assert forked(repair) == -signal.SIGKILL
    assert dangling(filled) == []
    assert (filled.lookup(key_of("a")) is None) == (at != "before the rows go")
    _repair(filled)
    assert filled.verify().is_sound
    assert not os.path.exists(filled.layout.blob(digest.value))
    assert [Path(filled.layout.quarantined(name)).read_bytes() for name in os.listdir(filled.layout.quarantine)].count(
        b"wrong"
    ) == 1


# --- a part ----------------------------------------------------------------------------------------------------------


def test_a_sample_hashes_its_fraction_and_counts_what_it_skipped(cache: Cache) -> None:
    for number in range(400):
        with cache.begin(key_of(str(number))) as filling:
            filling.write(b"%4d" % number)
            os.close(filling.publish(Validator(4, "e")).descriptor)
    cache.flush()
    verified = cache.verify(sample=0.25)
    assert verified.blobs + verified.skipped == 400
    assert 50 < verified.blobs < 150  # six standard deviations
    assert verified.skipped_bytes == 4 * verified.skipped
    assert verified.entries == 400
    assert cache.verify(sample=1).skipped == 0


def test_samples_differ(filled: Cache) -> None:
    edit(filled)
    seen = {cache_wrong for _ in range(200) if (cache_wrong := filled.verify(sample=0.5).wrong) in (0, 1)}
    assert seen == {0, 1}


def test_the_newest_blobs_are_those_stored_last(filled: Cache) -> None:
    for number in range(3):
        add_orphan(filled, b"%d" % number)  # whose times differ
    fill(filled, key_of("new"), b"newest")
    edit(filled)  # so that this is the newest change
    verified = filled.verify(newest=2)
    assert (verified.blobs, verified.skipped, verified.wrong) == (2, 6, 1)
    change(Path(blob_of_content(filled, b"0")), lambda path: path.write_bytes(b"x"))
    assert filled.verify(newest=1).wrong == 1
    assert filled.verify(newest=timedelta(hours=1)).skipped == 0
    everything = filled.verify(newest=100)
    assert (everything.skipped, everything.wrong) == (0, 2)


def test_blobs_stored_before_that_time_are_skipped(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3600 * 10**9)
    assert filled.verify(newest=timedelta(minutes=59)).blobs == 0
    assert filled.verify(newest=timedelta(minutes=61)).blobs == 4


@pytest.mark.parametrize("wrong", [{"sample": 0}, {"sample": 1.5}, {"newest": 0}, {"newest": timedelta()}])
def test_an_invalid_fraction_or_count_is_refused(filled: Cache, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        filled.verify(**wrong)  # type: ignore[arg-type]


# --- beside other processes ------------------------------------------------------------------------------------------


@contextmanager
def _peer(work: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Another process that does *work* once for each call, and has done it when that returns."""
    ask, answer = os.pipe(), os.pipe()

    def serve() -> None:
        os.close(ask[1])
        while os.read(ask[0], 1):
            work()
            os.write(answer[1], b".")

    pid = fork(serve)
    os.close(ask[0])
    os.close(answer[1])

    def call() -> None:
        os.write(ask[1], b".")
        assert os.read(answer[0], 1) == b".", "the other process failed"

    try:
        yield call
    finally:
        os.close(ask[1])
        assert status_of(pid) == 0
        os.close(answer[0])


def _read_or_fetch(cache: Cache) -> None:
    """As a reader does: what is damaged is a miss, and fetched again."""
    if read(cache, key_of("a")) is None:
        fill(cache, key_of("a"), b"alpha", "e2")
    assert read(cache, key_of("a")) == b"alpha"


@pytest.mark.parametrize("rechecks", [True, False], ids=["with the check", "control: without it"])
def test_a_bad_blob_that_another_process_downloaded_again_is_kept(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, rechecks: bool
) -> None:
    change(blob_of(filled), lambda path: path.write_bytes(b"wrong"))
    filled.close()
    keep_edits = BlobChecker.save_local_edits
    if not rechecks:
        monkeypatch.setattr(repairs, "_is_same", lambda found, inode: True)
    with _peer(lambda: _read_or_fetch(filled)) as read_elsewhere:

        def keep_and_read(self: BlobChecker, digest: object) -> bool:
            found = keep_edits(self, digest)  # type: ignore[arg-type]
            read_elsewhere()
            return found

        # Between the look at the blob and the transaction that takes it away.
        monkeypatch.setattr(BlobChecker, "save_local_edits", keep_and_read)
        verified, _ = _repair(filled)
        monkeypatch.setattr(BlobChecker, "save_local_edits", keep_edits)
        (problem,) = verified.problems
        assert problem.repair is not None
        stays = _sound_in_quarantine(filled) == [] and read(filled, key_of("a")) == b"alpha"
        assert stays == rechecks
        assert (problem.repair == repairs.GONE) == rechecks


@pytest.mark.parametrize("rechecks", [True, False], ids=["with the check", "control: without it"])
def test_an_entry_that_another_process_filled_again_is_kept(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, rechecks: bool
) -> None:
    def fill_longer() -> None:
        fill(filled, key_of("a"), b"another version", "e2")

    blob_of(filled).unlink()
    filled.close()
    if not rechecks:
        monkeypatch.setattr(repairs, "_is_as_seen", lambda txn, row, record: True)
    mend_rows = StoreRepairer.repair_rows
    with _peer(fill_longer) as fill_elsewhere:

        def fill_and_mend(self: StoreRepairer, rows: list[tuple[bytes, bytes]]) -> object:
            if rows:
                fill_elsewhere()
            return mend_rows(self, rows)

        monkeypatch.setattr(StoreRepairer, "repair_rows", fill_and_mend)
        _repair(filled)
        monkeypatch.undo()
    assert (read(filled, key_of("a")) == b"another version") == rechecks


def _content(number: int) -> bytes:
    return b"%d" % number * (1000 + number)


def _use(cache: Cache, seed: int) -> None:
    chance = random.Random(seed)
    while True:
        number = chance.randrange(12)
        key = key_of(f"busy/{number}")
        if chance.random() < 0.1:
            cache.evict(lambda _: chance.random() < 0.3, "s3://bucket/busy/")
        found = read(cache, key)
        assert found in (None, _content(number)), "a wrong read"
        if found is None:
            with cache.begin(key) as filling:
                filling.write(_content(number))
                try:
                    stored = filling.publish(Validator(len(_content(number)), f"e{chance.random()}"))
                except BlobDamagedError:
                    continue  # damaged again in each of its tries
            with open(stored.descriptor, "rb") as file:
                assert file.read() == _content(number), "a wrong read of what was filled"


def _damage(cache: Cache, seed: int) -> None:
    """Put other files in the place of blobs, as a disk or a careless person does; never bytes that only look right."""
    chance = random.Random(seed)
    while True:
        path = blob_of_content(cache, _content(chance.randrange(12)))
        with suppress(FileNotFoundError):
            if chance.random() < 0.2:
                os.utime(path, follow_symlinks=False)
            else:
                made = Path(cache.layout.trashed(f"damage-{os.getpid()}"))
                made.write_bytes(chance.randbytes(chance.randrange(2000)))
                made.replace(path)


def _repair_for_ever(cache: Cache) -> None:
    while True:
        cache.verify(repair=True)


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_repairs_that_are_killed_beside_fills_reads_evictions_and_new_damage_make_no_read_wrong(
    cache: Cache, rounds: int
) -> None:
    chance = random.Random(rounds)
    fill(cache, key_of("kept"), b"kept")
    cache.close()
    works: list[Callable[[], object]] = [
        lambda: _use(cache, chance.randrange(1 << 30)),
        lambda: _use(cache, chance.randrange(1 << 30)),
        lambda: _damage(cache, chance.randrange(1 << 30)),
        lambda: _repair_for_ever(cache),
    ]
    pids = [fork(work) for work in works]
    mended = 0
    try:
        for turn in range(rounds):
            mended += _repair(cache)[1].problems
            number = chance.choice((0, 1, 3))
            if turn % 2:
                os.kill(pids[number], signal.SIGKILL)
                assert status_of(pids[number]) == -signal.SIGKILL, "a worker had failed"
                pids[number] = fork(works[number])
            for pid in pids:
                assert os.waitpid(pid, os.WNOHANG) == (0, 0), "a worker failed"
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                status_of(pid)
    assert mended
    for _ in range(2):
        _repair(cache)
    assert cache.verify().problems == ()
    assert _sound_in_quarantine(cache) == []
    assert read(cache, key_of("kept")) == b"kept"


def test_a_file_without_a_row_is_adopted_only_as_it_was_hashed(cache: Cache) -> None:
    repairer = StoreRepairer(cache._root, cache.index, cache.blobs, cache.checker)
    digest = add_orphan(cache, b"bytes")
    assert not repairer.adopt(digest, 6)
    os.utime(cache.layout.blob(digest.value))
    assert not repairer.adopt(digest, 5)
    assert cache.index.get(blob_row(digest.value)) is None
    os.utime(cache.layout.blob(digest.value), (digest.mtime, digest.mtime))
    assert repairer.adopt(digest, 5)
    row = blob_row(digest.value)
    assert unpack_blob(row, cache.index.get(row)) == BlobRecord(5, cache.boot_mount), "nobody knows that it is synced"
