"""Scenes of two writers and a collector over named points, and the stage on which a reader looks at all of them.

The points are few and have names, so that all orders can be had; `test_interleavings.py` has many points, and of their
orders those with few interruptions.

A reader changes nothing: when he looks decides what he finds, and nothing else. So he needs no orders of his own. He
looks before the first step and after each, inside everybody's transactions as well, and the entry that he found at one
point he opens there and at every later one: those are all his orders. Whoever is handed out a path does change
something, the links of a blob: he is put in order like the others, in the place of the second writer or beside him.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

import casstore
from casstore import Entry, Key, LocalUse, Moment, NotHeldError, Validator, clock
from casstore.blobs.blob_store import BlobStore
from casstore.eviction import collector
from casstore.eviction.pins import Pins
from casstore.format.keys import BLOB, USER, user_row
from casstore.fs import files
from casstore.index import entries as rows
from casstore.index.database import Index
from casstore.local.paths import LocalPaths
from tests.casstore.support import replay as playing
from tests.casstore.support.fill import fill, key_of, release, view
from tests.casstore.support.stores import HOUR, dangling, pass_tick
from tests.harness.scheduler import Points, Step

OLD, ONE, TWO = key_of("old"), key_of("one"), key_of("two")
BYTES = {"a": b"the bytes of a", "b": b"the bytes of b"}
"""By the ETag of the version that has them."""

AFTER_LINK, BEFORE_PUT, INSIDE_PUT = "after link", "before put txn", "inside put txn"
AFTER_LISTING, INSIDE_EVICTION = "after candidate listing", "inside eviction txn"
BEFORE_RENAME, INSIDE_SWEEP, AFTER_RENAME = "between eviction commit and rename", "inside sweep txn", "after rename"
BEFORE_PIN, INSIDE_PIN = "before pin txn", "inside pin txn"
BEFORE_UNPIN, INSIDE_UNPIN = "before unpin txn", "inside unpin txn"
BEFORE_PATH = "before link of path"

FILLING = {AFTER_LINK, BEFORE_PUT, INSIDE_PUT}
PUTTING = {BEFORE_PUT, INSIDE_PUT}
"""For the second to fill: what there is between a link and its transaction, the first has shown."""
PINNING = {BEFORE_PIN, INSIDE_PIN}
UNPINNING = {BEFORE_UNPIN, INSIDE_UNPIN}
SWEEPING = {BEFORE_RENAME, INSIDE_SWEEP, AFTER_RENAME}
COLLECTING = {AFTER_LISTING, *SWEEPING}

Passing = tuple[int, str]
"""One of those who take part, by number, goes on from a point."""


def _of(who: int, points: set[str], before: tuple[int, set[str]]) -> set[tuple[Passing, Passing]]:
    return set(product(product((who,), points), product((before[0],), before[1])))


@dataclass(frozen=True)
class Scene:
    """Who takes part: the method of `Stage` that he goes through, and the points at which he stops there.

    There are so many *orders*. *weak*: all bytes have one digest. *pinned*: the old entry is, at first. *only*: of two
    points in one run, the first is always passed before the second; all others are passed in both orders.
    """

    parts: Sequence[tuple[str, set[str]]]
    orders: int
    weak: bool = False
    pinned: bool = False
    only: set[tuple[Passing, Passing]] = field(default_factory=set)


SCENES = {
    "fills another with the same bytes": Scene(
        (("fill_one", FILLING), ("fill_two", PUTTING), ("collect", COLLECTING)),
        2395,
    ),
    "replaces the entry": Scene(
        (("fill_one", FILLING), ("replace_old", PUTTING), ("collect", COLLECTING)),
        1993,
    ),
    "fills with other bytes of the same digest": Scene(
        (("fill_one", FILLING), ("fill_otherwise", PUTTING), ("collect", COLLECTING)),
        395,
        weak=True,
        # Other bytes get the name once it is free.
        only=_of(0, {INSIDE_PUT}, before=(1, PUTTING)) | _of(2, COLLECTING, before=(1, PUTTING)),
    ),
    "links what is held": Scene(
        (("fill_one", FILLING), ("link_two", PUTTING), ("collect", COLLECTING)),
        877,
        # Whoever received nothing puts the blob that he saw, or nothing; and who uses it keeps it.
        only=_of(1, {INSIDE_PUT}, before=(2, {INSIDE_SWEEP, AFTER_RENAME})),
    ),
    "pins the entry": Scene(
        (("fill_one", FILLING), ("pin_old", PINNING), ("collect", {INSIDE_EVICTION, *COLLECTING})),
        1458,
    ),
    "pins what is being filled": Scene(
        (("fill_one", FILLING), ("pin_one", PINNING), ("collect", {INSIDE_EVICTION, *COLLECTING})),
        512,
        # What is not held is not pinned.
        only=_of(0, FILLING, before=(1, PINNING)),
    ),
    "unpins the entry": Scene(
        (("fill_one", FILLING), ("unpin_old", UNPINNING), ("collect", {INSIDE_EVICTION, *COLLECTING})),
        203,
        pinned=True,
        # What is pinned is not planned to go.
        only=_of(1, UNPINNING, before=(2, {INSIDE_EVICTION, *COLLECTING})),
    ),
    "unpins what the other pins": Scene(
        (("pin_old", PINNING), ("unpin_old", UNPINNING), ("collect", {INSIDE_EVICTION, *COLLECTING})),
        123,
        # A pin that is to be given up was there, and as long as it is, nothing goes.
        only=_of(0, PINNING, before=(1, UNPINNING)) | _of(1, UNPINNING, before=(2, SWEEPING)),
    ),
    "is handed out a path": Scene(
        (("fill_one", PUTTING), ("hand_out", {BEFORE_PATH}), ("collect", COLLECTING)),
        446,
    ),
    "is handed out a path while other bytes get the name": Scene(
        (("fill_otherwise", FILLING), ("hand_out", {BEFORE_PATH}), ("collect", COLLECTING)),
        242,
        weak=True,
        only=_of(2, COLLECTING, before=(0, PUTTING)) | _of(2, COLLECTING - {AFTER_RENAME}, before=(0, {AFTER_LINK})),
    ),
    "replaces the entry, and a third is handed out a path": Scene(
        (
            ("fill_one", {BEFORE_PUT}),
            ("replace_old", {BEFORE_PUT}),
            ("collect", {AFTER_LISTING, BEFORE_RENAME, INSIDE_SWEEP}),
            ("hand_out", set()),
        ),
        2074,
    ),
}


class Stage:
    """One store in which a scene is played again and again."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
        if scene.weak:
            playing.weaken(monkeypatch)
        playing.hurry(monkeypatch)
        self.scene = scene
        self.cache = casstore.open(root)
        self.cache.stage().close()
        monkeypatch.setattr(clock, "now", lambda boot: self._now())
        monkeypatch.setattr(clock, "current_hour", lambda: HOUR)
        self.points = Points(monkeypatch, stops=[stops for _, stops in scene.parts], look=self._look)
        self.points.wrap_lock(Index, "write_once", self._before_lock)
        self.points.wrap(BlobStore, "add", after=True, point=AFTER_LINK)
        self.points.wrap(rows, "put_entry", point=INSIDE_PUT)
        self.points.wrap(collector, "record_evictions", point=INSIDE_EVICTION)
        self.points.wrap(files, "rename", point=INSIDE_SWEEP)
        self.points.wrap(files, "rename", after=True, point=AFTER_RENAME)
        self.points.wrap(Pins, "_name", point=INSIDE_PIN)
        self.points.wrap(Pins, "_unlink", point=INSIDE_UNPIN)
        self.points.wrap(LocalPaths, "_record", after=True, point=BEFORE_PATH)

    def _before_lock(self, who: int, times: int) -> str:
        verb = self.scene.parts[who][0].split("_")[0]
        if verb == "collect":
            return (AFTER_LISTING, BEFORE_RENAME)[times]
        return {"pin": BEFORE_PIN, "unpin": BEFORE_UNPIN}.get(verb, BEFORE_PUT)

    def _now(self) -> Moment:
        """Another one each time, so that the order in which blobs go hangs on no clock."""
        self.moments += 1
        return Moment(self.moments * 10**6, self.moments * 10**6, 0)

    def play(self, choices: Sequence[int]) -> list[Step]:
        self._reset()
        steps = self.points.run([getattr(self, name) for name, _ in self.scene.parts], choices)
        self._check()
        return steps

    def _reset(self) -> None:
        cache = self.cache
        self.moments = 0
        if left := [pin.uri for pin in cache.pins()]:
            cache.unpin(*left)
            self._collect_idly(set())
        entry = fill(cache, OLD, BYTES["a"], "a")
        if any(name == "hand_out" for name, _ in self.scene.parts):
            # By the blob's time of change the collector tells a link that was made since the plan.
            pass_tick(cache.blob_path(entry), unit_ns=1)
        if self.scene.pinned:
            cache.pin(OLD.uri)
        self.found: list[Entry] = []
        self.opened: dict[tuple[Entry, int], int] = {}
        self.promised: dict[Key, str] = {}
        self.is_planned = False
        self.handed: tuple[str, bytes] | None = None
        self.use: LocalUse | None = None

    def _check(self) -> None:
        cache = self.cache
        for descriptor in self.opened.values():
            os.close(descriptor)
        entries = {entry.key: entry for entry in cache.entries()}
        assert dangling(cache) == [], "an entry has no blob"
        for entry in entries.values():
            assert self._read(entry), "an entry cannot be read"
        users = {row for row, _ in cache.index.scan(USER)}
        used = {user_row(entry.digest.value, entry.key) for entry in entries.values()}
        assert users == used, "the rows of users are not those of the entries"
        pinned = {pin.key for pin in cache.pins()}
        assert pinned <= entries.keys(), "what was pinned was evicted"
        for key, broken in self.promised.items():
            assert key in entries, broken
        if self.handed is not None:
            path, data = self.handed
            assert Path(path).read_bytes() == data, "a path that was handed out has other bytes"
            release(cache, path)
            self.use = None
        self._collect_idly({entries[key].digest.value for key in pinned})
        assert os.listdir(cache.layout.trash) == [], "something stays in the trash"

    def _collect_idly(self, pinned: set[bytes]) -> None:
        """A collection beside which nothing runs leaves the blobs of what is *pinned*, and nothing else."""
        cache = self.cache
        cache.collect(cache.plan(max_size=0, min_free=0), reaps=False)
        assert {entry.digest.value for entry in cache.entries()} == pinned
        assert {row[1:] for row, _ in cache.index.scan(BLOB)} == pinned, "the row of a blob without users stays"
        shards = os.listdir(cache.layout.blobs)
        names = {shard + name for shard in shards for name in os.listdir(f"{cache.layout.blobs}/{shard}")}
        assert names == {digest.hex() for digest in pinned}, "the file of a blob without users stays"

    # --- the reader --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        for key in (OLD, ONE):
            entry = self.cache.lookup(key)
            if entry is not None and entry not in self.found:
                self.found.append(entry)
        for entry in self.found:
            if self.scene.weak:
                self._open(entry)
            else:
                self._read(entry)
        for (entry, _), descriptor in self.opened.items():
            if self.cache.recent.is_blob_of(entry, descriptor):
                self._compare(entry, descriptor)

    def _open(self, entry: Entry) -> None:
        """Between opening a blob and making sure that it is still the entry's, too, the others go on."""
        descriptor = self.cache.checker.open(entry, verify=False)
        if descriptor is not None:
            known = self.opened.setdefault((entry, os.fstat(descriptor).st_ino), descriptor)
            if known != descriptor:
                os.close(descriptor)

    def _read(self, entry: Entry) -> bool:
        descriptor = self.cache.open_entry(entry)
        if descriptor is None:
            return False
        self._compare(entry, descriptor)
        os.close(descriptor)
        return True

    @staticmethod
    def _compare(entry: Entry, descriptor: int) -> None:
        assert os.pread(descriptor, 100, 0) == BYTES[entry.validator.etag or ""], "a reader got other bytes"

    # --- who is put in order -----------------------------------------------------------------------------------------

    def collect(self) -> None:
        plan = self.cache.plan(max_size=0, min_free=0)
        self.is_planned = True
        self.cache.collect(plan, reaps=False)

    def fill_one(self) -> None:
        self._fill(ONE, "a")

    def fill_two(self) -> None:
        self._fill(TWO, "a")

    def fill_otherwise(self) -> None:
        self._fill(TWO, "b")

    def replace_old(self) -> None:
        self._fill(OLD, "b")

    def _fill(self, key: Key, etag: str) -> None:
        is_later = self.is_planned
        with self.cache.begin(key) as filling:
            filling.write(BYTES[etag])
            stored = filling.publish(Validator(len(BYTES[etag]), etag))
        assert os.read(stored.descriptor, 100) == BYTES[etag], "who filled got other bytes"
        os.close(stored.descriptor)
        # Where digests collide, there is no room for both.
        if is_later and not self.scene.weak:
            self.promised[key] = "what was filled since the plan was evicted"

    def link_two(self) -> None:
        """These bytes are held, by what the cloud states of them: nothing is downloaded."""
        entry = self.cache.lookup(OLD)
        descriptor = None if entry is None else self.cache.open_entry(entry)
        if entry is not None and descriptor is not None:
            with self.cache.begin(TWO) as filling:
                filling.link(entry.digest, descriptor, entry.validator)
            os.close(descriptor)

    def pin_old(self) -> None:
        self._pin(OLD)

    def pin_one(self) -> None:
        self._pin(ONE)

    def _pin(self, key: Key) -> None:
        with contextlib.suppress(NotHeldError):
            self.cache.pin(key.uri)
            self.promised[key] = "what was pinned was evicted"

    def unpin_old(self) -> None:
        with contextlib.suppress(NotHeldError):
            self.cache.unpin(OLD.uri)
            self.promised.pop(OLD, None)

    def hand_out(self) -> None:
        entry = self.cache.lookup(OLD)
        descriptor = None if entry is None else self.cache.open_entry(entry)
        if entry is not None and descriptor is not None:
            self.use = self.cache.local.use(OLD)
            etag = entry.validator.etag
            self.handed = view(self.cache, entry, descriptor, "old", "link"), BYTES[etag or ""]
            os.close(descriptor)
