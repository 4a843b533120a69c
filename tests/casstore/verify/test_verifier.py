"""Verifying: every kind of damage is seen, nothing healthy is called damage, and nothing is changed."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Cache, ProblemKind, Validator, VerifyReport
from casstore.eviction import removal
from casstore.format.keys import blob_row, user_row
from casstore.format.records import BlobRecord, pack_blob
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.environment import RESERVE_ROW
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.mutex import TaskThreads
from casstore.pass_through import PassThroughCache
from casstore.verify import blob_checks
from casstore.verify import report as findings
from casstore.verify.index_checks import IndexChecks
from tests.casstore.support.damage import (
    DAMAGE,
    blob_of,
    change,
    cut_index,
    edit,
    entry_of,
    fill_variously,
    flip_entry,
    put,
    remove_a_shared_one,
    touch,
)
from tests.casstore.support.fill import eventually, fill, fork, forked, key_of, run, status_of
from tests.casstore.support.threads import threads_in


@pytest.fixture
def filled(cache: Cache) -> Cache:
    return fill_variously(cache)


def _kinds(verified: VerifyReport) -> list[str]:
    assert verified.wrong == len(verified.problems)
    assert verified.is_sound == (not verified.problems)
    return sorted(problem.kind.value for problem in verified.problems)


def _tree(root: str) -> dict[str, object]:
    """Everything that a write would change; LMDB's lock file is where its readers say that they are."""
    found: dict[str, object] = {}
    for parent, _, names in os.walk(root):
        for name in [".", *names]:
            path = f"{parent}/{name}"
            status = os.lstat(path)
            is_lock = name == "lock.mdb"
            found[path] = (
                status.st_ino,
                status.st_mode,
                status.st_nlink,
                0 if is_lock else status.st_size,
                0 if is_lock else status.st_mtime_ns,
                0 if is_lock else status.st_ctime_ns,
                hashlib.sha256(Path(path).read_bytes()).hexdigest()
                if stat.S_ISREG(status.st_mode) and not is_lock
                else "",
            )
    return found


# --- damage, each kind once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.strip("_"))
def test_each_kind_of_damage_is_found_and_unchanged(filled: Cache, damage: Callable[[Cache], None]) -> None:
    damage(filled)
    filled.index.close()
    before = _tree(filled.root)
    verified = filled.verify()
    assert _kinds(verified) == sorted(DAMAGE[damage]), verified.problems
    filled.index.close()
    assert _tree(filled.root) == before


def test_a_sound_store_is_checked_completely_and_unchanged(filled: Cache) -> None:
    before = _tree(filled.root)
    verified = filled.verify()
    assert verified == VerifyReport(4, 5 + 4000 + 4, 5, 1, 0, (), findings.Leftovers())
    filled.index.close()
    assert _tree(filled.root) == before
    assert run("import sys, casstore; casstore.open(sys.argv[1], create=False).verify()", filled.root).returncode == 0
    assert _tree(filled.root) == before


def test_an_empty_store_is_sound_before_and_after_it_has_an_index(cache: Cache) -> None:
    assert cache.verify() == VerifyReport(0, 0, 0, 0, 0, (), findings.Leftovers())
    assert not os.listdir(cache.layout.index)
    assert cache.lookup(key_of("a")) is None
    assert cache.verify().is_sound


def test_the_initial_rows_of_an_index_are_no_damage(filled: Cache) -> None:
    filled.index.write(lambda txn: txn.put(RESERVE_ROW, bytes(64 << 10)))
    assert filled.verify().is_sound
    assert filled.verify(repair=True).is_sound


def test_damage_of_an_open_index_is_found_and_blobs_are_still_checked(filled: Cache) -> None:
    assert filled.lookup(key_of("a")) is not None
    edit(filled)
    cut_index(filled)
    verified = filled.verify()
    assert _kinds(verified) == [ProblemKind.DAMAGED_INDEX, ProblemKind.WRONG_BYTES]
    assert (verified.blobs, verified.entries, verified.leftovers.unknown) == (4, 0, 0)


def test_a_problem_names_its_file_digest_and_entry(filled: Cache) -> None:
    entry = entry_of(filled, "b")
    path = filled.blob_path(entry)
    change(Path(path), lambda path: os.truncate(path, 0))
    (problem,) = filled.verify().problems
    assert (problem.path, problem.digest) == (path, entry.digest)
    assert problem.uri in ("s3://bucket/b", "s3://bucket/b2")
    assert problem.origin == "s3"
    assert problem.detail.endswith("another entry uses it")
    os.unlink(path)
    missing = filled.verify().problems
    assert {(problem.uri, problem.path, problem.digest) for problem in missing} == {
        ("s3://bucket/b", path, entry.digest),
        ("s3://bucket/b2", path, entry.digest),
    }


def test_of_many_problems_the_first_are_kept_and_all_are_counted(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "MOST_PROBLEMS", 2)
    for name in ("a", "b", "e"):
        blob_of(filled, name).unlink()
    verified = filled.verify()
    assert (verified.wrong, len(verified.problems)) == (4, 2)


def test_all_rows_and_files_of_many_pages_are_checked(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casstore.verify.index_checks.PAGE_ROWS", 2)
    monkeypatch.setattr(blob_checks, "_BATCH", 2)
    monkeypatch.setattr(blob_checks, "_AHEAD", 1)
    verified = filled.verify()
    assert (verified.blobs, verified.entries, verified.wrong) == (4, 5, 0)
    edit(filled)
    flip_entry(filled)
    assert _kinds(filled.verify()) == [ProblemKind.BAD_RECORD, ProblemKind.WRONG_BYTES]


def test_no_damaged_page_of_the_index_ends_in_a_crash(filled: Cache) -> None:
    for number in range(200):
        fill(filled, key_of(f"more/{number}"), b"%d" % (number % 20))
    filled.index.close()
    file = Path(filled.layout.index_file(1))
    sound = file.read_bytes()

    def work() -> None:
        chance = random.Random(7)
        for _ in range(20):
            damaged = bytearray(sound)
            start = chance.randrange(len(sound))
            length = chance.choice((1, 8, 600))
            damaged[start : start + length] = chance.randbytes(length)
            file.write_bytes(damaged)
            filled.verify()
            filled.index.close()

    assert forked(work) == 0


# --- what the system refuses -----------------------------------------------------------------------------------------


def _failing(call: Callable[..., Any], error: int, path: str | None = None) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        if path is None or arguments[0] == path:
            raise OSError(error, os.strerror(error), arguments[0])
        return call(*arguments, **options)

    return fail


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_an_unreadable_file_is_a_problem_and_the_rest_is_checked(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = filled.blob_path(entry_of(filled))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _failing(os.open, error, path))
        verified = filled.verify()
    assert (_kinds(verified), verified.blobs) == ([ProblemKind.UNREADABLE], 3)
    assert (verified.problems[0].path, verified.problems[0].uri) == (path, "s3://bucket/a")
    assert os.strerror(error) in verified.problems[0].detail
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", _failing(os.preadv, error))
        verified = filled.verify()
    assert (_kinds(verified), verified.blobs) == ([ProblemKind.UNREADABLE] * 4, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", _failing(os.scandir, error, os.path.dirname(path)))
        verified = filled.verify()
    assert (_kinds(verified), verified.blobs) == ([ProblemKind.UNREADABLE], 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", _failing(os.stat, error, path))
        verified = filled.verify()
    assert (_kinds(verified), verified.blobs) == ([ProblemKind.UNREADABLE], 4)
    with monkeypatch.context() as patch:
        patch.setattr("casstore.index.page_check.check", _failing(print, error))
        verified = filled.verify()
    assert (_kinds(verified), verified.blobs) == ([ProblemKind.UNREADABLE], 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_without_permission_is_a_problem(filled: Cache) -> None:
    shard = blob_of(filled).parent
    shard.chmod(0)
    try:
        assert set(_kinds(filled.verify())) == {ProblemKind.UNREADABLE}
    finally:
        shard.chmod(0o700)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_an_error_of_this_process_is_raised_and_is_no_problem_of_the_store(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = filled.blob_path(entry_of(filled))
    for name, at in (("open", path), ("scandir", os.path.dirname(path))):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _failing(getattr(os, name), error, at))
            with pytest.raises(OSError, match=os.strerror(error)):
                filled.verify()
    with monkeypatch.context() as patch:
        patch.setattr("casstore.index.page_check.check", _failing(print, error))
        with pytest.raises(OSError, match=os.strerror(error)):
            filled.verify()
    assert filled.verify().is_sound


def test_an_interrupt_ends_the_threads_and_errors_of_the_callback_are_raised(filled: Cache) -> None:
    class StopError(OSError):
        pass

    def stop(_: object) -> None:
        raise StopError(errno.EIO, "no more")

    with pytest.raises(StopError):
        filled.verify(stop)
    eventually(lambda: not threads_in(TaskThreads._run))
    assert filled.verify().is_sound


def test_progress_ends_at_the_totals_of_the_index(filled: Cache) -> None:
    told: list[casstore.VerifyProgress] = []
    verified = filled.verify(told.append)
    assert told[-1].rows > 10
    assert (told[-1].blobs, told[-1].bytes) == (told[-1].total_blobs, told[-1].total_bytes)
    assert (told[-1].blobs, told[-1].bytes) == (verified.blobs, verified.bytes)
    assert [now.bytes for now in told] == sorted(now.bytes for now in told)


# --- what is no damage -----------------------------------------------------------------------------------------------


def test_uncommitted_unused_and_trashed_blobs_are_leftovers(filled: Cache) -> None:
    staging = filled.stage()
    staging.write(b"nobody knows me")
    filled.blobs.add(staging, staging.digest())  # a fill that was killed before its commit, or is just before it
    staging.close()
    entry = entry_of(filled)
    put(filled, entry.key.row_key, None)
    put(filled, user_row(entry.digest.value, entry.key), None)
    gone = blob_row(b"g" * 16)
    put(filled, gone, pack_blob(gone, BlobRecord(1, 0)))
    Path(filled.layout.trashed("x")).write_bytes(b"12")
    Path(filled.layout.trashed("dead/views")).mkdir(parents=True)
    Path(filled.layout.trashed("dead/views/file")).write_bytes(b"345")
    Path(filled.layout.quarantined("y")).write_bytes(b"6789")
    assert filled.lease.name
    verified = filled.verify()
    assert verified.is_sound
    assert verified.leftovers == findings.Leftovers(
        unknown=1,
        unknown_bytes=15,
        unused=1,
        unused_bytes=5,
        stale_rows=1,
        trash=2,
        trash_bytes=5,
        quarantine=1,
        quarantine_bytes=4,
        leases=1,
    )


def test_an_unknown_blob_with_wrong_bytes_is_damage(filled: Cache) -> None:
    staging = filled.stage()
    staging.write(b"nobody knows me")
    filled.blobs.add(staging, casstore.Digest(filled.algorithm, bytes(16)))
    staging.close()
    assert _kinds(filled.verify()) == [ProblemKind.WRONG_BYTES]


def test_an_eviction_between_its_two_steps_and_inside_the_second_is_no_damage(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[VerifyReport] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: found.append(filled.verify()))
        thread.start()
        thread.join()

    sweep, rename = removal.Removal.sweep, files.rename

    def look_and_sweep(*arguments: Any) -> Any:
        look()
        return sweep(*arguments)

    def rename_and_look(source: str, target: str) -> None:
        rename(source, target)
        look()

    monkeypatch.setattr(removal.Removal, "sweep", look_and_sweep)
    monkeypatch.setattr(files, "rename", rename_and_look)
    freed = filled.evict(lambda entry: entry.uri == "s3://bucket/a")
    monkeypatch.undo()
    assert freed.blobs == 1
    between, inside = found
    assert (between.wrong, between.leftovers.unused, between.leftovers.stale_rows) == (0, 1, 0)
    assert (inside.wrong, inside.leftovers.unused, inside.leftovers.stale_rows) == (0, 0, 1)
    assert filled.verify().leftovers == findings.Leftovers()


def test_a_blob_that_is_evicted_after_its_entry_was_seen_is_not_missing(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = IndexChecks._is_there

    def evict_and_look(path: str) -> bool:
        filled.evict(lambda _: True)
        return real(path)

    monkeypatch.setattr(IndexChecks, "_is_there", staticmethod(evict_and_look))
    assert filled.verify().is_sound


def test_a_blob_that_is_evicted_and_downloaded_again_is_not_missing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = IndexChecks._is_there
    looks: list[bool] = []

    def look_when_evicted(path: str) -> bool:
        cache.evict(lambda _: True)
        looks.append(real(path))
        fill(cache, key_of("a"), b"alpha")
        return looks[-1]

    fill(cache, key_of("a"), b"alpha")
    monkeypatch.setattr(IndexChecks, "_is_there", staticmethod(look_when_evicted))
    assert cache.verify().is_sound
    assert len(looks) > 5
    assert not any(looks)


def test_a_blob_that_is_swept_between_listing_and_opening_is_no_damage(
    filled: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = blob_checks.BlobChecks._check_file
    mutex = threading.Lock()

    def evict_and_examine(self: Any, path: str, digest: casstore.Digest) -> Any:
        with mutex:  # whoever comes second finds that the first has finished
            filled.evict(lambda _: True)
        return real(self, path, digest)

    monkeypatch.setattr(blob_checks.BlobChecks, "_check_file", evict_and_examine)
    verified = filled.verify()
    assert (verified.wrong, verified.blobs) == (0, 0)


def _move_and_link(path: str) -> None:
    target = os.path.dirname(os.path.dirname(os.path.dirname(path))) + "-elsewhere"
    os.rename(path, target)
    os.symlink(target, path)


def _replace_by_a_pipe(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_move_and_link, _replace_by_a_pipe])
def test_a_link_or_pipe_that_replaces_a_listed_blob_is_not_opened(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], None]
) -> None:
    real = blob_checks.BlobChecks._check_file

    def replace_and_examine(self: Any, path: str, digest: casstore.Digest) -> Any:
        if path == filled.blob_path(entry):
            make(path)
        return real(self, path, digest)

    entry = entry_of(filled)
    monkeypatch.setattr(blob_checks.BlobChecks, "_check_file", replace_and_examine)
    assert _kinds(filled.verify()) == [ProblemKind.WRONG_TYPE]


def test_inspecting_an_index_creates_and_replaces_nothing(root: Path) -> None:
    layout = casstore.open(root).layout
    index = Index(layout, ByteLocks(layout), pytest.fail)
    with pytest.raises(FileNotFoundError):
        index.inspect(Txn.count)
    assert not os.listdir(layout.index)
    os.mkdir(layout.generation(1))
    file = Path(layout.index_file(1))
    file.touch()
    with pytest.raises(FileNotFoundError):
        index.inspect(Txn.count)
    assert not file.stat().st_size
    file.write_bytes(b"no index" * 1024)
    before = _tree(layout.root)
    with pytest.raises(casstore.IndexDamagedError):
        index.inspect(Txn.count)
    assert _tree(layout.root) == before


def test_a_directory_without_a_store_cannot_be_verified() -> None:
    unfit = casstore.StoreUnavailableError(errno.EROFS, "read-only", "/somewhere")
    with pytest.raises(casstore.StoreUnavailableError, match="read-only"):
        PassThroughCache("/somewhere", unfit).verify()


def test_an_index_replaced_since_the_last_check_is_not_read(filled: Cache) -> None:
    assert filled.verify().entries == 5
    # As another process does that found it damaged: generation 2, then a collection by what that one says.
    os.mkdir(filled.layout.generation(2))
    assert files.create_synced(filled.layout.successor(1), b"2")
    script = "import sys, casstore; casstore.open(sys.argv[1]).lookup(casstore.Key('s3://b/x', 's3'))"
    assert run(script, filled.root).returncode == 0
    for name in ("a", "b"):
        os.unlink(filled.layout.blob(_digest_of(filled, name)))
    verified = filled.verify()
    assert (verified.wrong, verified.entries, verified.generation, verified.leftovers.unknown) == (0, 0, 2, 2)


def _digest_of(cache: Cache, name: str) -> bytes:
    hasher = casstore.new_hasher(cache.algorithm)
    hasher.update({"a": b"alpha", "b": b"beta" * 1000}[name])
    return hasher.digest()


def _work(cache: Cache, seed: int) -> None:
    chance = random.Random(seed)
    while True:
        for _ in range(5):
            name = f"busy/{chance.randrange(12)}"
            with cache.begin(key_of(name)) as filling:
                filling.write(b"%d" % chance.randrange(6) * 3000)
                stored = filling.publish(Validator(filling.received or 3000, f"e{chance.random()}"), ())
            os.close(stored.descriptor)
        cache.evict(lambda _: chance.random() < 0.5, "s3://bucket/busy/")


@pytest.mark.parametrize("rounds", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_beside_processes_that_fill_evict_and_die_only_damage_is_reported(filled: Cache, rounds: int) -> None:
    touch(filled)
    remove_a_shared_one(filled)
    planted = [ProblemKind.MISSING_BLOB, ProblemKind.MISSING_BLOB, ProblemKind.TOUCHED_BLOB]
    chance = random.Random(rounds)
    filled.close()
    workers: list[int] = []
    seen = 0
    try:
        for turn in range(rounds):
            while len(workers) < 3:
                seed = chance.randrange(1 << 30)
                workers.append(fork(lambda seed=seed: _work(filled, seed)))  # type: ignore[misc]
            verified = filled.verify()
            assert _kinds(verified) == planted, verified.problems
            seen += verified.entries - 5
            if turn % 3 == 2:
                victim = workers.pop(chance.randrange(len(workers)))
                os.kill(victim, signal.SIGKILL)
                assert status_of(victim) == -signal.SIGKILL
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            status_of(pid)
    assert seen, "the workers did nothing"
    verified = filled.verify()
    assert _kinds(verified) == planted, verified.problems
