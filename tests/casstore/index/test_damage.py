"""Damage found at rest: right bytes, a miss or a clear error; never wrong bytes, a signal or a hang."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import lmdb
import pytest

import casstore
from casstore import ProviderChecksum, Validator
from casstore.blobs.blob_store import BlobStore
from casstore.errors import CasstoreError
from casstore.format import records
from casstore.format.keys import Key, blob_row, count_row, user_row
from casstore.format.layout import Layout
from casstore.format.records import Entry, Moment, pack_entry, unpack_entry
from casstore.fs import files
from casstore.index import page_check as pages
from casstore.index import transactions
from casstore.index.database import Index
from casstore.index.generations import IndexFiles
from casstore.locks.byte_locks import ByteLocks
from tests.casstore.support.fill import fill, fork, forked, key_of, read, status_of
from tests.casstore.support.indexes import put_rows

KEY, OTHER = key_of("k"), key_of("other")
STATED = ProviderChecksum("s3", "md5", hashlib.md5(b"bytes").hexdigest(), 5)


# --- a byte of a record -----------------------------------------------------------------------------------------------


def _row_of(cache: casstore.Cache, kind: str) -> bytes:
    entry = cache.lookup(KEY)
    assert entry is not None
    rows = {
        "entry": KEY.row_key,
        "blob": blob_row(entry.digest.value),
        "user": user_row(entry.digest.value, KEY),
        "stated": STATED.row_key,
        "count": count_row(KEY),
    }
    return rows[kind]


def _flip_each(cache: casstore.Cache, row: bytes) -> Iterator[None]:
    """Put *row*'s record with one byte flipped, for each byte of it; and the right one in the end."""
    whole = cache.index.get(row)
    assert whole is not None
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        put_rows(cache.index, {row: bytes(damaged)})
        yield
    put_rows(cache.index, {row: whole})


def _known(cache: casstore.Cache) -> bytes | None:
    found = cache.find_by_checksum([STATED])
    if found is None:
        return None
    with open(found[1], "rb") as file:
        return file.read()


def _look_at_everything(cache: casstore.Cache) -> None:
    assert read(cache, KEY) in (None, b"bytes")
    assert read(cache, OTHER) == b"others"
    assert _known(cache) in (None, b"bytes")
    cache.snapshot(KEY)
    cache.stat(KEY.uri)
    cache.usage()
    cache.info()


@pytest.fixture
def filled(cache: casstore.Cache) -> casstore.Cache:
    """Two entries, what a provider stated of one, and a count of writes."""
    cache.record_delete(KEY)
    fill(cache, KEY, b"bytes", "e", (STATED,))
    fill(cache, OTHER, b"others")
    return cache


@pytest.mark.parametrize("kind", ["entry", "blob", "user", "stated", "count"])
def test_a_flipped_byte_of_a_record_is_never_an_answer(filled: casstore.Cache, kind: str) -> None:
    row = _row_of(filled, kind)
    for _ in _flip_each(filled, row):
        _look_at_everything(filled)
        assert kind != "entry" or filled.lookup(KEY) is None
        assert kind != "stated" or not _known(filled)
        assert kind != "count" or filled.snapshot(KEY).write_count == 0
    flips = _flip_each(filled, row)
    next(flips)
    fill(filled, KEY, b"bytes", "e2", (STATED,))
    assert read(filled, KEY) == b"bytes"


def test_without_the_records_checksum_a_flipped_byte_is_an_answer(
    filled: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = filled.lookup(KEY)
    monkeypatch.setattr(records, "strip_checksum", lambda row, record: record[:-8])
    seen = set()
    for _ in _flip_each(filled, KEY.row_key):
        with contextlib.suppress(KeyError, ValueError, UnicodeDecodeError):
            seen.add(filled.lookup(KEY))
    assert len(seen - {entry, None}) > 20


# --- a byte of the index's file ---------------------------------------------------------------------------------------


def _layout_at(root: Path) -> Layout:
    layout = Layout(root)
    for directory in layout.directories():
        os.mkdir(directory)
    return layout


def _entry(number: int, version: str) -> Entry:
    digest = casstore.Digest("xxh3-128", hashlib.md5(b"%d" % number).digest())
    return Entry(Key(f"s3://bucket/{number:05}", "s3"), digest, Validator(number, version), Moment(1, 1, 1))


class Planted:
    """An index with some hundred rows in several pages and levels, of which copies are damaged."""

    def __init__(self, root: Path, rows: int = 400) -> None:
        self.layout = _layout_at(root)
        # Each URI had an older version: a page of before may name it.
        self.entries = {number: (_entry(number, "old"), _entry(number, "new")) for number in range(rows)}
        made = Index(self.layout, ByteLocks(self.layout), print)
        for version in (0, 1):
            for start in range(0, rows, 250):
                entries = [self.entries[number][version] for number in range(start, min(start + 250, rows))]
                long = {b"X%d" % version: b"long" * 3000}
                put_rows(made, {entry.key.row_key: pack_entry(entry) for entry in entries} | long)
        made.close()
        self.data = Path(self.layout.index_file(1)).read_bytes()

    def damaged(self, data: bytes) -> int:
        """The status of a process that finds *data* as the index: 0 is as it must be."""
        shutil.rmtree(self.layout.index)
        os.makedirs(self.layout.generation(1))
        Path(self.layout.index_file(1)).write_bytes(data)
        return forked(self._use)

    def _use(self) -> None:
        signal.alarm(1_000)
        # Of the control that dies, neither a traceback nor a core file is of interest.
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pytest.MonkeyPatch().setattr(lmdb, "open", partial(lmdb.open, sync=False))
        used = Index(self.layout, ByteLocks(self.layout), lambda message: None)
        try:
            self._read(used)
            for turn in range(2):
                entries = [known[1] for number, known in self.entries.items() if number % 9 == turn]
                put = {entry.key.row_key: pack_entry(entry) for entry in entries}

                def work(txn: transactions.Txn, put: dict[bytes, bytes] = put) -> None:
                    for row, record in put.items():
                        txn.put(row, record)

                used.write(work)
            self._read(used)
        except CasstoreError:
            pass

    def _read(self, used: Index) -> None:
        for known in self.entries.values():
            row = known[0].key.row_key
            record = used.get(row)
            assert record is None or unpack_entry(row, record) in (None, *known)
        for row, record in used.scan(b"E"):
            entry = unpack_entry(row, record)
            assert entry is None or entry in self.entries[int(entry.uri[-5:])]


def _flips(planted: Planted, count: int, seed: int) -> Iterator[int]:
    """Offsets: of meta pages, of the headers of pages and nodes, and any."""
    chance = random.Random(seed)
    spots = [*range(16, 152), *range(4096 + 16, 4096 + 152)]
    for page in range(2, len(planted.data) // 4096):
        spots += range(page * 4096, page * 4096 + 40)
    for number in range(count):
        yield chance.choice(spots) if number % 3 else chance.randrange(len(planted.data))


def _check_flips(planted: Planted, count: int, seed: int) -> None:
    for at in _flips(planted, count, seed):
        for mask in (1 << at % 8, 0xFF):
            data = bytearray(planted.data)
            data[at] ^= mask
            assert planted.damaged(bytes(data)) == 0, f"byte {at % 4096} of page {at // 4096}, by {mask:#x}"


def test_a_flipped_byte_of_the_index_file_kills_nobody(tmp_path: Path) -> None:
    _check_flips(Planted(tmp_path / "store"), 15, seed=1)


@pytest.mark.slow
def test_many_flipped_bytes_of_the_index_file_kill_nobody(tmp_path: Path) -> None:
    _check_flips(Planted(tmp_path / "store"), 300, seed=2)


def test_without_the_look_at_pages_a_flipped_byte_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(tmp_path / "store")
    monkeypatch.setattr(pages, "check", lambda path, whole=False: None)
    data = bytearray(planted.data)
    for meta in (0, 4096):
        data[meta + 44] ^= 0xFF  # how the list of free pages is kept
    assert planted.damaged(bytes(data)) < 0


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 50_000, b"\0" * 50_000], ids=["empty", "short", "text", "zeros"])
def test_foreign_bytes_in_the_index_kill_nobody(tmp_path: Path, data: bytes) -> None:
    assert Planted(tmp_path / "store", 50).damaged(data) == 0


# --- the index's files while somebody has them open -------------------------------------------------------------------


def _older(layout: Layout) -> None:
    shutil.copyfile(layout.root + "/older", layout.index_file(1) + ".new")
    os.replace(layout.index_file(1) + ".new", layout.index_file(1))


REPLACED: dict[str, Callable[[Layout], object]] = {
    "data removed": lambda layout: os.unlink(layout.index_file(1)),
    "lock file removed": lambda layout: os.unlink(layout.index_lock(1)),
    "data replaced by an older copy": _older,
    "data cut": lambda layout: os.truncate(layout.index_file(1), os.path.getsize(layout.index_file(1)) - 4096),
    "generation removed": lambda layout: shutil.rmtree(layout.generation(1)),
    "all removed": lambda layout: shutil.rmtree(layout.index),
}


def _later(work: Callable[[], object]) -> Callable[[], int]:
    """A process that is forked now, with no index open, and works when it is called; the call gives its status."""
    reading, writing = os.pipe()
    pid = fork(lambda: (os.read(reading, 1), work()))
    os.close(reading)

    def call() -> int:
        os.write(writing, b"x")
        os.close(writing)
        return status_of(pid)

    return call


def _is_found_by_others(layout: Layout, replace_files: Callable[[Layout], object]) -> bool:
    """Whether another process finds what is written after the files were replaced under an open environment."""

    def other(row: bytes, expected: bytes | None) -> None:
        theirs = Index(layout, ByteLocks(layout), lambda message: None)
        theirs.write(lambda txn: txn.put(b"theirs", b"1"))
        assert theirs.get(row) == expected

    first, second = _later(lambda: other(b"none", None)), _later(lambda: other(b"E2", b"mine"))
    mine = Index(layout, ByteLocks(layout), lambda message: None, lambda: os.makedirs(layout.index, exist_ok=True))
    mine.write(lambda txn: txn.put(b"E1", b"old"))
    shutil.copyfile(layout.index_file(1), layout.root + "/older")
    for number in range(30):
        mine.write(lambda txn, number=number: txn.put(b"E%d" % number, b"new" * 99))  # type: ignore[misc]
    replace_files(layout)
    assert first() == 0  # somebody new comes first, and makes what is missing
    mine.write(lambda txn: txn.put(b"E2", b"mine"))
    found = second() == 0
    mine.write(lambda txn: None)
    found = found and mine.get(b"theirs") == b"1"
    mine.close()
    return found


@pytest.mark.parametrize("how", REPLACED)
def test_files_replaced_under_an_open_index_are_noticed_before_a_commit(tmp_path: Path, how: str) -> None:
    layout = _layout_at(tmp_path / "store")
    assert _is_found_by_others(layout, REPLACED[how])


def test_without_the_look_at_files_commits_go_into_a_file_that_nobody_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IndexFiles, "are_still", lambda self, now: True)
    layout = _layout_at(tmp_path / "store")
    assert not _is_found_by_others(layout, REPLACED["data removed"])


# --- blobs ------------------------------------------------------------------------------------------------------------


def _write(path: str, data: bytes) -> None:
    os.chmod(path, 0o600)
    Path(path).write_bytes(data)


def _replace(make: Callable[[str], object]) -> Callable[[str], None]:
    def plant(path: str) -> None:
        os.unlink(path)
        make(path)

    return plant


def _bind(path: str) -> None:
    here = os.getcwd()
    os.chdir(os.path.dirname(path))  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.basename(path))
    finally:
        os.chdir(here)


BLOBS: dict[str, Callable[[str], object]] = {
    "edited": lambda path: _write(path, b"BYTES"),
    "cut": lambda path: _write(path, b"byte"),
    "emptied": lambda path: _write(path, b""),
    "extended": lambda path: _write(path, b"bytes+"),
    "removed": os.unlink,
    "a directory": _replace(os.mkdir),
    "a pipe": _replace(os.mkfifo),
    "a socket": _replace(_bind),
    "a link to itself": _replace(lambda path: os.symlink(path, path)),
    "a link elsewhere": _replace(lambda path: os.symlink("/dev/zero", path)),
    "unreadable": lambda path: os.chmod(path, 0),
    "its directory removed": lambda path: shutil.rmtree(os.path.dirname(path)),
}


@pytest.mark.parametrize("what", BLOBS)
@pytest.mark.parametrize("digest", ["xxh3-128", "sha256"])
@pytest.mark.parametrize("first", ["read", "fill", "prefetch"])
def test_a_damaged_blob_is_a_miss_and_is_fetched_again(root: Path, what: str, digest: str, first: str) -> None:
    cache = casstore.open(root, digest=digest)
    entry = fill(cache, KEY, b"bytes", "e", (STATED,))
    BLOBS[what](cache.blob_path(entry))
    signal.alarm(1_000)
    try:
        if first == "read":
            assert read(cache, KEY) in (None, b"bytes")
        elif first == "prefetch":
            assert _known(cache) in (None, b"bytes")
        fill(cache, OTHER, b"bytes")
        assert read(cache, KEY) in (None, b"bytes")
        fill(cache, KEY, b"bytes", "e2")
        assert (read(cache, KEY), read(cache, OTHER)) == (b"bytes", b"bytes")
    finally:
        signal.alarm(0)


def test_bytes_that_a_power_cut_damaged_are_compared_when_they_come_again(root: Path) -> None:
    cache = casstore.open(root, digest="sha256")  # which is believed of a blob of this boot
    entry = fill(cache, KEY, b"bytes")
    path = cache.blob_path(entry)
    status = os.stat(path)
    _write(path, b"\0" * 5)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    row = blob_row(entry.digest.value)
    record = records.pack_blob(row, records.BlobRecord(5, cache.boot_mount + 2))
    put_rows(cache.index, {KEY.row_key: pack_entry(replace(entry, written_on=cache.boot_mount + 2)), row: record})
    fill(cache, OTHER, b"bytes")
    assert read(cache, OTHER) == b"bytes"
    assert read(cache, KEY) in (None, b"bytes")
    assert cache.counts()["damaged_blobs"] == 1


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trash", "quarantine", "locks", "leases", "blobs", "pins", "pending", "index-v1"])
def test_a_directory_that_is_removed_while_in_use_is_a_clear_error_at_most(root: Path, name: str) -> None:
    cache = casstore.open(root)
    entry = fill(cache, KEY, b"bytes")
    os.utime(cache.blob_path(entry))
    shutil.rmtree(root / name)
    for step in (
        lambda: read(cache, KEY) in (None, b"bytes") or pytest.fail("wrong bytes"),
        lambda: fill(cache, OTHER, b"others"),
        lambda: read(cache, OTHER) in (None, b"others") or pytest.fail("wrong bytes"),
        lambda: cache.evict(lambda _: True),
    ):
        with contextlib.suppress(OSError):
            step()
    casstore.open(root)
    cache.close()
    cache.recreate()
    fill(cache, KEY, b"bytes", "e2")
    fill(cache, KEY, b"bytes", "e2")
    assert read(cache, KEY) == b"bytes"


def test_a_store_that_is_removed_again_and_again_harms_no_worker(root: Path) -> None:
    casstore.open(root).close()
    done = root.parent / "done"

    def work(number: int) -> None:
        signal.alarm(1_000)
        warnings.simplefilter("ignore")
        cache = casstore.open(root)
        turn = 0
        while not done.exists():
            turn += 1
            key, data = key_of(f"{number}-{turn % 3}"), b"%d" % (turn % 7)
            with contextlib.suppress(CasstoreError, FileNotFoundError, FileExistsError):
                assert read(cache, key) in (None, *(b"%d" % other for other in range(7)))
                fill(cache, key, data, f"e{turn}")
                assert read(cache, key) in (None, data)

    workers = [fork(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc]
    for _ in range(15):
        shutil.rmtree(root, ignore_errors=True)
        time.sleep(0.05)  # for them to go on; nothing depends on how far they get
    done.touch()
    assert [status_of(pid) for pid in workers] == [0] * 4
    cache = casstore.open(root)
    fill(cache, KEY, b"bytes")
    fill(cache, KEY, b"bytes")
    assert read(cache, KEY) == b"bytes"


# --- between a look and its consequence -------------------------------------------------------------------------------


def test_right_bytes_that_take_the_name_just_before_the_quarantine_stay(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, KEY, b"bytes")
    path = Path(cache.blob_path(entry))
    right = path.with_name("right")
    shutil.copy2(path, right)
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    os.utime(path, (entry.digest.mtime, entry.digest.mtime))
    create = files.create_synced

    def create_and_fetch(name: str, data: bytes) -> bool:
        monkeypatch.setattr(files, "create_synced", create)
        right.replace(path)
        return create(name, data)

    monkeypatch.setattr(files, "create_synced", create_and_fetch)
    assert cache.open_entry(entry, verify=True) is None
    assert files.create_synced is create
    assert path.read_bytes() == b"bytes" == read(cache, KEY)


@pytest.mark.parametrize("meets", [pytest.param(True, id="a reader"), pytest.param(False, id="a fill")])
def test_right_bytes_that_took_the_name_since_wrong_ones_were_met_are_not_quarantined(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, meets: bool
) -> None:
    entry = fill(cache, KEY, b"bytes")
    path = Path(cache.blob_path(entry))
    right = path.with_name("right")
    shutil.copy2(path, right)
    path.unlink()
    path.write_bytes(b"wrong")
    os.utime(path, (entry.digest.mtime, entry.digest.mtime))
    verify = BlobStore.verify

    def verify_and_fetch(self: BlobStore, descriptor: int, digest: casstore.Digest) -> bool:
        found = verify(self, descriptor, digest)
        if right.exists():
            right.replace(path)  # as whoever fetches it again does, in another process
        return found

    monkeypatch.setattr(BlobStore, "verify", verify_and_fetch)
    if meets:
        assert cache.open_entry(entry, verify=True) is None
    else:
        fill(cache, OTHER, b"bytes")
    assert path.read_bytes() == b"bytes"
    assert os.listdir(cache.layout.quarantine) == []
