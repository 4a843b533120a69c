"""A store with very many entries, whose blobs are sparse files: the cost of processing them all is real.

Each blob is a file with the right name, size, mode and mtime, but without data. Its digest does not match its bytes, so
`verify` would fail. Rows are packed by the store's own functions and written in bulk. A million blobs take one or two
minutes, a million inodes, and about 700 MB for the index and the directories.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import casstore
from casstore.format.digest import name_hash
from casstore.format.keys import blob_row, user_row
from casstore.format.records import BlobRecord, pack_blob, pack_entry
from casstore.index.transactions import Txn

PER_PREFIX: Final = 1000
"""Entries below one prefix that ends in a slash."""

_ORIGIN: Final = "s3|bench"
_ROWS: Final = 20_000
FIRST_HOUR: Final = 480_000
HOURS: Final = 1000
"""Hours of last use since the epoch, equally distributed over the entries."""


def prefix_of(number: int) -> str:
    """Return the prefix of that entry and `PER_PREFIX` - 1 others."""
    return f"s3://bench/data/part-{number // PER_PREFIX:05d}/"


def uri_of(number: int) -> str:
    """Return the URI of that entry."""
    return f"{prefix_of(number)}object-with-a-usual-name-{number:08d}.parquet"


def digest_of(number: int) -> casstore.Digest:
    """Return the digest of that blob; the order of digests is independent of that of URIs."""
    return casstore.Digest("xxh3-128", name_hash(b"%d" % number))


def size_of(number: int) -> int:
    """Return the size of its file."""
    return 4096 + number * 7919 % 200_000


def hour_of(number: int) -> int:
    """Return the hour of its last use; the order is independent, too."""
    return FIRST_HOUR + int.from_bytes(name_hash(b"use %d" % number)[:4], "big") % HOURS


def build(root: Path, entries: int) -> casstore.Cache:
    """Open the store in *root*, and add entries until it has *entries*."""
    cache = casstore.open(root)
    layout = cache.layout
    with ProcessPoolExecutor(2) as pool:
        parts = pool.map(_add_files, [str(root)] * 64, *zip(*_split(entries, 64), strict=True))
        missing = [number for part in parts for number in part]
    _put_rows(cache, (_entry_row(cache, number) for number in missing))
    digests = sorted((digest_of(number).value, number) for number in missing)
    # In key order, which the tree inserts many times faster.
    _put_rows(cache, (_blob_row(digest, number) for digest, number in digests))
    _put_rows(cache, (_user_row(digest, number) for digest, number in digests))
    assert not missing or os.path.exists(layout.blob(digests[0][0]))
    return cache


def add_unused(cache: casstore.Cache, count: int, seed: int, *, rows: bool) -> list[bytes]:
    """Add blobs that no entry uses, with or without *rows*; return their digests, in no order."""
    digests = [name_hash(b"unused %d %d" % (seed, number)) for number in range(count)]
    for digest in digests:
        _add_file(cache.layout.blob(digest), size_of(0), casstore.Digest("xxh3-128", digest).mtime)
    if rows:
        _put_rows(cache, (_blob_row(digest, 0) for digest in sorted(digests)))
    return digests


def _split(count: int, parts: int) -> Iterator[tuple[int, int]]:
    for part in range(parts):
        yield count * part // parts, count * (part + 1) // parts


def _add_files(root: str, first: int, end: int) -> list[int]:
    made = []
    for number in range(first, end):
        digest = digest_of(number)
        name = digest.value.hex()
        if _add_file(f"{root}/blobs/{name[:2]}/{name[2:]}", size_of(number), digest.mtime):
            made.append(number)
    return made


def _add_file(path: str, size: int, mtime: int) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _add_file(path, size, mtime)
    os.ftruncate(descriptor, size)
    os.utime(descriptor, (mtime, mtime))
    os.close(descriptor)
    return True


def _put_rows(cache: casstore.Cache, rows: Iterable[tuple[bytes, bytes]]) -> None:
    left = iter(rows)
    while batch := list(islice(left, _ROWS)):
        cache.index.write(partial(_put_batch, batch))


def _put_batch(batch: Sequence[tuple[bytes, bytes]], txn: Txn) -> None:
    for row, record in batch:
        txn.put(row, record)


def _entry_row(cache: casstore.Cache, number: int) -> tuple[bytes, bytes]:
    key = casstore.Key(uri_of(number), _ORIGIN)
    hour = hour_of(number)
    moment = casstore.Moment(hour * 3600 * 10**9 + number * 10**6, 10**9, 1)
    validator = casstore.Validator(size_of(number), "0123456789abcdef0123456789abcdef", mtime_ns=10**18)
    return key.row_key, pack_entry(casstore.Entry(key, digest_of(number), validator, moment, cache.boot_mount, hour))


def _blob_row(digest: bytes, number: int) -> tuple[bytes, bytes]:
    row = blob_row(digest)
    return row, pack_blob(row, BlobRecord(size_of(number), 0))


def _user_row(digest: bytes, number: int) -> tuple[bytes, bytes]:
    key = casstore.Key(uri_of(number), _ORIGIN)
    return user_row(digest, key), key.encoded
