"""Read and change an entry's row inside a transaction."""

from __future__ import annotations

from typing import NamedTuple

from casstore.format.keys import Key, blob_row, count_row, user_row
from casstore.format.records import (
    BlobRecord,
    Entry,
    Moment,
    pack_blob,
    pack_count,
    pack_entry,
    unpack_blob,
    unpack_count,
    unpack_entry,
)
from casstore.index.database import Index
from casstore.index.transactions import Txn


class IndexSnapshot(NamedTuple):
    """The index's state of a URI before a request. The result applies only if no local write came between.

    *write_count* is the stripe's number of local writes, *moment* the time just before the request.
    """

    key: Key
    entry: Entry | None
    write_count: int
    generation: int
    moment: Moment


def snapshot(index: Index, key: Key, moment: Moment) -> IndexSnapshot:
    """Read the index before a request."""
    row = count_row(key)

    def look(txn: Txn) -> tuple[bytes | None, bytes | None, int]:
        txn.prefetch((key.row_key, row))
        # The generation of this transaction: outside of it, another one may be open.
        return txn.get(key.row_key), txn.get(row), index.generation

    record, count, generation = index.read(look)
    return IndexSnapshot(key, unpack_entry(key.row_key, record, key), unpack_count(row, count), generation, moment)


def current_entry(rows: Txn | Index, key: Key) -> Entry | None:
    """Return the entry of *key*; None without one, or if it is damaged."""
    return unpack_entry(key.row_key, rows.get(key.row_key), key)


def current_blob(rows: Txn | Index, digest: bytes) -> BlobRecord | None:
    """Return the record of a blob; None without one, or if it is damaged."""
    row = blob_row(digest)
    return unpack_blob(row, rows.get(row))


def put_entry(txn: Txn, entry: Entry, previous: Entry | None, blob: BlobRecord | None) -> None:
    """Set an entry and its user row; remove the previous user row."""
    if previous is not None and previous.digest != entry.digest:
        txn.delete(user_row(previous.digest.value, entry.key))
    txn.put(entry.key.row_key, pack_entry(entry))
    txn.put(user_row(entry.digest.value, entry.key), entry.key.encoded)
    if blob is not None:
        row = blob_row(entry.digest.value)
        txn.put(row, pack_blob(row, blob))


def delete_entry(txn: Txn, entry: Entry) -> None:
    """Delete an entry and its user row; its blob may have no users then."""
    txn.delete(entry.key.row_key)
    txn.delete(user_row(entry.digest.value, entry.key))


def increment_write_count(txn: Txn, key: Key) -> None:
    """Count a local write of this URI: results of earlier requests no longer apply."""
    row = count_row(key)
    txn.put(row, pack_count(row, unpack_count(row, txn.get(row)) + 1))
