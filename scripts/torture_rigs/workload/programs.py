"""Programs on a store with one object, while a system call fails: each succeeds completely or raises."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import casstore
from pathapi.exceptions import CloudUnavailableError, PendingWriteError
from torture_rigs.oracle.recording_bucket import LedgerClient
from torture_rigs.shared_memory import SharedLedger

KEY: Final = "data/object"
ORIGIN: Final = "ledger@one"
OLD: Final = b"what the bucket held at first; " * 200
NEW: Final = b"what is written over it; " * 300
LINE: Final = b"what is added to it\n" * 50


class WrongBytesError(Exception):
    """An error that no failed system call excuses."""


@dataclass(frozen=True, slots=True)
class Program:
    """*prepare* creates a store; the system calls of *run* fail, on a copy of it.

    If *run* succeeds, the bucket must have *made*; otherwise it may, and the bytes are pending if an earlier `close`
    raised, or an error says so. *waits*: `NEW` is pending at first. *keeps*: it must still be pending at the end. The
    rig does not fail the calls in *spares*.

    The bucket has *objects* at first. *arrange* changes the copy in a process that dies, so that it can leave a lease.
    The bytes *kept* belong to a user: at the end, they must be pending, or where the user left them. *judge* checks the
    store, with a working directory. *finish* runs in another process, and returns the remaining problems. If
    *is_damaged*, the store is checked after *finish* only. Without *changes*, the store must be unchanged.
    """

    name: str
    prepare: Callable[[str, SharedLedger], None]
    run: Callable[[str, SharedLedger], None]
    made: bytes | None = None
    waits: bool = False
    keeps: bool = False
    spares: tuple[str, ...] = ()
    objects: Mapping[str, bytes] = field(default_factory=lambda: {KEY: OLD})
    arrange: Callable[[str, SharedLedger], None] | None = None
    kept: tuple[bytes, ...] = ()
    judge: Callable[[str, str], Iterator[str]] | None = None
    finish: Callable[[str], Iterator[str]] | None = None
    is_damaged: bool = False
    changes: bool = True


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


def _refuse(root: str, ledger: SharedLedger) -> None:
    try:
        for freshness in ("immutable", "always"):
            try:
                found = _path(root, ledger, freshness).read_bytes()
            except PendingWriteError:
                continue
            raise WrongBytesError(f"{len(found)} bytes of a URI that a write is pending of")
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


_LOOKS: Final = ("access", "faccessat", "faccessat2")
"""What every open asks by whether anything is pending: a failure is no different from "no" (`casstore.pending`)."""

PROGRAMS: Final = (
    Program("create", _nothing, _fill),
    Program("fill", _empty, _fill),
    Program("read", _fill, _read),
    Program("write", _fill, _write, NEW),
    Program("append", _fill, _append, OLD + LINE),
    Program("refuse", _unsent, _refuse, waits=True, keeps=True, spares=_LOOKS),
    Program("push", _unsent, _push, NEW, waits=True),
    Program("drop", _unsent, _drop, waits=True),
    Program("gc", _fill, _gc),
    Program("verify", _fill, _verify),
    Program("mend", _truncated, _fill),
)
"""`mend` finds the index truncated; `push` and `drop` find a write that could not be sent."""
