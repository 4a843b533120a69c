"""Rows that say which entries use a blob: what is damaged in one names no entry."""

from __future__ import annotations

import casstore
from casstore.format.keys import user_row
from casstore.index.entries import User, users_of
from tests.casstore.support.fill import fill, key_of


def test_a_row_whose_value_is_another_key_names_no_entry(cache: casstore.Cache) -> None:
    """A row has no checksum of its own; its key has a hash of its value."""
    entry = fill(cache, key_of("one"), b"shared")
    fill(cache, key_of("two"), b"shared")
    digest, row = entry.digest.value, user_row(entry.digest.value, key_of("one"))
    cache.index.write(lambda txn: txn.put(row, key_of("two").encoded))
    users = cache.index.read(lambda txn: users_of(txn, digest))
    assert User(row) in users
    assert [user.key for user in users if user.key is not None] == [key_of("two")]
