"""Whole trees: whose versions survive, and what an error or an interrupt leaves of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import pathapi
from pathapi import FilePath, Progress, S3Path
from pathapi.exceptions import CloudPathPermissionError, OverwriteNewerCloudError, PendingWriteError
from pathapi.parallel.part_threads import PartThreads
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.testing import interpose
from tests.casstore.support.fill import eventually
from tests.casstore.support.threads import threads_in
from tests.harness.faults import Answer, Call, Fault, Stall
from tests.harness.proxy import Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.traffic import kinds_of
from tests.pathapi.support.trees import TREE, local, make_local, plant, planted

# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_removal_leaves_what_somebody_has_written_since_the_listing(
    root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    plant(ground, at)
    theirs = iter(range(100))
    write = Call(lambda: ground.plant(at + "a/0", b"theirs %d" % next(theirs)))
    proxy.add(Fault(write, kind="DELETE", times=None))
    with pytest.raises(OverwriteNewerCloudError, match="a/0"):
        root.rmtree()
    assert planted(ground, at) == {"a/0": b"theirs 0"}
    root.rmtree(ignore_errors=True)
    assert planted(ground, at) == {"a/0": b"theirs 1"}


def test_a_removal_of_one_object_leaves_another_version(
    root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "only", b"")
    proxy.add(Fault(Call(lambda: ground.plant(at + "only", b"theirs")), kind="DELETE"))
    with pytest.raises(OverwriteNewerCloudError, match="only"):
        root.rmtree()
    assert planted(ground, at) == {"only": b"theirs"}


def test_a_server_that_deletes_no_versions_is_not_held_to_them_and_it_is_said(
    make_client: MakeClient, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    plant(ground, at)
    proxy.add(Fault(Answer(501, "NotImplemented"), kind="DELETE", times=2))
    with pytest.raises(NotImplementedError):
        make_client(conditional_writes="require").S3Path(str(root)).rmtree()
    assert planted(ground, at) == TREE
    with pytest.warns(UserWarning, match="conditionally"):
        root.rmtree()
    assert planted(ground, at) == {}


def test_a_file_bucket_is_removed_in_the_versions_that_were_listed(files: FilePath, tmp_path: Path) -> None:
    make_local(tmp_path / "tree")
    backend = interpose(files.client, "")
    backend.before["delete"] = lambda: (tmp_path / "tree/a/0").write_bytes(b"theirs")
    with pytest.raises(OverwriteNewerCloudError, match="a/0"):
        files.rmtree()
    assert local(tmp_path / "tree") == {"a/0": b"theirs"}


def test_nothing_is_removed_where_writes_wait_for_the_cloud(
    root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    plant(ground, at)
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", times=None))
    for name in ("a/0", "a/new"):
        with pytest.raises(CloudPathPermissionError):
            (root / name).write_bytes(b"mine")
    with pytest.raises(PendingWriteError, match=r"a/0, .*a/new are not"):
        root.rmtree()
    assert planted(ground, at) == TREE
    root.rmtree(ignore_errors=True)
    assert planted(ground, at) == {"a/0": TREE["a/0"]}
    assert [write.uri for write in root.client.cache.pending.all()] == [f"{root}/a/0", f"{root}/a/new"]
    (root / "a/0").drop()
    (root / "a/new").drop()
    root.rmtree()
    assert planted(ground, at) == {}


def test_nothing_is_removed_where_a_local_copy_was_edited(root: S3Path, ground: S3RawBucket, at: str) -> None:
    plant(ground, at)
    view = Path((root / "a/0").fspath)
    view.unlink()
    view.write_bytes(b"edited")
    with pytest.raises(PendingWriteError, match="a/0"):
        root.rmtree()
    assert planted(ground, at) == TREE


def test_a_source_written_while_its_tree_moves_is_not_lost(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    plant(ground, at + "from/")
    fault = Fault(Call(lambda: ground.plant(at + "from/a/0", b"theirs")), kind="DELETE", key=at + "from/a/0", times=1)
    proxy.add(fault)
    with pytest.raises(OverwriteNewerCloudError, match="left alone"):
        (root / "from").move(tmp_path / "to")
    assert ground.content(at + "from/a/0") == b"theirs"
    (root / "from").move(tmp_path / "to")
    assert local(tmp_path / "to") == TREE | {"a/0": b"theirs"}
    assert planted(ground, at + "from/") == {}


def test_an_object_written_at_the_target_meanwhile_is_replaced_only_by_force(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    source = make_local(tmp_path / "source")
    for name in TREE:
        os.utime(source / name, (4e9, 4e9))  # newer than all that is written here
    plant(ground, at, dict.fromkeys(TREE, b"old"))
    theirs = iter(range(100))
    write = Call(lambda: ground.plant(at + "b/3", b"theirs %d" % next(theirs)))
    proxy.add(Fault(write, kind="PUT", key=at + "b/3", times=None))
    with pytest.raises(OverwriteNewerCloudError, match="b/3"):
        root.upload_from(source)
    assert planted(ground, at)["b/3"] == b"theirs 1", "once it was looked at again"
    proxy.clear_faults()
    proxy.reset()
    root.upload_from(source, force_overwrite_to_cloud=True)
    assert kinds_of(proxy) == {"PUT": 12}
    assert planted(ground, at) == TREE


# --- errors and interrupts --------------------------------------------------------------------------------------------


def test_the_first_error_ends_it_names_its_object_and_the_same_call_goes_on(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    tree = {f"{n:03}": b"%d" % n for n in range(100)}
    plant(ground, at, tree)
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="GET", key=at + "020", times=None))
    path = root.client.CloudPath(f"{root}/")
    with pytest.raises(CloudPathPermissionError, match="020") as failed:
        path.download_to(tmp_path / "to")
    assert "repeat the call" in failed.value.__notes__[-1]
    assert not threads_in(WorkerPool._do)
    there = local(tmp_path / "to")
    assert 10 < len(there) < 60
    assert there.items() <= tree.items()
    proxy.clear_faults()
    path.download_to(tmp_path / "to")
    assert local(tmp_path / "to") == tree


def test_an_interrupt_ends_it_within_a_moment(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    tree = {f"{n:03}": b"%d" % n for n in range(100)}
    plant(ground, at, tree)

    def interrupt(progress: Progress) -> None:
        if progress.files > 10:
            raise KeyboardInterrupt

    proxy.add(Fault(Call(lambda: time.sleep(0.02)), kind="GET", times=None))
    with pytest.raises(KeyboardInterrupt):
        root.client.CloudPath(f"{root}/").download_to(tmp_path / "to", progress=interrupt)
    eventually(lambda: not threads_in(PartThreads._run))
    assert local(tmp_path / "to").items() < tree.items(), "it went on"


def test_an_interrupt_waits_for_no_server(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathapi.parallel.worker_pool.INTERRUPT_SECONDS", 0.2)
    plant(ground, at)
    proxy.add(Fault(Stall(900), kind="GET", times=None))

    def interrupt(progress: Progress) -> None:
        if not progress.is_listing:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        root.client.CloudPath(f"{root}/").download_to(tmp_path / "to", progress=interrupt)
    assert time.monotonic() - began < 600
    proxy.close()
    eventually(lambda: not threads_in(PartThreads._run))
    assert local(tmp_path / "to") == {}


def test_one_object_tells_of_its_progress_too(root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path) -> None:
    ground.plant(at + "x", b"x" * 1000)
    told: list[Progress] = []
    (root / "x").download_to(tmp_path / "x", progress=told.append)
    assert (told[-1].files, told[-1].bytes, told[-1].total_bytes) == (1, 1000, 1000)


def test_a_bar_is_silent_where_nobody_looks(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pathapi.progress_bar("title") as progress:
        assert progress is None
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with pathapi.progress_bar("my [title]") as progress:
        assert progress is not None
        progress(Progress(1, 2, 10, 2_000_000, is_listing=False))
    out, err = capfd.readouterr()
    assert out == ""
    assert "my [title]" in err and "1/2 objects" in err and "10 B of 1.9 MiB" in err
