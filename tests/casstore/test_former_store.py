"""A store that the version before the packages made: this version opens, reads, writes, collects and verifies it.

``data/store_before_packages.tar.gz`` was made by commit 612baef: entries of two clouds that share a blob, a key with
odd characters and a long one, an empty object, a pin, an evicted object, a quarantined blob, statistics, and a pending
write in each state, one of them of a process that was killed in its upload. Its format never changes.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Final

import pytest

import casstore
from casstore import Cache, Key, PendingState, ProviderChecksum
from pathapi import S3Client
from pathapi.exceptions import OverwriteNewerLocalError, PendingWriteError
from tests.casstore.support.fill import fill, key_of, read

ARCHIVE: Final = Path(__file__).parent / "data" / "store_before_packages.tar.gz"
BIG: Final = bytes(range(256)) * 400
CONTENTS: Final = {
    Key("gs://bucket/a.txt", "gs"): b"alpha\n",
    key_of("a.txt"): b"alpha\n",
    key_of("big.bin"): BIG,
    key_of("copy/of/a.txt"): b"alpha\n",
    key_of("empty"): b"",
    key_of("k/../odd %2F \u00e9\u4e2d"): b"odd name\n",
    key_of("long/" + "x" * 900): b"long key\n",
    key_of("pinned.bin"): b"p" * 5000,
}
PENDING: Final = {
    ("a.txt", PendingState.EDIT): b"edited bytes\n",
    ("failed.txt", PendingState.FAILED): b"failed bytes\n",
    ("interrupted.txt", PendingState.UPLOADING): b"interrupted bytes\n",
    ("made-by-a-tool.csv", PendingState.INCOMPLETE): b"made by a tool\n",
    ("never-closed.txt", PendingState.INCOMPLETE): b"incomplete bytes\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store, unpacked with the modes and mtimes that its files had; they are this user's."""
    with tarfile.open(ARCHIVE) as archive:
        for member in archive.getmembers():
            member.uid, member.gid = os.geteuid(), os.getegid()
        archive.extraction_filter = lambda member, _: member  # as it is; 3.11.0 to 3.11.3 know no filters
        archive.extractall(tmp_path)
    return tmp_path / "store"


@pytest.fixture
def cache(root: Path) -> Cache:
    return casstore.open(root)


def _pending(cache: Cache) -> dict[tuple[str, PendingState], bytes]:
    return {
        (write.uri.removeprefix("s3://bucket/"), write.state): Path(cache.pending.path(write)).read_bytes()
        for write in cache.pending.all()
    }


def test_every_entry_is_there_and_has_its_bytes(cache: Cache) -> None:
    assert {entry.key: entry.size for entry in cache.entries()} == {key: len(data) for key, data in CONTENTS.items()}
    for key, data in CONTENTS.items():
        assert read(cache, key) == data
    entry = cache.stat("s3://bucket/big.bin")
    assert entry is not None
    assert (entry.validator.etag, str(entry.digest)) == ('"quoted"', "xxh3-128:3c5b68c696094899ce44193c6ac50be2")


def test_every_entry_stands_the_check_of_its_bytes_at_each_open(cache: Cache) -> None:
    for entry in cache.entries():
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None
        os.close(descriptor)


def test_paths_read_it_without_a_network(root: Path) -> None:
    client = S3Client(local_cache_dir=root, freshness="offline", no_sign_request=True)
    path = client.S3Path("s3://bucket/big.bin")
    assert path.read_bytes() == BIG
    assert Path(path.fspath).read_bytes() == BIG
    with pytest.raises(OverwriteNewerLocalError):
        client.S3Path("s3://bucket/a.txt").read_bytes()
    with pytest.raises(PendingWriteError):
        client.S3Path("s3://bucket/failed.txt").read_bytes()


def test_every_pending_write_is_there_and_can_be_discarded(cache: Cache) -> None:
    assert _pending(cache) == PENDING
    for write in list(cache.pending.all()):
        cache.pending.discard(write)
    assert list(cache.pending.all()) == []


def test_pins_and_statistics_are_kept(cache: Cache) -> None:
    assert [pin.uri for pin in cache.pins()] == ["s3://bucket/pinned.bin"]
    statistics = cache.stats()
    assert (statistics.hits, statistics.misses, statistics.shared, statistics.evicted_blobs) == (3, 10, 2, 1)


def test_what_a_provider_stated_of_its_bytes_still_links_them(cache: Cache) -> None:
    stated = ProviderChecksum("s3", "md5", "0123456789abcdef0123456789abcdef", len(BIG))
    assert cache.may_have_checksum([stated])


def test_it_verifies_and_only_the_quarantined_blob_is_left_over(cache: Cache) -> None:
    report = cache.verify()
    assert report.is_sound, report.problems
    assert (report.entries, report.blobs, report.leftovers.quarantine) == (8, 6, 2)


def test_it_is_filled_with_new_objects_and_with_bytes_that_it_has(cache: Cache) -> None:
    blobs = cache.usage().blobs
    assert fill(cache, key_of("new"), b"alpha\n").digest == fill(cache, key_of("a.txt"), b"alpha\n", etag="e9").digest
    assert cache.usage().blobs == blobs
    fill(cache, key_of("evicted.bin"), b"e" * 7000)  # the eviction of before is on record
    assert read(cache, key_of("evicted.bin")) == b"e" * 7000
    assert cache.verify().is_sound


def test_it_is_collected_down_to_its_pins_and_what_is_pending(cache: Cache) -> None:
    freed = cache.execute(cache.plan(max_size=0))
    assert freed.entries > 0
    assert "s3://bucket/pinned.bin" in {entry.uri for entry in cache.entries()}
    assert read(cache, key_of("pinned.bin")) == b"p" * 5000
    assert _pending(cache) == PENDING
    assert cache.verify().is_sound


def test_it_is_cleared_but_for_pins_and_what_is_pending(cache: Cache) -> None:
    cleared = cache.clear()
    assert cleared.entries > 0
    assert read(cache, key_of("pinned.bin")) == b"p" * 5000
    assert _pending(cache) == PENDING
