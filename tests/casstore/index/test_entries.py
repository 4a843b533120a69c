"""An entry and the row that says that it uses its blob: both, or none."""

from __future__ import annotations

import casstore
from casstore.index.entries import uris_of, users_of
from tests.casstore.support.fill import fill, key_of


def _users(cache: casstore.Cache, entry: casstore.Entry) -> int:
    return len(cache.index.read(lambda txn: users_of(txn, entry.digest.value)))


def test_an_entry_that_is_deleted_uses_its_blob_no_longer(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")
    assert (_users(cache, entry), uris_of(cache.index, entry.digest.value)) == (1, ("s3://bucket/k",))
    cache.record_delete(key_of("k"))
    assert _users(cache, entry) == 0


def test_an_entry_with_other_bytes_uses_its_old_blob_no_longer(cache: casstore.Cache) -> None:
    old = fill(cache, key_of("k"), b"old", "e1")
    new = fill(cache, key_of("k"), b"new", "e2")
    assert (_users(cache, old), _users(cache, new)) == (0, 1)
