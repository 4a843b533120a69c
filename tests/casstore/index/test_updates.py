"""When an update of the index applies: to the row that it was made for, and to no newer fact."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

import casstore
from casstore.blobs.staging import Inode
from casstore.format.keys import blob_row
from casstore.format.records import BlobRecord, pack_blob, pack_entry, unpack_blob
from casstore.fs import files
from casstore.index.entries import delete_entry
from casstore.index.transactions import Txn
from casstore.index.updates import TouchEntry
from tests.casstore.support.fill import fill, key_of

KEY = key_of("k")
HOUR_NS = 3600 * 10**9


def _row(cache: casstore.Cache) -> casstore.Entry:
    cache.flush()
    entry = cache.stat(KEY.uri)
    assert entry is not None
    return entry


def _touch(cache: casstore.Cache, update: TouchEntry) -> casstore.Entry:
    """Apply *update*; the row after it."""
    cache.committer.submit(update)
    return _row(cache)


def test_an_older_validation_leaves_a_newer_one(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    now = entry.validated
    older = replace(now, wall_ns=now.wall_ns - HOUR_NS, boot_ns=now.boot_ns - 1)
    assert _touch(cache, TouchEntry(entry, validated=older)).validated == now
    newer = replace(now, boot_ns=now.boot_ns + 1)
    assert _touch(cache, TouchEntry(entry, validated=newer)).validated == newer


def test_a_validation_of_a_clock_that_was_ahead_does_not_stay(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    ahead = replace(entry, validated=replace(entry.validated, boot_ns=entry.validated.boot_ns + HOUR_NS))
    cache.index.write(lambda txn: txn.put(KEY.row_key, pack_entry(ahead)))
    now = replace(entry.validated, boot_ns=entry.validated.boot_ns + 1)
    assert _touch(cache, TouchEntry(ahead, validated=now)).validated == now


@pytest.mark.parametrize(
    ("hours", "is_kept"), [(-1, True), (1, False), (None, False)], ids=["older", "newer", "row of the future"]
)
def test_validations_of_two_boots_are_compared_by_wall_time(
    cache: casstore.Cache, hours: int | None, is_kept: bool
) -> None:
    entry = fill(cache, KEY, b"bytes")
    now = entry.validated
    if hours is None:  # the clock was set back since
        entry = replace(entry, validated=replace(now, wall_ns=now.wall_ns + HOUR_NS, boot_ns=now.boot_ns + 1))
        assert _touch(cache, TouchEntry(entry, validated=entry.validated)).validated == entry.validated
    other_boot = replace(now, boot=now.boot ^ 1, boot_ns=1, wall_ns=now.wall_ns + (hours or 0) * HOUR_NS)
    row = _touch(cache, TouchEntry(entry, validated=other_boot))
    assert (row.validated == entry.validated) is is_kept


def test_an_earlier_hour_of_use_leaves_a_later_one(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    assert _touch(cache, TouchEntry(entry, last_used_hour=1)).last_used_hour == entry.last_used_hour


def test_an_update_for_another_version_changes_nothing(cache: casstore.Cache) -> None:
    old = fill(cache, KEY, b"old", "e1")
    new = fill(cache, KEY, b"new", "e2")
    later = replace(new.validated, boot_ns=new.validated.boot_ns + 1)
    assert _touch(cache, TouchEntry(old, validated=later, last_used_hour=new.last_used_hour + 1)) == new


def test_only_the_file_that_was_synced_counts_as_synced(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    inode = Inode.of(os.stat(cache.blob_path(entry)))
    other = Inode(inode.device, inode.number + 1)
    assert _touch(cache, TouchEntry(entry, synced_inode=other)).written_on == cache.boot_mount != 0
    assert _touch(cache, TouchEntry(entry, synced_inode=inode)).written_on == 0


def test_a_new_file_is_not_marked_as_synced_because_of_a_row_that_a_killed_sweep_left(root: Path) -> None:
    cache = casstore.open(root, digest="sha256")
    entry = fill(cache, KEY, b"bytes")
    row = blob_row(entry.digest.value)
    os.unlink(cache.blob_path(entry))

    def replace_row(txn: Txn) -> None:
        delete_entry(txn, entry)
        txn.put(row, pack_blob(row, BlobRecord(5, 0)))

    cache.index.write(replace_row)
    assert fill(cache, KEY, b"bytes").written_on == cache.boot_mount != 0
    assert _row(cache).written_on == cache.boot_mount
    assert unpack_blob(row, cache.index.get(row)) == BlobRecord(5, cache.boot_mount)


def test_a_copy_of_a_blob_that_was_swept_twice_is_synced_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = casstore.open(root, digest="sha256")
    entry = fill(cache, key_of("old"), b"bytes")
    os.unlink(cache.blob_path(entry))  # its entry stays, so that the next file of this name is synced
    synced: list[int] = []
    sync = files.sync

    def sync_and_sweep(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)
        if len(synced) == 1:
            os.unlink(cache.blob_path(entry))

    monkeypatch.setattr(files, "sync", sync_and_sweep)
    fill(cache, KEY, b"bytes")
    assert os.stat(cache.blob_path(entry)).st_ino == synced[-1] != synced[0]
