"""Places where no store can serve: the bytes are right all the same, with one warning, and nothing is stored; or the
error names the place and the way out.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Cache, StoreFullError, StoreReadOnlyError, StoreUnavailableError
from casstore import opening as processes
from casstore import pass_through as uncached
from casstore.fs import files
from casstore.fs import mounts as machine
from pathapi import FileClient, FilePath, prefetch
from pathapi.exceptions import NotCachedError, OverwriteNewerCloudError, PendingWriteError
from pathapi.reading import download as transfer
from pathapi.reading import reader as reading
from tests.casstore.support.fill import REPOSITORY, alone, eventually, fork, fork_without_hooks, forked, run, status_of
from tests.casstore.support.limits import is_about_descriptors
from tests.casstore.support.mounts import become_nobody, breakable_disk, fill_up, small_disk

PART = 1 << 18
SMALL = os.urandom(100_000)
LARGE = os.urandom(3 * PART + 12_345)
WARNING = "caching is disabled"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing set from outside, nothing warned of yet, small parts; no store left open, no temporary file left."""
    for name in [name for name in os.environ if name.startswith(("CASSTORE_", "CLOUDPATHLIB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CASSTORE_MIN_FREE", "0")  # the disks are so small that the default would clear them
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(uncached, "_warned", set())
    monkeypatch.setattr(transfer, "PART", PART)
    monkeypatch.setattr(reading, "PART", PART)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = dict(processes._caches)
    yield
    for name, cache in list(processes._caches.items()):
        if name not in before:
            cache.close()
            del processes._caches[name]
    left = [name for name in os.listdir(tmp_path / "tmp") if not name.startswith(f"casstore-{os.geteuid()}")]
    assert left == [], "temporary files were left"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A directory of objects."""
    path = tmp_path / "bucket"
    path.mkdir()
    (path / "small").write_bytes(SMALL)
    (path / "large").write_bytes(LARGE)
    (path / "empty").write_bytes(b"")
    return path


@contextmanager
def one_warning(match: str = WARNING) -> Iterator[None]:
    with pytest.warns(UserWarning, match=match) as caught:
        yield
    assert len(caught) == 1, [str(warning.message) for warning in caught]


def check_reads(client: FileClient, bucket: Path) -> None:
    """All ways to read, of small and large objects."""
    for name, data in (("small", SMALL), ("large", LARGE), ("empty", b"")):
        path = client.CloudPath(f"file://{bucket}/{name}")
        assert path.read_bytes() == data
        with path.open("rb") as file:
            assert file.read() == data
            file.seek(3)
            assert file.read(5) == data[3:8]
        assert Path(path.fspath).read_bytes() == data
        assert Path(path.fspath).name == name


def check_store(cache: Cache) -> int:
    """Every entry has its bytes, nothing is on its way in or out; the count of entries."""
    cache.flush()
    entries = list(cache.entries())
    for entry in entries:
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None, f"{entry.uri} has lost its blob"
        os.close(descriptor)
    root = Path(cache.root)
    assert os.listdir(root / "quarantine") == []
    assert os.listdir(root / "trash") == []
    assert not [file for file in root.glob("leases/*/staging/*") if file.is_file()]
    assert cache.index.generation == 1, "the index was replaced"
    return len(entries)


def is_stored(path: FilePath, data: bytes) -> bool:
    """Read, and say whether that was kept: a store that was full is not tried each time."""
    assert path.read_bytes() == data
    path.client.cache.flush()
    return path.client.cache.lookup(path.client.store_key(path.uri)) is not None


def let_others_in(path: Path) -> None:
    """Let other users reach *path*, which pytest made for this one alone."""
    for directory in (path, *path.parents):
        if directory.stat().st_mode & 0o777 == 0o700:
            directory.chmod(0o711)


def network_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda _: machine.Mount(1, "nfs4"))


# --- no store at all -------------------------------------------------------------------------------------------------


def test_without_a_fit_default_reads_go_by_with_one_warning(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_everywhere(monkeypatch)
    with one_warning(f"{WARNING}.*nfs4.*nor can the temporary directory serve.*CASSTORE_DIR"):
        check_reads(FileClient(), bucket)
        check_reads(FileClient(freshness="immutable"), bucket)
    assert not (tmp_path / "home").exists()


def test_a_read_that_goes_by_sees_each_new_version(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network_everywhere(monkeypatch)
    path = FileClient(freshness="immutable").CloudPath(f"file://{bucket}/small")
    with one_warning():
        assert path.read_bytes() == SMALL
    (bucket / "small").write_bytes(b"new")
    assert path.read_bytes() == b"new", "nothing is held, so the cloud is asked whatever the policy"


def test_offline_without_a_store_is_an_error_that_says_so(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network_everywhere(monkeypatch)
    path = FileClient().CloudPath(f"file://{bucket}/small")
    with one_warning(), pytest.raises(NotCachedError, match=r"offline: .*nfs4"):
        path.read_bytes(freshness="offline")
    monkeypatch.setenv("CASSTORE_OFFLINE", "1")
    with pytest.raises(NotCachedError):
        FileClient().CloudPath(f"file://{bucket}/small").read_bytes()


def test_what_an_environment_variable_says_counts_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    network_everywhere(monkeypatch)
    monkeypatch.setenv("CASSTORE_VIEWS", "link")
    with one_warning():
        assert FileClient().cache.settings.views == "link"


def test_objects_are_written_without_a_store(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network_everywhere(monkeypatch)
    client = FileClient()
    path = client.CloudPath(f"file://{bucket}/small")
    with one_warning():
        path.write_bytes(b"one")
    with path.open("ab") as file:
        file.write(b" two")
    with path.open("r+b") as file:
        file.write(b"ONE")
    assert (bucket / "small").read_bytes() == b"ONE two"
    path.unlink()
    assert not (bucket / "small").exists()
    assert list(client.CloudPath(f"file://{bucket}").glob("*.none")) == []


def test_what_is_pending_cannot_be_told_without_a_store_and_is_not_called_nothing(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_everywhere(monkeypatch)
    path = FileClient().CloudPath(f"file://{bucket}/small")
    with one_warning(), pytest.raises(OSError, match="nfs4"):
        path.drop()
    for ask in (path.push, lambda: path.pending, lambda: path.save_pending(tmp_path / "saved")):
        with pytest.raises(OSError, match="nfs4"):
            ask()
    with pytest.raises(OSError, match="nfs4"):
        path.read_bytes(read_pending=True)


def test_a_change_between_reading_and_writing_is_a_conflict_without_a_store_too(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_everywhere(monkeypatch)
    client = FileClient()
    path = client.CloudPath(f"file://{bucket}/small")
    original = reading.Reader.open

    def read_then_change(self: reading.Reader, ask: Any, **options: Any) -> Any:
        # What is written to was read; before the write begins, somebody writes another version.
        stored = original(self, ask, **options)
        (bucket / "small").write_bytes(b"somebody else's")
        return stored

    monkeypatch.setattr(reading.Reader, "open", read_then_change)
    with one_warning(), pytest.raises(OverwriteNewerCloudError), path.open("r+b") as file:
        file.write(b"mine")
    assert (bucket / "small").read_bytes() == b"somebody else's"


def test_local_paths_without_a_store_go_at_exit_but_for_edited_ones(bucket: Path, tmp_path: Path) -> None:
    code = """
import os, sys, warnings
from casstore.fs import mounts as machine
from pathapi import FileClient
warnings.simplefilter("ignore")
machine.mount_of = lambda _: machine.Mount(1, "nfs4")
client = FileClient()
path = client.CloudPath(f"file://{sys.argv[1]}/small")
view = path.fspath
assert view == path.fspath
with path.local() as given:
    pass
print(view, os.path.exists(view))
if len(sys.argv) > 2:
    view = path.fspath
    open(view, "a").write("mine")
    print(view)
pid = os.fork()
if not pid:
    other = client.CloudPath(f"file://{sys.argv[1]}/large").fspath
    print(other, flush=True)
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
"""
    done = run(code, str(bucket), TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    assert "small False" in done.stdout, "a path is given back at the end of its block"
    assert os.listdir(tmp_path / "tmp") == []
    done = run(code, str(bucket), "edit", TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    edited = done.stdout.splitlines()[1]
    assert Path(edited).read_bytes() == SMALL + b"mine"
    shutil.rmtree(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()


def test_a_prefetch_without_a_store_fails_instead_of_downloading_for_nothing(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_everywhere(monkeypatch)
    root = FileClient().CloudPath(f"file://{bucket}")
    with one_warning():
        root.client.cache  # noqa: B018
    done = prefetch(root)
    assert (done.files, len(done.errors)) == (0, 3)
    assert "nfs4" in str(done.errors[0][1])


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "vfat"])
def test_a_named_place_that_is_none_is_refused_not_passed_by(
    bucket: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda _: machine.Mount(1, kind))
    client = FileClient(local_cache_dir=tmp_path / "store")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=rf"{kind}.*local_cache_dir.*{tmp_path}"):
            client.CloudPath(f"file://{bucket}/small").read_bytes()
    monkeypatch.setenv("CASSTORE_DIR", str(tmp_path / "store"))
    with pytest.raises(StoreUnavailableError, match=kind):
        FileClient().CloudPath(f"file://{bucket}/small").read_bytes()
    assert not (tmp_path / "store").exists()


def test_where_no_file_can_be_written_bytes_go_through_memory(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_everywhere(monkeypatch)

    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    client = FileClient()
    path = client.CloudPath(f"file://{bucket}/large")
    with one_warning("No usable temporary directory"):
        assert path.read_bytes() == LARGE
    with path.open("rb") as file:
        assert file.read() == LARGE
    with pytest.raises(FileNotFoundError, match="temporary directory"):
        _ = path.fspath


def test_the_working_directory_is_no_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no temporary directory"):
        files.temporary_directory()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert files.temporary_directory() == str(tmp_path)


# --- read-only -------------------------------------------------------------------------------------------------------


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

    root.mkdir(mode=0o777)
    root.chmod(0o777)
    (tmp_path / "tmp").chmod(0o777)
    assert forked(make) == 0
    before = sorted(str(path) for path in (root / "mine").rglob("*"))
    (root / "mine/index-v1").chmod(0o555)
    assert forked(read) == 0
    assert sorted(str(path) for path in (root / "mine").rglob("*")) == before
    (root / "mine/index-v1").chmod(0o755)
    (root / "mine/index-v1/1/data.mdb").chmod(0o444)
    assert forked(read) == 0, "the index's file alone cannot be written to"


@pytest.mark.needs_root
def test_a_store_of_another_user_is_refused(bucket: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert forked(lambda: casstore.open(root).close()) == 0
    root.chmod(0o755)
    let_others_in(tmp_path)

    def read() -> None:
        become_nobody()
        with pytest.raises(StoreUnavailableError, match=r"another user \(uid 0\).*local_cache_dir"):
            FileClient(local_cache_dir=root).CloudPath(f"file://{bucket}/small").read_bytes()

    assert forked(read) == 0


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


# --- another PID namespace -------------------------------------------------------------------------------------------


def _unshared(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python that is pid 1 of a namespace of its own."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, **options)  # fmt: skip


@pytest.mark.needs_root
def test_a_process_whose_pid_another_namespace_uses_reads_uncached(bucket: Path, tmp_path: Path) -> None:
    code = """
import json, os, sys, warnings
from pathapi import FileClient
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    client = FileClient(local_cache_dir=sys.argv[1], freshness="immutable")
    path = client.CloudPath(f"file://{sys.argv[2]}/small")
    data = path.read_bytes()
    with path.open("rb") as file:
        assert file.read() == data
    with open(path.fspath, "rb") as file:
        assert file.read() == data
    client.cache.flush()
    path.with_name("written").write_bytes(data)
said = [str(warning.message) for warning in caught]
with open(f"{sys.argv[2]}/small", "rb") as file:
    print(json.dumps([os.getpid(), len(data), data == file.read(), said]), flush=True)
sys.stdin.read()
"""
    with _unshared(code, str(tmp_path / "store"), str(bucket)) as first:
        assert first.stdout is not None
        line = first.stdout.readline()
        if not line:
            pytest.skip("unshare is not permitted here")
        assert json.loads(line) == [1, len(SMALL), True, []]
        with _unshared(code, str(tmp_path / "store"), str(bucket)) as second:
            out, _ = second.communicate(timeout=1_000)
        first.communicate(timeout=1_000)
    pid, size, is_right, said = json.loads(out)
    assert (pid, size, is_right) == (1, len(SMALL), True)
    assert len(said) == 1
    assert WARNING in said[0]
    assert "PID namespace" in said[0]
    assert "CASSTORE_DIR" in said[0]
    assert (bucket / "written").read_bytes() == SMALL
    assert check_store(casstore.open(tmp_path / "store")) == 2


def test_an_index_that_cannot_be_opened_any_more_does_not_stop_reads(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmdb

    client = FileClient(local_cache_dir=tmp_path / "store", freshness="immutable")
    path = client.CloudPath(f"file://{bucket}/small")
    assert path.read_bytes() == SMALL
    client.cache.flush()

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise lmdb.LockError("mdb_txn_begin: another process has the lock")

    client.cache.index.close()  # as around a fork; the child may be in another namespace
    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        with one_warning("PID namespace"):
            check_reads(client, bucket)
        with pytest.raises(NotCachedError, match="PID namespace"):
            path.read_bytes(freshness="offline")
    assert path.read_bytes() == SMALL
    assert check_store(client.cache) == 1


def test_what_is_pending_stands_in_the_way_although_its_store_cannot_be_opened(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old bytes, without a word, would be taken for what was written last."""
    import lmdb

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise lmdb.LockError("mdb_txn_begin: another process has the lock")

    store = tmp_path / "store"
    client = FileClient(local_cache_dir=store)
    path = client.CloudPath(f"file://{bucket}/small")
    file = path.open("wb")
    file.write(b"mine")
    (bucket / "small").write_bytes(b"theirs")
    with pytest.raises(OverwriteNewerCloudError):
        file.close()
    client.cache.close()
    monkeypatch.setattr(processes, "_caches", {})
    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        with one_warning("PID namespace"):
            path = FileClient(local_cache_dir=store).CloudPath(f"file://{bucket}/small")
            with pytest.raises(PendingWriteError):
                path.read_bytes()
        with pytest.raises(PendingWriteError):
            path.write_bytes(b"over it")
        assert path.read_bytes(force_overwrite_from_cloud=True) == b"theirs"
        path.write_bytes(b"over it", force_overwrite_to_cloud=True)
        assert FileClient(local_cache_dir=store).CloudPath(f"file://{bucket}/large").read_bytes() == LARGE
    monkeypatch.setattr(processes, "_caches", {})
    path = FileClient(local_cache_dir=store).CloudPath(f"file://{bucket}/small")
    assert path.read_bytes(read_pending=True) == b"mine"
    assert path.read_bytes(force_overwrite_from_cloud=True) == b"over it"
    path.client.cache.close()


def test_a_fork_that_ran_no_hooks_is_still_an_error(bucket: Path, tmp_path: Path) -> None:
    def work() -> None:
        client = FileClient(local_cache_dir=tmp_path / "store", freshness="immutable")
        path = client.CloudPath(f"file://{bucket}/small")
        assert path.read_bytes() == SMALL
        client.cache.close()
        _ = client.cache.lookup(client.store_key(path.uri))

        def child() -> None:
            with pytest.raises(casstore.IndexUnavailableError, match="fork"):
                path.read_bytes()

        assert status_of(fork_without_hooks(child)) == 0

    assert alone(work) == 0


# --- no room ---------------------------------------------------------------------------------------------------------


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


# --- too many open files ---------------------------------------------------------------------------------------------


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


# --- a disk that cannot read -----------------------------------------------------------------------------------------


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


@pytest.mark.needs_locks
def test_children_of_a_process_without_a_store_have_local_paths_of_their_own(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_everywhere(monkeypatch)
    path = FileClient().CloudPath(f"file://{bucket}/small")
    with one_warning():
        mine = path.fspath

    def child() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert path.fspath != mine
        path.client.cache.close()

    assert status_of(fork(child)) == 0
    assert Path(mine).read_bytes() == SMALL
