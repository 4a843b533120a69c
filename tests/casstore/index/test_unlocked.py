"""The index read without LMDB: the same rows, whatever was committed, and nothing wrong beside a writer."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import lmdb
import pytest

from casstore import Cache
from casstore.format.layout import Layout
from casstore.format.records import unpack_entry
from casstore.index.unlocked import UnlockedIndex
from tests.casstore.support.fill import fill, fork, key_of


def _index(root: Path) -> tuple[UnlockedIndex, lmdb.Environment]:
    layout = Layout(root)
    os.makedirs(layout.generation(1))
    env = lmdb.open(layout.generation(1), map_size=1 << 30, max_dbs=0, lib_version=0, sync=False)
    return UnlockedIndex(layout), env


def test_all_rows_are_those_that_lmdb_has_after_every_commit(tmp_path: Path) -> None:
    unlocked, env = _index(tmp_path)
    assert list(unlocked.scan(b"")) == []
    chance = random.Random(7)
    rows: dict[bytes, bytes] = {}
    for _ in range(60):
        with env.begin(write=True) as txn:
            for _ in range(chance.choice([1, 20, 400])):
                row = chance.choice([b"E", b"U"]) + chance.randbytes(chance.choice([1, 2, 20, 500]))
                rows[row] = chance.randbytes(chance.choice([8, 100, 1500, 9000]))
                txn.put(row, rows[row])
            for row in chance.sample(sorted(rows), len(rows) // 5):
                txn.delete(row)
                del rows[row]
        assert list(unlocked.scan(b"")) == sorted(rows.items())
        assert list(unlocked.scan(b"U")) == sorted(item for item in rows.items() if item[0].startswith(b"U"))
        for row in chance.sample(sorted(rows), min(20, len(rows))):
            assert unlocked.get(row) == rows[row]
            assert unlocked.get(row + b"\0") is None
    env.close()


def test_a_store_without_an_index_has_no_rows(tmp_path: Path) -> None:
    assert UnlockedIndex(Layout(tmp_path / "none")).get(b"E") is None
    layout = Layout(tmp_path)
    os.makedirs(layout.generation(1))
    for content in (b"", b"no index", bytes(20_000)):
        Path(layout.index_file(1)).write_bytes(content)
        assert list(UnlockedIndex(layout).scan(b"")) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_gives_fewer_rows_and_none_that_is_wrong(root: Path, cache: Cache, seed: int) -> None:
    keys = [key_of(f"{number}/{'x' * (number % 7 * 100)}") for number in range(300)]
    entries = {key: fill(cache, key, b"%d" % number) for number, key in enumerate(keys)}
    cache.flush()
    cache.index.close()
    file = Path(cache.layout.index_file(1))
    sound, chance = file.read_bytes(), random.Random(seed)
    unlocked = UnlockedIndex(cache.layout)
    for _ in range(60):
        damaged = bytearray(sound)
        for _ in range(chance.choice([1, 10, 1000])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        for key in chance.sample(keys, 20):
            record = unlocked.get(key.row_key)
            found = None if record is None else unpack_entry(key.row_key, record, key)
            assert found is None or found.same_content(entries[key])
    file.write_bytes(sound)


def test_beside_a_writer_every_record_is_one_that_was_written(tmp_path: Path) -> None:
    unlocked, env = _index(tmp_path)
    env.close()

    def write() -> None:
        chance = random.Random(3)
        env = lmdb.open(Layout(tmp_path).generation(1), map_size=1 << 30, max_dbs=0, lib_version=0, sync=False)
        for round_ in range(400):
            with env.begin(write=True) as txn:
                for _ in range(50):
                    row = b"E%d" % chance.randrange(3000)
                    txn.put(row, row + b"=%d" % round_ * chance.choice([1, 50]))
        env.close()

    writer = fork(write)
    seen = 0
    while os.waitpid(writer, os.WNOHANG)[0] == 0:
        for row, record in unlocked.scan(b"E"):
            seen += 1
            # A record has a checksum over its row and itself; here, the text does the same.
            assert row + b"=" == record[: len(row) + 1] or unpack_entry(row, record) is None
        time.sleep(0.001)
    assert seen
