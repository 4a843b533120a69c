"""The entries that use a blob."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from casstore.format.keys import HASH_BYTES, Key, user_prefix, user_row
from casstore.format.records import Entry, peek_entry, row_checksum, unpack_entry
from casstore.index.database import Index
from casstore.index.transactions import Txn

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
        return None if self.key is None else unpack_entry(self.key.row_key, self.record, self.key)


def users_of(txn: Txn, digest: bytes) -> list[User]:
    prefix = user_prefix(digest)
    return [_user(txn, digest, row, whole) for row, whole in txn.scan(prefix, prefix, _ALL_USERS)]


def _user(txn: Txn, digest: bytes, row: bytes, encoded: bytes) -> User:
    # A user row has no checksum, but its key contains a hash of its value.
    with contextlib.suppress(ValueError):
        key = Key.parse(encoded)
        record = txn.get(key.row_key) if user_row(digest, key) == row else None
        entry = None if record is None else peek_entry(key, record)
        if record is not None and entry is not None and entry.digest == digest:
            return User(row, key, record)
    return User(row)


def users_checksum(users: Iterable[User]) -> int:
    """Return the checksum over *users*: `Victim.users`."""
    folded = 0
    for user in users:
        folded ^= row_checksum(user.record)
    return folded


def uris_of(index: Index, digest: bytes) -> tuple[str, ...]:
    users = index.read(lambda txn: users_of(txn, digest))
    return tuple(user.key.uri for user in users if user.key is not None)
