"""Damage of the index: it is replaced by a new generation, which every process notices."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import lmdb
import pytest

from casstore.errors import IndexDamagedError, IndexUnavailableError
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import database
from casstore.index import page_check as pages
from casstore.index.database import Index
from casstore.index.generations import IndexFiles
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLocks
from tests.casstore.support.fill import eventually, fork, forked, status_of
from tests.casstore.support.indexes import ROWS, damage_index, put_rows, raising
from tests.harness.sampling import sampled


@pytest.mark.parametrize("how", ["metas", "pages", "all", "text", "one"])
def test_a_damaged_index_is_replaced_and_its_data_are_misses(
    layout: Layout, make: Callable[[], Index], said: list[str], how: str
) -> None:
    index = make()
    put_rows(index, ROWS)
    index.close()
    damage_index(Path(layout.index_file(1)), how)

    def work() -> None:
        index = make()
        assert index.get(b"E0001") is None
        assert list(index.scan(b"E")) == []
        put_rows(index, {b"E0001": b"new"})
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
    put_rows(index, ROWS)
    index.close()
    damage_index(Path(layout.index_file(1)), "pages")
    # Of a large index, an opening does not look at all pages.
    monkeypatch.setattr(pages, "FIRST_PAGES", 0)

    def work() -> None:
        index = make()
        with pytest.raises(IndexDamagedError):
            put_rows(index, {b"E0001": b"new"})
        put_rows(index, {b"E0001": b"new"})
        assert index.write(lambda txn: txn.get(b"E0001")) == b"new"

    assert forked(work) == 0


def test_an_index_cut_at_any_page_is_no_crash(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, ROWS)
    put_rows(index, {b"E0001": b"long" * 4000})
    index.close()
    whole = Path(layout.index_file(1)).read_bytes()

    def work(size: int) -> None:
        shutil.rmtree(layout.index)
        os.makedirs(layout.generation(1))
        Path(layout.index_file(1)).write_bytes(whole[:size])
        index = make()
        rows = dict(index.scan(b"E"))
        assert rows == {} or len(rows) == len(ROWS)
        put_rows(index, {b"E": b"new"})
        assert index.get(b"E") == b"new"

    pages_of_file = sampled(range(4096, len(whole), 4096 * 3), 8, "cuts of the index")
    for size in [0, 1, 100, *pages_of_file, len(whole) - 1]:
        assert forked(lambda size=size: work(size)) == 0, size  # type: ignore[misc]


@pytest.mark.parametrize("what", ["CURRENT", "1", "1/data.mdb", "1/lock.mdb", "."])
def test_a_deleted_index_is_made_again(layout: Layout, what: str, make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})
    index.close()
    path = os.path.normpath(f"{layout.index}/{what}")
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    index = make()
    assert index.get(b"E1") in (None, b"one")
    put_rows(index, {b"E2": b"two"})
    assert index.get(b"E2") == b"two"


def test_damage_is_said_once_and_outside_the_locks(layout: Layout, make: Callable[[], Index]) -> None:
    make().get(b"E")
    make().close()
    damage_index(Path(layout.index_file(1)), "text")
    answers: list[bytes | None] = []
    # What a user's filter for warnings may do: use the index.
    index = Index(layout, ByteLocks(layout), lambda _: answers.append(index.get(b"E")))
    assert index.get(b"E") is None
    assert answers == [None]
    index.close()


def test_losers_of_a_race_adopt_the_next_generation(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, ROWS)
    index.close()
    damage_index(Path(layout.index_file(1)), "metas")

    def work() -> None:
        index = make()
        assert index.get(b"E0001") is None
        assert index.generation == 2
        put_rows(index, {b"E%d" % os.getpid(): b"x"})

    assert [status_of(pid) for pid in [fork(work) for _ in range(5)]] == [0] * 5
    assert len(list(make().scan(b"E"))) == 5
    assert sorted(name for name in os.listdir(layout.index) if name.isdecimal()) == ["1", "2"]


def _supersede(layout: Layout) -> None:
    """As another process does that finds the first generation damaged."""
    other = Index(layout, ByteLocks(layout), print)
    other.generation = 1
    other._supersede(1, "a test")
    put_rows(other, {b"E1": b"new"})
    other.close()


def test_a_reader_notices_a_new_generation(
    layout: Layout, make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "HINT_SECONDS", 0.05)
    index = make()
    put_rows(index, {b"E1": b"old"})
    assert forked(lambda: _supersede(layout)) == 0
    eventually(lambda: index.get(b"E1") == b"new")


def test_a_writer_notices_a_new_generation_at_once(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"old"})
    assert forked(lambda: _supersede(layout)) == 0
    assert index.write_once(lambda txn: txn.get(b"E1")) == b"new"


def test_a_commit_that_lost_its_generation_says_so(layout: Layout, make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"old"})

    def write_while_it_is_replaced(txn: Txn) -> None:
        os.makedirs(layout.generation(2))
        Path(layout.successor(1)).write_text("2")
        txn.put(b"E2", b"lost")

    with pytest.raises(IndexDamagedError, match="replaced"):
        index.write_once(write_while_it_is_replaced)
    assert index.get(b"E2") is None
    assert index.write(lambda txn: txn.get(b"E1")) is None


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_a_commit_into_a_file_that_lost_its_name_is_repeated(
    layout: Layout, make: Callable[[], Index], name: str
) -> None:
    index, tries = make(), []

    def work(txn: Txn) -> None:
        tries.append(index.generation)
        if len(tries) == 1:
            os.unlink(f"{layout.generation(1)}/{name}")
        txn.put(b"E1", b"one")

    index.write(work)
    assert tries == [1, 2]
    assert index.get(b"E1") == b"one"


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_a_process_makes_no_new_pair_of_data_and_lock_file_in_one_generation(
    layout: Layout, make: Callable[[], Index], name: str
) -> None:
    """Another process may have the old pair open: the two would exclude nothing."""
    index = make()
    put_rows(index, {b"E1": b"one"})
    index.close()
    os.unlink(f"{layout.generation(1)}/{name}")
    assert index.get(b"E1") is None
    assert index.generation == 2


def test_a_file_that_lost_its_end_is_not_the_same_file() -> None:
    whole = IndexFiles((1, 2), (1, 3), 8192)
    assert whole.are_still(whole._replace(size=12288))
    assert not whole.are_still(whole._replace(size=4096))


def test_too_many_open_files_do_not_make_an_older_generation_the_live_one(
    layout: Layout, make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})

    def fail(path: str, real: Callable[[str], BinaryIO] = files.open_regular) -> BinaryIO:
        if path == layout.current:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path)

    monkeypatch.setattr(files, "open_regular", fail)
    with pytest.raises(OSError, match="Too many open files"):
        index.generations.newest()


def test_a_damaged_successor_file_still_names_the_next(layout: Layout, make: Callable[[], Index]) -> None:
    make().get(b"E")
    Path(layout.successor(1)).write_bytes(b"\xff")
    index = make()
    assert index.get(b"E") is None
    assert index.generation == 2


@pytest.mark.parametrize("is_damaged", [True, False])
def test_an_error_without_an_explanation_is_damage_if_a_page_is_damaged(
    layout: Layout, make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    index = make()
    put_rows(index, ROWS)
    index.close()
    if is_damaged:
        damage_index(Path(layout.index_file(1)), "pages")
    monkeypatch.setattr(pages, "FIRST_PAGES", 0)

    def work() -> None:
        index = make()
        with pytest.raises(IndexDamagedError if is_damaged else IndexUnavailableError):
            index.write_once(raising(lmdb.Error("mdb_txn_commit: Input/output error")))
        index.write(lambda txn: txn.put(b"E", b"new"))
        assert index.generation == 1 + is_damaged

    assert forked(work) == 0


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
