"""Mark blobs as synced in the index, many at a time.

Blobs are not synced one by one. Their rows name the boot and mount that wrote them; on another one, a blob is hashed
before its first use. One `syncfs` saves that for all rows committed before it began.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import Inode
from casstore.format.digest import Digest
from casstore.format.keys import ENTRY, blob_row
from casstore.format.layout import Layout
from casstore.format.records import BlobRecord, pack_entry, row_checksum, unpack_blob, unpack_entry
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.entries import put_blob
from casstore.index.transactions import Txn

_ROWS_PER_SYNC: Final = 8192  # some 3 MB
_BATCH: Final = 256  # rows per write transaction


@dataclass(frozen=True, slots=True)
class _UnsyncedBlob:
    """A committed row before the sync: its checksum, and its blob's inode and row."""

    row: bytes
    checksum: int
    digest: Digest
    inode: Inode
    blob: bytes | None


def mark_synced(index: Index, layout: Layout, blobs: BlobStore, boot_mount: int) -> int:
    """Sync the file system and mark the entries of *boot_mount* as synced; return how many.

    Skips a row that changed meanwhile, or whose blob did. Marks none if the sync fails or its failure is undetectable.
    """
    marked = 0
    unsynced = _unsynced(index, blobs, boot_mount)
    while rows := list(islice(unsynced, _ROWS_PER_SYNC)):
        # Starts after the rows were read, hence after they were committed.
        if not files.sync_file_system(layout.blobs):
            break
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            marked += index.write(partial(_mark_batch, blobs=blobs, rows=batch))
    return marked


def _unsynced(index: Index, blobs: BlobStore, place: int) -> Iterator[_UnsyncedBlob]:
    for row, record in index.scan(ENTRY):
        entry = unpack_entry(row, record)
        if entry is not None and entry.written_on == place:
            inode = blobs.inode(entry.digest)
            if inode is not None:
                blob = index.get(blob_row(entry.digest.value))
                yield _UnsyncedBlob(row, row_checksum(record), entry.digest, inode, blob)


def _mark_batch(txn: Txn, blobs: BlobStore, rows: Sequence[_UnsyncedBlob]) -> int:
    marked = 0
    for seen in rows:
        record = txn.get(seen.row)
        entry = unpack_entry(seen.row, record)
        if record is None or entry is None or row_checksum(record) != seen.checksum:
            continue
        if blobs.inode(seen.digest) != seen.inode:
            continue
        txn.put(seen.row, pack_entry(replace(entry, written_on=0)))
        row = blob_row(seen.digest.value)
        blob = unpack_blob(row, seen.blob)
        if blob is not None and txn.get(row) == seen.blob:
            put_blob(txn, seen.digest.value, BlobRecord(blob.size, 0))
        marked += 1
    return marked
