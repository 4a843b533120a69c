"""A disk without a free byte: a collection gets the store out of that, a repair says what it could not do."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

import casstore
from casstore import Cache, PendingState
from casstore.cli.main import run
from casstore.errors import StoreFullError
from casstore.eviction.removal import Removal
from casstore.fs import files
from tests.casstore.support.fill import fill, fork, forked, key_of, read, status_of, view
from tests.casstore.support.local_edits import outbox_of
from tests.casstore.support.mounts import fill_up, small_disk
from tests.casstore.support.stores import HOUR, add_orphan, dangling, used_at

pytestmark = pytest.mark.needs_root

PINNED = "s3://bucket/pinned"
DATA = {name: name.encode() * 2000 for name in ("a", "b", "edited", "pinned", "touched", "wrong")}
EDITED, MADE = b"edited" * 3000, b"made" * 3000
PAGE = 4096


def _fill(cache: Cache) -> None:
    """Something of everything; the cache has nothing open afterwards."""
    for hour, (name, data) in enumerate(DATA.items()):
        used_at(cache, fill(cache, key_of(name), data), HOUR + hour)
    cache.pin(PINNED)
    wrong, touched = (Path(cache.blob_path(_entry(cache, name))) for name in ("wrong", "touched"))
    wrong.chmod(0o644)
    wrong.write_bytes(b"x")
    os.utime(touched)
    add_orphan(cache, b"orphan" * 1000)
    assert status_of(fork(lambda: _leave_files(cache))) == 0


def _entry(cache: Cache, name: str) -> casstore.Entry:
    entry = cache.stat(f"s3://bucket/{name}")
    assert entry is not None
    return entry


def _leave_files(cache: Cache) -> None:
    """Of a process that dies: an edited copy, and what a tool made."""
    entry = _entry(cache, "edited")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    path = Path(view(cache, entry, descriptor, "edited", "copy"))
    path.chmod(0o600)
    path.write_bytes(EDITED)
    outbox_of(cache, "made").write_bytes(MADE)
    os._exit(0)


def _check(cache: Cache) -> None:
    """Nothing is served wrong, nothing that cannot be fetched again is gone."""
    assert dangling(cache) == []
    assert [pin.uri for pin in cache.pins()] == [PINNED]
    for name, data in DATA.items():
        if name not in ("wrong", "touched"):  # the second takes a copy
            assert read(cache, key_of(name)) in (data, None)
    assert read(cache, key_of("pinned")) == DATA["pinned"]
    kept = {Path(cache.pending.path(write)).read_bytes() for write in cache.pending.all()}
    for directory, _, names in os.walk(cache.layout.local):
        kept |= {Path(directory, name).read_bytes() for name in names}
    assert {EDITED, MADE} <= kept


def _finish(cache: Cache) -> None:
    """With room again, all that there is to do can be done."""
    assert cache.verify(repair=True).left == 0
    cache.execute(cache.plan(max_size=0, min_free=0))
    assert [entry.uri for entry in cache.entries()] == [PINNED]
    assert cache.verify().is_sound
    assert {write.state for write in cache.pending.all()} == {PendingState.EDIT, PendingState.INCOMPLETE}
    assert os.listdir(cache.layout.trash) == []
    assert os.listdir(cache.layout.leases) == [cache.lease.name]
    _check(cache)


def _command(root: Path, *arguments: str) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(["--dir", str(root), *arguments])
    return status, out.getvalue(), err.getvalue()


@pytest.mark.needs_locks
def test_the_commands_get_a_store_out_of_a_full_disk(tmp_path: Path) -> None:
    def work(disk: Path) -> None:
        root = disk / "store"
        cache = casstore.open(root)
        _fill(cache)
        ballast = fill_up(disk)
        status, out, _ = _command(root, "verify")
        assert (status, "2 problems" in out) == (1, True)
        status, out, err = _command(root, "verify", "--repair")
        assert (status, out.count("not repaired: No space left on device"), err) == (1, 2, "")
        _check(cache)
        status, out, err = _command(root, "gc", "--yes", "--max-size", "0")
        assert "freed" in out and list(cache.pending.all()) == [], "edits need room, which there is only now"
        assert (status, "are pinned" in err, err.count("\n")) == (1, True, 1)
        assert os.statvfs(disk).f_bavail > 0
        _check(cache)
        status, out, _ = _command(root, "gc", "--yes", "--max-size", "0")
        assert out.count("\npending ") == 2
        ballast.unlink()
        _finish(cache)

    with small_disk(tmp_path / "disk", "1m") as disk:
        assert forked(lambda: work(disk)) == 0


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_a_young_store_can_be_collected_on_a_full_disk(tmp_path: Path, commits: int) -> None:
    """Its index has no pages yet that earlier commits have left, but for those that it began with."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        cache = casstore.open(disk / "store")
        for number in range(commits):
            fill(cache, key_of(str(number)), bytes([number]) * 10_000)
        fill_up(disk)
        freed = cache.execute(cache.plan(max_size=0, min_free=0))
        assert (freed.entries, freed.blobs, freed.shortfall) == (commits, commits, 0)
        cache.close()


@contextlib.contextmanager
def _template(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "template"

    def make() -> None:
        cache = casstore.open(root)
        _fill(cache)
        cache.close()

    assert forked(make) == 0
    yield root


@pytest.mark.slow
@pytest.mark.needs_locks
@pytest.mark.parametrize("what", ["gc", "repair"])
def test_with_any_number_of_pages_left_nothing_is_lost_and_the_next_one_finishes(tmp_path: Path, what: str) -> None:
    def work(disk: Path, root: Path, left: int) -> None:
        shutil.copytree(root, disk / "store", symlinks=True)
        cache = casstore.open(disk / "store")
        ballast = fill_up(disk)
        os.truncate(ballast, ballast.stat().st_size // PAGE * PAGE - left * PAGE)
        with contextlib.suppress(StoreFullError):
            if what == "gc":
                cache.execute(cache.plan(max_size=0, min_free=0))
            else:
                cache.verify(repair=True)
        _check(cache)
        ballast.unlink()
        _finish(cache)

    with _template(tmp_path) as root:
        for left in range(12):
            with small_disk(tmp_path / "disk", "1m") as disk:
                assert forked(partial(work, disk, root, left)) == 0


@pytest.mark.slow
@pytest.mark.needs_locks
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Removal, "drop"), (Removal, "sweep"), (files, "rename"), (files, "unlink_quietly")],
)
def test_others_that_take_every_page_at_once_do_not_make_a_collection_lose_anything(
    tmp_path: Path, owner: object, name: str
) -> None:
    def work(disk: Path) -> None:
        cache = casstore.open(disk / "store")
        _fill(cache)
        real: Callable[..., object] = getattr(owner, name)
        taken = disk / "taken"

        def fill_and_call(*arguments: object, **more: object) -> object:
            fill_up(disk).rename(taken.with_name(f"taken {len(list(disk.iterdir()))}"))
            return real(*arguments, **more)

        setattr(owner, name, fill_and_call)
        with contextlib.suppress(StoreFullError):
            cache.execute(cache.plan(max_size=0, min_free=0))
        setattr(owner, name, real)
        _check(cache)
        for ballast in disk.glob("taken *"):
            ballast.unlink()
        _finish(cache)

    with small_disk(tmp_path / "disk", "1m") as disk:
        assert forked(lambda: work(disk)) == 0
