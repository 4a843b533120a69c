"""Every kind of damage that a verification knows, made one at a time; and what it is called."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import casstore
from casstore import Cache, Entry, ProblemKind, ProviderChecksum, Validator
from casstore.format import records
from casstore.format.keys import blob_row, count_row, user_row
from casstore.format.records import BlobRecord, pack_blob, pack_entry
from tests.casstore.support.fill import fill, key_of

STATED = ProviderChecksum("s3", "md5", "0123456789abcdef", 9)


def fill_variously(cache: Cache) -> Cache:
    """Five entries of four contents, one of them with a long key; a statement of a provider; a count of writes."""
    for name, data in {"a": b"alpha", "b": b"beta" * 1000, "b2": b"beta" * 1000, "c" * 600: b"long"}.items():
        fill(cache, key_of(name), data)
    fill(cache, key_of("e"), b"", stated=(STATED,))
    cache.record_delete(key_of("nothing"))
    cache.index.close()
    return cache


def entry_of(cache: Cache, name: str = "a") -> Entry:
    entry = cache.lookup(key_of(name))
    assert entry is not None
    return entry


def blob_of(cache: Cache, name: str = "a") -> Path:
    return Path(cache.blob_path(entry_of(cache, name)))


def put(cache: Cache, row: bytes, record: bytes | None) -> None:
    cache.index.write(lambda txn: txn.delete(row) if record is None else txn.put(row, record))


def flip(cache: Cache, row: bytes, at: int = -12) -> None:
    record = cache.index.get(row)
    assert record is not None
    changed = bytearray(record)
    changed[at] ^= 1
    put(cache, row, bytes(changed))


def remove(cache: Cache) -> None:
    blob_of(cache).unlink()


def remove_a_shared_one(cache: Cache) -> None:
    blob_of(cache, "b").unlink()


def remove_a_shard(cache: Cache) -> None:
    shutil.rmtree(blob_of(cache).parent)


def change(path: Path, change: Callable[[Path], object]) -> None:
    path.chmod(0o644)  # for whom mode 0444 stops
    change(path)
    path.chmod(0o444)


def edit(cache: Cache) -> None:
    path = blob_of(cache)
    status = path.stat()
    change(path, lambda path: path.write_bytes(b"ALPHA"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncate(cache: Cache) -> None:
    change(blob_of(cache, "b"), lambda path: os.truncate(path, 7))


def extend(cache: Cache) -> None:
    change(blob_of(cache, "b"), lambda path: path.write_bytes(path.read_bytes() + b"more"))


def empty_one_gets_bytes(cache: Cache) -> None:
    change(blob_of(cache, "e"), lambda path: path.write_bytes(b"more"))


def change_mode(cache: Cache) -> None:
    blob_of(cache).chmod(0o644)


def touch(cache: Cache) -> None:
    os.utime(blob_of(cache))


def replace_by_symlink(cache: Cache) -> None:
    # The bytes behind it are right: only following it would find nothing wrong.
    path = blob_of(cache)
    target = Path(cache.root).with_name("elsewhere")
    shutil.copy2(path, target)
    path.unlink()
    path.symlink_to(target)


def replace_by_directory(cache: Cache) -> None:
    path = blob_of(cache)
    path.unlink()
    path.mkdir()


def replace_by_pipe(cache: Cache) -> None:
    path = blob_of(cache)
    path.unlink()
    os.mkfifo(path, 0o444)


def replace_by_socket(cache: Cache) -> None:
    path = blob_of(cache)
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o444)


def add_foreign_name(cache: Cache) -> None:
    blob_of(cache).with_name("README").write_text("x")


def add_upper_case_name(cache: Cache) -> None:
    path = blob_of(cache)
    os.link(path, path.with_name("A" * len(path.name)))


def add_foreign_directory(cache: Cache) -> None:
    os.mkdir(f"{cache.layout.blobs}/abc")


def add_upper_case_directory(cache: Cache) -> None:
    os.mkdir(f"{cache.layout.blobs}/FF")


def free_shard(cache: Cache) -> str:
    return next(path for byte in range(256) if not os.path.lexists(path := cache.layout.shard(bytes([byte]))))


def put_a_file_for_a_shard(cache: Cache) -> None:
    Path(free_shard(cache)).write_text("x")


def link_a_shard(cache: Cache) -> None:
    shard = blob_of(cache).parent
    moved = Path(cache.root).with_name("moved")
    shard.rename(moved)
    shard.symlink_to(moved)


def link_all_blobs(cache: Cache) -> None:
    moved = Path(cache.root).with_name("moved")
    Path(cache.layout.blobs).rename(moved)
    Path(cache.layout.blobs).symlink_to(moved)


def flip_entry(cache: Cache) -> None:
    flip(cache, key_of("a").row_key)


def flip_long_entry(cache: Cache) -> None:
    flip(cache, key_of("c" * 600).row_key)


def cut_entry(cache: Cache) -> None:
    put(cache, key_of("a").row_key, b"\1")


def flip_blob_row(cache: Cache) -> None:
    flip(cache, blob_row(entry_of(cache).digest.value))


def flip_user_row(cache: Cache) -> None:
    flip(cache, user_row(entry_of(cache).digest.value, key_of("a")))


def flip_stated_row(cache: Cache) -> None:
    flip(cache, STATED.row_key)


def flip_count_row(cache: Cache) -> None:
    flip(cache, count_row(key_of("nothing")))


def add_unknown_row(cache: Cache) -> None:
    put(cache, b"Zebra", b"stripes")


def add_entry_of_another_algorithm(cache: Cache) -> None:
    digest = casstore.Digest("sha256", bytes(32))
    entry = replace(entry_of(cache), digest=digest)
    put(cache, entry.key.row_key, pack_entry(entry))
    put(cache, user_row(entry_of(cache).digest.value, entry.key), None)


def move_row(cache: Cache) -> None:
    # A checksum that is right, and a key that is not the one inside.
    record = cache.index.get(key_of("c" * 600).row_key)
    assert record is not None
    row = key_of("c" * 601).row_key
    put(cache, row, records.append_checksum(row, record[:-8]))


def drop_blob_row(cache: Cache) -> None:
    put(cache, blob_row(entry_of(cache).digest.value), None)


def drop_user_row(cache: Cache) -> None:
    put(cache, user_row(entry_of(cache).digest.value, key_of("a")), None)


def drop_entry(cache: Cache) -> None:
    put(cache, key_of("a").row_key, None)


def move_entry(cache: Cache) -> None:
    # To another blob, and the rows that say who uses which are as before.
    entry = replace(entry_of(cache, "b"), key=key_of("a"))
    put(cache, entry.key.row_key, pack_entry(entry))


def resize_entry(cache: Cache) -> None:
    entry = entry_of(cache)
    put(cache, entry.key.row_key, pack_entry(replace(entry, validator=Validator(4711, "e1"))))


def resize_blob_row(cache: Cache) -> None:
    row = blob_row(entry_of(cache).digest.value)
    put(cache, row, pack_blob(row, BlobRecord(4711, 0)))


def cut_index(cache: Cache) -> None:
    os.truncate(cache.layout.index_file(1), 3 * 4096)


def zero_index(cache: Cache) -> None:
    with open(cache.layout.index_file(1), "r+b") as file:
        file.write(bytes(8192))


def empty_index(cache: Cache) -> None:
    os.truncate(cache.layout.index_file(1), 0)


def remove_index(cache: Cache) -> None:
    shutil.rmtree(cache.layout.generation(1))


def remove_all_of_index(cache: Cache) -> None:
    shutil.rmtree(cache.layout.index)


def garble_current(cache: Cache) -> None:
    Path(cache.layout.current).write_text("one")


def mislead_current(cache: Cache) -> None:
    Path(cache.layout.current).write_text("4711")


def remove_marker(cache: Cache) -> None:
    os.unlink(cache.layout.store)


def garble_marker(cache: Cache) -> None:
    Path(cache.layout.store).write_text("{")


def swap_marker(cache: Cache) -> None:
    path = Path(cache.layout.store)
    path.write_text(path.read_text().replace(cache.store_id, "f" * 32))


DAMAGE: dict[Callable[[Cache], None], list[ProblemKind]] = {
    remove: [ProblemKind.MISSING_BLOB],
    remove_a_shared_one: [ProblemKind.MISSING_BLOB] * 2,
    remove_a_shard: [ProblemKind.MISSING_BLOB],
    edit: [ProblemKind.WRONG_BYTES],
    truncate: [ProblemKind.WRONG_BYTES],
    extend: [ProblemKind.WRONG_BYTES],
    empty_one_gets_bytes: [ProblemKind.WRONG_BYTES],
    change_mode: [ProblemKind.TOUCHED_BLOB],
    touch: [ProblemKind.TOUCHED_BLOB],
    replace_by_symlink: [ProblemKind.WRONG_TYPE],
    replace_by_directory: [ProblemKind.WRONG_TYPE],
    replace_by_pipe: [ProblemKind.WRONG_TYPE],
    replace_by_socket: [ProblemKind.WRONG_TYPE],
    add_foreign_name: [ProblemKind.FOREIGN_NAME],
    add_upper_case_name: [ProblemKind.FOREIGN_NAME],
    add_foreign_directory: [ProblemKind.FOREIGN_NAME],
    add_upper_case_directory: [ProblemKind.FOREIGN_NAME],
    put_a_file_for_a_shard: [ProblemKind.WRONG_TYPE],
    link_a_shard: [ProblemKind.WRONG_TYPE],
    link_all_blobs: [ProblemKind.WRONG_TYPE],
    flip_entry: [ProblemKind.BAD_RECORD],
    flip_long_entry: [ProblemKind.BAD_RECORD],
    cut_entry: [ProblemKind.BAD_RECORD],
    flip_blob_row: [ProblemKind.BAD_RECORD],
    flip_user_row: [ProblemKind.BAD_RECORD, ProblemKind.ROWS_DISAGREE],
    flip_stated_row: [ProblemKind.BAD_RECORD],
    flip_count_row: [ProblemKind.BAD_RECORD],
    add_unknown_row: [ProblemKind.BAD_RECORD],
    add_entry_of_another_algorithm: [ProblemKind.BAD_RECORD],
    move_row: [ProblemKind.BAD_RECORD],
    drop_blob_row: [ProblemKind.ROWS_DISAGREE],
    drop_user_row: [ProblemKind.ROWS_DISAGREE],
    drop_entry: [ProblemKind.ROWS_DISAGREE],
    move_entry: [ProblemKind.ROWS_DISAGREE] * 2,
    resize_entry: [ProblemKind.ROWS_DISAGREE],
    resize_blob_row: [ProblemKind.ROWS_DISAGREE] * 2,
    cut_index: [ProblemKind.DAMAGED_INDEX],
    zero_index: [ProblemKind.DAMAGED_INDEX],
    empty_index: [ProblemKind.DAMAGED_INDEX],
    remove_index: [ProblemKind.DAMAGED_INDEX],
    remove_all_of_index: [ProblemKind.DAMAGED_INDEX],
    garble_current: [ProblemKind.DAMAGED_INDEX],
    mislead_current: [ProblemKind.DAMAGED_INDEX],
    remove_marker: [ProblemKind.DAMAGED_MARKER],
    garble_marker: [ProblemKind.DAMAGED_MARKER],
    swap_marker: [ProblemKind.DAMAGED_MARKER],
}
