"""Copying, renaming, moving and deleting single objects: what it costs, and whose version survives."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pathapi import S3Client, S3Path
from pathapi.backends.s3.backend import S3Backend
from pathapi.clouds.file import FileClient, FilePath
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathIsADirectoryError,
    CloudPathLocalPathTraversalError,
    OverwriteNewerCloudError,
    StaleReadError,
)
from tests.harness.faults import Answer, Call, Fault, Reset
from tests.harness.proxy import Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.traffic import kinds_of

DATA = os.urandom(50_000)


@pytest.fixture
def root(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    """The test's "directory"."""
    return client.S3Path(f"s3://{ground.bucket}/{at}")


@pytest.fixture
def source(root: S3Path, ground: S3RawBucket, at: str) -> S3Path:
    """An object that nobody has asked for yet."""
    ground.plant(at + "source", DATA)
    return root / "source"


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """A client of ``file://`` with the store of `client`, and its paths below an empty directory."""
    client = FileClient(local_cache_dir=tmp_path / "store")
    (tmp_path / "tree").mkdir()
    yield client.FilePath(f"file://{tmp_path}/tree")
    client.cache.close()


def is_served_without_a_body(path: S3Path, proxy: Proxy, data: bytes) -> bool:
    """Whether the store has it and the cloud agrees."""
    proxy.reset()
    assert path.read_bytes() == data
    return proxy.body_bytes == 0


# --- what it costs --------------------------------------------------------------------------------------------------


def test_a_rename_to_a_new_name_is_three_requests(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    renamed = source.rename(root / "target")
    assert kinds_of(proxy) == {"HEAD": 1, "COPY": 1, "DELETE": 1}
    assert renamed == root / "target"
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, DATA)


def test_a_rename_over_an_object_is_five_requests(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "target", b"old")
    source.replace(root / "target")
    assert kinds_of(proxy) == {"HEAD": 2, "COPY": 2, "DELETE": 1}
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, DATA)


def test_a_rename_of_what_a_listing_knows_asks_nothing(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "target", b"old")
    assert len(list(root.iterdir())) == 2
    proxy.reset()
    source.rename(root / "target")
    assert kinds_of(proxy) == {"COPY": 1, "DELETE": 1}
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, DATA)


def test_what_a_listing_said_of_both_and_is_old_is_looked_up(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "target", b"old")
    assert len(list(root.iterdir())) == 2
    ground.plant(at + "source", b"newer")
    ground.plant(at + "target", b"old too")
    proxy.reset()
    source.rename(root / "target")
    assert kinds_of(proxy) == {"HEAD": 2, "COPY": 2, "DELETE": 1}
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, b"newer")


def test_a_copy_on_the_server_is_two_requests_and_the_question_whether_a_name_is_a_directory(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    assert source.copy(root / "target") == root / "target"
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 1, "COPY": 1}
    assert source.copy(str(root) + "below/") == root / "below" / "source"
    assert source.copy_into(root / "into") == root / "into" / "source"
    assert kinds_of(proxy) == {"HEAD": 2, "COPY": 2}
    names = ("source", "target", "below/source", "into/source")
    assert [ground.content(at + name) for name in names] == [DATA] * 4


def test_an_object_goes_into_a_directory_that_exists_and_a_listing_saves_the_question(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    for name in ("dir/old", "other/old", "file"):
        ground.plant(at + name, DATA)
    assert source.copy(root / "dir") == root / "dir" / "source"
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 1, "COPY": 1}
    children = {child.name: child for child in root.iterdir()}
    proxy.reset()
    assert children["source"].copy(children["other"]) == root / "other" / "source"
    assert children["source"].copy(root / "file") == root / "file"
    assert kinds_of(proxy) == {"COPY": 2}
    assert source.move(f"{root}dir") == root / "dir" / "source"
    assert [ground.content(at + name) for name in ("dir/source", "other/source", "file", "dir")] == [DATA] * 3 + [None]


def test_a_copy_without_the_permission_to_list_takes_the_target_for_a_name(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="LIST"))
    assert source.copy(root / "target") == root / "target"
    assert ground.content(at + "target") == DATA


def test_a_name_that_a_server_refuses_for_its_directory_says_so(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str
) -> None:
    ground.plant(at + "dir/old", b"old")
    with pytest.raises(IsADirectoryError, match="dir is a directory"):
        source.rename(root / "dir")
    assert (ground.content(at + "source"), ground.content(at + "dir/old")) == (DATA, b"old")


def test_a_move_on_the_server_is_a_rename(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    assert source.move_into(root / "into") == root / "into" / "source"
    assert kinds_of(proxy) == {"HEAD": 1, "COPY": 1, "DELETE": 1}
    assert (ground.content(at + "source"), ground.content(at + "into/source")) == (None, DATA)


def test_a_download_is_one_request(source: S3Path, tmp_path: Path, proxy: Proxy) -> None:
    assert source.download_to(tmp_path / "file") == tmp_path / "file"
    assert kinds_of(proxy) == {"GET": 1}
    (tmp_path / "directory").mkdir()
    assert source.download_to(str(tmp_path / "directory")) == tmp_path / "directory" / "source"
    assert source.copy(tmp_path / "copied") == tmp_path / "copied"
    assert proxy.body_bytes == 0, "the store had it"
    for path in ("file", "directory/source", "copied"):
        assert (tmp_path / path).read_bytes() == DATA


def test_an_upload_of_ten_new_files_is_ten_requests(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    local = tmp_path / "local"
    (local / "deep" / "er").mkdir(parents=True)
    for number in range(10):
        (local / ("deep/er" if number % 2 else "") / str(number)).write_bytes(b"%d" % number)
    (local / "deep" / "loop").symlink_to(local)
    assert (root / "tree").upload_from(local) == root / "tree"
    assert kinds_of(proxy) == {"PUT": 10}
    for number in range(10):
        assert ground.content(f"{at}tree/{'deep/er/' if number % 2 else ''}{number}") == b"%d" % number


def test_an_upload_over_an_object_asks_once(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    ground.plant(at + "file", b"old")
    (tmp_path / "file").write_bytes(DATA)
    (root / "file").upload_from(tmp_path / "file")
    kinds = kinds_of(proxy)
    assert kinds.pop("LIST") == 1, "whether it is a directory"
    assert kinds == {"HEAD": 1, "PUT": 2}
    assert ground.content(at + "file") == DATA
    (root / "file").upload_from(tmp_path / "file", force_overwrite_to_cloud=True)
    assert kinds_of(proxy) == {"LIST": 1, "PUT": 1}


def test_a_large_upload_asks_before_it_sends(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    ground.plant(at + "file", b"old")
    (tmp_path / "file").write_bytes(DATA * 200)
    (root / "file").upload_from(tmp_path / "file")
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 1, "PUT": 1}
    assert ground.content(at + "file") == DATA * 200


# --- the store keeps step -------------------------------------------------------------------------------------------


def test_what_was_renamed_copied_or_uploaded_is_served_without_a_download(
    source: S3Path, root: S3Path, tmp_path: Path, proxy: Proxy
) -> None:
    (root / "target").write_bytes(b"old")
    assert source.read_bytes() == DATA
    assert is_served_without_a_body(source.copy(root / "target", force_overwrite_to_cloud=True), proxy, DATA)
    assert is_served_without_a_body(source.rename(root / "renamed"), proxy, DATA)
    (tmp_path / "file").write_bytes(b"local")
    assert is_served_without_a_body((root / "up").upload_from(tmp_path / "file"), proxy, b"local")
    cache = source.client.cache
    assert cache.stat(str(source)) is None
    assert cache.usage(str(root)).blobs == 2


def test_an_entry_of_before_does_not_outlive_a_copy_of_what_is_not_held(
    make_client: MakeClient, source: S3Path, root: S3Path, proxy: Proxy
) -> None:
    trusting = make_client(freshness="immutable")
    target = trusting.S3Path(str(root / "target"))
    target.write_bytes(b"old")
    assert target.read_bytes() == b"old"
    trusting.S3Path(str(source)).copy(target, force_overwrite_to_cloud=True)
    assert target.read_bytes() == DATA


def test_an_entry_of_an_older_version_of_the_source_is_not_taken_for_the_copy(
    make_client: MakeClient, source: S3Path, root: S3Path, ground: S3RawBucket, at: str
) -> None:
    trusting = make_client(freshness="immutable")
    held = trusting.S3Path(str(source))
    assert held.read_bytes() == DATA
    newer = DATA[::-1]  # of the same size, by which the store could tell
    ground.plant(at + "source", newer)
    assert held.rename(trusting.S3Path(str(root / "target"))).read_bytes() == newer
    assert ground.content(at + "target") == newer


def test_listings_forget_both_names(source: S3Path, root: S3Path) -> None:
    assert [path.name for path in root.iterdir()] == ["source"]
    source.rename(root / "target")
    assert not source.is_file()
    assert (root / "target").is_file()


# --- conflicts ------------------------------------------------------------------------------------------------------


def test_a_source_written_after_the_copy_is_left_alone_and_it_is_said(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Call(lambda: ground.plant(at + "source", b"theirs")), kind="DELETE"))
    with pytest.raises(OverwriteNewerCloudError, match="left alone"):
        source.rename(root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (b"theirs", DATA)
    assert source.read_bytes() == b"theirs"


def test_a_source_written_before_the_copy_is_looked_at_again(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Call(lambda: ground.plant(at + "source", b"theirs")), kind="COPY"))
    source.rename(root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, b"theirs")


def test_a_source_that_keeps_changing_is_an_error_and_nothing_is_changed(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    versions = iter(range(100))
    proxy.add(Fault(Call(lambda: ground.plant(at + "source", b"%d" % next(versions))), kind="COPY", times=None))
    with pytest.raises(OverwriteNewerCloudError, match="changed 4 times"):
        source.rename(root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (b"3", None)


@pytest.mark.parametrize("way", [S3Path.rename, S3Path.copy, S3Path.move])
def test_a_target_written_after_it_was_looked_at_is_left_alone(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy, way: Callable[..., Any]
) -> None:
    ground.plant(at + "target", b"old")
    time.sleep(1.1)
    ground.plant(at + "source", DATA)
    proxy.add(Fault(Call(lambda: ground.plant(at + "target", b"theirs")), kind="COPY", nth=2))
    with pytest.raises(OverwriteNewerCloudError, match="target"):
        way(source, root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (DATA, b"theirs")


def test_a_newer_target_of_other_bytes_is_spared_and_one_of_the_same_is_no_conflict(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "target", b"newer")
    ground.plant(at + "same", DATA)
    proxy.reset()
    with pytest.raises(OverwriteNewerCloudError, match="target is not older"):
        source.copy(root / "target")
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 2, "COPY": 1}
    source.copy(root / "same")
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 2, "COPY": 2}
    children = {child.name: child for child in root.iterdir()}
    proxy.reset()
    with pytest.raises(OverwriteNewerCloudError):
        children["source"].copy(children["target"])
    assert kinds_of(proxy) == {}, "the listing told of both"
    with pytest.raises(OverwriteNewerCloudError):
        children["source"].move(children["target"])
    assert ground.content(at + "target") == b"newer"
    source.rename(root / "target")
    assert ground.content(at + "target") == DATA


@pytest.mark.parametrize("conditions", ["auto", "off"])
def test_an_older_file_spares_a_newer_object_and_what_was_uploaded_is_no_conflict(
    make_client: MakeClient, root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, conditions: Any
) -> None:
    path = make_client(conditional_writes=conditions).S3Path(f"{root}file")
    local = tmp_path / "file"
    local.write_bytes(DATA)
    os.utime(local, (10**9, 10**9))
    for _ in range(2):
        path.upload_from(local)
    ground.plant(at + "file", DATA[::-1])
    with pytest.raises(OverwriteNewerCloudError, match="not older"):
        path.upload_from(local)
    assert ground.content(at + "file") == DATA[::-1]
    path.upload_from(local, force_overwrite_to_cloud=True)
    assert ground.content(at + "file") == DATA


def test_a_newer_object_of_another_cloud_is_spared_too(
    source: S3Path, files: FilePath, ground: S3RawBucket, at: str
) -> None:
    (files / "there").write_bytes(DATA[::-1])
    with pytest.raises(OverwriteNewerCloudError, match="not older"):
        source.copy(files / "there")
    assert (files / "there").read_bytes() == DATA[::-1]
    (files / "there").write_bytes(DATA)
    source.copy(files / "there")


def test_a_touch_of_what_changes_in_the_meantime_is_a_conflict(
    source: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Call(lambda: ground.plant(at + "source", b"theirs")), kind="COPY"))
    with pytest.raises(OverwriteNewerCloudError, match="source"):
        source.touch()
    assert ground.content(at + "source") == b"theirs"


def test_a_touch_of_a_local_file_sets_its_time(files: FilePath, tmp_path: Path) -> None:
    (files / "a").write_bytes(DATA)
    file = tmp_path / "tree" / "a"
    file.chmod(0o640)
    os.utime(file, (10**9, 10**9))
    before = file.stat()
    (files / "a").touch()
    after = file.stat()
    assert after.st_mtime > before.st_mtime
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert (files / "a").read_bytes() == DATA
    with pytest.raises(FileExistsError):
        (files / "a").touch(exist_ok=False)


def test_a_target_that_is_to_be_overwritten_by_force_is(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "target", b"old")
    source.copy(root / "target", force_overwrite_to_cloud=True)
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 1, "COPY": 1}
    assert ground.content(at + "target") == DATA


def test_a_target_that_is_deleted_meanwhile_is_made(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    ground.plant(at + "target", b"old")
    proxy.add(Fault(Call(lambda: ground.remove(at + "target")), kind="HEAD", key=at + "target"))
    source.rename(root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, DATA)


def test_a_source_that_is_deleted_meanwhile_is_file_not_found(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Call(lambda: ground.remove(at + "source")), kind="COPY"))
    with pytest.raises(FileNotFoundError):
        source.rename(root / "target")
    assert ground.content(at + "target") is None


@pytest.mark.parametrize("kind", ["COPY", "DELETE"])
@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "over"])
def test_an_answer_that_is_lost_is_no_conflict(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy, kind: str, old: bytes | None
) -> None:
    if old is not None:
        ground.plant(at + "target", old)
    proxy.add(Fault(Reset(after=None), kind=kind, nth=1 if old is None or kind == "DELETE" else 2))
    source.rename(root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, DATA)
    assert (root / "target").read_bytes() == DATA


def test_an_unlink_whose_answer_is_lost_is_done(source: S3Path, ground: S3RawBucket, at: str, proxy: Proxy) -> None:
    proxy.add(Fault(Reset(after=None), kind="DELETE"))
    source.unlink(missing_ok=False)
    assert ground.content(at + "source") is None


def test_an_unlink_of_what_somebody_has_written_meanwhile_leaves_it(
    source: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Call(lambda: ground.plant(at + "source", b"theirs")), kind="DELETE"))
    with pytest.raises(OverwriteNewerCloudError):
        source.unlink()
    assert ground.content(at + "source") == b"theirs"


def test_a_server_without_conditions_is_asked_just_before_and_it_is_said(
    source: S3Path, root: S3Path, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Answer(501, "NotImplemented"), kind="COPY"))
    proxy.add(Fault(Answer(501, "NotImplemented"), kind="DELETE"))
    with pytest.warns(UserWarning, match="conditionally"):
        source.rename(root / "target")
    assert (ground.content(at + "source"), ground.content(at + "target")) == (None, DATA)


# --- other clouds, and this machine -----------------------------------------------------------------------------------


def test_an_object_goes_to_another_bucket_and_back_by_the_server(
    source: S3Path, client: S3Client, make_bucket: Callable[[], str], ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    other = client.S3Path(f"s3://{make_bucket()}/there")
    proxy.reset()
    assert source.copy(other) == other
    assert kinds_of(proxy) == {"LIST": 1, "HEAD": 1, "COPY": 1}
    assert other.read_bytes() == DATA
    ground.plant(at + "source", b"newer")
    assert source.rename(other) == other
    assert other.read_bytes() == b"newer"
    assert ground.content(at + "source") is None
    assert other.move(source) == source
    assert ground.content(at + "source") == b"newer"
    assert not other.exists()


def test_a_source_written_while_it_is_moved_to_another_cloud_stays(
    source: S3Path, files: FilePath, ground: S3RawBucket, at: str, proxy: Proxy
) -> None:
    proxy.add(Fault(Call(lambda: ground.plant(at + "source", b"theirs")), kind="DELETE"))
    with pytest.raises(OverwriteNewerCloudError, match="left alone"):
        source.move(files / "target")
    assert (files / "target").read_bytes() == DATA
    assert ground.content(at + "source") == b"theirs"


def test_a_move_to_this_machine_takes_the_source_away(
    source: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, proxy: Proxy
) -> None:
    assert source.move(str(tmp_path / "file")) == tmp_path / "file"
    assert kinds_of(proxy) == {"GET": 1, "DELETE": 1}
    assert (tmp_path / "file").read_bytes() == DATA
    assert ground.content(at + "source") is None
    assert source.client.cache.stat(str(source)) is None


def test_a_move_to_this_machine_is_on_the_disk_before_the_source_goes(
    source: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    steps: list[str] = []
    fsync, delete = os.fsync, S3Backend.delete

    def note_sync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.startswith(str(tmp_path / "here")):
            steps.append("directory" if os.path.isdir(name) else "file")
        fsync(descriptor)

    def note_delete(*arguments: Any, **options: Any) -> None:
        steps.append("delete")
        delete(*arguments, **options)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(S3Backend, "delete", note_delete)
    source.move(tmp_path / "here" / "file")
    assert steps == ["file", "directory", "delete"]


def test_a_move_of_a_version_that_is_old_by_now_does_not_happen(
    make_client: MakeClient, source: S3Path, ground: S3RawBucket, at: str, tmp_path: Path
) -> None:
    trusting = make_client(freshness="immutable").S3Path(str(source))
    assert trusting.read_bytes() == DATA
    ground.plant(at + "source", b"newer")
    trusting.move(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"newer"
    assert ground.content(at + "source") is None


def test_an_empty_object_moves_like_any_other(
    root: S3Path, ground: S3RawBucket, at: str, files: FilePath, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        ground.plant(at + name, b"")
    (root / "a").move(tmp_path / "a")
    (root / "b").move(files / "b")
    (root / "c").rename(root / "d")
    assert (tmp_path / "a").read_bytes() == (files / "b").read_bytes() == b""
    assert [ground.content(at + name) for name in "abcd"] == [None, None, None, b""]


def test_a_file_that_changes_while_it_is_uploaded_is_an_error(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "log"
    local.write_bytes(b"line\n")
    take = type(root.client.cache.stage()).copy_from

    def take_and_go_on(staging: Any, source: int) -> None:
        take(staging, source)
        with local.open("ab") as file:
            file.write(b"another\n")

    monkeypatch.setattr("casstore.Staging.copy_from", take_and_go_on)
    with pytest.raises(StaleReadError, match="still being written"):
        (root / "log").upload_from(local)
    assert ground.content(at + "log") is None


def test_an_upload_goes_below_what_is_a_directory(root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path) -> None:
    ground.plant(at + "dir/x", b"")
    (tmp_path / "file").write_bytes(DATA)
    assert (root / "dir").upload_from(tmp_path / "file") == root / "dir" / "file"
    new = root.client.CloudPath(str(root) + "new/")
    assert new.upload_from(str(tmp_path / "file")) == root / "new" / "file"
    assert ground.content(at + "dir/file") == ground.content(at + "new/file") == DATA
    with pytest.raises(FileNotFoundError):
        (root / "new2").upload_from(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular"):
        (root / "new2").upload_from(tmp_path / "pipe")


def test_a_file_bucket_renames_moves_and_copies(files: FilePath, tmp_path: Path) -> None:
    (files / "a").write_bytes(DATA)
    (files / "b").write_bytes(b"old")
    assert (files / "a").copy(files / "c").read_bytes() == DATA
    assert (files / "a").rename(files / "b").read_bytes() == DATA
    assert not (files / "a").exists()
    assert (files / "b").move(files / "deep" / "a").read_bytes() == DATA
    assert sorted(path.name for path in (tmp_path / "tree").rglob("*") if path.is_file()) == ["a", "c"]


# --- what is no object ------------------------------------------------------------------------------------------------


WAYS: list[Callable[[S3Path, S3Path], object]] = [
    S3Path.rename,
    S3Path.copy,
    S3Path.move,
    S3Path.copytree,
    lambda path, target: path.download_to("/tmp/trees-never"),
    lambda path, target: path.move("/tmp/trees-never"),
]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_neither_an_object_nor_a_directory_is_file_not_found(
    root: S3Path, way: Callable[[S3Path, S3Path], object]
) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        way(root / "missing", root / "target")
    with pytest.raises(FileNotFoundError, match="missing"):
        way(type(root)(f"{root}missing/", client=root.client), root / "target")
    assert not os.path.exists("/tmp/trees-never")


def test_a_directory_cannot_be_renamed(root: S3Path, ground: S3RawBucket, at: str) -> None:
    ground.plant(at + "dir/x", b"x")
    for _ in range(2):
        for target in ("target", "dir"):
            with pytest.raises(CloudPathIsADirectoryError, match="move"):
                (root / "dir").rename(root / target)
        list(root.iterdir())
    assert ground.content(at + "target/x") is None
    with pytest.raises(CloudPathIsADirectoryError):
        root.client.CloudPath(f"s3://{ground.bucket}").rename(root / "target")


def test_a_rename_wants_a_path_of_its_kind(source: S3Path, files: FilePath, tmp_path: Path) -> None:
    wrong: Any
    for wrong in (files / "x", tmp_path / "x"):
        with pytest.raises(TypeError, match="renamed"):
            source.rename(wrong)
    with pytest.raises(IsADirectoryError):
        source.rename(str(source) + "/")
    assert source.rename(source) == source
    assert source.copy(source) == source
    assert source.read_bytes() == DATA


@pytest.mark.parametrize("way", [S3Path.rename, S3Path.copy, S3Path.move])
@pytest.mark.parametrize("scheme", ["s3", "S3"])
def test_what_is_missing_is_file_not_found_though_it_would_go_onto_itself(
    source: S3Path, root: S3Path, way: Callable[..., Any], scheme: str
) -> None:
    def spelled(path: S3Path) -> S3Path:
        return type(root)(str(path).replace("s3", scheme, 1), client=root.client)

    with pytest.raises(FileNotFoundError, match="missing"):
        way(root / "missing", spelled(root / "missing"))
    assert way(source, spelled(source)) == spelled(source)
    assert source.read_bytes() == DATA


def test_a_name_that_leads_out_of_a_directory_is_not_downloaded_into_it(
    root: S3Path, ground: S3RawBucket, at: str, tmp_path: Path, client: S3Client
) -> None:
    path = client.S3Path(f"s3://{ground.bucket}/{at}x/..")
    with pytest.raises(CloudPathLocalPathTraversalError):
        path.download_to(tmp_path)


def test_two_names_that_a_server_takes_for_one_object_lose_nothing(
    source: S3Path, client: S3Client, ground: S3RawBucket, at: str
) -> None:
    alias = client.S3Path(f"s3://{ground.bucket}/{at}/source")
    if alias.exists():  # SeaweedFS, until it learns better
        for way in (source.rename, source.move):
            with pytest.raises(CloudPathFileExistsError, match="one object"):
                way(alias)
        assert ground.content(at + "source") == DATA
    else:
        assert source.rename(alias).read_bytes() == DATA


def test_one_object_at_two_endpoints_is_not_lost_by_a_move(
    source: S3Path, make_client: MakeClient, seaweed: Any, ground: S3RawBucket, at: str
) -> None:
    same = make_client(endpoint_url=seaweed.endpoint).S3Path(str(source))
    for way in (source.rename, source.move):
        with pytest.raises(CloudPathFileExistsError, match="one object"):
            way(same)
    assert ground.content(at + "source") == DATA
