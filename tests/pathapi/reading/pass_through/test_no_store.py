"""Without a store, or without its index, the bytes are right all the same, with one warning, and nothing is stored."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import StoreUnavailableError
from casstore import opening as processes
from casstore.fs import files
from casstore.fs import mounts as machine
from pathapi import FileClient, prefetch
from pathapi.exceptions import NotCachedError, OverwriteNewerCloudError, PendingWriteError
from pathapi.reading import reader as reading
from tests.casstore.support.fill import REPOSITORY, alone, fork, fork_without_hooks, run, status_of
from tests.pathapi.support.pass_through import (
    LARGE,
    SMALL,
    WARNING,
    check_reads,
    check_store,
    network_everywhere,
    one_warning,
)

# --- no store at all --------------------------------------------------------------------------------------------------


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
print(given, os.path.exists(given))
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


# --- another PID namespace --------------------------------------------------------------------------------------------


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
