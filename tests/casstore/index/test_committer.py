"""Group commit: many items, one transaction; none harms another; nothing local is undone; nothing is lost at exit."""

from __future__ import annotations

import _thread
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

import casstore
from casstore import LockTimeoutError, Validator
from casstore.blobs.blob_store import BlobStore
from casstore.fs import files
from casstore.index import committer
from casstore.index.committer import MAX_FILLS, MAX_TOUCHES
from casstore.index.database import Index
from casstore.index.transactions import Txn
from casstore.index.updates import IndexUpdate, PublishEntry, TouchEntry
from casstore.locks import byte_locks
from tests.casstore.support.fill import (
    alone,
    eventually,
    fill,
    fork,
    fork_without_hooks,
    forked,
    key_of,
    read,
    run,
    status_of,
)
from tests.casstore.support.indexes import holding_writer, raising
from tests.casstore.support.stores import open_inodes


@dataclass
class _Item(IndexUpdate):
    """Does what a test wants, and remembers how it ended."""

    work: Callable[[Txn], object] = lambda _: None
    ends: list[BaseException | None] = field(default_factory=list)

    def rows(self) -> tuple[bytes, ...]:
        return ()

    def apply(self, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        return self.work(txn) is not False

    def retry_outside(self, blobs: BlobStore) -> bool:
        return True

    def done(self, error: BaseException | None) -> None:
        self.ends.append(error)


def _publication(cache: casstore.Cache, name: str, data: bytes) -> PublishEntry:
    """As `Fill.publish` makes it; not submitted yet."""
    noted = cache.snapshot(key_of(name))
    staging = cache.stage()
    staging.write(data)
    added = cache.blobs.add(staging, staging.digest())
    entry = casstore.Entry(noted.key, added.digest, Validator(len(data), "e"), noted.moment, cache.boot_mount)
    return PublishEntry(noted, entry, added, staging)


def test_items_that_wait_together_are_one_transaction(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = []
    write_once = Index.write_once

    def count(self: Index, work: Callable[[Txn], object]) -> object:
        commits.append(self)
        return write_once(self, work)

    monkeypatch.setattr(Index, "write_once", count)
    monkeypatch.setattr(committer, "WINDOW_QUIET", 10.0)
    for number in range(50):
        cache.committer.submit(_publication(cache, f"k{number}", b"%d" % number))
    cache.flush()
    assert len(commits) == 1
    assert cache.usage().entries == 50


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError(), RecursionError(), casstore.CasstoreError("bad")])
def test_a_bad_item_takes_no_other_down(cache: casstore.Cache, error: Exception) -> None:
    good = [_Item(), _Item(lambda txn: txn.put(b"E1", b"x")), _Item()]
    bad = _Item(raising(error))
    stubborn = _Item(lambda _: False)
    for item in (good[0], bad, good[1], stubborn, good[2]):
        cache.committer.submit(item)
    cache.flush()
    assert [item.ends for item in good] == [[None]] * 3
    assert bad.ends == [error]
    assert len(stubborn.ends) == 1
    assert isinstance(stubborn.ends[0], casstore.CasstoreError)
    assert cache.index.get(b"E1") == b"x"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_bug_in_a_commit_every_item_is_finished(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have locks for which other processes wait."""

    def fail(self: committer.Committer, batch: list[IndexUpdate]) -> None:
        raise ZeroDivisionError

    items = [_Item(), _Item()]
    with monkeypatch.context() as patched:
        patched.setattr(committer.Committer, "_commit", fail)
        for item in items:
            cache.committer.submit(item)
        cache.flush()
    assert [[type(error) for error in item.ends] for item in items] == [[ZeroDivisionError]] * 2
    fill(cache, key_of("k"), b"bytes")


def test_an_item_that_fails_to_finish_stops_nobody(cache: casstore.Cache, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(_Item):
        def done(self, error: BaseException | None) -> None:
            raise ValueError("cannot finish")

    good = _Item()
    cache.committer.submit(Fails())
    cache.committer.submit(good)
    cache.flush()
    assert good.ends == [None]
    assert "cannot finish" in caplog.text
    assert fill(cache, key_of("k"), b"after") is not None


@pytest.mark.parametrize("has_unnamed", [True, False])
def test_a_blob_swept_between_link_and_commit_is_linked_again(
    cache: casstore.Cache, has_unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_unnamed:
        monkeypatch.setattr(files, "open_unnamed", lambda _: None)
    publication = _publication(cache, "k", b"bytes")
    os.unlink(cache.blob_path(publication.entry))
    cache.committer.submit(publication)
    cache.flush()
    assert publication.error is None
    assert publication.applied
    assert read(cache, key_of("k")) == b"bytes"


def test_a_swept_blob_that_was_only_linked_to_is_no_entry(cache: casstore.Cache) -> None:
    publication = _publication(cache, "k", b"bytes")
    publication.staging.close()  # type: ignore[union-attr]
    publication.staging = None
    os.unlink(cache.blob_path(publication.entry))
    cache.committer.submit(publication)
    cache.flush()
    assert isinstance(publication.error, casstore.CasstoreError)
    assert cache.stat("s3://bucket/k") is None


def test_a_new_file_under_a_name_that_entries_use_is_synced_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = casstore.open(root, digest="sha256")  # by another, such entries are dropped
    entry = fill(cache, key_of("old"), b"bytes")
    cache.committer.submit(TouchEntry(entry, synced_inode=cache.blobs.inode(entry.digest)))
    cache.flush()
    assert cache.lookup(key_of("old")).written_on == 0  # type: ignore[union-attr]
    os.unlink(cache.blob_path(entry))
    synced: list[int] = []
    sync = files.sync

    def note_and_sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(files, "sync", note_and_sync)
    fill(cache, key_of("new"), b"bytes")
    assert synced == [os.stat(cache.blob_path(entry)).st_ino]


def test_a_sync_of_a_file_that_was_replaced_says_nothing_of_the_new_one(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")
    old = cache.blobs.inode(entry.digest)
    descriptor = os.open(cache.blob_path(entry), os.O_RDONLY)
    os.unlink(cache.blob_path(entry))
    Path(cache.blob_path(entry)).write_bytes(b"bytes")
    cache.committer.submit(TouchEntry(entry, synced_inode=old))
    cache.flush()
    os.close(descriptor)
    assert cache.lookup(key_of("k")).written_on == cache.boot_mount  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["write", "delete"])
def test_what_was_written_here_since_a_request_wins_over_its_result(cache: casstore.Cache, what: str) -> None:
    key = key_of("k")
    late = cache.begin(key)
    if what == "write":
        staging = cache.stage()
        staging.write(b"mine")
        assert cache.record_write(cache.snapshot(key), staging, Validator(4, "mine"), cache.now()) is not None
    else:
        cache.record_delete(key)
    late.write(b"old")
    os.close(late.publish(Validator(3, "old")).descriptor)
    expected = b"mine" if what == "write" else None
    assert read(cache, key) == expected
    cache.flush()
    assert read(cache, key) == expected


def test_a_row_that_changed_since_a_request_wins_over_its_result(cache: casstore.Cache) -> None:
    late = cache.begin(key_of("k"))
    fill(cache, key_of("k"), b"new", "e2")
    late.write(b"old")
    os.close(late.publish(Validator(3, "e1")).descriptor)
    cache.flush()
    assert read(cache, key_of("k")) == b"new"


def test_a_result_from_before_the_index_was_replaced_is_no_entry(cache: casstore.Cache) -> None:
    # The new index has forgotten how often the URI was written locally.
    late = cache.begin(key_of("k"))
    Path(cache.layout.generation(2)).mkdir()
    files.create_synced(cache.layout.successor(1), b"2")
    late.write(b"old")
    os.close(late.publish(Validator(3, "e1")).descriptor)
    cache.flush()
    assert cache.index.generation == 2
    assert cache.stat("s3://bucket/k") is None


def test_a_refresh_of_a_version_that_is_gone_changes_nothing(cache: casstore.Cache) -> None:
    old = fill(cache, key_of("k"), b"old", "e1")
    new = fill(cache, key_of("k"), b"new", "e2")
    cache.refresh(old, cache.now())
    cache.flush()
    assert cache.lookup(key_of("k")) == new


def test_no_more_than_the_bound_are_held(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "WINDOW_QUIET", 10.0)
    monkeypatch.setattr(committer, "WINDOW_WAITED", 10.0)
    most = []

    def bring(start: int) -> None:
        for number in range(start, start + 60):
            publication = _publication(cache, f"k{number}", b"%d" % number)
            cache.committer.submit(publication)
            most.append(cache.committer._fills)

    threads = [threading.Thread(target=bring, args=(start,)) for start in range(0, 240, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(committer, "WINDOW_WAITED", 0.0)
    cache.flush()
    assert max(most) <= MAX_FILLS
    assert cache.usage().entries == 240


@pytest.mark.needs_locks
def test_a_process_that_hangs_in_a_commit_delays_others_once_and_is_reported_once(
    root: Path, cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def hang() -> None:
        def stand_still(_: object) -> None:
            (root / "inside").touch()
            time.sleep(600)

        casstore.open(root).index.write(stand_still)

    fill(cache, key_of("before"), b"before")
    cache.flush()
    pid = fork(hang)
    try:
        eventually((root / "inside").exists)
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(byte_locks, "STALL_SECONDS", 0.1)
        with pytest.raises(LockTimeoutError, match=f"process {pid} "):
            cache.record_delete(key_of("before"))
        monkeypatch.setattr(byte_locks, "STALL_SECONDS", 1e6)
        for number in range(2 * MAX_FILLS):
            cache.committer.submit(_publication(cache, f"k{number}", b"%d" % number))
        cache.flush()
        assert cache.usage().entries == 1
        assert [record.getMessage().count(f"process {pid} ") for record in caplog.records] == [1]
    finally:
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
    fill(cache, key_of("after"), b"after")
    cache.flush()
    assert cache.usage().entries == 2


def test_what_readers_learned_never_makes_them_wait(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")
    with holding_writer(cache.index):  # so that nothing is committed meanwhile
        for _ in range(MAX_TOUCHES + 100):
            cache.committer.submit(TouchEntry(entry, last_used_hour=1))
        assert cache.committer._queue.qsize() <= MAX_TOUCHES
    cache.flush()


def test_a_closed_committer_starts_again(cache: casstore.Cache) -> None:
    for number in range(5):
        fill(cache, key_of(f"k{number}"), b"%d" % number)
        cache.close()
        assert cache.committer._thread == 0
    assert cache.usage().entries == 5


def test_the_thread_has_ended_when_the_committer_is_closed(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not merely soon: a fork around Python's hooks is safe where there is one thread only."""
    before = set(os.listdir("/proc/self/task"))
    ended = threading.Event()
    real = committer.Committer._run_batch

    def run_slowly(self: committer.Committer, batch: Sequence[object]) -> None:
        real(self, batch)  # type: ignore[arg-type]
        if any(isinstance(item, committer._Stop) for item in batch):
            time.sleep(0.1)
            ended.set()

    monkeypatch.setattr(committer.Committer, "_run_batch", run_slowly)
    fill(cache, key_of("k"), b"bytes")
    cache.close()
    assert ended.is_set()
    eventually(lambda: set(os.listdir("/proc/self/task")) <= before)


def test_a_commit_when_no_thread_can_start_any_more_is_done_at_once(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Callable[[], object], arguments: tuple[()]) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    fill(cache, key_of("k"), b"bytes")
    assert read(cache, key_of("k")) == b"bytes"


_FILL = """
import os, sys, casstore
from tests.casstore.support.fill import key_of
cache = casstore.open(sys.argv[1])
for number in range(20):
    with cache.begin(key_of(f"{os.getpid()}-{number}")) as filling:
        filling.write(b"%d" % number)
        filling.publish(casstore.Validator(len(b"%d" % number), "e"))
"""


def _context(method: str) -> multiprocessing.context.SpawnContext:
    """They differ in how they start a process, not in what they offer."""
    return cast("multiprocessing.context.SpawnContext", multiprocessing.get_context(method))


def _publish_twenty(root: str) -> None:
    cache = casstore.open(root)
    for number in range(20):
        with cache.begin(key_of(f"{os.getpid()}-{number}")) as filling:
            filling.write(b"%d" % number)
            os.close(filling.publish(Validator(len(b"%d" % number), "e")).descriptor)


def test_a_normal_exit_drains_the_queue(root: Path) -> None:
    assert run(_FILL, str(root)).returncode == 0
    assert casstore.open(root).usage().entries == 20


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_end_of_a_child_of_multiprocessing_drains_the_queue(root: Path, method: str) -> None:
    cache = casstore.open(root)
    fill(cache, key_of("parent"), b"parent")
    process = _context(method).Process(target=_publish_twenty, args=(str(root),))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert cache.usage().entries == 21


def test_a_killed_process_leaves_blobs_without_users_and_nothing_worse(root: Path) -> None:
    done = run(_FILL + "os.kill(os.getpid(), 9)\n", str(root))
    assert done.returncode == -signal.SIGKILL
    cache = casstore.open(root)
    for entry in cache.entries():
        assert read(cache, entry.key) is not None
    assert fill(cache, key_of("after"), b"7") is not None
    assert read(cache, key_of("after")) == b"7"


def test_a_forked_child_commits_what_is_its_own_and_not_its_parents(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "WINDOW_QUIET", 10.0)
    cache.committer.submit(_publication(cache, "parent", b"parent"))

    def work() -> None:
        assert cache.committer._queue.empty()
        fill(cache, key_of("child"), b"child")

    assert forked(work) == 0
    cache.flush()
    assert sorted(entry.uri for entry in cache.entries()) == ["s3://bucket/child", "s3://bucket/parent"]


def _is_other_thread_parked() -> bool:
    """Whether the one other thread sleeps and does not stir although the interpreter's lock is free."""

    def state() -> list[str]:
        (thread,) = set(os.listdir("/proc/self/task")) - {str(threading.get_native_id())}
        text = Path(f"/proc/self/task/{thread}/status").read_text()
        return [line for line in text.splitlines() if line.startswith(("State:", "voluntary"))]

    before = state()
    time.sleep(0.1)
    return before == state() and "S (sleeping)" in before[0]


def test_a_forked_child_has_no_staging_file_of_its_parent_open(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "WINDOW_QUIET", 30.0)
    publication = _publication(cache, "k", b"bytes")
    inode = publication.added.inode
    cache.committer.submit(publication)

    def look() -> None:
        assert inode not in open_inodes()

    assert inode in open_inodes()
    assert forked(look) == 0
    cache.flush()
    assert read(cache, key_of("k")) == b"bytes"


def test_a_child_of_a_fork_without_hooks_does_not_hang(cache: casstore.Cache) -> None:
    def child() -> None:
        item = _Item()
        cache.committer.submit(item)
        cache.flush()
        cache.committer.close(10.0)
        assert isinstance(item.ends[0], casstore.IndexUnavailableError)

    def parent() -> None:
        fill(cache, key_of("k"), b"bytes")
        # The one other thread must wait for work: neither hold nor be about to take the interpreter's lock.
        eventually(_is_other_thread_parked)
        assert status_of(fork_without_hooks(child)) == 0

    assert alone(parent) == 0


def test_processes_that_fill_the_same_bytes_share_one_blob(cache: casstore.Cache) -> None:
    def work(number: int) -> None:
        for turn in range(10):
            fill(cache, key_of(f"{number}-{turn}"), b"the same")

    pids = [fork(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc]
    assert [status_of(pid) for pid in pids] == [0] * 4
    usage = cache.usage()
    assert (usage.entries, usage.blobs, usage.stored_bytes) == (40, 1, 8)
