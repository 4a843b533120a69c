"""Who takes part in a race over one store (`tests.casstore.support.race`): a program that fills, reads or collects.

The remote is a function: an object at a version has bytes that anybody can tell. Many objects share bytes, so that a
fill mostly meets a blob that is there already, and maybe about to go. What was done stands on a board that all share,
since a process that is killed says nothing any more.
"""

from __future__ import annotations

import abc
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Final

import casstore
from casstore import Cache, Entry, Key, LocalUse, ProviderChecksum, Validator, new_hasher
from casstore.blobs.blob_store import BlobStore
from casstore.eviction import collector, removal
from casstore.format.keys import blob_row
from casstore.index.transactions import Txn
from casstore.index.updates import PublishEntry
from tests.casstore.support.fill import key_of, replace_in, view
from tests.casstore.support.stores import Trusting

GROUPS, NAMES, SHARED, SIZE = 3, 6, 2, 8000
"""Objects come in groups; at a version, all those of a group have the same bytes. Mostly it is one of the first."""

BUDGET: Final = 2 * SIZE
"""Room for a third of all blobs."""

WRONG_READ, LOST_PATH = 3, 4
"""What a reader exits with that saw it."""

_KEPT: Final = 3
"""Paths that a reader keeps before it gives one back: while it holds the links of all blobs, nothing can be freed."""

_GRACE_NS: Final = 100_000_000


# --- the remote ------------------------------------------------------------------------------------------------------


def bytes_of(group: int, version: int) -> bytes:
    """What the objects of a group are at a version: they say so."""
    name = f"{group} {version}"
    return (f"{name}\n".encode() + random.Random(name).randbytes(SIZE))[:SIZE]


def _are_of(group: int, data: bytes) -> bool:
    """Whether the objects of a group are that at some version."""
    name = data.split(b"\n", 1)[0].split()
    return len(name) == 2 and name[1].isdigit() and data == bytes_of(group, int(name[1]))


def _stated_of(data: bytes) -> ProviderChecksum:
    hasher = new_hasher("sha256")
    hasher.update(data)
    return ProviderChecksum("s3", "sha256", hasher.digest().hex(), len(data))


# --- what everybody did ----------------------------------------------------------------------------------------------


class Count(IntEnum):
    """Columns of the board; a process has a row."""

    IS_OVER = 0
    FILLS = 1
    LINKS = 2
    SHARED = 3
    READS = 4
    PATHS = 5
    REREADS = 6
    MISSES = 7
    COLLECTIONS = 8
    REMOVED = 9
    TURNS = 10


class Board:
    """Numbers in a file that all processes map; each adds to its own row."""

    _ROWS: Final = 4096

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(self._ROWS * len(Count) * 8)
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def add(self, row: int, count: Count, number: int = 1) -> None:
        """Count in one's own row."""
        self._numbers[row * len(Count) + count] += number

    def of(self, row: int, count: Count) -> int:
        """What stands there."""
        return self._numbers[row * len(Count) + count]

    def total(self, count: Count) -> int:
        """Of all processes that there ever were."""
        return sum(self._numbers[count :: len(Count)])


# --- the processes ---------------------------------------------------------------------------------------------------


class _Violation(SystemExit):
    """What must not be was seen: it is printed, and the process ends with that status."""

    def __init__(self, status: int, what: str) -> None:
        print(what, file=sys.stderr, flush=True)
        super().__init__(status)


class _Process(abc.ABC):
    """What a filler, a reader and a collector have in common."""

    def __init__(self, directory: Path, row: int, control: str) -> None:
        self.board = Board(directory / "board")
        self.row = row
        self.control = control
        self.chance = random.Random(row)
        self.cache = casstore.open(directory / "store")
        self._owner = os.getppid()

    def count(self, count: Count, number: int = 1) -> None:
        self.board.add(self.row, count, number)

    def run(self) -> None:
        while not self.board.of(self.row, Count.IS_OVER) and os.getppid() == self._owner:
            self.turn()
            self.count(Count.TURNS)

    @abc.abstractmethod
    def turn(self) -> None:
        """What it does again and again."""

    def any_key(self) -> tuple[int, Key]:
        group = self.chance.randrange(GROUPS)
        return group, key_of(f"{group}/{self.chance.randrange(NAMES)}")


class _Filler(_Process):
    """Takes an object from the remote; where the remote states bytes that are held, without taking any."""

    serial = 0

    def turn(self) -> None:
        group, key = self.any_key()
        self.serial += 1
        version = self.chance.randrange(SHARED)
        if self.chance.random() < 0.1:
            version = self.row * 1_000_000 + self.serial  # one that nobody else ever has
        data = bytes_of(group, version)
        stated = _stated_of(data)
        validator = Validator(SIZE, f"{version} {self.row} {self.serial}")
        if self.control == "mixed up":
            data = bytes_of((group + 1) % GROUPS, version)
        with self.cache.begin(key) as filling:
            known = self.cache.find_by_checksum((stated,)) if self.chance.random() < 0.3 else None
            if known is not None:
                digest, descriptor = known
                filling.link(digest, descriptor, validator)
                self.count(Count.LINKS)
            else:
                filling.write(data)
                descriptor = filling.publish(validator, (stated,)).descriptor
        with open(descriptor, "rb") as file:
            if file.read() != data:
                raise _Violation(WRONG_READ, f"{key.uri} was filled, and read as other bytes")
        self.count(Count.FILLS)
        if self.serial % 8 == 0:
            self.cache.flush()
            self.count(Count.SHARED, self.cache.counts().get("shared", 0) - self.board.of(self.row, Count.SHARED))


@dataclass
class _Kept:
    """A path that was handed out, of these bytes, when there had been so many collections."""

    path: str
    data: bytes
    collections: int
    use: LocalUse


class _Reader(_Process):
    """Reads by descriptor and by path in turn, and each path again until it gives it back."""

    by_path = False

    def __init__(self, directory: Path, row: int, control: str) -> None:
        super().__init__(directory, row, control)
        self._kept: list[_Kept] = []

    def turn(self) -> None:
        group, key = self.any_key()
        if not (self._read_by_path(group, key) if self.by_path else self._read(group, key)):
            self.count(Count.MISSES)
            time.sleep(0.001)  # somebody else's turn
            return
        self.by_path = not self.by_path
        if self._kept:
            self._read_again(self.chance.choice(self._kept))
        if len(self._kept) > _KEPT:
            self._give_back(self.chance.choice(self._kept))

    def _read(self, group: int, key: Key) -> bool:
        descriptor = self.cache.open_fresh(key, None)
        entry = None
        if descriptor is None:
            entry = self.cache.lookup(key)
            descriptor = None if entry is None else self.cache.open_entry(entry)
        if descriptor is None:
            return False
        with open(descriptor, "rb") as file:
            data = file.read()
        if not (_are_of(group, data) if entry is None else data == _expected(group, entry)):
            raise _Violation(WRONG_READ, f"{key.uri} was read as other bytes")
        self.count(Count.READS)
        return True

    def _read_by_path(self, group: int, key: Key) -> bool:
        entry = self.cache.lookup(key)
        descriptor = None if entry is None else self.cache.open_entry(entry)
        if entry is None or descriptor is None:
            return False
        use = self.cache.local.use(key)
        try:
            path = self._path(entry, descriptor)
        finally:
            os.close(descriptor)
        kept = _Kept(path, _expected(group, entry), self.board.total(Count.COLLECTIONS), use)
        self._check(kept)
        self.count(Count.PATHS)
        if all(other.path != path for other in self._kept):
            self._kept.append(kept)
        return True

    def _path(self, entry: Entry, descriptor: int) -> str:
        if self.control == "bare path":
            return self.cache.blob_path(entry)
        name = entry.uri.removeprefix("s3://bucket/")
        return view(self.cache, entry, descriptor, name, self.chance.choice(("link", "copy")))

    def _read_again(self, kept: _Kept) -> None:
        self._check(kept)
        if self.board.total(Count.COLLECTIONS) > kept.collections:
            self.count(Count.REREADS)

    def _check(self, kept: _Kept) -> None:
        try:
            data = Path(kept.path).read_bytes()
        except FileNotFoundError:
            raise _Violation(LOST_PATH, f"{kept.path} was handed out, and is gone") from None
        if data != kept.data:
            raise _Violation(WRONG_READ, f"{kept.path} was handed out, and has other bytes")

    def _give_back(self, kept: _Kept) -> None:
        self._kept.remove(kept)


def _expected(group: int, entry: Entry) -> bytes:
    return bytes_of(group, int((entry.validator.etag or "").split()[0]))


class _Collector(_Process):
    """Collects down to a budget that is always passed; at times it evicts, or clears, what nobody asked it to."""

    def turn(self) -> None:
        if self.control in _NAIVE:
            removed = _collect_naively(self.cache, self.chance, _NAIVE[self.control])
        else:
            ways: list[Callable[[], int]] = [
                self._trim,
                self._trim,
                lambda: self.cache.evict(lambda _: self.chance.random() < 0.5).blobs,
                lambda: self.cache.clear().blobs,
            ]
            removed = self.chance.choice(ways)()
        self.count(Count.COLLECTIONS)
        self.count(Count.REMOVED, removed)

    def _trim(self) -> int:
        plan = self.cache.plan(max_size=BUDGET, min_free=0)
        # Reaping starts a process each time.
        freed = self.cache.execute(plan) if self.chance.random() < 0.1 else self.cache.collect(plan, reaps=False)
        return freed.blobs


# --- what is wrong on purpose ----------------------------------------------------------------------------------------


_NAIVE: Final = {"mark and sweep": 0, "grace": _GRACE_NS}


def _collect_naively(cache: Cache, chance: random.Random, grace_ns: int) -> int:
    """See what is used, then take the rest away: what is younger than the grace excepted, and in no transaction."""
    doomed = [entry for entry in cache.entries() if chance.random() < 0.5]
    collector.EntryRemoval(cache.index, cache.layout).drop(doomed)
    used = {entry.digest.value for entry in cache.entries()}
    removed = 0
    for path in Path(cache.layout.blobs).glob("??/*"):
        digest = bytes.fromhex(path.parent.name + path.name)
        # By the time at which it got its name: the mtime of a blob follows from its bytes.
        if digest not in used and time.time_ns() - path.lstat().st_ctime_ns >= grace_ns:
            path.unlink()
            cache.index.write(partial(Txn.delete, row=blob_row(digest)))
            removed += 1
    return removed


def _sweep_unchecked() -> None:
    replace_in(removal, _is_in_use=lambda txn, digest: False)


def _publish_unchecked() -> None:
    apply = PublishEntry.apply

    def apply_unchecked(self: PublishEntry, txn: Txn, blobs: BlobStore, generation: int) -> bool:
        return apply(self, txn, Trusting(self.added), generation)

    replace_in(PublishEntry, apply=apply_unchecked)


_PROTECTIONS: Final[dict[str, Callable[[], None]]] = {
    "sweep unchecked": _sweep_unchecked,
    "publish unchecked": _publish_unchecked,
}


# --- the program -----------------------------------------------------------------------------------------------------


_ROLES: Final[dict[str, type[_Process]]] = {"filler": _Filler, "reader": _Reader, "collector": _Collector}


def main(role: str, directory: str, row: str, control: str) -> None:
    """Be one of the processes."""
    if control in _PROTECTIONS:
        _PROTECTIONS[control]()
    _ROLES[role](Path(directory), int(row), control).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
