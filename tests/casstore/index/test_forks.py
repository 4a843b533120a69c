"""The index in many processes: forks with and without its hooks, and threads meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace

import lmdb
import pytest

from casstore.errors import IndexUnavailableError
from casstore.format.layout import Layout
from casstore.index import database as indexes
from casstore.index.database import Index
from casstore.locks.byte_locks import ByteLocks
from tests.casstore.support.fill import alone, fork, fork_without_hooks, status_of
from tests.casstore.support.indexes import fork_with, in_child, put_rows
from tests.casstore.support.threads import repeating
from tests.harness.sampling import by_pass


def test_many_processes_open_and_write_at_once(layout: Layout) -> None:
    def work(number: int) -> None:
        index = Index(layout, ByteLocks(layout), print)
        for turn in range(10):
            put_rows(index, {b"E%d-%d" % (number, turn): b"x"})
        index.close()

    pids = [fork(lambda number=number: work(number)) for number in range(6)]  # type: ignore[misc]
    assert [status_of(pid) for pid in pids] == [0] * 6
    assert len(list(Index(layout, ByteLocks(layout), print).scan(b"E"))) == 60


def test_a_forked_child_reads_and_writes_and_leaves_the_parents_index_alone(make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"parent"})

    def work() -> None:
        assert index.get(b"E1") == b"parent"
        put_rows(index, {b"E2": b"child"})
        index.close()

    assert status_of(in_child(index, work)) == 0
    assert (index.get(b"E1"), index.get(b"E2")) == (b"parent", b"child")


def test_forks_while_threads_read_and_write_harm_neither_side(make: Callable[[], Index]) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})

    def look(_: int) -> None:
        assert index.get(b"E1") == b"one"

    def work() -> None:
        assert index.get(b"E1") == b"one"
        put_rows(index, {b"C": b"child"})
        assert index.get(b"C") == b"child"

    with repeating(look, look, look, lambda number: put_rows(index, {b"N": b"%d" % number})):
        statuses = [status_of(in_child(index, work)) for _ in range(by_pass(quick=10, full=60))]
    assert set(statuses) == {0}


def test_a_fork_without_hooks_gets_an_error_and_not_the_parents_index(make: Callable[[], Index]) -> None:
    def parent() -> None:
        index = make()
        put_rows(index, {b"E1": b"one"})

        def child() -> None:
            for call in (
                lambda: index.get(b"E1"),
                lambda: list(index.scan(b"E")),
                lambda: put_rows(index, {b"E2": b""}),
            ):
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
    put_rows(index, {b"E1": b"one"})

    def fork_inside(_: object) -> int:
        pid = fork_with(index)
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


def test_a_call_that_begins_while_the_environment_is_closed_waits(
    make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        index._closing = 0

    monkeypatch.setattr(indexes, "time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    index._closing = -1  # another thread closes it
    assert index.get(b"E1") == b"one"
    assert len(waits) == 1


def test_a_call_that_meets_the_closing_of_the_environment_begins_again(
    make: Callable[[], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    put_rows(index, {b"E1": b"one"})
    ensure, closings = index._ensure_open, list[int]()

    def close_after(open_env: Callable[[], lmdb.Environment]) -> None:
        index._closing = 0
        ensure(open_env)
        closings.append(0 if closings else -1)
        index._closing = closings[-1]

    monkeypatch.setattr(index, "_ensure_open", close_after)
    assert index.read(lambda txn: txn.get(b"E1")) == b"one"
    assert closings == [-1, 0]
