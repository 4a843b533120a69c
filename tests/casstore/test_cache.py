"""The cache as its users see it: right bytes or a miss, whatever happened to the files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import casstore
from casstore import Condition, Moment, PendingState, ProviderChecksum, Validator
from casstore.format.digest import raw_hash
from casstore.format.records import pack_entry
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.updates import TouchEntry
from casstore.reading import blob_checker as statements
from tests.casstore.support.fill import fill, hand_out, key_of, read, view
from tests.casstore.support.threads import refilling, repeating
from tests.harness.sampling import by_pass

KEY = key_of("k")
HOUR = 3600 * 10**9


def _rewrite(cache: casstore.Cache, entry: casstore.Entry) -> None:
    """Put a row by hand."""
    cache.index.write(lambda txn: txn.put(entry.key.row_key, pack_entry(entry)))


def _is_fresh(cache: casstore.Cache, max_age_ns: int | None) -> bool:
    descriptor = cache.open_fresh(KEY, max_age_ns)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def test_an_entry_is_fresh_within_its_age_and_never_from_the_future(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    assert _is_fresh(cache, None)
    assert _is_fresh(cache, HOUR)
    now = cache.now()
    _rewrite(cache, replace(entry, validated=replace(now, wall_ns=now.wall_ns - 2 * HOUR)))
    assert not _is_fresh(cache, HOUR)
    assert _is_fresh(cache, 3 * HOUR)
    _rewrite(cache, replace(entry, validated=replace(now, wall_ns=now.wall_ns + HOUR)))
    assert not _is_fresh(cache, HOUR)
    assert _is_fresh(cache, None)


def test_a_refresh_makes_an_old_entry_fresh(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    old = replace(entry, validated=Moment(1, 1, 1))
    _rewrite(cache, old)
    cache.refresh(old, cache.now())
    cache.flush()
    assert _is_fresh(cache, HOUR)


def test_the_hour_of_the_last_use_is_kept(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    _rewrite(cache, replace(entry, last_used_hour=5))
    assert _is_fresh(cache, None)
    cache.flush()
    assert cache.lookup(KEY).last_used_hour >= entry.last_used_hour  # type: ignore[union-attr]


def test_what_was_filled_is_seen_before_it_is_committed(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    from casstore.index import committer

    monkeypatch.setattr(committer, "WINDOW_QUIET", 30.0)
    with cache.begin(KEY) as filling:
        filling.write(b"bytes")
        os.close(filling.publish(Validator(5, "e")).descriptor)
    assert cache.lookup(KEY) is not None
    assert read(cache, KEY) == b"bytes"
    cache.flush()
    assert cache.recent._entries == {}
    assert read(cache, KEY) == b"bytes"


def test_a_touched_blob_with_right_bytes_is_replaced_by_a_copy_and_served(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    path = cache.blob_path(entry)
    with open(path, "rb") as held:
        os.utime(path)
        touched = os.stat(path)
        assert cache.open_fresh(KEY, None) is None
        assert read(cache, KEY) == b"bytes"
        # The file that somebody has open is left as it was.
        assert os.fstat(held.fileno()).st_mtime_ns == touched.st_mtime_ns
    assert os.stat(path).st_ino != touched.st_ino
    assert _is_fresh(cache, None)
    assert os.listdir(cache.layout.quarantine) == os.listdir(cache.layout.trash) == []


def _plant(cache: casstore.Cache, entry: casstore.Entry, data: bytes) -> None:
    """Put a file of another user, with the right size and mtime, in the place of the entry's blob."""
    path = Path(cache.blob_path(entry))
    made = path.stat().st_mtime_ns
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, ns=(made, made))
    os.chown(path, 4711, -1)


@pytest.mark.needs_root
@pytest.mark.parametrize("digest", ["xxh3-128", "sha256"])
def test_a_file_of_another_user_is_never_served_as_a_blob(root: Path, digest: str) -> None:
    cache = casstore.open(root, digest=digest)
    entry = fill(cache, KEY, b"right bytes")
    _plant(cache, entry, b"EVIL  bytes")
    assert cache.open_fresh(KEY, None) is None
    assert read(cache, KEY) is None
    _plant(cache, fill(cache, KEY, b"right bytes", "e2"), b"right bytes")
    assert read(cache, KEY) == b"right bytes"
    assert os.stat(cache.blob_path(entry)).st_uid == 0
    # Neither is one that is there when the same bytes arrive again.
    other = key_of("other")
    for data in (b"EVIL  bytes", b"right bytes"):
        _plant(cache, entry, data)
        fill(cache, other, b"right bytes", data.hex())
        assert read(cache, other) == b"right bytes"
        assert os.stat(cache.blob_path(entry)).st_uid == 0


def test_a_copy_that_takes_a_blobs_place_is_synced_since_rows_may_say_so(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, KEY, b"bytes")
    os.utime(cache.blob_path(entry))
    synced: list[int] = []
    monkeypatch.setattr(files, "sync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    assert read(cache, KEY) == b"bytes"
    assert synced == [os.stat(cache.blob_path(entry)).st_ino]


@pytest.mark.parametrize("data", [b"BYTES", b"", b"bytes and more"])
def test_a_touched_blob_with_wrong_bytes_is_quarantined_and_a_miss(cache: casstore.Cache, data: bytes) -> None:
    entry = fill(cache, KEY, b"bytes")
    path = Path(cache.blob_path(entry))
    path.chmod(0o600)
    path.write_bytes(data)
    assert read(cache, KEY) is None
    assert not path.exists()
    assert len(os.listdir(cache.layout.quarantine)) == 2
    fill(cache, KEY, b"bytes", "e2")
    assert read(cache, KEY) == b"bytes"


@pytest.mark.parametrize(
    "plant", [os.mkdir, lambda path: os.symlink("/etc/hostname", path), lambda _: None], ids=["dir", "link", "none"]
)
def test_something_else_in_a_blobs_place_is_a_miss(cache: casstore.Cache, plant: Callable[[str], None]) -> None:
    entry = fill(cache, KEY, b"bytes")
    os.unlink(cache.blob_path(entry))
    plant(cache.blob_path(entry))
    assert read(cache, KEY) is None
    fill(cache, KEY, b"bytes", "e2")
    assert read(cache, KEY) == b"bytes"


def _rot(path: str) -> None:
    """Wrong bytes that keep size and mtime."""
    status = os.stat(path)
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_always_finds_rotten_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_VERIFY", "always")
    cache = casstore.open(root)
    entry = fill(cache, KEY, b"bytes")
    assert read(cache, KEY) == b"bytes"
    _rot(cache.blob_path(entry))
    assert read(cache, KEY) is None
    assert cache.counts()["damaged_blobs"] == 1


def test_one_open_can_be_verified(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    _rot(cache.blob_path(entry))
    assert cache.open_entry(entry, verify=True) is None


def test_an_unsynced_blob_of_an_earlier_boot_is_checked_and_synced(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    _rewrite(cache, replace(entry, written_on=cache.boot_mount + 2))
    assert cache.open_fresh(KEY, None) is None
    assert read(cache, KEY) == b"bytes"
    cache.flush()
    assert cache.lookup(KEY).written_on == 0  # type: ignore[union-attr]
    assert _is_fresh(cache, None)


def test_an_unsynced_blob_of_an_earlier_boot_with_wrong_bytes_is_a_miss(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    _rewrite(cache, replace(entry, written_on=cache.boot_mount + 2))
    _rot(cache.blob_path(entry))
    assert read(cache, KEY) is None


def test_a_blob_that_the_disk_did_not_take_stays_in_doubt(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "disk")

    entry = fill(cache, KEY, b"bytes")
    _rewrite(cache, replace(entry, written_on=cache.boot_mount + 2))
    monkeypatch.setattr(files, "sync", fail)
    assert read(cache, KEY) == b"bytes"
    cache.flush()
    assert cache.lookup(KEY).written_on == cache.boot_mount + 2  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["md5", "etag-md5", "sha1", "sha256"])
def test_a_true_statement_is_proved_and_finds_the_bytes(
    cache: casstore.Cache, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = ProviderChecksum("s3", kind, hashlib.new(kind.removeprefix("etag-"), b"bytes").hexdigest(), 5)
    fill(cache, KEY, b"bytes", "e", (stated,))
    proofs: list[str] = []

    def note_and_hash(descriptor: int, algorithm: str) -> bytes:
        proofs.append(algorithm)
        return raw_hash(descriptor, algorithm)

    monkeypatch.setattr(statements, "raw_hash", note_and_hash)
    assert cache.may_have_checksum([stated])
    for _ in range(2):
        found = cache.find_by_checksum([stated])
        assert found is not None
        with open(found[1], "rb") as file:
            assert file.read() == b"bytes"
        cache.flush()
    # A proof is remembered by the blob's digest, which is not cryptographic: enough for MD5, which is not, either.
    assert len(proofs) == (2 if kind == "sha256" else 1)


def test_a_wrong_statement_never_links_and_is_forgotten(cache: casstore.Cache) -> None:
    lie = ProviderChecksum("s3", "md5", hashlib.md5(b"other").hexdigest(), 5)
    fill(cache, KEY, b"bytes", "e", (lie,))
    assert cache.find_by_checksum([lie]) is None
    cache.flush()
    assert not cache.may_have_checksum([lie])


def test_a_statement_that_cannot_be_computed_never_links(cache: casstore.Cache) -> None:
    multipart = ProviderChecksum("s3", "etag", "0123-2", 5)
    fill(cache, KEY, b"bytes", "e", (multipart,))
    assert cache.find_by_checksum([multipart]) is None
    assert not cache.may_have_checksum([multipart])


def test_a_statement_about_a_lost_or_doubtful_blob_finds_nothing(cache: casstore.Cache) -> None:
    stated = ProviderChecksum("s3", "md5", hashlib.md5(b"bytes").hexdigest(), 5)
    entry = fill(cache, KEY, b"bytes", "e", (stated,))
    cache.checker._boot_mount += 2  # another boot
    assert cache.find_by_checksum([stated]) is None
    cache.checker._boot_mount -= 2
    os.unlink(cache.blob_path(entry))
    assert cache.find_by_checksum([stated]) is None


def test_a_linked_entry_shares_the_blob(cache: casstore.Cache) -> None:
    stated = ProviderChecksum("s3", "md5", hashlib.md5(b"bytes").hexdigest(), 5)
    fill(cache, KEY, b"bytes", "e", (stated,))
    found = cache.find_by_checksum([stated])
    assert found is not None
    with cache.begin(key_of("other")) as filling:
        filling.link(*found, Validator(5, "e9"))
    os.close(found[1])
    cache.flush()
    assert read(cache, key_of("other")) == b"bytes"
    assert cache.usage().blobs == 1


def _stage(cache: casstore.Cache, data: bytes) -> casstore.Staging:
    staging = cache.stage()
    staging.write(data)
    return staging


def test_a_recorded_write_is_the_entry_at_once(cache: casstore.Cache) -> None:
    fill(cache, KEY, b"old", "e1")
    noted = cache.snapshot(KEY)
    entry = cache.record_write(noted, _stage(cache, b"mine"), Validator(4, "e2"), cache.now())
    assert entry is not None
    assert read(cache, KEY) == b"mine"
    assert cache.snapshot(KEY).write_count == noted.write_count + 1


def test_a_recorded_write_that_another_version_has_overtaken_leaves_no_entry(cache: casstore.Cache) -> None:
    noted = cache.snapshot(KEY)
    fill(cache, KEY, b"theirs", "e3")
    assert cache.record_write(noted, _stage(cache, b"mine"), Validator(4, "e2"), cache.now()) is None
    assert cache.stat(KEY.uri) is None


def _copied(cache: casstore.Cache, noted: casstore.IndexSnapshot, source: casstore.Entry) -> casstore.Entry | None:
    descriptor = cache.open_entry(source)
    assert descriptor is not None
    try:
        return cache.record_copy(noted, source.digest, descriptor, Validator(source.size, "copy"), cache.now())
    finally:
        os.close(descriptor)


def test_a_recorded_copy_is_the_entry_at_once_and_shares_the_blob(cache: casstore.Cache) -> None:
    source = fill(cache, key_of("source"), b"bytes")
    fill(cache, KEY, b"old", "e1")
    noted = cache.snapshot(KEY)
    entry = _copied(cache, noted, source)
    assert entry is not None
    assert cache.stat(KEY.uri) == entry
    assert entry.validator == Validator(5, "copy")
    assert read(cache, KEY) == read(cache, key_of("source")) == b"bytes"
    assert cache.snapshot(KEY).write_count == noted.write_count + 1
    cache.record_delete(key_of("source"))
    cache.evict(lambda entry: False)
    assert read(cache, KEY) == b"bytes"


def test_a_recorded_copy_that_another_version_has_overtaken_leaves_no_entry(cache: casstore.Cache) -> None:
    source = fill(cache, key_of("source"), b"bytes")
    noted = cache.snapshot(KEY)
    fill(cache, KEY, b"theirs", "e3")
    assert _copied(cache, noted, source) is None
    assert cache.stat(KEY.uri) is None


def test_a_recorded_copy_of_a_blob_that_was_evicted_meanwhile_leaves_no_entry(cache: casstore.Cache) -> None:
    source = fill(cache, key_of("source"), b"bytes")
    fill(cache, KEY, b"old", "e1")
    noted = cache.snapshot(KEY)
    descriptor = cache.open_entry(source)
    assert descriptor is not None
    cache.evict(lambda entry: entry.key == source.key)
    try:
        assert cache.record_copy(noted, source.digest, descriptor, Validator(5, "copy"), cache.now()) is None
    finally:
        os.close(descriptor)
    assert cache.stat(KEY.uri) is None
    assert read(cache, KEY) is None


def test_a_fill_that_was_asked_for_before_a_recorded_copy_does_not_undo_it(cache: casstore.Cache) -> None:
    source = fill(cache, key_of("source"), b"bytes")
    with cache.begin(KEY) as filling:
        filling.write(b"old")
        assert _copied(cache, cache.snapshot(KEY), source) is not None
        os.close(filling.publish(Validator(3, "e1")).descriptor)
    cache.flush()
    assert read(cache, KEY) == b"bytes"


def test_a_recorded_delete_forgets_the_entry(cache: casstore.Cache) -> None:
    fill(cache, KEY, b"bytes")
    cache.record_delete(KEY)
    assert read(cache, KEY) is None
    cache.record_delete(KEY)
    assert cache.snapshot(KEY).write_count == 2


def test_entries_come_in_order_below_a_prefix(cache: casstore.Cache) -> None:
    for name in ("b", "a/1", "a/2", "a", "c" * 600):
        fill(cache, key_of(name), b"bytes")
    fill(cache, key_of("a", "s3+http://localhost"), b"others")
    assert [entry.uri.removeprefix("s3://bucket/") for entry in cache.entries("s3://bucket/a")] == [
        "a",
        "a",
        "a/1",
        "a/2",
    ]
    assert [entry.uri for entry in cache.entries("s3://bucket/" + "c" * 550)] == ["s3://bucket/" + "c" * 600]
    assert cache.stat("s3://bucket/a/") is None
    assert cache.stat("s3://bucket/a", "s3+http://localhost").size == 6  # type: ignore[union-attr]
    assert cache.stat("s3://bucket/" + "c" * 600).size == 5  # type: ignore[union-attr]
    usage = cache.usage()
    assert (usage.entries, usage.logical_bytes, usage.blobs, usage.stored_bytes) == (6, 31, 2, 11)


def test_a_stat_of_an_absent_object_reads_no_other_rows(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        fill(cache, key_of(f"k{number}"), b"bytes")
    rows: list[bytes] = []
    scan = Index.scan

    def note_and_scan(self: Index, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for row in scan(self, prefix):
            rows.append(row[0])
            yield row

    monkeypatch.setattr(Index, "scan", note_and_scan)
    assert cache.stat("s3://bucket/k") is None
    assert rows == []


@pytest.mark.parametrize("how", ["everything", "index", "blobs"])
def test_a_store_that_is_removed_while_in_use_is_made_again(cache: casstore.Cache, how: str) -> None:
    entry = fill(cache, KEY, b"bytes")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    view(cache, entry, descriptor, "k")
    os.close(descriptor)
    shutil.rmtree({"everything": cache.root, "index": cache.layout.index, "blobs": cache.layout.blobs}[how])
    assert read(cache, KEY) in (None, b"bytes")
    # What was noted in the index that is gone is no entry in its successor; the commit finds out that it is gone.
    fill(cache, key_of("new"), b"new")
    entry = fill(cache, key_of("new"), b"new")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    assert Path(view(cache, entry, descriptor, "new")).read_bytes() == b"new"
    os.close(descriptor)
    assert casstore.open(cache.root) is cache
    assert os.path.exists(cache.layout.store)
    assert read(cache, key_of("new")) == b"new"


def test_a_closed_cache_can_be_used_again_by_all_threads(cache: casstore.Cache) -> None:
    with repeating(*(refilling(cache, name) for name in "abc")):
        for _ in range(by_pass(quick=8, full=20)):
            cache.close()


def test_a_refresh_that_comes_late_does_not_bring_a_row_back(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    cache.record_delete(KEY)
    cache.committer.submit(TouchEntry(entry, validated=cache.now()))
    cache.flush()
    assert cache.stat(KEY.uri) is None


def test_a_blob_of_another_size_is_not_served_by_the_warm_path(cache: casstore.Cache) -> None:
    path = cache.blob_path(fill(cache, KEY, b"bytes"))
    status = os.stat(path)
    os.chmod(path, 0o600)
    os.truncate(path, 3)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.open_fresh(KEY, None) is None
    assert read(cache, KEY) is None


def test_the_warm_path_serves_nothing_while_a_write_is_pending(cache: casstore.Cache) -> None:
    fill(cache, KEY, b"bytes")
    assert _is_fresh(cache, None)
    staging = cache.stage()
    staging.write(b"newer")
    write = cache.pending.record(
        KEY, staging, PendingState.FAILED, Condition.ABSENT, None, lease=cache.lease.name, why="a test"
    )
    staging.close()
    assert not _is_fresh(cache, None)
    cache.pending.discard(write)
    assert _is_fresh(cache, None)


def test_the_warm_path_serves_nothing_while_a_local_copy_is_edited(cache: casstore.Cache) -> None:
    view = hand_out(cache, fill(cache, KEY, b"bytes"), "copy")
    assert _is_fresh(cache, None)
    view.write_bytes(b"newer")
    assert not _is_fresh(cache, None)
    view.write_bytes(b"bytes")
    with contextlib.suppress(OSError):
        cache.record_changes(KEY)
    assert _is_fresh(cache, None)


def test_an_entry_of_another_size_than_its_blob_is_a_miss(cache: casstore.Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    _rewrite(cache, replace(entry, validator=replace(entry.validator, size=6)))
    assert read(cache, KEY) is None
    assert os.path.exists(cache.blob_path(entry)), "the blob is right"
