"""What is done to a store of one object while a system call fails: each returns without error only if all went well."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import casstore
from pathapi.exceptions import CloudUnavailableError
from tortures.ledger import LedgerClient
from tortures.shared import SharedLedger

KEY: Final = "data/object"
ORIGIN: Final = "ledger@one"
OLD: Final = b"what the bucket held at first; " * 200
NEW: Final = b"what is written over it; " * 300
LINE: Final = b"what is added to it\n" * 50


class WrongBytesError(Exception):
    """What no failure excuses."""


@dataclass(frozen=True, slots=True)
class Program:
    """*prepare* leaves a store behind; *run* works on a copy of it, and its system calls are what fails.

    *made* is what the bucket must have where *run* ends well, and may have where it does not: then the user still has
    it, if a `close` had raised before, or says that it is kept. *waits* says that it is pending at first.
    """

    name: str
    prepare: Callable[[str, SharedLedger], None]
    run: Callable[[str, SharedLedger], None]
    made: bytes | None = None
    waits: bool = False


def _path(root: str, ledger: SharedLedger, freshness: str = "always") -> Any:
    client = LedgerClient(ledger, "one", local_cache_dir=root, freshness=freshness)
    return client.CloudPath(f"ledger://bucket/{KEY}")


def _require(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise WrongBytesError(f"{len(found)} bytes that are not the object's {len(wanted)}")


def _fill(root: str, ledger: SharedLedger) -> None:
    try:
        with _path(root, ledger).open("rb") as file:
            _require(file.read(), OLD)
    finally:
        casstore.open(root).close()


def _read(root: str, ledger: SharedLedger) -> None:
    try:
        for freshness in ("immutable", "always"):
            with _path(root, ledger, freshness).open("rb") as file:
                _require(file.read(), OLD)
        with open(_path(root, ledger).fspath, "rb") as file:
            _require(file.read(), OLD)
    finally:
        casstore.open(root).close()


def _write(root: str, ledger: SharedLedger) -> None:
    try:
        path = _path(root, ledger)
        path.write_bytes(NEW)
        _require(path.read_bytes(), NEW)
    finally:
        casstore.open(root).close()


def _append(root: str, ledger: SharedLedger) -> None:
    try:
        path = _path(root, ledger)
        with path.open("ab") as file:
            file.write(LINE)
        _require(path.read_bytes(), OLD + LINE)
    finally:
        casstore.open(root).close()


def _push(root: str, ledger: SharedLedger) -> None:
    try:
        path = _path(root, ledger)
        path.push()
        _require(path.read_bytes(), NEW)
    finally:
        casstore.open(root).close()


def _drop(root: str, ledger: SharedLedger) -> None:
    try:
        path = _path(root, ledger)
        path.drop()
        _require(path.read_bytes(), OLD)
    finally:
        casstore.open(root).close()


def _gc(root: str, _: SharedLedger) -> None:
    try:
        cache = casstore.open(root)
        cache.execute(cache.plan(max_size=0))
    finally:
        casstore.open(root).close()


def _verify(root: str, _: SharedLedger) -> None:
    try:
        casstore.open(root).verify()
    finally:
        casstore.open(root).close()


def _nothing(_root: str, _: SharedLedger) -> None:
    """No store yet."""


def _empty(root: str, _: SharedLedger) -> None:
    casstore.open(root).close()


def _unsent(root: str, ledger: SharedLedger) -> None:
    _fill(root, ledger)
    path = _path(root, ledger)
    file = path.open("wb")
    file.write(NEW)
    ledger.absence = 1.0
    try:
        file.close()
    except CloudUnavailableError:
        pass
    finally:
        ledger.absence = 0.0
        casstore.open(root).close()


def _truncated(root: str, ledger: SharedLedger) -> None:
    _fill(root, ledger)
    os.truncate(f"{root}/index-v1/1/data.mdb", 2 * mmap.PAGESIZE)  # the two meta pages, and nothing that they lead to


PROGRAMS: Final = (
    Program("create", _nothing, _fill),
    Program("fill", _empty, _fill),
    Program("read", _fill, _read),
    Program("write", _fill, _write, NEW),
    Program("append", _fill, _append, OLD + LINE),
    Program("push", _unsent, _push, NEW, waits=True),
    Program("drop", _unsent, _drop, waits=True),
    Program("gc", _fill, _gc),
    Program("verify", _fill, _verify),
    Program("mend", _truncated, _fill),
)
"""`mend` finds the index truncated; `push` and `drop` find a write that could not be sent."""
