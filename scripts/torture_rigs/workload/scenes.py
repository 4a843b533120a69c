"""Stores with every kind of garbage that a collection removes, and every kind of damage that a verification finds.

So every branch of `gc` and `verify` makes its system calls, and each of them can fail. As in
`torture_rigs.workload.programs`, a program returns without an error only on full success. Afterwards a new process
finishes the work. Then no work may remain, and no bytes that a user wrote or pinned may be missing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import casstore
from casstore import Cache, Entry, ProblemKind, VerifyReport
from casstore.format.keys import blob_row, user_row
from casstore.format.records import BlobRecord, pack_blob
from casstore.index.entries import delete_entry, put_entry
from pathapi.exceptions import CloudUnavailableError
from torture_rigs.oracle.index_reader import read_rows
from torture_rigs.oracle.recording_bucket import LedgerClient
from torture_rigs.shared_memory import SharedLedger
from torture_rigs.workload.programs import KEY, NEW, OLD, Program, WrongBytesError

EDITED: Final = b"what somebody made of a local copy; " * 150
MADE: Final = b"what a tool made where nothing was; " * 150

_PINNED: Final = "data/pinned"
_BUCKET: Final = "ledger://bucket/"
_LONG_AGO: Final = 480_000
"""Hours after 1970."""

_STALE: Final = "0123456789abcdef"
"""A temporary name that a writer left."""

_SETTINGS: Final = f"""
min_free = 0
max_age = "30d"

[[rules]]
prefix = "{_BUCKET}tmp/"
max_size = 0
max_age = "none"
"""

_HELD: Final = (
    _PINNED,
    "data/aged",
    "data/edited",
    "data/linked",
    "data/new",
    "data/unused",
    "data/stale",
    "tmp/ruled",
)
_FILLED: Final = 7
"""Bytes per blob are some thousands; this many of them are room for a few."""


def _objects(*keys: str) -> Mapping[str, bytes]:
    return {KEY: OLD, **{key: f"the bytes of {key}; ".encode() * 100 for key in keys}}


def _path(root: str, ledger: SharedLedger, key: str, **habits: Any) -> Any:
    client = LedgerClient(ledger, "one", local_cache_dir=root, freshness="immutable", **habits)
    return client.CloudPath(f"{_BUCKET}{key}")


def _fill(root: str, ledger: SharedLedger, *keys: str) -> Cache:
    for key in keys:
        _path(root, ledger, key).read_bytes()
    cache = casstore.open(root)
    cache.flush()
    return cache


def _entry(cache: Cache, key: str) -> Entry:
    entry = cache.stat(_BUCKET + key)
    assert entry is not None
    return entry


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _replace_by(path: str, data: bytes) -> None:
    """As an editor saves."""
    _write(path + "~", data)
    os.replace(path + "~", path)


def _drop(cache: Cache, entry: Entry) -> None:
    cache.index.write(lambda txn: delete_entry(txn, entry))


def _make_stale(cache: Cache, entry: Entry) -> None:
    _drop(cache, entry)
    os.unlink(cache.blob_path(entry))


def _names(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


# --- collecting ------------------------------------------------------------------------------------------------------


def _prepare_collection(root: str, ledger: SharedLedger) -> None:
    # An index that was superseded, and a blob that only it knew.
    cache = _fill(root, ledger, "data/before")
    cache.index.generations.supersede(1)
    cache.index.close()
    cache = _fill(root, ledger, KEY, *_HELD)
    cache.pin(_BUCKET + _PINNED)
    for key in (_PINNED, "data/aged"):
        entry = _entry(cache, key)
        aged = replace(entry, last_used_hour=_LONG_AGO)
        cache.index.write(partial(put_entry, entry=aged, previous=entry, blob=None))
    _drop(cache, _entry(cache, "data/unused"))
    _make_stale(cache, _entry(cache, "data/stale"))
    _leave_unsent(root, ledger)
    _leave_debris(root)
    cache.close()
    _write(f"{root}/config.toml", _SETTINGS.encode())


def _leave_unsent(root: str, ledger: SharedLedger) -> None:
    file = _path(root, ledger, KEY).open("wb")
    file.write(NEW)
    ledger.absence = 1.0
    with contextlib.suppress(CloudUnavailableError):
        file.close()
    ledger.absence = 0.0


def _leave_debris(root: str) -> None:
    for name in (
        *(f"{root}/{_STALE}", f"{root}/index-v1/{_STALE}", f"{root}/pins/{_STALE}"),
        f"{root}/quarantine/{'0' * 32}-{'0' * 8}.txt",
    ):
        _write(name, b"half a file")
        os.utime(name, (1, 1))
    os.makedirs(f"{root}/trash/{_STALE}/tree")
    _write(f"{root}/trash/{_STALE}/tree/file", b"")
    _write(f"{root}/trash/{_STALE[::-1]}", b"")
    os.makedirs(f"{root}/locks/write", exist_ok=True)
    _write(f"{root}/locks/write/{'0' * 32}", b"")
    os.mkdir(f"{root}/pending/{'0' * 32}")


def _leave_leases(root: str, ledger: SharedLedger) -> None:
    """Of a process that dies: an edited copy, a file that a tool made, a copy that is a link, half a pending write."""
    _replace_by(_path(root, ledger, "data/edited", views="copy").fspath, EDITED)
    _write(_path(root, ledger, "data/made").fspath, MADE)
    _ = _path(root, ledger, "data/linked", views="link").fspath
    half = f"{root}.half"
    os.mkdir(half)
    _write(f"{half}/{casstore.open(root).lease.name}-{_STALE}.data", b"never promised")
    os.rename(half, f"{root}/pending/{'1' * 32}")  # an empty directory there is removed
    os.mkdir(f"{root}/leases/.new-{_STALE}")


def _collect(root: str, _: SharedLedger) -> None:
    try:
        cache = casstore.open(root)
        cache.execute(cache.plan(max_size=_FILLED * 1000))
        cache.mark_synced()
    finally:
        casstore.open(root).close()


def _clear(root: str, _: SharedLedger) -> None:
    try:
        casstore.open(root).clear()
    finally:
        casstore.open(root).close()


def _judge_pins(root: str, scratch: str) -> Iterator[str]:
    rows = read_rows(root, scratch)
    if not any(entry.uri == _BUCKET + _PINNED for entry in rows.entries):
        yield "the entry that is pinned is gone"
    if len([name for name in _names(f"{root}/pins") if name != _STALE]) != 1:
        yield "the pin is gone"


def _finish_collection(root: str) -> Iterator[str]:
    cache = casstore.open(root)
    freed = cache.execute(cache.plan(max_size=0))
    left = [entry.uri for entry in cache.entries()]
    if left != [_BUCKET + _PINNED]:
        yield f"after another collection of everything there are {left}"
    if [pin.uri for pin in cache.pins()] != [_BUCKET + _PINNED]:
        yield f"after another collection the pins are {list(cache.pins())}"
    if freed.shortfall != _entry(cache, _PINNED).size:
        yield f"another collection is short of {freed.shortfall} bytes"
    yield from _judge_verified("after another collection", cache.verify())
    for place in ("leases", "trash", "quarantine", "locks/write"):
        left_there = [name for name in _names(f"{root}/{place}") if name != cache.leases.own_name()]
        if left_there:
            yield f"after another collection there is left in {place}: {left_there}"
    for place in ("", "index-v1", "pins"):
        if _STALE in _names(f"{root}/{place}"):
            yield f"after another collection there is half a file left in {place or 'the root'}"
    if len([name for name in _names(f"{root}/index-v1") if name != "CURRENT"]) != 1:
        yield f"after another collection the index is {_names(f'{root}/index-v1')}"


def _judge_verified(when: str, verified: VerifyReport) -> Iterator[str]:
    for problem in verified.problems:
        yield f"{when}: {problem.kind}: {problem.path}: {problem.detail}"
    left = verified.leftovers
    if left.unknown or left.unused or left.stale_rows:
        yield f"{when} there is left over: {left}"


# --- verifying -------------------------------------------------------------------------------------------------------


def _change(path: str, data: bytes) -> None:
    """Write other bytes, and keep the file's mtime."""
    status = os.stat(path)
    os.chmod(path, 0o644)
    _write(path, data)
    os.chmod(path, 0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _put(cache: Cache, row: bytes, record: bytes | None) -> None:
    cache.index.write(lambda txn: txn.delete(row) if record is None else txn.put(row, record))


def _flip(cache: Cache, row: bytes) -> None:
    record = cache.index.get(row)
    assert record is not None
    _put(cache, row, record[:-1] + bytes([record[-1] ^ 1]))


def _put_symlink(path: str) -> None:
    os.rename(path, path + "~")
    os.symlink(path + "~", path)


def _put_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def _resize_blob_row(cache: Cache, entry: Entry) -> None:
    row = blob_row(entry.digest.value)
    _put(cache, row, pack_blob(row, BlobRecord(4711, 0)))


def _make_unknown(cache: Cache, entry: Entry) -> None:
    _drop(cache, entry)
    _put(cache, blob_row(entry.digest.value), None)


_DAMAGE: Final[Mapping[str, Callable[[Cache, Entry], object]]] = {
    "missing": lambda cache, entry: os.unlink(cache.blob_path(entry)),
    "changed": lambda cache, entry: _change(cache.blob_path(entry), b"x" * entry.size),
    "touched": lambda cache, entry: os.chmod(cache.blob_path(entry), 0o644),
    "symlink": lambda cache, entry: _put_symlink(cache.blob_path(entry)),
    "directory": lambda cache, entry: _put_directory(cache.blob_path(entry)),
    "row": lambda cache, entry: _flip(cache, entry.key.row_key),
    "blob-row": lambda cache, entry: _flip(cache, blob_row(entry.digest.value)),
    "unrowed": lambda cache, entry: _put(cache, blob_row(entry.digest.value), None),
    "unused": lambda cache, entry: _put(cache, user_row(entry.digest.value, entry.key), None),
    "resized": _resize_blob_row,
    "unknown": _make_unknown,
    "stale": _make_stale,
}
"""By what an object is named."""

_KINDS: Final = frozenset(ProblemKind) - {ProblemKind.UNREADABLE, ProblemKind.DAMAGED_MARKER}


def _prepare_damage(root: str, ledger: SharedLedger) -> None:
    cache = _fill(root, ledger, KEY, "data/edited", *_DAMAGE)
    for key, damage in _DAMAGE.items():
        damage(cache, _entry(cache, key))
    _leave_unsent(root, ledger)
    cache.close()
    os.mkdir(f"{root}/trash/{_STALE}")


def _write_through_a_link(root: str, ledger: SharedLedger) -> None:
    """Damage the hint of the index, too, which the next process that opens it would repair."""
    local = _path(root, ledger, "data/edited", views="link").fspath
    os.chmod(local, 0o644)
    _write(local, EDITED)
    _write(f"{root}/index-v1/CURRENT", b"no number")


def _prepare_little(root: str, ledger: SharedLedger) -> None:
    cache = _fill(root, ledger, KEY, "touched", "changed", "sound")
    for key in ("touched", "changed"):
        _DAMAGE[key](cache, _entry(cache, key))
    cache.close()


def _prepare_broken_index(root: str, ledger: SharedLedger) -> None:
    _fill(root, ledger, KEY, "one", "two").close()
    with open(f"{root}/index-v1/1/data.mdb", "r+b") as file:
        file.write(bytes(2 * mmap.PAGESIZE))


def _verified(root: str, **how: Any) -> VerifyReport:
    try:
        return casstore.open(root).verify(**how)
    finally:
        casstore.open(root).close()


def _require_kinds(verified: VerifyReport) -> None:
    """Raises WrongBytesError where a kind of damage that is there was not seen, although all could be read."""
    found = {problem.kind for problem in verified.problems}
    if ProblemKind.UNREADABLE not in found and not found >= _KINDS:
        raise WrongBytesError(f"not seen: {sorted(_KINDS - found)}")


def _inspect(root: str, _: SharedLedger) -> None:
    _require_kinds(_verified(root))


def _sample(root: str, _: SharedLedger) -> None:
    random.seed(4)
    _verified(root, sample=0.5)
    _verified(root, newest=2)


def _repair(root: str, _: SharedLedger) -> None:
    _require_kinds(_verified(root, repair=True))


def _reindex(root: str, _: SharedLedger) -> None:
    verified = _verified(root, repair=True)
    if not verified.problems:
        raise WrongBytesError("the damaged index was not seen")


def _finish_repair(root: str) -> Iterator[str]:
    for directory, _directories, names in os.walk(f"{root}/blobs"):
        for name in names:
            if name.endswith("~"):
                os.unlink(f"{directory}/{name}")  # not the name of a blob: the report asks the user to inspect it
    cache = casstore.open(root)
    verified = cache.verify(repair=True)
    if verified.left:
        yield f"another repair leaves {[problem for problem in verified.problems if problem.repair is None]}"
    for problem in cache.verify().problems:
        yield f"after another repair: {problem.kind}: {problem.path}: {problem.detail}"
    if list(_names(f"{root}/trash")):
        yield f"after another repair the trash holds {_names(f'{root}/trash')}"


_DAMAGED: Final[dict[str, Any]] = {
    "objects": _objects("data/edited", *_DAMAGE),
    "arrange": _write_through_a_link,
    "kept": (NEW, EDITED),
    "finish": _finish_repair,
    "is_damaged": True,
}

_FURNISHED: Final[dict[str, Any]] = {
    "objects": _objects("data/before", *_HELD),
    "arrange": _leave_leases,
    "kept": (NEW, EDITED, MADE),
    "judge": _judge_pins,
    "finish": _finish_collection,
}

SCENES: Final = (
    Program("collect", _prepare_collection, _collect, **_FURNISHED),
    Program("clear", _prepare_collection, _clear, **_FURNISHED),
    Program("inspect", _prepare_damage, _inspect, changes=False, **_DAMAGED),
    Program(
        "sample",
        _prepare_little,
        _sample,
        objects=_objects("touched", "changed", "sound"),
        finish=_finish_repair,
        is_damaged=True,
        changes=False,
    ),
    Program("repair", _prepare_damage, _repair, **_DAMAGED),
    Program(
        "reindex",
        _prepare_broken_index,
        _reindex,
        objects=_objects("one", "two"),
        finish=_finish_repair,
        is_damaged=True,
    ),
)
"""`collect` is a `gc` by age, rule and size, `clear` takes all that may go; `inspect`, `sample` and `repair` find
something of every kind wrong, `reindex` the index."""
