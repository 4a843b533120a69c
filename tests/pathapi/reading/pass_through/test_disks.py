"""Disks that are read-only, full or broken: the bytes are right, or the error names the place and the way out."""

from __future__ import annotations

import codecs
import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import StoreFullError, StoreReadOnlyError
from casstore import pass_through as uncached
from pathapi import FileClient, prefetch
from pathapi.exceptions import NotCachedError
from tests.casstore.support.fill import REPOSITORY, eventually, forked
from tests.casstore.support.limits import is_about_descriptors
from tests.casstore.support.mounts import become_nobody, breakable_disk, fill_up, let_others_in, small_disk
from tests.pathapi.support.pass_through import (
    LARGE,
    SMALL,
    WARNING,
    check_reads,
    check_store,
    is_stored,
    one_warning,
)

# --- read-only --------------------------------------------------------------------------------------------------------


@pytest.mark.needs_root
def test_a_store_on_a_read_only_mount_is_passed_by(bucket: Path, tmp_path: Path) -> None:
    root = tmp_path / "disk" / "store"
    with small_disk(tmp_path / "disk") as disk:

        def make() -> None:
            assert FileClient(local_cache_dir=root).CloudPath(f"file://{bucket}/small").read_bytes() == SMALL

        assert forked(make) == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        client = FileClient(local_cache_dir=root)
        with one_warning(f"{WARNING}.*Read-only file system.*local_cache_dir.*{root}"):
            check_reads(client, bucket)
        with pytest.raises(StoreReadOnlyError, match="local_cache_dir"):
            casstore.open(root)
        client.CloudPath(f"file://{bucket}/small").write_bytes(b"written")
        assert (bucket / "small").read_bytes() == b"written"


@pytest.mark.needs_root
def test_a_store_that_this_user_cannot_write_to_is_passed_by(bucket: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    let_others_in(tmp_path)
    # Loaded before they cannot be: another user may not reach this interpreter's library.
    codecs.lookup("ascii")

    def make() -> None:
        become_nobody()
        assert FileClient(local_cache_dir=root / "mine").CloudPath(f"file://{bucket}/small").read_bytes() == SMALL

    def read() -> None:
        become_nobody()
        client = FileClient(local_cache_dir=root / "mine")
        with one_warning(f"{WARNING}.*(Permission denied|Read-only).*local_cache_dir"):
            check_reads(client, bucket)
        client.cache.close()

    root.mkdir()
    root.chmod(0o1777)
    (tmp_path / "tmp").chmod(0o1777)
    assert forked(make) == 0
    before = sorted(str(path) for path in (root / "mine").rglob("*"))
    (root / "mine/index-v1").chmod(0o555)
    assert forked(read) == 0
    assert sorted(str(path) for path in (root / "mine").rglob("*")) == before
    (root / "mine/index-v1").chmod(0o755)
    (root / "mine/index-v1/1/data.mdb").chmod(0o444)
    assert forked(read) == 0, "the index's file alone cannot be written to"


def test_a_store_whose_modes_forbid_writing_serves_what_it_holds(bucket: Path, tmp_path: Path) -> None:
    """As an ordinary user: root may write whatever the modes are."""
    root, name = tmp_path / "own" / "store", f"file://{bucket}/small"
    codecs.lookup("ascii")
    root.parent.mkdir()
    if not os.geteuid():
        os.chown(root.parent, 65534, 65534)
        let_others_in(tmp_path)
        (tmp_path / "tmp").chmod(0o1777)

    def in_child(work: Callable[[FileClient], object]) -> int:
        def run() -> None:
            if not os.geteuid():
                become_nobody()
            client = FileClient(local_cache_dir=root, freshness="immutable")
            work(client)
            client.cache.close()

        return forked(run)

    def read(client: FileClient) -> None:
        with one_warning(f"{WARNING}.*cannot write to the store"):
            assert client.CloudPath(name).read_bytes() == SMALL
        assert client.CloudPath(name).read_bytes(freshness="offline") == SMALL
        assert client.CloudPath(name).stat().st_size == len(SMALL)
        with client.CloudPath(name).open("rb") as file:
            assert file.read() == SMALL

    assert in_child(lambda client: client.CloudPath(name).read_bytes()) == 0
    (bucket / "small").write_bytes(b"newer")
    places = [root, *root.rglob("*")]
    modes = [stat.S_IMODE(os.stat(place).st_mode) for place in places]
    for place, mode in zip(places, modes, strict=True):
        place.chmod(mode & 0o555)
    before = _snapshot(root)
    assert in_child(read) == 0
    assert _snapshot(root) == before
    for place, mode in zip(places, modes, strict=True):
        place.chmod(mode)


def _snapshot(root: Path) -> list[tuple[str, int, int, int]]:
    found = ((str(path), os.lstat(path)) for path in sorted(root.rglob("*")))
    return [(name, status.st_ino, status.st_size, status.st_ctime_ns) for name, status in found]


@pytest.mark.needs_root
def test_a_store_of_root_is_read_as_far_as_its_modes_allow_and_not_changed(bucket: Path, tmp_path: Path) -> None:
    """An image that was built by root, with a prefetched store, and runs as another user."""
    root = tmp_path / "store"
    held, cold = f"file://{bucket}/small", f"file://{bucket}/large"
    codecs.lookup("ascii")

    def make() -> None:
        client = FileClient(local_cache_dir=root)
        assert client.CloudPath(held).read_bytes() == SMALL
        client.cache.close()

    def read(is_readable: bool) -> None:
        become_nobody()
        client = FileClient(local_cache_dir=root, freshness="immutable")
        path = client.CloudPath(held)
        with one_warning(rf"{WARNING}.*belongs to another user \(uid 0.*only read.*local_cache_dir"):
            assert path.read_bytes() == (SMALL if is_readable else b"newer")
            assert client.CloudPath(cold).read_bytes() == LARGE
        assert path.read_text(freshness="always") == "newer"
        if is_readable:
            assert path.read_bytes(freshness="offline") == SMALL
            assert Path(path.fspath).read_bytes() == SMALL
            assert [entry.uri for entry in client.cache.entries()] == [held]
            assert client.cache.stat(held) is not None
        with pytest.raises(NotCachedError):
            client.CloudPath(cold).read_bytes(freshness="offline")
        client.cache.close()

    assert forked(make) == 0
    (bucket / "small").write_bytes(b"newer")
    let_others_in(tmp_path)
    (tmp_path / "tmp").chmod(0o1777)
    root.chmod(0o755)
    assert forked(lambda: read(is_readable=False)) == 0
    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    before = _snapshot(root)
    assert forked(lambda: read(is_readable=True)) == 0
    assert _snapshot(root) == before


@pytest.mark.needs_root
def test_a_disk_that_turns_read_only_in_use_serves_what_it_holds_and_nothing_is_lost(
    bucket: Path, tmp_path: Path
) -> None:
    with breakable_disk(tmp_path / "disk", tmp_path / "image") as (disk, trigger):
        client = FileClient(local_cache_dir=disk / "store", freshness="immutable")
        held = client.CloudPath(f"file://{bucket}/small")
        assert held.read_bytes() == SMALL
        client.cache.flush()
        trigger.write_text("as if the disk had failed")
        (bucket / "small").write_bytes(b"newer")
        assert held.read_bytes() == SMALL, "what is held needs no writing"
        path = client.CloudPath(f"file://{bucket}/large")
        with one_warning(f"{WARNING}.*has become read-only.*{disk}"):
            assert path.read_bytes() == LARGE
            with path.open("rb") as file:
                assert file.read() == LARGE
            assert held.read_bytes(freshness="always") == b"newer"
            assert Path(path.fspath).read_bytes() == LARGE
            assert Path(held.fspath).read_bytes() == SMALL
            with held.local() as local:
                assert Path(local).read_bytes() == SMALL
        with pytest.raises(StoreReadOnlyError, match="read-only"):
            path.write_bytes(b"x")
        assert (bucket / "large").read_bytes() == LARGE, "refused before anything was changed"
        ((_, error),) = prefetch(path).errors
        assert isinstance(error, StoreReadOnlyError)
        client.cache.close()


# --- no room ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs_root
@pytest.mark.parametrize("is_tmp_full", [False, True], ids=["room elsewhere", "no room anywhere"])
def test_a_full_disk_does_not_stop_reads(
    bucket: Path, tmp_path: Path, is_tmp_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        client = FileClient(local_cache_dir=disk / "store")
        path = client.CloudPath(f"file://{bucket}/large")
        first = client.CloudPath(f"file://{bucket}/empty")
        first.read_bytes()
        client.cache.flush()
        if is_tmp_full:
            (disk / "tmp").mkdir()
            monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
        ballast = fill_up(disk)
        with one_warning(f"{WARNING}.*no room.*{disk}"):
            assert path.read_bytes() == LARGE
            with path.open("rb") as file:
                assert file.read() == LARGE
            if not is_tmp_full:
                assert Path(path.fspath).read_bytes() == LARGE
        if is_tmp_full:
            with pytest.raises(StoreFullError):
                _ = path.fspath
        with pytest.raises(OSError, match=r"No space|no room"):
            path.write_bytes(LARGE[::-1])
        assert (bucket / "large").read_bytes() == LARGE, "refused before anything was changed"
        ((_, error),) = prefetch(path).errors
        assert isinstance(error, StoreFullError)
        ballast.unlink()
        check_store(client.cache)
        eventually(lambda: is_stored(path, LARGE))
        client.cache.close()


@pytest.mark.needs_root
def test_what_is_too_large_for_memory_is_an_error_that_names_the_places(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncached, "MOST_IN_MEMORY", len(LARGE) - 1)
    with small_disk(tmp_path / "disk") as disk:
        client = FileClient(local_cache_dir=disk / "store")
        client.cache.flush()
        (disk / "tmp").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
        ballast = fill_up(disk)
        path = client.CloudPath(f"file://{bucket}/large")
        with pytest.raises(StoreFullError, match=rf"no room for file://.*large.*CASSTORE_DIR, TMPDIR.*{disk}"):
            path.open("rb")
        ballast.unlink()
        eventually(lambda: is_stored(path, LARGE))
        assert check_store(client.cache) == 1
        client.cache.close()


@pytest.mark.needs_root
def test_a_store_that_finds_no_room_to_be_made_is_passed_by(bucket: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        fill_up(disk)
        with one_warning(f"{WARNING}.*No space left.*local_cache_dir.*{disk}"):
            check_reads(FileClient(local_cache_dir=disk / "store"), bucket)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
def test_a_quota_and_a_broken_disk_do_not_stop_reads(
    bucket: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FileClient(local_cache_dir=tmp_path / "store")
    client.cache.flush()
    real_write, real_pwrite = os.write, os.pwrite

    def check(descriptor: int) -> None:
        # An unnamed file's link names its directory too.
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(tmp_path / "store")):
            raise OSError(number, os.strerror(number))

    def write(descriptor: int, data: Any) -> int:
        check(descriptor)
        return real_write(descriptor, data)

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        check(descriptor)
        return real_pwrite(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(os, "pwrite", pwrite)
        with one_warning(WARNING):
            for name, data in (("small", SMALL), ("large", LARGE)):
                path = client.CloudPath(f"file://{bucket}/{name}")
                assert path.read_bytes() == data
                with path.open("rb") as file:
                    assert file.read() == data
    assert check_store(client.cache) == 0
    eventually(lambda: is_stored(client.CloudPath(f"file://{bucket}/small"), SMALL))
    assert check_store(client.cache) == 1


def test_a_limit_on_the_size_of_files_is_like_a_full_disk(bucket: Path, tmp_path: Path) -> None:
    def work() -> None:
        client = FileClient(local_cache_dir=tmp_path / "store")
        client.cache.flush()
        _ = client.cache.lease
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        path = client.CloudPath(f"file://{bucket}/small")
        # Not even a file in memory may be larger.
        with pytest.raises(StoreFullError, match="File too large"):
            path.open("rb")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(lambda: is_stored(path, SMALL))
        assert check_store(client.cache) == 1
        client.cache.close()

    assert forked(work) == 0


# --- too many open files ----------------------------------------------------------------------------------------------


def test_too_many_open_files_end_in_the_bytes_or_in_that_error_and_in_no_verdict(bucket: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    held = FileClient(local_cache_dir=root, freshness="immutable").CloudPath(f"file://{bucket}/small")
    assert held.read_bytes() == SMALL
    held.client.cache.close()

    def sweep() -> None:
        outcomes = Counter[str]()
        warnings.simplefilter("error")
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
        used, limit = len(numbers), max(numbers) + 64
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        for spare in range(24):
            client = FileClient(local_cache_dir=root, freshness="immutable")
            client.cache.close()  # so that all is opened anew
            client.cache.index.close()
            taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(limit - used - spare)]
            try:
                for name, data in (("small", SMALL), ("large", LARGE), ("empty", b"")):
                    path = client.CloudPath(f"file://{bucket}/{name}")
                    try:
                        with path.open("rb") as file:
                            assert file.read() == data
                        outcomes["right"] += 1
                    except (OSError, RuntimeError) as error:
                        outcomes["error" if is_about_descriptors(error) else repr(error)] += 1
                client.cache.flush()
            finally:
                for descriptor in taken:
                    os.close(descriptor)
        assert set(outcomes) == {"right", "error"}, outcomes
        assert outcomes["right"] > 10
        assert outcomes["error"] > 5
        cache = casstore.open(root)
        assert check_store(cache) >= 1
        entry = cache.stat(f"file://{bucket}/small")
        assert entry is not None
        assert cache.counts().get("damaged_blobs", 0) == 0
        cache.close()

    assert forked(sweep) == 0


# --- a disk that cannot read ------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("policy", ["immutable", "always"])
def test_a_blob_that_the_disk_cannot_read_is_fetched_again(bucket: Path, tmp_path: Path, policy: str) -> None:
    client = FileClient(local_cache_dir=tmp_path / "store")
    path = client.CloudPath(f"file://{bucket}/small")
    assert path.read_bytes() == SMALL
    client.cache.flush()
    entry = client.cache.lookup(client.store_key(path.uri))
    assert entry is not None
    blob = client.cache.blob_path(entry)
    client.cache.close()
    code = """
import sys
from pathapi import FileClient
client = FileClient(local_cache_dir=sys.argv[1], freshness=sys.argv[3])
data = client.CloudPath(f"file://{sys.argv[2]}/small").read_bytes()
assert data == open(f"{sys.argv[2]}/small", "rb").read()
client.cache.flush()
assert client.cache.counts()["damaged_blobs"] == 1, client.cache.counts()
"""
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-P", blob, "-e", "trace=read,pread64,preadv,preadv2",
         "-e", "inject=read,pread64,preadv,preadv2:error=EIO", sys.executable, "-c", code, str(tmp_path / "store"),
         str(bucket), policy],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace is not permitted here")
    assert done.returncode == 0, done.stderr
    assert "EIO" in (tmp_path / "trace").read_text()
    assert len(os.listdir(tmp_path / "store/quarantine")) == 2, "the blob, and the reason"
    cache = casstore.open(tmp_path / "store")
    found = cache.stat(str(path.uri))
    assert found is not None
    assert Path(cache.blob_path(found)).read_bytes() == SMALL
