"""Rows turn to synced after a sync that began after them and did not fail, and only if nothing changed meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

import casstore
from casstore import Cache
from casstore.format.keys import blob_row
from casstore.format.records import BlobRecord, pack_blob, unpack_blob
from casstore.fs import files
from casstore.index.entries import put_entry
from tests.casstore.support.fill import fill, key_of


def _place(cache: Cache, name: str) -> int:
    entry = cache.lookup(key_of(name))
    assert entry is not None
    return entry.written_on


def _during(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], *, result: bool = True) -> None:
    """Do *work* while the sync is going on, which ends with *result*."""

    def sync(path: str) -> bool:
        work()
        return result

    monkeypatch.setattr(files, "sync_file_system", sync)


def test_a_sync_turns_the_rows_that_were_there_before_it(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        fill(cache, key_of(name), b"shared")
    _during(monkeypatch, lambda: fill(cache, key_of("later"), b"later"))
    assert cache.mark_synced() == 2
    assert (_place(cache, "a"), _place(cache, "b"), _place(cache, "later")) == (0, 0, cache.boot_mount)
    entry = cache.lookup(key_of("a"))
    assert entry is not None
    row = blob_row(entry.digest.value)
    record = cache.index.get(row)
    assert record is not None
    blob = unpack_blob(row, record)
    assert blob is not None and blob.written_on == 0


def test_a_row_that_changed_during_the_sync_is_left_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    changed = replace(entry, last_used_hour=entry.last_used_hour + 1)
    _during(monkeypatch, lambda: cache.index.write(lambda txn: put_entry(txn, changed, entry, None)))
    assert cache.mark_synced() == 0
    assert _place(cache, "a") == cache.boot_mount


def test_a_blob_that_was_replaced_during_the_sync_is_left_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    path = cache.blob_path(entry)

    def replace_blob() -> None:
        os.rename(path, path + ".old")  # which keeps its inode number from being used again
        with open(path, "wb") as file:
            file.write(b"bytes")

    _during(monkeypatch, replace_blob)
    assert cache.mark_synced() == 0
    assert _place(cache, "a") == cache.boot_mount


def test_a_row_of_a_blob_that_changed_during_the_sync_is_left_alone(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = blob_row(fill(cache, key_of("a"), b"bytes").digest.value)
    changed = pack_blob(row, BlobRecord(7, cache.boot_mount))
    _during(monkeypatch, lambda: cache.index.write(lambda txn: txn.put(row, changed)))
    assert cache.mark_synced() == 1
    assert cache.index.get(row) == changed


def test_a_sync_that_fails_changes_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, key_of("a"), b"bytes")
    _during(monkeypatch, lambda: None, result=False)
    assert cache.mark_synced() == 0
    assert _place(cache, "a") == cache.boot_mount


def test_rows_of_another_boot_are_not_turned(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    older = replace(entry, written_on=cache.boot_mount ^ 2)
    cache.index.write(lambda txn: put_entry(txn, older, entry, None))
    _during(monkeypatch, lambda: None)
    assert cache.mark_synced() == 0
    assert _place(cache, "a") == older.written_on


@pytest.mark.parametrize("release", ["5.7.19-generic", "4.19.0", "unknown"])
def test_a_kernel_that_tells_no_failures_counts_as_one_that_failed(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((uname[0], uname[1], release, uname[3], uname[4])))
    assert files.sync_file_system(cache.root) is False
