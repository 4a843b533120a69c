"""Blobs: one file per digest, whole or not at all, and never another object's bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casstore
from casstore.blobs.blob_store import BlobModifiedError, BlobStore, CollisionError
from casstore.blobs.staging import Staging
from casstore.errors import BlobDamagedError, StoreUnavailableError
from casstore.format import digest as digests
from casstore.format.layout import Layout
from casstore.fs import copying, files
from tests.casstore.support.fill import fill, key_of, read
from tests.casstore.support.stores import open_inodes


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    os.mkdir(layout.blobs)
    return layout


@pytest.fixture
def blobs(layout: Layout) -> BlobStore:
    return BlobStore(layout, "xxh3-128")


@pytest.fixture
def staged(blobs: BlobStore) -> Iterator[Callable[[bytes], Staging]]:
    made = []

    def stage(data: bytes) -> Staging:
        staging = blobs.stage()
        staging.write(data)
        made.append(staging)
        return staging

    yield stage
    for staging in made:
        staging.close()


Stage = Callable[[bytes], Staging]


def test_a_blob_is_read_only_and_has_the_mtime_of_its_digest(blobs: BlobStore, layout: Layout, staged: Stage) -> None:
    staging = staged(b"bytes")
    added = blobs.add(staging, staging.digest())
    status = os.stat(layout.blob(added.digest.value))
    assert added.is_new
    assert (status.st_mode & 0o777, status.st_mtime, status.st_size) == (0o444, added.digest.mtime, 5)
    with open(blobs.open(added.digest.value, 5), "rb") as file:
        assert file.read() == b"bytes"


def test_equal_bytes_are_one_file(blobs: BlobStore, staged: Stage) -> None:
    one, two = staged(b"bytes"), staged(b"bytes")
    first, second = blobs.add(one, one.digest()), blobs.add(two, two.digest())
    assert (first.is_new, second.is_new) == (True, False)
    assert first.inode == second.inode


def test_a_blob_that_was_compared_stays_open_so_that_no_other_file_gets_its_inode(
    blobs: BlobStore, layout: Layout, staged: Stage
) -> None:
    one, two = staged(b"bytes"), staged(b"bytes")
    added = blobs.add(one, one.digest())
    one.close()
    assert added.inode not in open_inodes()
    blobs.add(two, two.digest())
    os.unlink(layout.blob(added.digest.value))
    assert added.inode in open_inodes()
    two.close()
    assert added.inode not in open_inodes()


def test_a_blob_is_read_only_though_its_staging_file_had_a_name(
    blobs: BlobStore, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "open_unnamed", lambda _: None)
    staging = blobs.stage(lambda: str(tmp_path / "staging"))
    staging.write(b"bytes")
    added = blobs.add(staging, staging.digest())
    staging.close()
    assert os.stat(layout.blob(added.digest.value)).st_mode & 0o777 == 0o444
    assert os.listdir(tmp_path / "staging") == []


def test_a_blob_of_another_size_is_damaged_though_its_digest_proves_equality(layout: Layout) -> None:
    blobs = BlobStore(layout, "sha256")
    one, two = blobs.stage(), blobs.stage()
    for staging in (one, two):
        staging.write(b"bytes")
    added = blobs.add(one, one.digest())
    path = layout.blob(added.digest.value)
    os.chmod(path, 0o600)
    os.truncate(path, 3)
    os.utime(path, (added.digest.mtime, added.digest.mtime))
    with pytest.raises(BlobDamagedError):
        blobs.add(two, two.digest())
    one.close()
    two.close()


def test_a_staging_file_that_lost_bytes_is_an_error_at_once(staged: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    staging, reads, preadv = staged(b""), list[int](), os.preadv

    def read(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        assert len(reads) < 10, "it is read without end"
        return preadv(descriptor, buffers, offset)

    staging.write_at(memoryview(b"abc"), 0)
    monkeypatch.setattr(os, "preadv", read)
    with pytest.raises(OSError, match="shorter than the bytes written"):
        staging.hash_to(5, memoryview(bytearray(2)))


def test_pieces_written_out_of_order_have_the_digest_of_the_whole(blobs: BlobStore, staged: Stage) -> None:
    ordered, scattered = staged(b"abcdef"), staged(b"")
    scattered.write_at(memoryview(b"def"), 3)
    scattered.write_at(memoryview(b"abc"), 0)
    scattered.hash_to(4, memoryview(bytearray(3)))
    scattered.hash_to(6, memoryview(bytearray(3)))
    assert scattered.digest() == ordered.digest()
    assert scattered.size == 6
    with pytest.raises(OSError, match="shorter"):
        scattered.hash_to(7, memoryview(bytearray(3)))


@pytest.mark.parametrize("wrong", [b"bytez", b"", b"bytes and more"])
def test_a_name_taken_by_wrong_bytes_is_no_hit(blobs: BlobStore, layout: Layout, staged: Stage, wrong: bytes) -> None:
    staging = staged(b"bytes")
    digest = staging.digest()
    os.mkdir(layout.shard(digest.value))
    Path(layout.blob(digest.value)).write_bytes(wrong)
    os.utime(layout.blob(digest.value), (digest.mtime, digest.mtime))
    with pytest.raises(BlobDamagedError) as caught:
        blobs.add(staging, digest)
    assert not isinstance(caught.value, CollisionError)


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_a_name_taken_by_no_file_is_no_hit(
    blobs: BlobStore, layout: Layout, staged: Stage, make: Callable[[str], None]
) -> None:
    staging = staged(b"bytes")
    os.mkdir(layout.shard(staging.digest().value))
    make(layout.blob(staging.digest().value))
    with pytest.raises(BlobDamagedError):
        blobs.add(staging, staging.digest())


def test_a_touched_file_is_compared_even_under_a_cryptographic_digest(layout: Layout) -> None:
    blobs = BlobStore(layout, "sha256")
    one, two = blobs.stage(), blobs.stage()
    for staging in (one, two):
        staging.write(b"bytes")
    path = layout.blob(blobs.add(one, one.digest()).digest.value)
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"BYTES")
    with pytest.raises(BlobDamagedError):
        blobs.add(two, two.digest())
    one.close()
    two.close()


@pytest.mark.parametrize("compare", [False, True])
def test_a_cryptographic_digest_is_trusted_unless_told_otherwise(
    layout: Layout, compare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def note(one: int, other: int) -> bool:
        compared.append(other)
        return True

    monkeypatch.setattr(copying, "same_bytes", note)
    blobs = BlobStore(layout, "sha256")
    for _ in range(2):
        staging = blobs.stage()
        staging.write(b"bytes")
        blobs.add(staging, staging.digest(), compare=compare)
        staging.close()
    assert bool(compared) == compare


def test_a_touched_blob_trips_the_wire(blobs: BlobStore, layout: Layout, staged: Stage) -> None:
    staging = staged(b"bytes")
    digest = blobs.add(staging, staging.digest()).digest
    with pytest.raises(BlobModifiedError):
        blobs.open(digest.value, 6)
    os.utime(layout.blob(digest.value), (digest.mtime, digest.mtime + 1))
    with pytest.raises(BlobModifiedError):
        blobs.open(digest.value, 5)
    os.unlink(layout.blob(digest.value))
    with pytest.raises(FileNotFoundError):
        blobs.open(digest.value, 5)
    assert blobs.inode(digest) is None


def test_a_blob_swept_between_hit_and_look_is_linked_anew(
    blobs: BlobStore, layout: Layout, staged: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = staged(b"bytes"), staged(b"bytes")
    path = layout.blob(blobs.add(one, one.digest()).digest.value)
    link = files.link_descriptor
    tries = []

    def sweep_after_a_failed_link(descriptor: int, target: str) -> None:
        tries.append(target)
        try:
            link(descriptor, target)
        except FileExistsError:
            os.unlink(path)
            raise

    monkeypatch.setattr(files, "link_descriptor", sweep_after_a_failed_link)
    added = blobs.add(two, two.digest())
    assert added.is_new
    assert len(tries) == 2
    assert Path(path).read_bytes() == b"bytes"


def test_a_store_that_went_away_has_a_typed_error(blobs: BlobStore, layout: Layout, staged: Stage) -> None:
    staging = staged(b"bytes")
    os.rmdir(layout.blobs)
    with pytest.raises(StoreUnavailableError, match="deleted while in use"):
        blobs.add(staging, staging.digest())


def test_named_staging_files_serve_where_there_are_no_unnamed_ones(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "open_unnamed", lambda _: None)
    directory = tmp_path / "lease" / "staging"
    staging = blobs.stage(lambda: str(directory))
    staging.write(b"bytes")
    blobs.add(staging, staging.digest())
    assert len(os.listdir(directory)) == 1
    staging.close()
    assert os.listdir(directory) == []
    assert blobs.inode(staging.digest()) is not None


class _Weak:
    """Every content of one length has one hash."""

    def __init__(self) -> None:
        self._length = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._length += len(data)

    def digest(self) -> bytes:
        return self._length.to_bytes(16, "big")


def test_a_planted_collision_never_serves_another_objects_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = digests._Algorithm(1, 16, _Weak, is_cryptographic=False)
    monkeypatch.setitem(digests._ALGORITHMS, "xxh3-128", weak)
    cache = casstore.open(root)
    fill(cache, key_of("first"), b"one")
    with cache.begin(key_of("second")) as filling:
        filling.write(b"two")
        stored = filling.publish(casstore.Validator(3, "e"))
    with open(stored.descriptor, "rb") as file:
        assert file.read() == b"two"
    assert stored.entry is None
    cache.flush()
    assert read(cache, key_of("first")) == b"one"
    assert read(cache, key_of("second")) is None
    assert cache.counts()["collisions"] == 1


def test_wrong_bytes_under_a_taken_name_are_quarantined_and_replaced(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("first"), b"bytes")
    path = Path(cache.blob_path(entry))
    path.chmod(0o600)
    path.write_bytes(b"BYTES")
    fill(cache, key_of("second"), b"bytes")
    assert read(cache, key_of("second")) == read(cache, key_of("first")) == b"bytes"
    held = sorted(os.listdir(cache.layout.quarantine))
    assert len(held) == 2
    assert Path(cache.layout.quarantined(held[0])).read_bytes() == b"BYTES"
    assert str(entry.digest) in Path(cache.layout.quarantined(held[1])).read_text()


@pytest.mark.parametrize("can_clone", [True, False])
def test_what_begins_as_a_copy_is_written_from_its_start(
    staged: Callable[[bytes], Staging], can_clone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_clone:
        monkeypatch.setattr(copying, "clone", lambda *_: False)
    copy = staged(b"")
    copy.copy_from(staged(b"one two").descriptor)
    os.write(copy.descriptor, b"ONE")
    assert os.pread(copy.descriptor, 100, 0) == b"ONE two"


def test_a_blob_that_the_disk_cannot_read_makes_way_when_its_bytes_come_again(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, key_of("first"), b"bytes")
    inode = os.stat(cache.blob_path(entry)).st_ino
    real_pread, real_preadv = os.pread, os.preadv

    def check(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, "Input/output error")

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        check(descriptor)
        return real_pread(descriptor, size, offset)

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        check(descriptor)
        return real_preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "preadv", preadv)
    fill(cache, key_of("second"), b"bytes")
    assert read(cache, key_of("second")) == read(cache, key_of("first")) == b"bytes"
    assert os.stat(cache.blob_path(entry)).st_ino != inode
    assert len(os.listdir(cache.layout.quarantine)) == 2
