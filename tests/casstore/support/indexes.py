"""Rows for an index, forks with its hooks, and damage to its file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from casstore.index.database import Index
from casstore.index.transactions import Txn

ROWS = {b"E%04d" % number: b"v%d" % number * 20 for number in range(2500)}


def put_rows(index: Index, rows: dict[bytes, bytes]) -> None:
    def put(txn: Txn) -> None:
        for row, record in rows.items():
            txn.put(row, record)

    index.write_once(put)


def raising(error: BaseException) -> Callable[[Txn], object]:
    """What a transaction is to do: fail."""

    def work(_: Txn) -> object:
        raise error

    return work


@contextlib.contextmanager
def holding_writer(index: Index) -> Iterator[None]:
    """For the block, no thread and no process commits to this index."""
    writer = index.locks.acquire_writer(60.0)
    try:
        yield
    finally:
        writer.release()


def fork_with(index: Index) -> int:
    """`os.fork` with this index's hooks; 0 in the child."""
    index.before_fork()
    pid = os.fork()
    index.after_fork(in_child=pid == 0)
    return pid


def in_child(index: Index, work: Callable[[], object]) -> int:
    pid = fork_with(index)
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def damage_index(file: Path, how: str) -> None:
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
