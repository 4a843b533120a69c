"""The check before an index is mapped: no sound file is refused, no truncated one passes."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import lmdb
import pytest

from casstore.index import page_check as pages
from casstore.index.page_check import UnsoundError
from tests.casstore.support.fill import fork, status_of


def _work(env: lmdb.Environment, rows: list[bytes], chance: random.Random) -> None:
    with env.begin(write=True) as txn:
        for _ in range(chance.choice([1, 5, 50, 300])):
            if rows and chance.random() < 0.5:
                txn.delete(rows.pop(chance.randrange(len(rows))))
            else:
                rows.append(chance.randbytes(chance.choice([2, 20, 300])))
                txn.put(rows[-1], chance.randbytes(chance.choice([10, 100, 1500, 6000, 20000])))
        if chance.random() < 0.2:
            for row in rows[-200:]:
                txn.delete(row)
            del rows[-200:]


def test_every_commit_leaves_a_file_that_passes(tmp_path: Path) -> None:
    short = 0
    for seed in range(5):
        chance, rows = random.Random(seed), list[bytes]()
        env = lmdb.open(str(tmp_path / str(seed)), map_size=1 << 30, max_dbs=0, lib_version=0, sync=False)
        for _ in range(120):
            _work(env, rows, chance)
            file = tmp_path / str(seed) / "data.mdb"
            short += (env.info()["last_pgno"] + 1) * env.stat()["psize"] > file.stat().st_size
            pages.check(str(file), whole=True)
        env.close()
    # Else this workload does not show why the size alone is no criterion.
    assert short > 0


def _sample(directory: Path) -> Path:
    env = lmdb.open(str(directory), map_size=1 << 30, max_dbs=0, lib_version=0, sync=False)
    for start in range(0, 300, 60):
        with env.begin(write=True) as txn:
            for number in range(start, start + 60):
                txn.put(b"key%d" % number, b"v" * (5000 if number % 10 == 0 else 150))
    env.close()
    return directory / "data.mdb"


def test_a_file_that_passes_is_read_without_a_crash_wherever_it_was_cut(tmp_path: Path) -> None:
    file = _sample(tmp_path / "whole")
    size = file.stat().st_size
    cuts = [*range(1, 4096 * 3, 1111), *range(4096, size, 4096), size - 1]
    refused = 0
    for cut in cuts:
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        (tmp_path / "cut").mkdir()
        target = tmp_path / "cut" / "data.mdb"
        shutil.copyfile(file, target)
        os.truncate(target, cut)
        try:
            pages.check(str(target))
        except UnsoundError:
            refused += 1
            continue

        def read_all() -> None:
            env = lmdb.open(str(tmp_path / "cut"), map_size=1 << 30, max_dbs=0, lib_version=0)
            with env.begin() as txn:
                assert len(dict(txn.cursor())) == 300

        assert status_of(fork(read_all)) == 0
    assert refused > len(cuts) * 0.9


@pytest.mark.parametrize("data", [b"x", b"x" * 5000, b"\0" * 20000])
def test_what_is_no_lmdb_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(data)
    with pytest.raises(UnsoundError):
        pages.check(str(tmp_path / "data.mdb"))


def test_a_missing_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    pages.check(str(tmp_path / "none"))
    (tmp_path / "empty").touch()
    pages.check(str(tmp_path / "empty"))


def test_a_file_that_is_being_written_to_passes(tmp_path: Path) -> None:
    env = lmdb.open(str(tmp_path), map_size=1 << 30, max_dbs=0, lib_version=0, sync=False)
    with env.begin(write=True) as txn:
        txn.put(b"first", b"row")
    env.close()

    def write() -> None:
        env = lmdb.open(str(tmp_path), map_size=1 << 30, max_dbs=0, lib_version=0, sync=False)
        chance, rows = random.Random(0), list[bytes]()
        for _ in range(150):
            _work(env, rows, chance)

    pid = fork(write)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        pages.check(str(tmp_path / "data.mdb"))


def _fields(file: Path) -> dict[str, int]:
    """Offsets in the newer meta page, and in the page that is the root of the rows."""
    data = file.read_bytes()
    metas = {int.from_bytes(data[at + 144 : at + 152], "little"): at for at in (0, 4096)}
    meta = metas[max(metas)]
    root = int.from_bytes(data[meta + 128 : meta + 136], "little") * 4096
    leaf = int.from_bytes(data[root + 16 : root + 18], "little") + root
    child = int.from_bytes(data[leaf : leaf + 4], "little") * 4096
    node = child + int.from_bytes(data[child + 16 : child + 18], "little")
    return {
        "magic": meta + 16,
        "map size": meta + 37,
        "flags of the free list": meta + 44,
        "root of the free list": meta + 80,
        "flags of the rows": meta + 92,
        "depth": meta + 94,
        "entries": meta + 120,
        "root of the rows": meta + 128,
        "last page": meta + 136 + 4,
        "transaction": meta + 144,
        "number of a branch page": root,
        "flags of a branch page": root + 10,
        "pointers of a branch page": root + 12,
        "child of a branch page": leaf,
        "flags of a leaf page": child + 10,
        "pointers of a leaf page": child + 12,
        "first node of a leaf page": child + 17,
        "length of a record": node + 1,
        "flags of a record": node + 4,
        "length of a key": node + 7,
    }


_FIELDS = (
    *("magic", "map size", "flags of the free list", "root of the free list", "flags of the rows", "depth", "entries"),
    *("root of the rows", "last page", "transaction", "number of a branch page", "flags of a branch page"),
    *("pointers of a branch page", "child of a branch page", "flags of a leaf page", "pointers of a leaf page"),
    *("first node of a leaf page", "length of a record", "flags of a record", "length of a key"),
)


@pytest.mark.parametrize("field", _FIELDS)
def test_a_damaged_field_of_a_page_is_seen(tmp_path: Path, field: str) -> None:
    file = _sample(tmp_path / "whole")
    pages.check(str(file))
    data = bytearray(file.read_bytes())
    data[_fields(file)[field]] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(UnsoundError):
        pages.check(str(file))


def test_a_commit_during_the_check_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may overwrite pages that the check is about to read."""
    file = _sample(tmp_path / "sample")
    run, runs = pages._Walk.run, []

    def interrupted(self: pages._Walk, limit: int | None) -> None:
        runs.append(limit)
        if len(runs) == 1:
            with (
                lmdb.open(str(file.parent), map_size=1 << 30, max_dbs=0, lib_version=0) as env,
                env.begin(write=True) as txn,
            ):
                txn.put(b"key", b"of another process")
            raise UnsoundError("a page was overwritten")
        run(self, limit)

    monkeypatch.setattr(pages._Walk, "run", interrupted)
    pages.check(str(file))
    assert len(runs) == 2
