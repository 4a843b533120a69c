"""The index: rows, writers that stand still, readers that died, and little room."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from casstore.errors import IndexDamagedError, IndexUnavailableError, LockTimeoutError, StoreFullError
from casstore.format.layout import Layout
from casstore.index import environment
from casstore.index.database import Index
from casstore.index.environment import RESERVE_ROW
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.lock_files import DirectoryLock
from tests.casstore.support.fill import eventually, fork, run, status_of
from tests.casstore.support.indexes import ROWS, in_child, put_rows, raising
from tests.casstore.support.mounts import fill_up, small_disk


def test_rows_are_read_scanned_and_dropped(make: Callable[[], Index]) -> None:
    index = make()
    assert index.get(b"E0001") is None
    put_rows(index, ROWS)
    assert index.get(b"E0001") == ROWS[b"E0001"]
    assert dict(index.scan(b"")) == ROWS
    assert [row for row, _ in index.scan(b"E00")] == [b"E%04d" % number for number in range(100)]
    assert list(index.scan(b"F")) == []

    def delete(txn: Txn) -> None:
        txn.delete(b"E0001")
        txn.delete(b"never there")

    index.write_once(delete)
    assert index.get(b"E0001") is None
    assert index.usage()[0] == len(ROWS) - 1


def test_a_scan_sees_what_its_transaction_has_put(make: Callable[[], Index]) -> None:
    def put_and_scan(txn: Txn) -> list[tuple[bytes, bytes]]:
        txn.put(b"Ea", b"one")
        return txn.scan(b"E", b"E", 10)

    assert make().write(put_and_scan) == [(b"Ea", b"one")]


def test_a_failed_transaction_changes_nothing(make: Callable[[], Index]) -> None:
    index = make()

    def fail(txn: Txn) -> None:
        txn.put(b"row", b"record")
        raise KeyError

    with pytest.raises(KeyError):
        index.write_once(fail)
    assert index.get(b"row") is None
    put_rows(index, {b"row": b"other"})


@pytest.mark.needs_locks
def test_a_stopped_writer_stops_writers_with_an_error_and_no_reader(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})
    index.close()

    def stop_inside(txn: Txn) -> None:
        txn.put(b"E1", b"two")
        Path(layout.root, "inside").touch()
        time.sleep(60)

    pid = fork(lambda: make().write_once(stop_inside))
    eventually(Path(layout.root, "inside").exists)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(LockTimeoutError):
        index.write_once(lambda _: None, timeout=0.05)
    assert index.get(b"E1") == b"one"
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    assert index.write_once(lambda txn: txn.get(b"E1"), timeout=1_000) == b"one"


@pytest.mark.needs_locks
def test_a_thread_that_does_not_move_on_stops_other_threads_with_an_error(make: Callable[[], Index]) -> None:
    index = make()
    got: list[BaseException] = []

    def write() -> None:
        try:
            index.write_once(lambda _: None, timeout=0.05)
        except LockTimeoutError as error:
            got.append(error)

    def stand_still(_: Txn) -> None:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    index.write_once(stand_still)
    assert len(got) == 1


_DIE_READING = """
import os, sys
from casstore.index import database as indexes, environment
from casstore.format.layout import Layout
from casstore.locks.byte_locks import ByteLocks
environment.MAX_READERS = 3
layout = Layout(sys.argv[1])
indexes.Index(layout, ByteLocks(layout), print).read(lambda txn: os.kill(os.getpid(), 9))
"""


def test_slots_of_dead_readers_are_freed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_READERS", 3)
    index = Index(layout, ByteLocks(layout), print)
    put_rows(index, {b"E1": b"one"})
    index.close()

    def die_reading() -> None:
        index.read(lambda _: os.kill(os.getpid(), signal.SIGKILL))

    assert [status_of(in_child(index, die_reading)) for _ in range(2)] == [-signal.SIGKILL] * 2
    assert index.get(b"E1") == b"one"
    # And of those that die while it is open, up to the last slot.
    assert [run(_DIE_READING, layout.root).returncode for _ in range(4)] == [-signal.SIGKILL] * 4
    assert index.get(b"E1") == b"one"
    index.close()


def test_a_full_table_of_living_readers_is_a_typed_error(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_READERS", 30)
    index = Index(layout, ByteLocks(layout), print)
    put_rows(index, {b"E1": b"one"})

    def read_inside(depth: int) -> object:
        return index.read(lambda _: read_inside(depth + 1) if depth < 100 else None)

    with pytest.raises(IndexUnavailableError, match="READERS_FULL"):
        read_inside(0)
    gc.collect()  # a transaction has its slot until it is collected, and the error's traceback refers to all of them
    assert index.get(b"E1") == b"one"
    index.close()


@pytest.mark.parametrize("error", [lmdb.MapFullError("x"), lmdb.DiskError("x")])
def test_an_index_without_room_is_a_full_store(make: Callable[[], Index], error: lmdb.Error) -> None:
    index = make()
    with pytest.raises(StoreFullError):
        index.write_once(raising(error))
    put_rows(index, {b"E1": b"one"})


def test_an_environment_that_panicked_is_opened_again(make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})
    with pytest.raises(IndexDamagedError):
        index.write_once(raising(lmdb.PanicError("x")))
    assert index.get(b"E1") == b"one"
    assert index.generation == 1


def test_little_address_space_is_enough(layout: Layout) -> None:
    code = """
import resource, sys
from casstore.index.database import Index
from casstore.index.transactions import Txn
from casstore.format.layout import Layout
from casstore.locks.byte_locks import ByteLocks
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
layout = Layout(sys.argv[1])
index = Index(layout, ByteLocks(layout), print)
index.write_once(lambda txn: txn.put(b"E1", b"one"))
assert index.get(b"E1") == b"one"
"""
    done = run(code, layout.root)
    assert done.returncode == 0, done.stderr


@pytest.mark.needs_root
def test_a_commit_of_which_the_disk_takes_a_part_says_that_there_is_no_room(tmp_path: Path) -> None:
    """LMDB calls a short write an I/O error."""
    with small_disk(tmp_path / "disk") as disk:
        layout = Layout(disk / "store")
        for directory in layout.directories():
            os.mkdir(directory)
        index = Index(layout, ByteLocks(layout), print)
        put_rows(index, {b"E": b"before"})
        outcomes = set()
        for left in range(36):
            ballast = fill_up(disk)
            os.truncate(ballast, ballast.stat().st_size // 4096 * 4096 - 4096 * left)
            try:
                index.write(lambda txn: txn.put(b"E large", b"x" * 90_000))  # pages in a row: one write
            except StoreFullError as error:
                outcomes.add("cut short" if "Input/output error" in str(error) else "full")
            else:
                outcomes.add("done")
            ballast.unlink()
            assert index.get(b"E") == b"before"
        assert outcomes == {"cut short", "full", "done"}
        index.close()


def test_a_scan_of_rows_out_of_order_comes_to_an_end() -> None:
    class Cursor(list[tuple[bytes, bytes]]):
        def set_range(self, start: bytes) -> bool:
            return True

    class Transaction:
        def cursor(self) -> Cursor:
            return Cursor([(b"E5", b""), (b"E1", b"")])

    with pytest.raises(lmdb.CorruptedError):
        Txn(Transaction()).scan(b"E", b"E5", 2)  # type: ignore[arg-type]


@pytest.mark.needs_locks
def test_one_process_at_a_time_is_inside_the_opening_of_lmdb(
    layout: Layout, make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed there while another one waits in it, the first would leave the numbers of transactions to start anew."""
    opened = lmdb.open
    held: list[bool] = []

    def look_and_open(path: str, **options: object) -> lmdb.Environment:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.append(True)
        finally:
            os.close(descriptor)
        return opened(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(lmdb, "open", look_and_open)
    index = make()
    index.get(b"Bx")
    index.close()
    assert held and all(held)
    monkeypatch.undo()
    with DirectoryLock(layout.generation(1), 0) as lock:
        assert lock.is_locked
        index.get(b"Bx")  # after some patience it does without


def test_a_reserve_whose_making_was_cut_off_is_made_by_the_next_and_nothing_of_it_is_seen(
    layout: Layout, make: Callable[[], Index]
) -> None:
    os.makedirs(layout.generation(1))
    with lmdb.open(layout.generation(1), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(RESERVE_ROW, b"half of it")
    index = make()
    assert index.get(RESERVE_ROW) is None
    rows, size = index.usage()
    assert rows == 0 and size > 64 << 10
