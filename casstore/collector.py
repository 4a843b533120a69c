"""Taking entries and blobs away, safely while others read and fill.

Evict drops rows and commits; sweep then takes away, inside write transactions, the blobs that no entry uses. A crash
between the two leaves blobs without users, never entries without a blob.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from casstore import files
from casstore.digest import Digest
from casstore.index import Index, Txn
from casstore.items import current_entry, drop_entry
from casstore.layout import Layout
from casstore.records import Entry, blob_row, user_prefix

SWEEP_BATCH: Final = 64
"""Blobs that one write transaction takes away: writers wait some 20 ms for it."""

_EVICT_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Freed:
    """What an eviction took away: *entries* rows, and *blobs* files of *bytes* that nobody else used."""

    entries: int
    blobs: int
    bytes: int


def evict(index: Index, layout: Layout, doomed: Sequence[Entry]) -> Freed:
    """Drop those of *doomed* that still stand as they were seen, then sweep their blobs."""
    dropped = 0
    for start in range(0, len(doomed), _EVICT_BATCH):
        with index.writing() as txn:
            for entry in doomed[start : start + _EVICT_BATCH]:
                current = current_entry(txn, entry.key)
                if current is not None and current.same_content(entry):
                    drop_entry(txn, current)
                    dropped += 1
    digests = list({entry.digest.value: entry.digest for entry in doomed}.values())
    blobs, size = sweep(index, layout, digests)
    return Freed(dropped, blobs, size)


def sweep(index: Index, layout: Layout, digests: Sequence[Digest]) -> tuple[int, int]:
    """Take away those blobs that no entry uses; what came back into use stays. Returns blobs and bytes freed."""
    blobs = size = 0
    for start in range(0, len(digests), SWEEP_BATCH):
        trash: list[str] = []
        # A writer publishes inside its own write transaction and checks there that its blob is the one it linked. This
        # one re-checks use and takes the file away inside its transaction. One of the two runs first; either is right.
        with index.writing() as txn:
            for digest in digests[start : start + SWEEP_BATCH]:
                size += _sweep_one(txn, layout, digest, trash)
        for path in trash:
            files.unlink_quietly(path)
        blobs += len(trash)
    return blobs, size


def _sweep_one(txn: Txn, layout: Layout, digest: Digest, trash: list[str]) -> int:
    prefix = user_prefix(digest.value)
    if txn.scan(prefix, prefix, 1):
        return 0
    txn.delete(blob_row(digest.value))
    path, target = layout.blob(digest.value), layout.trashed(os.urandom(8).hex())
    try:
        size = os.stat(path).st_size
        files.rename(path, target)
    except FileNotFoundError:
        return 0
    trash.append(target)
    return size
