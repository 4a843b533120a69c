"""An independent parser of the index, which uses none of the code under test.

`casstore.format.records` describes the format; it is implemented here a second time on purpose.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import lmdb
import xxhash

_HEAD: Final = struct.Struct("<BBBQqQIqQqQHHH")
_BLOB: Final = struct.Struct("<BQQ")
_SCORES: Final = struct.Struct("<BQQdddd")
_GHOST: Final = struct.Struct("<B6sBQ")
_LENGTHS: Final = {1: 16, 2: 32, 3: 32}
_HAS_ETAG, _HAS_VERSION = 4, 8


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry; *place* is 0 if the row says that the bytes are on the disk."""

    row: bytes
    uri: str
    origin: str
    whole: bytes
    digest: bytes
    size: int
    place: int
    etag: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob's row."""

    size: int
    place: int


@dataclass(slots=True)
class Rows:
    """The rows of one generation of the index; *damaged* lists invalid ones."""

    entries: list[EntryRow] = field(default_factory=list)
    blobs: dict[bytes, BlobRow] = field(default_factory=dict)
    users: dict[bytes, bytes] = field(default_factory=dict)
    stated: dict[bytes, bytes] = field(default_factory=dict)
    evictions: int = 0
    evicted: dict[bytes, int] = field(default_factory=dict)
    """Return the eviction that a row records."""
    damaged: list[str] = field(default_factory=list)
    generation: int = 0


def read_rows(root: str, scratch: str) -> Rows:
    """Read the live generation from a copy of its file, while no process writes to it."""
    rows = Rows()
    rows.generation = number = live_generation(root)
    data = f"{root}/index-v1/{number}/data.mdb"
    if not number or not os.path.exists(data) or not os.path.getsize(data):
        return rows
    copy = f"{scratch}/index-copy"
    shutil.rmtree(copy, ignore_errors=True)
    os.makedirs(copy)
    shutil.copyfile(data, f"{copy}/data.mdb")
    try:
        environment = lmdb.open(copy, readonly=True, lock=False, map_size=1 << 32, lib_version=0)
    except lmdb.Error as error:
        rows.damaged.append(f"the index cannot be opened: {error}")
        return rows
    try:
        with environment.begin() as txn:
            _sort(rows, ((bytes(row), bytes(record)) for row, record in txn.cursor()))
        for row, number in rows.evicted.items():
            if not 0 < number <= rows.evictions:
                rows.damaged.append(f"row {row!r} is of eviction {number} of {rows.evictions}")
    except (lmdb.Error, struct.error, ValueError, KeyError) as error:
        rows.damaged.append(f"the index cannot be read: {error!r}")
    finally:
        environment.close()
    return rows


def live_generation(root: str) -> int:
    """Return the last generation of the chain from CURRENT, or from the highest number; 0 if there is none."""
    index = f"{root}/index-v1"
    try:
        with open(f"{index}/CURRENT", encoding="ascii") as file:
            number = int(file.read())
    except (OSError, ValueError):
        present = [int(name) for name in os.listdir(index) if name.isdecimal()] if os.path.isdir(index) else []
        number = max(present, default=0)
    while os.path.exists(f"{index}/{number}/NEXT"):
        number += 1
    return number


def _sort(rows: Rows, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    for row, record in pairs:
        kind, value = row[:1], record[:-8]
        if kind == b"U":
            rows.users[row] = record
            continue
        if row == b"R":
            continue  # the reserve of a new index, whose creator was killed
        if len(record) < 9 or struct.unpack("<Q", record[-8:])[0] != xxhash.xxh3_64_intdigest(row + value):
            rows.damaged.append(f"the checksum of row {row[:60]!r} is wrong")
        elif value[0] != 1:
            rows.damaged.append(f"row {row[:60]!r} has version {value[0]}")
        elif kind == b"E":
            rows.entries.append(_entry(row, value))
        elif kind == b"B":
            rows.blobs[row[1:]] = BlobRow(*_BLOB.unpack(value)[1:])
        elif kind == b"C":
            rows.stated[row] = value[3:]
        elif row == b"P":
            rows.evictions = _SCORES.unpack(value)[1]
        elif kind == b"P" and len(row) == 3:
            rows.evicted[row] = _GHOST.unpack(value)[3]
        elif kind != b"N":
            rows.damaged.append(f"row {row[:60]!r} is of no known kind")


def _entry(row: bytes, value: bytes) -> EntryRow:
    fields = _HEAD.unpack_from(value)
    flags, algorithm, size, place, etag_length, version_length, whole_length = fields[1:4] + (fields[5],) + fields[11:]
    at = _HEAD.size + _LENGTHS[algorithm]
    digest = value[_HEAD.size : at]
    etag = value[at : at + etag_length].decode()
    version = value[at + etag_length : at + etag_length + version_length].decode()
    whole = value[at + etag_length + version_length :] if whole_length else row[1:]
    uri, _, origin = whole.decode().rpartition("\0")
    return EntryRow(
        row,
        uri,
        origin,
        whole,
        digest,
        size,
        place,
        etag if flags & _HAS_ETAG else None,
        version if flags & _HAS_VERSION else None,
    )
