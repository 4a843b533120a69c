"""The index between processes: forks, damage, generations, writers that stand still."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from casstore.errors import IndexDamagedError, IndexUnavailableError, LockTimeoutError, StoreFullError
from casstore.format.layout import Layout
from casstore.index import database as indexes
from casstore.index import environment
from casstore.index import page_check as pages
from casstore.index.database import Index
from casstore.index.environment import RESERVE_ROW
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.lock_files import LockFile
from tests.casstore.support.fill import alone, eventually, fork, fork_without_hooks, forked, run, status_of
from tests.casstore.support.mounts import fill_up, small_disk
from tests.harness.sampling import by_pass

ROWS = {b"E%04d" % number: b"v%d" % number * 20 for number in range(2500)}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store")
    for directory in layout.directories():
        os.mkdir(directory)
    return layout


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(layout: Layout, said: list[str]) -> Iterator[Callable[[], Index]]:
    """Makes an index whose locks are its own, as in another process; one of them is to be open at a time."""
    made: list[Index] = []

    def new() -> Index:
        made.append(Index(layout, ByteLocks(layout), said.append))
        return made[-1]

    yield new
    for index in made:
        index.close()


def _put(index: Index, rows: dict[bytes, bytes]) -> None:
    with index.writing() as txn:
        for row, record in rows.items():
            txn.put(row, record)


def _fork(index: Index) -> int:
    """`os.fork` with this index's hooks; 0 in the child."""
    index.before_fork()
    pid = os.fork()
    index.after_fork(in_child=pid == 0)
    return pid


def _in_child(index: Index, work: Callable[[], object]) -> int:
    pid = _fork(index)
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_rows_are_read_scanned_and_dropped(make: Callable[[], Index]) -> None:
    index = make()
    assert index.get(b"E0001") is None
    _put(index, ROWS)
    assert index.get(b"E0001") == ROWS[b"E0001"]
    assert dict(index.scan(b"")) == ROWS
    assert [row for row, _ in index.scan(b"E00")] == [b"E%04d" % number for number in range(100)]
    assert list(index.scan(b"F")) == []
    with index.writing() as txn:
        txn.delete(b"E0001")
        txn.delete(b"never there")
    assert index.get(b"E0001") is None
    assert index.usage()[0] == len(ROWS) - 1


def test_a_failed_block_changes_nothing(make: Callable[[], Index]) -> None:
    index = make()

    def fail() -> None:
        with index.writing() as txn:
            txn.put(b"row", b"record")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert index.get(b"row") is None
    _put(index, {b"row": b"other"})


def test_many_processes_open_and_write_at_once(layout: Layout) -> None:
    def work(number: int) -> None:
        index = Index(layout, ByteLocks(layout), print)
        for turn in range(10):
            _put(index, {b"E%d-%d" % (number, turn): b"x"})
        index.close()

    pids = [fork(lambda number=number: work(number)) for number in range(6)]  # type: ignore[misc]
    assert [status_of(pid) for pid in pids] == [0] * 6
    assert len(list(Index(layout, ByteLocks(layout), print).scan(b"E"))) == 60


def test_a_forked_child_reads_and_writes_and_leaves_the_parents_index_alone(make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"parent"})

    def work() -> None:
        assert index.get(b"E1") == b"parent"
        _put(index, {b"E2": b"child"})
        index.close()

    assert status_of(_in_child(index, work)) == 0
    assert (index.get(b"E1"), index.get(b"E2")) == (b"parent", b"child")


def test_forks_while_threads_read_and_write_harm_neither_side(make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"one"})
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        try:
            while not stop.is_set():
                if index.get(b"E1") != b"one":
                    wrong.append("a read failed")
        except BaseException as error:  # noqa: BLE001 - the test shows it
            wrong.append(error)

    def write() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                _put(index, {b"N": b"%d" % number})
        except BaseException as error:  # noqa: BLE001 - the test shows it
            wrong.append(error)

    def work() -> None:
        assert index.get(b"E1") == b"one"
        _put(index, {b"C": b"child"})
        assert index.get(b"C") == b"child"

    threads = [threading.Thread(target=target) for target in (read, read, read, write)]
    for thread in threads:
        thread.start()
    statuses = [status_of(_in_child(index, work)) for _ in range(by_pass(quick=20, full=60))]
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {0}
    assert wrong == []


def test_a_fork_without_hooks_gets_an_error_and_not_the_parents_index(make: Callable[[], Index]) -> None:
    def parent() -> None:
        index = make()
        _put(index, {b"E1": b"one"})

        def child() -> None:
            for call in (lambda: index.get(b"E1"), lambda: list(index.scan(b"E")), lambda: _put(index, {b"E2": b""})):
                with pytest.raises(IndexUnavailableError, match="hooks"):
                    call()

        assert status_of(fork_without_hooks(child)) == 0
        assert index.get(b"E1") == b"one"

    assert alone(parent) == 0


def test_a_fork_in_the_middle_of_a_transaction_gives_the_child_an_error(
    make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_GATE_SECONDS", 0.05)
    index = make()
    _put(index, {b"E1": b"one"})

    def fork_inside(_: object) -> int:
        pid = _fork(index)
        if pid == 0:
            status = 1
            try:
                with pytest.raises(IndexUnavailableError):
                    index.get(b"E1")
                status = 0
            finally:
                os._exit(status)
        return pid

    assert status_of(index.read(fork_inside)) == 0
    assert index.get(b"E1") == b"one"


def _damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "metas":
        data[: 2 * 4096] = bytes(2 * 4096)
    elif how == "pages":
        data[2 * 4096 :] = bytes(len(data) - 2 * 4096)
    elif how == "all":
        data = bytearray(len(data))
    elif how == "text":
        data = bytearray(b"this is not an index\n" * 1000)
    elif how == "one":
        data = bytearray(b"x")
    file.write_bytes(data)


@pytest.mark.parametrize("how", ["metas", "pages", "all", "text", "one"])
def test_a_damaged_index_is_replaced_and_its_data_are_misses(
    layout: Layout, make: Callable[[], Index], said: list[str], how: str
) -> None:
    index = make()
    _put(index, ROWS)
    index.close()
    _damage(Path(layout.index_file(1)), how)

    def work() -> None:
        index = make()
        assert index.get(b"E0001") is None
        assert list(index.scan(b"E")) == []
        _put(index, {b"E0001": b"new"})
        assert index.get(b"E0001") == b"new"
        assert index.generation == 2
        assert len(said) == 1

    assert forked(work) == 0
    assert index.get(b"E0001") == b"new"
    assert said == []
    assert Path(layout.current).read_text() == "2"


def test_damage_found_in_a_write_is_replaced_too(
    layout: Layout, make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    _put(index, ROWS)
    index.close()
    _damage(Path(layout.index_file(1)), "pages")
    # Of a large index, an opening does not look at all pages.
    monkeypatch.setattr(pages, "FIRST_PAGES", 0)

    def work() -> None:
        index = make()
        with pytest.raises(IndexDamagedError):
            _put(index, {b"E0001": b"new"})
        _put(index, {b"E0001": b"new"})
        assert index.write(lambda txn: txn.get(b"E0001")) == b"new"

    assert forked(work) == 0


def test_an_index_cut_at_any_page_is_no_crash(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, ROWS)
    _put(index, {b"E0001": b"long" * 4000})
    index.close()
    whole = Path(layout.index_file(1)).read_bytes()

    def work(size: int) -> None:
        shutil.rmtree(layout.index)
        os.makedirs(layout.generation(1))
        Path(layout.index_file(1)).write_bytes(whole[:size])
        index = make()
        rows = dict(index.scan(b"E"))
        assert rows == {} or len(rows) == len(ROWS)
        _put(index, {b"E": b"new"})
        assert index.get(b"E") == b"new"

    for size in [0, 1, 100, *range(4096, len(whole), 4096 * 3), len(whole) - 1]:
        assert forked(lambda size=size: work(size)) == 0, size  # type: ignore[misc]


@pytest.mark.parametrize("what", ["CURRENT", "1", "1/data.mdb", "1/lock.mdb", "."])
def test_a_deleted_index_is_made_again(layout: Layout, what: str, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"one"})
    index.close()
    path = os.path.normpath(f"{layout.index}/{what}")
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    index = make()
    assert index.get(b"E1") in (None, b"one")
    _put(index, {b"E2": b"two"})
    assert index.get(b"E2") == b"two"


def test_damage_is_said_once_and_outside_the_locks(layout: Layout, make: Callable[[], Index]) -> None:
    make().get(b"E")
    make().close()
    _damage(Path(layout.index_file(1)), "text")
    answers: list[bytes | None] = []
    # What a user's filter for warnings may do: use the index.
    index = Index(layout, ByteLocks(layout), lambda _: answers.append(index.get(b"E")))
    assert index.get(b"E") is None
    assert answers == [None]
    index.close()


def test_losers_of_a_race_adopt_the_next_generation(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, ROWS)
    index.close()
    _damage(Path(layout.index_file(1)), "metas")

    def work() -> None:
        index = make()
        assert index.get(b"E0001") is None
        assert index.generation == 2
        _put(index, {b"E%d" % os.getpid(): b"x"})

    assert [status_of(pid) for pid in [fork(work) for _ in range(5)]] == [0] * 5
    assert len(list(make().scan(b"E"))) == 5
    assert sorted(name for name in os.listdir(layout.index) if name.isdecimal()) == ["1", "2"]


def _supersede(layout: Layout) -> None:
    """As another process does that finds the first generation damaged."""
    other = Index(layout, ByteLocks(layout), print)
    other.generation = 1
    other._supersede(1, "a test")
    _put(other, {b"E1": b"new"})
    other.close()


def test_a_reader_notices_a_new_generation(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"old"})
    assert forked(lambda: _supersede(layout)) == 0
    eventually(lambda: index.get(b"E1") == b"new")


def test_a_writer_notices_a_new_generation_at_once(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"old"})
    assert forked(lambda: _supersede(layout)) == 0
    with index.writing() as txn:
        assert txn.get(b"E1") == b"new"


def test_a_commit_that_lost_its_generation_says_so(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"old"})

    def write_while_it_is_replaced() -> None:
        with index.writing() as txn:
            os.makedirs(layout.generation(2))
            Path(layout.successor(1)).write_text("2")
            txn.put(b"E2", b"lost")

    with pytest.raises(IndexDamagedError, match="replaced"):
        write_while_it_is_replaced()
    assert index.get(b"E2") is None
    assert index.write(lambda txn: txn.get(b"E1")) is None


def test_a_damaged_successor_file_still_names_the_next(layout: Layout, make: Callable[[], Index]) -> None:
    make().get(b"E")
    Path(layout.successor(1)).write_bytes(b"\xff")
    index = make()
    assert index.get(b"E") is None
    assert index.generation == 2


@pytest.mark.needs_locks
def test_a_stopped_writer_stops_writers_with_an_error_and_no_reader(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"one"})
    index.close()

    def stop_inside() -> None:
        with make().writing() as txn:
            txn.put(b"E1", b"two")
            Path(layout.root, "inside").touch()
            time.sleep(60)

    pid = fork(stop_inside)
    eventually(Path(layout.root, "inside").exists)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(LockTimeoutError), index.writing(timeout=0.05):
        pass
    assert index.get(b"E1") == b"one"
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    with index.writing(timeout=1_000) as txn:
        assert txn.get(b"E1") == b"one"


@pytest.mark.needs_locks
def test_a_thread_that_does_not_move_on_stops_other_threads_with_an_error(make: Callable[[], Index]) -> None:
    index = make()
    got: list[BaseException] = []

    def write() -> None:
        try:
            with index.writing(timeout=0.05):
                pass
        except LockTimeoutError as error:
            got.append(error)

    with index.writing():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
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
    _put(index, {b"E1": b"one"})
    index.close()

    def die_reading() -> None:
        index.read(lambda _: os.kill(os.getpid(), signal.SIGKILL))

    assert [status_of(_in_child(index, die_reading)) for _ in range(2)] == [-signal.SIGKILL] * 2
    assert index.get(b"E1") == b"one"
    # And of those that die while it is open, up to the last slot.
    assert [run(_DIE_READING, layout.root).returncode for _ in range(4)] == [-signal.SIGKILL] * 4
    assert index.get(b"E1") == b"one"
    index.close()


def test_a_full_table_of_living_readers_is_a_typed_error(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_READERS", 30)
    index = Index(layout, ByteLocks(layout), print)
    _put(index, {b"E1": b"one"})

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
    with pytest.raises(StoreFullError), index.writing():
        raise error
    _put(index, {b"E1": b"one"})


def test_an_environment_that_panicked_is_opened_again(make: Callable[[], Index]) -> None:
    index = make()
    _put(index, {b"E1": b"one"})
    with pytest.raises(IndexDamagedError), index.writing():
        raise lmdb.PanicError("x")
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
with index.writing() as txn:
    txn.put(b"E1", b"one")
assert index.get(b"E1") == b"one"
"""
    done = run(code, layout.root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_damaged", [True, False])
def test_an_error_without_an_explanation_is_damage_if_a_page_is_damaged(
    layout: Layout, make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    index = make()
    _put(index, ROWS)
    index.close()
    if is_damaged:
        _damage(Path(layout.index_file(1)), "pages")
    monkeypatch.setattr(pages, "FIRST_PAGES", 0)

    def work() -> None:
        index = make()
        with pytest.raises(IndexDamagedError if is_damaged else IndexUnavailableError), index.writing():
            raise lmdb.Error("mdb_txn_commit: Input/output error")
        index.write(lambda txn: txn.put(b"E", b"new"))
        assert index.generation == 1 + is_damaged

    assert forked(work) == 0


@pytest.mark.needs_root
def test_a_commit_of_which_the_disk_takes_a_part_says_that_there_is_no_room(tmp_path: Path) -> None:
    """LMDB calls a short write an I/O error."""
    with small_disk(tmp_path / "disk") as disk:
        layout = Layout(disk / "store")
        for directory in layout.directories():
            os.mkdir(directory)
        index = Index(layout, ByteLocks(layout), print)
        _put(index, {b"E": b"before"})
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
    with LockFile(layout.generation(1), is_directory=True).acquire(0) as is_ours:
        assert is_ours
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


def test_an_index_whose_making_was_cut_off_is_replaced_without_a_word(
    layout: Layout, make: Callable[[], Index], said: list[str]
) -> None:
    """A kill between the two pages of LMDB's first write: nothing was in it."""
    os.makedirs(layout.generation(1))
    lmdb.open(layout.generation(1), lib_version=0).close()
    os.truncate(layout.index_file(1), 4096)
    index = make()
    assert index.get(b"Bx") is None
    assert (index.generation, said) == (2, [])
