"""A disk that is read-only, or turns so in the midst: clear errors, and nothing is lost when it is back."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import casstore
from casstore import Cache, ProblemKind, StoreReadOnlyError
from casstore.cli.main import run
from casstore.eviction.removal import Removal
from casstore.fs import files
from casstore.reading.blob_checker import BlobChecker
from tests.casstore.support.fill import fill, forked, key_of, read
from tests.casstore.support.mounts import breakable_disk, mounted, small_disk
from tests.casstore.support.stores import HOUR, dangling, used_at

pytestmark = pytest.mark.needs_root

NAMES = [str(number) for number in range(4)]
PINNED = "s3://bucket/3"
CHANGING = (
    ["gc", "--yes", "--max-size", "0"],
    ["verify", "--repair"],
    ["pin", "s3://bucket/0"],
    ["unpin", PINNED],
)


def _bytes(name: str) -> bytes:
    return name.encode() * 5000


def _filled(root: Path) -> Cache:
    """Four entries, of which the last is pinned, all on the disk."""
    cache = casstore.open(root)
    for hour, name in enumerate(NAMES):
        used_at(cache, fill(cache, key_of(name), _bytes(name)), HOUR + hour)
    cache.pin(PINNED)
    os.sync()
    return cache


def _damage(cache: Cache, name: str) -> None:
    entry = cache.stat(f"s3://bucket/{name}")
    assert entry is not None
    path = Path(cache.blob_path(entry))
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    path.chmod(0o444)
    os.sync()


def _remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@contextmanager
def _breaking(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], object]]]:
    """A root on a disk, and what makes that read-only whoever writes to it."""
    with breakable_disk(tmp_path / "disk", tmp_path / "image") as (disk, trigger):
        yield disk / "store", lambda: trigger.write_text("as if the disk had failed")


@contextmanager
def _mended(tmp_path: Path) -> Iterator[Path]:
    """The same root once the disk was mounted again, in processes of their own only."""
    with mounted(str(tmp_path / "image"), tmp_path / "disk", "-o", "loop") as disk:
        yield disk / "store"


def _go_on(root: Path, *, is_damaged: bool = False) -> None:
    """In a process of its own: the store is sound, or can be made so, has its pin, and collects."""

    def work() -> None:
        cache = casstore.open(root)
        if is_damaged:
            assert cache.verify(repair=True).left == 0
        assert cache.verify().problems == ()
        assert [pin.uri for pin in cache.pins()] == [PINNED]
        assert read(cache, key_of("3")) == _bytes("3")
        for name in NAMES:
            assert read(cache, key_of(name)) in (None, _bytes(name))
        fill(cache, key_of("new"), b"new")
        cache.execute(cache.plan(max_size=0, min_free=0))
        assert [entry.uri for entry in cache.entries()] == [PINNED]
        assert cache.verify().is_sound
        assert os.listdir(cache.layout.trash) == []
        cache.close()

    assert forked(work) == 0


def _command(root: Path, *arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command in this process; what is no known error of it is raised."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(["--dir", str(root), *arguments])
    return status, out.getvalue(), err.getvalue()


def _check_refused(root: Path, what: str, *arguments: str) -> None:
    """One line of an error that says *what*, and names the store and the way out."""
    status, _, said = _command(root, *arguments)
    assert status == 1
    assert said.startswith(f"casstore: error: {root}: ") and said.count("\n") == 1, said
    assert what in said and "--dir, CASSTORE_DIR" in said


def test_every_command_is_a_clear_error_on_a_read_only_mount_and_works_when_it_is_writable_again(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        root = disk / "store"
        assert forked(lambda: _filled(root).close()) == 0
        _remount(disk, "ro")
        for command in (*CHANGING, ["gc", "--dry-run"], ["verify"], ["ls"], ["du"], ["info"], ["stats"], ["pending"]):
            _check_refused(root, "Read-only file system", *command)
        _remount(disk, "rw")
        _go_on(root)


def test_an_open_store_meets_a_remount_with_clear_errors_and_goes_on_after_the_next(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        cache = _filled(disk / "store")
        plan = cache.plan(max_size=0, min_free=0)
        # While a file is open for writing, the kernel refuses.
        cache.close()
        cache._locks.after_fork_in_child()
        _remount(disk, "ro")
        for change in (
            lambda: cache.execute(plan),
            lambda: cache.verify(repair=True),
            lambda: cache.evict(lambda _: True),
            lambda: cache.pin(PINNED),
            lambda: cache.unpin(PINNED),
            lambda: fill(cache, key_of("new"), b"new"),
        ):
            with pytest.raises(StoreReadOnlyError, match=rf"read-only.*local_cache_dir.*{cache.root}"):
                change()
        # LMDB cannot be opened, since its readers leave a word in a file; reads do without the store then.
        with pytest.raises(StoreReadOnlyError):
            read(cache, key_of("0"))
        assert [problem.kind for problem in cache.verify().problems] == [ProblemKind.UNREADABLE]
        _remount(disk, "rw")
        for name in NAMES:
            assert read(cache, key_of(name)) == _bytes(name)
        freed = cache.execute(cache.plan(max_size=0, min_free=0))
        assert (freed.entries, freed.blobs) == (3, 3)
        assert cache.verify().is_sound
        cache.close()


def test_a_disk_that_fails_in_use_is_a_clear_error_for_whatever_changes_the_store(tmp_path: Path) -> None:
    def use(root: Path, fail: Callable[[], object]) -> None:
        cache = _filled(root)
        _damage(cache, "2")
        plan = cache.plan(max_size=0, min_free=0)
        fail()
        for command in CHANGING:
            _check_refused(root, "has become read-only: check the system log", *command)
        for change in (
            lambda: cache.execute(plan),
            lambda: cache.evict(lambda _: True),
            lambda: cache.index.write(lambda txn: txn.put(b"N" * 20, b"x")),
            lambda: fill(cache, key_of("new"), b"new"),
        ):
            with pytest.raises(StoreReadOnlyError, match=f"has become read-only.*{root}"):
                change()
        assert read(cache, key_of("0")) == _bytes("0"), "what needs no writing goes on"
        assert "3 blobs" in _command(root, "gc", "--dry-run", "--max-size", "0")[1]
        status, out, _ = _command(root, "verify")
        assert (status, "1 problems" in out) == (1, True)
        cache.close()

    with _breaking(tmp_path) as (root, fail):
        assert forked(lambda: use(root, fail)) == 0
    with _mended(tmp_path) as root:
        _go_on(root, is_damaged=True)


# --- in the midst ----------------------------------------------------------------------------------------------------


def _before(owner: object, name: str, first: Callable[[], object]) -> None:
    """Have *first* called before a function is, in this process only; before files in the trash are unlinked."""
    real = getattr(owner, name)

    def call(*arguments: object, **more: object) -> object:
        if name != "unlink_quietly" or "/trash/" in str(arguments[0]):
            first()
        return real(*arguments, **more)

    setattr(owner, name, call)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(Removal, "drop", id="before the rows are dropped"),
        pytest.param(Removal, "sweep", id="between the rows and the files"),
        pytest.param(files, "rename", id="in the transaction of the sweep"),
        pytest.param(files, "unlink_quietly", id="with files in the trash"),
    ],
)
def test_a_collection_whose_disk_fails_in_the_midst_leaves_no_entry_without_its_blob(
    tmp_path: Path, owner: object, name: str
) -> None:
    def use(root: Path, fail: Callable[[], object]) -> None:
        cache = _filled(root)
        plan = cache.plan(max_size=0, min_free=0)
        _before(owner, name, fail)
        with pytest.raises(StoreReadOnlyError, match="has become read-only"):
            cache.execute(plan)
        assert dangling(cache) == []

    with _breaking(tmp_path) as (root, fail):
        assert forked(lambda: use(root, fail)) == 0
    with _mended(tmp_path) as root:
        _go_on(root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(files, "create_synced", id="before the reason is written"),
        pytest.param(BlobChecker, "remove", id="between the rows and the file"),
        pytest.param(files, "rename", id="in the transaction that moves the file"),
    ],
)
def test_a_repair_whose_disk_fails_in_the_midst_is_finished_by_the_next(
    tmp_path: Path, owner: object, name: str
) -> None:
    def use(root: Path, fail: Callable[[], object]) -> None:
        cache = _filled(root)
        for damaged in ("0", "2"):
            _damage(cache, damaged)
        _before(owner, name, fail)
        with pytest.raises(StoreReadOnlyError, match="has become read-only"):
            cache.verify(repair=True)
        assert read(cache, key_of("3")) == _bytes("3")

    with _breaking(tmp_path) as (root, fail):
        assert forked(lambda: use(root, fail)) == 0
    with _mended(tmp_path) as root:
        _go_on(root, is_damaged=True)
