"""Where a store may lie and what it must do without: a place serves, or is refused with its name and the way out."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import StoreFullError, StoreReadOnlyError, StoreUnavailableError
from casstore import opening as processes
from casstore.format.layout import MAX_ROOT_BYTES
from casstore.fs import files
from casstore.fs import mounts as machine
from casstore.root import open_root
from tests.casstore.support.fill import fill, forked, key_of, read, view
from tests.casstore.support.mounts import fill_up, mounted, small_disk

# Every byte becomes three in a name, and names are as long as they may be.
LONGEST_VIEW = "/".join(["\x01" * 85] * 11 + ["\x01" * 78])
WAY_OUT = r"\(CASSTORE_DIR, local_cache_dir\)"


def check(cache: casstore.Cache, expected: dict[str, bytes]) -> None:
    """The store serves these objects, every blob has its bytes, and nothing is left on its way in."""
    cache.flush()
    for name, data in expected.items():
        assert read(cache, key_of(name)) == data
    for entry in cache.entries():
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None
        os.close(descriptor)
    root = Path(cache.root)
    assert [path for path in root.glob("leases/*/staging/*") if path.is_file()] == []
    assert os.listdir(root / "trash") == []
    assert os.listdir(root / "quarantine") == []


# --- what a file system may lack -------------------------------------------------------------------------------------


def lack(monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[..., bool], number: int) -> None:
    """Let a system call fail with *number* where *when* says so of its arguments."""
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            target = arguments[1] if name == "link" else None
            raise OSError(number, os.strerror(number), arguments[0], None, target)
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_without_unnamed_files_staging_has_names_and_leaves_none(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = os.O_TMPFILE & ~os.O_DIRECTORY
    lack(monkeypatch, "open", lambda _, flags=0, *rest: bool(flags & flag), number)
    cache = casstore.open(root)
    staging = cache.stage()
    assert os.listdir(cache.lease.paths.staging) != [], "or this tests nothing"
    staging.close()
    fill(cache, key_of("a"), b"bytes")
    fill(cache, key_of("b"), b"bytes")
    with cache.begin(key_of("c")) as filling:
        filling.write(b"given up")
    check(cache, {"a": b"bytes", "b": b"bytes"})


def test_without_proc_staging_has_names_and_open_files_are_read_from_their_start(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files._has_proc.cache_clear()
    lack(monkeypatch, "stat", lambda path, *rest: str(path).startswith("/proc"), errno.ENOENT)
    lack(monkeypatch, "link", lambda path, *rest: str(path).startswith("/proc"), errno.ENOENT)
    lack(monkeypatch, "open", lambda path, *rest: str(path).startswith("/proc"), errno.ENOENT)
    cache = casstore.open(root)
    fill(cache, key_of("a"), b"bytes")
    check(cache, {"a": b"bytes"})
    descriptor, _ = files.open_named(str(root))
    files.write_all(descriptor, b"bytes")
    with open(files.reopen(descriptor), "rb") as file:
        assert file.read() == b"bytes"
    os.close(descriptor)
    files._has_proc.cache_clear()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_refused(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "link", lambda *_: True, number)
    with pytest.raises(StoreUnavailableError, match=rf"no hard links.*{WAY_OUT}.*{root}"):
        casstore.open(root)
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["vfat", "exfat"])
def test_a_kind_of_file_system_that_has_no_hard_links_is_refused_before_anything_is_made(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda _: machine.Mount(1, kind))
    with pytest.raises(StoreUnavailableError, match=rf"{kind}.*no hard links.*{WAY_OUT}"):
        casstore.open(root)
    assert not root.exists()


@pytest.mark.parametrize("mode", ["auto", "link"])
def test_a_blob_that_can_have_no_more_links_is_copied_for_a_view(
    root: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("a"), b"bytes")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)  # root would get a copy anyway
    lack(monkeypatch, "link", lambda source, *_: "/blobs/" in str(source), errno.EMLINK)
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    path = view(cache, entry, descriptor, "a", mode)
    os.close(descriptor)
    assert Path(path).read_bytes() == b"bytes"
    assert os.stat(path).st_ino != os.stat(cache.blob_path(entry)).st_ino
    check(cache, {"a": b"bytes"})


@pytest.mark.slow
def test_the_last_link_that_the_file_system_allows_is_not_the_last_view(root: Path, tmp_path: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("a"), b"bytes")
    (tmp_path / "links").mkdir()
    try:
        for number in range(70_000):
            os.link(cache.blob_path(entry), tmp_path / "links" / str(number))
    except OSError as error:
        assert error.errno == errno.EMLINK  # noqa: PT017
    else:
        pytest.skip("this file system takes more than 70,000 links")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    path = view(cache, entry, descriptor, "a", "link")
    os.close(descriptor)
    assert Path(path).read_bytes() == b"bytes"
    fill(cache, key_of("b"), b"bytes")
    check(cache, {"a": b"bytes", "b": b"bytes"})


# --- the directory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o027, 0o077])
def test_a_store_is_private_and_its_blobs_are_immutable_whatever_the_umask(root: Path, mask: int) -> None:
    def work() -> None:
        os.umask(mask)
        cache = casstore.open(root)
        entry = fill(cache, key_of("a"), b"bytes")
        assert stat.S_IMODE(os.stat(root).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(cache.blob_path(entry)).st_mode) == 0o444
        check(cache, {"a": b"bytes"})
        cache.close()

    assert forked(work) == 0


@pytest.mark.parametrize("length", [MAX_ROOT_BYTES, MAX_ROOT_BYTES + 1, 4050])
def test_a_root_is_as_long_as_leaves_room_for_every_view(tmp_path: Path, length: int) -> None:
    left = length - len(os.fsencode(tmp_path)) - 1
    parts = ["d" * 200] * (left // 201)
    parts.append("e" * (left - 201 * len(parts)))
    path = "/".join((str(tmp_path), *parts)).rstrip("/")
    assert len(path) in (length, length - 1)
    if len(path) > MAX_ROOT_BYTES:
        with pytest.raises(StoreUnavailableError, match=rf"too long .limit: {MAX_ROOT_BYTES} bytes.*{WAY_OUT}"):
            casstore.open(path)
        assert os.listdir(tmp_path) == []
        return
    cache = casstore.open(path)
    for key in ("k" * 1024, "/".join("d" * 7 for _ in range(120)), LONGEST_VIEW):
        entry = fill(cache, key_of(key), b"bytes")
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        assert Path(view(cache, entry, descriptor, key)).read_bytes() == b"bytes"
        os.close(descriptor)
    cache.close()
    processes._caches.pop(os.path.realpath(path))


def test_a_component_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=rf"name too long.*{WAY_OUT}"):
        casstore.open(tmp_path / ("x" * 300))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_no_verdict_about_the_place(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    casstore.open(root).close()
    for stop in ("store.json", "fdinfo", "mountinfo", "boot_id", "CURRENT"):
        processes._caches.pop(os.path.realpath(root), None)
        with monkeypatch.context() as patch:

            def refuse(path: Any, *arguments: Any, stop: str = stop, real: Any = open, **options: Any) -> Any:
                if stop in str(path):
                    raise OSError(number, os.strerror(number), path)
                return real(path, *arguments, **options)

            patch.setattr("builtins.open", refuse)
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                casstore.open(root, or_uncached=True)
            assert caught.value.errno == number, stop
            assert type(caught.value) is OSError, stop


def test_an_index_that_lacks_descriptors_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lmdb

    cache = casstore.open(root)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise lmdb.Error(f"{root}: Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        with pytest.raises(OSError, match="cannot open the index now") as caught:
            cache.lookup(key_of("a"))
    assert caught.value.errno == errno.EMFILE
    assert type(caught.value) is OSError
    assert cache.lookup(key_of("a")) is None


# --- the default -----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default root would be, and a temporary directory beside it."""
    import tempfile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "home"


def test_where_neither_default_serves_the_error_names_both(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.parent / "tmp" / f"casstore-{os.geteuid()}").touch()
    mount_of = machine.mount_of
    monkeypatch.setattr(
        machine, "mount_of", lambda path: mount_of(path) if "/tmp/casstore" in path else machine.Mount(1, "nfs4")
    )
    with pytest.raises(StoreUnavailableError, match=r"nfs4.*nor can the temporary directory serve.*another user"):
        open_root(None, None, {})


@pytest.mark.needs_root
def test_a_full_disk_at_home_gives_way_to_the_temporary_directory(home: Path) -> None:
    with small_disk(home, "64k"):
        fill_up(home)
        warned: list[str] = []
        opened = open_root(None, None, {}, warned.append)
        assert len(warned) == 1
        assert re.search(r"No space left.*using .*/tmp/casstore-.*CASSTORE_DIR", warned[0])
        assert opened.layout.root.startswith(str(home.parent / "tmp"))
        with pytest.raises(StoreFullError, match=rf"No space left.*{WAY_OUT}.*{home}"):
            open_root(home / "named", None, {})


@pytest.mark.needs_root
def test_a_home_that_became_read_only_gives_way_to_the_temporary_directory(home: Path) -> None:
    open_root(None, None, {})
    with mounted(str(home), home, "--bind"):
        import subprocess

        subprocess.run(["mount", "-o", "remount,bind,ro", str(home)], check=True)
        warned: list[str] = []
        opened = open_root(None, None, {}, warned.append)
        assert re.search(r"Read-only.*using .*/tmp/casstore-", warned[0])
        assert opened.layout.root.startswith(str(home.parent / "tmp"))
        with pytest.raises(StoreReadOnlyError, match=rf"cannot write.*{WAY_OUT}"):
            open_root(home / "casstore", None, {})


def test_a_store_whose_directory_was_moved_to_a_network_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert forked(lambda: casstore.open(root).close()) == 0
    monkeypatch.setattr(machine, "mount_of", lambda _: machine.Mount(1, "nfs4"))
    with pytest.raises(StoreUnavailableError, match=rf"nfs4.*{WAY_OUT}.*{root}"):
        casstore.open(root, or_uncached=True)
