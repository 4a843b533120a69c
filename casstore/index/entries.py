"""Read and change an entry's rows inside a transaction, and find the entries that use a blob."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from casstore.format import records
from casstore.format.keys import HASH_BYTES, Key, blob_row, count_row, user_prefix, user_row
from casstore.format.records import BlobRecord, Entry, Moment
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
    entry = records.unpack_entry(key.row_key, record, key)
    return IndexSnapshot(key, entry, records.unpack_count(row, count), generation, moment)


def current_entry(rows: Txn | Index, key: Key) -> Entry | None:
    """Return the entry of *key*; None without one, or if it is damaged."""
    return records.unpack_entry(key.row_key, rows.get(key.row_key), key)


def current_blob(rows: Txn | Index, digest: bytes) -> BlobRecord | None:
    """Return the record of a blob; None without one, or if it is damaged."""
    row = blob_row(digest)
    return records.unpack_blob(row, rows.get(row))


def put_blob(txn: Txn, digest: bytes, record: BlobRecord) -> None:
    row = blob_row(digest)
    txn.put(row, records.pack_blob(row, record))


def put_entry(txn: Txn, entry: Entry, previous: Entry | None, blob: BlobRecord | None) -> None:
    """Set an entry and its user row; remove the previous user row."""
    if previous is not None and previous.digest != entry.digest:
        txn.delete(user_row(previous.digest.value, entry.key))
    txn.put(entry.key.row_key, records.pack_entry(entry))
    txn.put(user_row(entry.digest.value, entry.key), entry.key.encoded)
    if blob is not None:
        put_blob(txn, entry.digest.value, blob)


def delete_entry(txn: Txn, entry: Entry) -> None:
    """Delete an entry and its user row; its blob may have no users then."""
    txn.delete(entry.key.row_key)
    txn.delete(user_row(entry.digest.value, entry.key))


def increment_write_count(txn: Txn, key: Key) -> None:
    """Count a local write of this URI: results of earlier requests no longer apply."""
    row = count_row(key)
    txn.put(row, records.pack_count(row, records.unpack_count(row, txn.get(row)) + 1))


_ALL_USERS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class User:
    """A row that says that an entry uses a blob, with that entry's *key* and *record*.

    Without them, the entry is gone, damaged or uses another blob.
    """

    row: bytes
    key: Key | None = None
    record: bytes = b""

    @property
    def name(self) -> bytes:
        """The bytes of the entry's `Key.name`."""
        return self.row[-HASH_BYTES:]

    @property
    def entry(self) -> Entry | None:
        return None if self.key is None else records.unpack_entry(self.key.row_key, self.record, self.key)


def users_of(txn: Txn, digest: bytes, limit: int = _ALL_USERS) -> list[User]:
    prefix = user_prefix(digest)
    return [_user(txn, digest, row, whole) for row, whole in txn.scan(prefix, prefix, limit)]


def drop_users(txn: Txn, digest: bytes, limit: int = _ALL_USERS) -> list[str]:
    """Drop the entries that use a blob, up to *limit*; return their URIs."""
    users = users_of(txn, digest, limit)
    for user in users:
        txn.delete(user.row)
        if user.key is not None:
            txn.delete(user.key.row_key)
    return [user.key.uri for user in users if user.key is not None]


def _user(txn: Txn, digest: bytes, row: bytes, encoded: bytes) -> User:
    # A user row has no checksum, but its key contains a hash of its value.
    with contextlib.suppress(ValueError):
        key = Key.parse(encoded)
        record = txn.get(key.row_key) if user_row(digest, key) == row else None
        entry = None if record is None else records.peek_entry(key, record)
        if record is not None and entry is not None and entry.digest == digest:
            return User(row, key, record)
    return User(row)


def users_checksum(users: Iterable[User]) -> int:
    """Return the checksum over *users*: `Victim.users`."""
    folded = 0
    for user in users:
        folded ^= records.row_checksum(user.record)
    return folded


def uris_of(index: Index, digest: bytes) -> tuple[str, ...]:
    users = index.read(lambda txn: users_of(txn, digest))
    return tuple(user.key.uri for user in users if user.key is not None)
