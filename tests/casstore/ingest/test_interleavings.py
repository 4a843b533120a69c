"""Two fills, a sweep and a reader in every order: nobody gets another object's bytes, and no entry names them.

Under a digest that collides at will, so that every file that is taken for another shows. Each protection has its
negative control: without it, the same enumeration must find a violation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Validator
from casstore import cache as caches
from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import Staging
from casstore.eviction.collector import evict
from casstore.format.layout import Layout
from casstore.fs import copying, files
from casstore.index.database import Index
from casstore.index.transactions import Txn
from casstore.ingest import fill as fills
from casstore.ingest.publisher import Publisher
from tests.casstore.support import replay as playing
from tests.casstore.support.fill import fill, key_of, read
from tests.harness.scheduler import Points, Step, explore

pytestmark = pytest.mark.usefixtures("one_processor")

A, B = b"the bytes of a", b"the bytes of b"
OLD, ONE, TWO = key_of("old"), key_of("one"), key_of("two")


@dataclass(frozen=True)
class Scene:
    """What is in the store before (an entry, a file without a row, or a lost blob), and what is filled then."""

    one: bytes
    two: bytes
    before: str = "entry"
    weak: bool = True


SCENES = {
    "identical": Scene(A, A),
    "colliding": Scene(A, B),
    "both collide": Scene(B, B),
    "a name without a row": Scene(A, B, "rowless"),
    "a lost blob": Scene(B, A, "lost"),
    "wrong bytes under the name": Scene(A, A, "poisoned", weak=False),
}


def _delete_rows(txn: Txn) -> None:
    for row, _ in txn.scan(b"", b"", 1000):
        txn.delete(row)


class Stage:
    """One store in which a scene is played again and again."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
        if scene.weak:
            playing.weaken(monkeypatch)
        playing.hurry(monkeypatch)
        self.scene = scene
        self.cache = casstore.open(root)
        self.cache.stage().close()
        self.points = Points(monkeypatch)
        self.points.wrap_lock(Index, "write_once")
        self.points.wrap(Index, "get", after=True)
        self.points.wrap(Index, "read", after=True)
        self.points.wrap(files, "link_descriptor")
        self.points.wrap(files, "link")
        self.points.wrap(files, "rename")
        self.points.wrap(BlobStore, "open_any")
        self.points.wrap(BlobStore, "inode", after=True)
        self.points.wrap(fills, "_open_added")

    def reset(self) -> None:
        cache, scene = self.cache, self.scene
        cache.index.write(_delete_rows)
        for directory in (cache.layout.blobs, cache.layout.trash, cache.layout.quarantine):
            shutil.rmtree(directory)
            os.mkdir(directory)
        self.old = fill(cache, OLD, A, "old")
        path = Path(cache.blob_path(self.old))
        if scene.before == "lost":
            path.unlink()
        elif scene.before in ("rowless", "poisoned"):
            cache.index.write(_delete_rows)
        if scene.before == "poisoned":
            status = path.stat()
            path.chmod(0o600)
            path.write_bytes(b"x" * len(A))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def play(self, choices: Sequence[int]) -> list[Step]:
        self.reset()
        steps = self.points.run([self.fill_one, self.sweep, self.fill_two, self.read], choices)
        for key, data in ((OLD, A), (ONE, self.scene.one), (TWO, self.scene.two)):
            assert read(self.cache, key) in (None, data), f"the entry of {key.uri} has another's bytes"
        return steps

    def fill_one(self) -> None:
        self._fill(ONE, self.scene.one)

    def fill_two(self) -> None:
        self._fill(TWO, self.scene.two)

    def _fill(self, key: casstore.Key, data: bytes) -> None:
        with self.cache.begin(key) as filling:
            filling.write(data)
            stored = filling.publish(Validator(len(data), "e"))
        with open(stored.descriptor, "rb") as file:
            assert file.read() == data, "who filled got another's bytes"

    def sweep(self) -> None:
        evict(self.cache.index, self.cache.layout, [self.old])

    def read(self) -> None:
        for key, data in ((OLD, A), (ONE, self.scene.one)):
            assert read(self.cache, key) in (None, data), f"a reader of {key.uri} got another's bytes"


@pytest.fixture
def play(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scene], Stage]:
    return lambda scene: Stage(root, monkeypatch, scene)


@pytest.mark.parametrize("name", SCENES)
def test_two_fills_a_sweep_and_a_reader_never_mix_up_bytes(play: Callable[[Scene], Stage], name: str) -> None:
    played = list(explore(play(SCENES[name]).play, preemptions=2, most=60))
    assert len(played) == 60


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_two_fills_a_sweep_and_a_reader_never_mix_up_bytes_in_any_order_with_one_interruption(
    play: Callable[[Scene], Stage], name: str
) -> None:
    stage = play(SCENES[name])
    assert len(list(explore(stage.play, preemptions=1))) > 150
    assert len(list(explore(stage.play, preemptions=3, most=300))) == 300


def _skip_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "same_bytes", lambda one, other: True)


def _skip_second_look_of_warm_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_NEW_NS", -(10**18))


def _open_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_whatever(layout: Layout, added: Any, staging: Staging) -> int:
        try:
            return os.open(layout.blob(added.digest.value), os.O_RDONLY)
        except FileNotFoundError:
            return files.reopen(staging.descriptor)

    monkeypatch.setattr(fills, "_open_added", open_whatever)


def _keep_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "_drop_orphans", lambda self, digest: None)


def _gives_numbers_again(directory: Path) -> bool:
    numbers = set()
    for number in range(5):
        path = directory / f"probe{number}"
        path.touch()
        numbers.add(path.stat().st_ino)
        path.unlink()
    return len(numbers) < 5


def _let_go_of_what_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Staging, "keep_open", lambda self, met: os.close(met) if met >= 0 else None)


@pytest.mark.parametrize(
    ("skip", "name"),
    [
        (playing.skip_inode_check, "colliding"),
        (_skip_comparison, "colliding"),
        (_skip_comparison, "wrong bytes under the name"),
        (playing.skip_check_of_use, "colliding"),
        (_skip_second_look_of_warm_reads, "both collide"),
        (playing.skip_look_at_what_was_opened, "colliding"),
        (_let_go_of_what_was_compared, "a name without a row"),
        (_open_by_name, "colliding"),
        (_keep_orphans, "a lost blob"),
    ],
)
def test_without_a_protection_the_same_enumeration_finds_a_violation(
    play: Callable[[Scene], Stage],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    skip: Callable[[pytest.MonkeyPatch], None],
    name: str,
) -> None:
    if skip is _let_go_of_what_was_compared and not _gives_numbers_again(tmp_path):
        pytest.skip("this file system does not give the number of a removed file to the next one")
    skip(monkeypatch)
    stage = play(SCENES[name])
    # Again, since another process may be given the number of a removed file first.
    again = chain.from_iterable(explore(stage.play, preemptions=1, most=3000, seed=seed) for seed in range(5))
    with pytest.raises(AssertionError, match="another's bytes"):
        list(again)
