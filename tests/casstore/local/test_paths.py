"""Local paths: the same string in every process, with the object's name and bytes, whatever happens to the blob."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import Cache, Content, Entry, Place, strong_digest
from casstore.errors import LockTimeoutError
from casstore.fs import files
from casstore.local import paths as local_paths
from casstore.local.directories import cached_directory, exact_directory
from casstore.local.paths import LocalPaths
from casstore.local.record import Kind, PathRecord
from tests.casstore.support.fill import eventually, fill, fork, forked, hand_out, key_of, run, status_of
from tests.casstore.support.local_edits import KEY, by_rename, edit_of, held, in_place, outbox_of, reaped, view_of
from tests.harness.crash_points import Steps, crash
from tests.harness.sampling import sampled

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")


@pytest.fixture(params=["link", "copy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _record(cache: Cache) -> PathRecord:
    found = PathRecord.read(cache.layout, KEY.name, KEY)
    assert found is not None
    return found


def _at_another_boot(cache: Cache) -> Callable[[Entry], Path]:
    """What makes paths after the next boot."""
    paths = LocalPaths(cache.layout, cache._locks, cache.leases, cache.settings, cache.boot_mount + 1)

    def hand_out_again(entry: Entry) -> Path:
        with open(cache.blob_path(entry), "rb") as blob:
            return Path(paths.path(Place(KEY, "bucket", "k"), Content.of_entry(entry), blob.fileno()))

    return hand_out_again


# --- one version, one path --------------------------------------------------------------------------------------------


def test_a_path_has_the_objects_name_bytes_and_mtime(cache: Cache, mode: str) -> None:
    path = view_of(cache, "dir/file.csv", mode)
    assert path == Path(cache.layout.local, "0", "s3", "bucket", "dir", "file.csv")
    assert path.read_bytes() == b"bytes"
    entry = cache.lookup(key_of("dir/file.csv"))
    assert entry is not None
    if mode != "link":
        seconds, rest = divmod(path.stat().st_mtime_ns, 10**9)
        assert (seconds, rest) == (entry.validated.wall_ns // 10**9, entry.digest.mtime % 10**9)


def test_a_version_has_one_path_in_every_process_and_after_all_of_them(cache: Cache, mode: str, tmp_path: Path) -> None:
    path = view_of(cache, mode=mode)
    entry = cache.lookup(KEY)
    assert entry is not None

    def work() -> None:
        assert hand_out(cache, entry, mode) == path
        os._exit(0)  # as if it was killed

    assert [forked(work) for _ in range(3)] == [0] * 3
    cache.close()
    assert path.read_bytes() == b"bytes"
    assert reaped(cache).recorded == ()
    path.unlink()  # as an eviction does
    assert hand_out(cache, entry, mode) == path
    assert path.read_bytes() == b"bytes"
    code = """
import sys, casstore
from tests.casstore.support.fill import hand_out
cache = casstore.open(sys.argv[1])
print(hand_out(cache, cache.stat("s3://bucket/k"), sys.argv[2]))
"""
    assert run(code, cache.root, mode).stdout == f"{path}\n"


@pytest.mark.needs_locks
def test_processes_that_ask_at_once_get_one_path(cache: Cache, tmp_path: Path) -> None:
    entry, go = fill(cache, KEY, b"bytes" * 100_000), tmp_path / "go"

    def work() -> None:
        eventually(go.exists)
        assert hand_out(cache, entry, "copy").read_bytes() == b"bytes" * 100_000

    pids = [fork(work) for _ in range(4)]
    go.touch()
    assert [status_of(pid) for pid in pids] == [0] * 4
    assert [file.name for file in _record(cache).files] == ["0/s3/bucket/k"]


def test_a_new_version_has_the_next_path_and_the_old_one_keeps_its_bytes(cache: Cache, mode: str) -> None:
    old = view_of(cache, mode=mode)
    new = view_of(cache, mode=mode, etag="e2", data=b"newer")
    assert (old.read_bytes(), new.read_bytes()) == (b"bytes", b"newer")
    assert new == Path(cache.layout.local, "1", "s3", "bucket", "k")
    assert view_of(cache, mode=mode, etag="e3") == old, "its bytes are those of the first one again"


def test_siblings_meet_in_one_directory(cache: Cache) -> None:
    assert view_of(cache, "a.shp").parent == view_of(cache, "a.dbf").parent


def test_a_path_outlives_its_blob(cache: Cache, mode: str) -> None:
    path = view_of(cache, mode=mode)
    entry = cache.lookup(KEY)
    assert entry is not None
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    cache.evict(lambda _: True)
    assert not os.path.exists(cache.blob_path(entry)) and path.read_bytes() == b"bytes"
    path.unlink()
    again = cache.local.path(Place(KEY, "bucket", "k"), Content.of_entry(entry), descriptor, mode)
    assert Path(again).read_bytes() == b"bytes", "also when it was swept since it was opened"
    os.close(descriptor)


def test_a_path_is_never_a_link_to_another_file_than_the_one_that_was_opened(cache: Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    with open(cache.blob_path(entry), "rb") as opened:
        os.unlink(cache.blob_path(entry))
        Path(cache.blob_path(entry)).write_bytes(b"BYTES")
        path = cache.local.path(Place(KEY, "bucket", "k"), Content.of_entry(entry), opened.fileno(), "link")
    assert Path(path).read_bytes() == b"bytes"


def test_small_objects_are_copies_with_the_umasks_mode_and_large_ones_links(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    umask = os.umask(0o027)
    try:
        copy = view_of(cache, "small", "auto")
    finally:
        os.umask(umask)
    assert (copy.stat().st_mode & 0o777, copy.stat().st_nlink) == (0o640, 1)
    monkeypatch.setattr(local_paths, "COPY_LIMIT", 4)
    monkeypatch.setattr("casstore.fs.copying.clone", lambda *_: False)
    link = view_of(cache, "large", "auto")
    entry = cache.lookup(key_of("large"))
    assert entry is not None and os.path.samefile(link, cache.blob_path(entry))


# --- what else is there -----------------------------------------------------------------------------------------------


def _put_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _put_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _keep_the_mtime(path: Path) -> None:
    before = path.stat()
    in_place(path, b"other")
    with path.open("ab") as file:
        file.write(b"s")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [in_place, by_rename, lambda path: by_rename(path, b"MINE!"), _keep_the_mtime, _put_a_directory, _put_a_link],
)
def test_what_was_put_in_place_of_a_copy_is_neither_handed_out_nor_removed(
    cache: Cache, change: Callable[[Path], object]
) -> None:
    path = view_of(cache)
    change(path)
    before = os.lstat(path)
    entry = cache.lookup(KEY)
    assert entry is not None
    again = hand_out(cache, entry, "copy")
    assert (again.read_bytes(), os.lstat(path)) == (b"bytes", before)
    assert again != path and hand_out(cache, entry, "copy") == again


def test_a_touched_copy_keeps_its_path(cache: Cache, mode: str) -> None:
    path = view_of(cache, mode=mode)
    os.utime(path)
    assert cache.record_changes(KEY) == []
    assert view_of(cache, mode=mode) == path


def test_a_file_that_a_tool_made_first_sends_a_path_to_the_next_tree(cache: Cache) -> None:
    made = Path(cache.layout.local, "0/s3/bucket/k")
    made.parent.mkdir(parents=True)
    made.write_bytes(b"made")
    assert view_of(cache).parts[-4] == "1"
    assert made.read_bytes() == b"made"


def test_a_file_that_a_tool_makes_just_then_is_not_the_stores(
    cache: Cache, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = files.link

    def late(source: str, target: str) -> None:
        if target.endswith("/0/s3/bucket/k"):
            Path(target).write_bytes(b"made")
        link(source, target)

    monkeypatch.setattr(files, "link", late)
    assert view_of(cache, mode=mode).read_bytes() == b"bytes"
    monkeypatch.setattr(files, "link", link)
    cache.record_local()
    assert [data for _, _, data in held(cache)] == [b"made"]


def test_a_link_that_another_process_makes_just_then_is_the_path(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a disk where locks do not work.
    entry = fill(cache, KEY, b"bytes", "e1")
    link = files.link

    def late(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(files, "link", late)
    path = hand_out(cache, entry, "link")
    assert path.relative_to(cache.layout.local) == Path("0/s3/bucket/k")
    assert path.samefile(cache.blob_path(entry))


# --- after a power cut ------------------------------------------------------------------------------------------------


def test_after_the_next_boot_a_copy_with_its_bytes_stays_the_same_file(cache: Cache, mode: str) -> None:
    path = view_of(cache, mode=mode)
    entry, inode = cache.lookup(KEY), path.stat().st_ino
    assert entry is not None
    assert _at_another_boot(cache)(entry) == path
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("data", [b"\0" * 5, b"", b"\0\0"])
def test_after_the_next_boot_a_file_that_lost_its_bytes_is_made_again(cache: Cache, mode: str, data: bytes) -> None:
    """A link has the inode of a blob that was damaged, found out and replaced."""
    path = view_of(cache, mode=mode)
    entry, before = cache.lookup(KEY), path.stat()
    assert entry is not None
    if mode == "link":
        os.unlink(cache.blob_path(entry))
    in_place(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if mode == "link":
        fill(cache, KEY, b"bytes")
    assert _at_another_boot(cache)(entry) == path
    assert path.read_bytes() == b"bytes"


def test_after_the_next_boot_a_longer_file_with_the_mtime_is_a_change(cache: Cache) -> None:
    path = view_of(cache)
    entry, before = cache.lookup(KEY), path.stat()
    assert entry is not None
    in_place(path, b"longer than it was")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _at_another_boot(cache)(entry) != path
    assert path.read_bytes() == b"longer than it was"


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 10), lambda path: os.truncate(path, 0)])
def test_a_lost_record_costs_a_path_and_no_bytes(cache: Cache, damage: Callable[[str], object]) -> None:
    path, edited = view_of(cache), view_of(cache, "edited")
    in_place(edited)
    for key in (KEY, key_of("edited")):
        damage(cache.layout.path_record(key.name))
    again = view_of(cache)
    assert again != path and again.read_bytes() == b"bytes"
    cache.record_local()
    assert [(uri, data) for uri, _, data in held(cache)] == [("s3://bucket/edited", b"mine")]
    assert len(_record(cache).files) == 2


def test_a_copy_that_lost_its_record_and_its_bytes_is_no_pending_write(cache: Cache) -> None:
    path = view_of(cache)
    before = path.stat()
    in_place(path, b"\0" * 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.unlink(cache.layout.path_record(KEY.name))
    assert cache.record_local() == []
    entry = cache.lookup(KEY)
    assert entry is not None
    assert _at_another_boot(cache)(entry).read_bytes() == b"bytes"


def test_paths_are_known_again_in_a_store_that_was_moved(cache: Cache, tmp_path: Path) -> None:
    path = view_of(cache)
    cache.close()
    os.rename(cache.root, tmp_path / "moved")
    moved = casstore.open(tmp_path / "moved")
    there = tmp_path / "moved" / path.relative_to(cache.root)
    assert moved.record_local() == []
    in_place(there)
    assert [write.source for write in moved.record_local()] == [str(there)]
    assert moved.local.release(KEY, str(path)), "by its former name, too"
    moved.close()


# --- paths to create, and private ones --------------------------------------------------------------------------------


def test_a_path_to_create_has_the_objects_name_and_room_for_it(cache: Cache) -> None:
    path = outbox_of(cache, "dir/new.csv")
    assert path == Path(cache.layout.local, "0/s3/bucket/dir/new.csv")
    assert path.parent.is_dir() and not path.exists()
    assert forked(lambda: os._exit(outbox_of(cache, "dir/new.csv") != path)) == 0
    path.write_bytes(b"mine")
    assert outbox_of(cache, "dir/new.csv") == path
    assert outbox_of(cache, "dir/other").parent == path.parent


@pytest.mark.parametrize("names", [("a", "a/b", "a/b/c"), ("a/b/c", "a/b", "a"), ("a/b", "a", "a/b/c")])
def test_a_name_that_is_file_and_directory_is_in_the_next_tree(cache: Cache, names: tuple[str, ...]) -> None:
    paths = []
    for name in names:
        paths.append(outbox_of(cache, name))
        paths[-1].write_text(name)
    assert [path.read_text() for path in paths] == [*names]


def test_a_released_path_goes_with_its_file_and_other_paths_have_their_directories(cache: Cache) -> None:
    path, other = outbox_of(cache, "dir/a"), outbox_of(cache, "dir/b")
    path.write_bytes(b"mine")
    assert cache.local.release(key_of("dir/a"), str(path))
    assert not path.exists()
    assert not cache.has_local_changes(key_of("dir/a"))
    assert not cache.local.release(key_of("dir/a"), str(path)), "it is nobody's any more"
    other.write_bytes(b"mine too")
    assert outbox_of(cache, "dir/a") == path


def test_a_file_that_changed_since_it_was_uploaded_is_neither_released_nor_the_new_version(cache: Cache) -> None:
    path = outbox_of(cache)
    path.write_bytes(b"mine")
    (write,) = cache.record_changes(KEY)
    entry = fill(cache, KEY, b"mine", "e2")
    proof = cache.pending.strong_digest(write)
    path.write_bytes(b"more")
    cache.local.uploaded(KEY, str(path), entry.digest, proof, entry.validator)
    assert not cache.local.release(KEY, str(path), proof)
    assert path.read_bytes() == b"more"
    path.write_bytes(b"mine")
    cache.local.uploaded(KEY, str(path), entry.digest, proof, entry.validator)
    cache.pending.discard(write)
    assert cache.record_changes(KEY) == []
    assert hand_out(cache, entry, "copy") == path, "from now on it is the path of this version"
    assert cache.local.release(KEY, str(path), proof)
    assert not path.exists()


def test_a_private_path_is_released_though_a_program_did_not_close_it(cache: Cache, tmp_path: Path) -> None:
    path = edit_of(cache, tmp_path, b"bytes")
    with path.open("r+b") as file:
        assert cache.local.release(KEY, str(path), strong_digest(file.fileno()))
    assert not path.exists()


@pytest.mark.parametrize("data", [None, b"bytes"])
def test_a_private_path_is_one_of_its_own_with_the_objects_name(
    cache: Cache, tmp_path: Path, data: bytes | None
) -> None:
    one, two = (edit_of(cache, tmp_path, data) for _ in range(2))
    assert one != two and one.name == two.name == "k"
    assert os.listdir(one.parent) == ([] if data is None else ["k"])
    if data is not None:
        assert one.read_bytes() == data
    one.write_bytes(b"mine")
    assert not cache.record_changes(KEY), "its block is not at its end"
    assert cache.local.release(KEY, str(one))
    assert not one.parent.exists() and two.parent.exists()


def test_a_private_tree_is_never_handed_out_as_the_path_of_a_version(cache: Cache, tmp_path: Path) -> None:
    """Also when its process was killed between adopting what it found there and removing it."""
    entry = fill(cache, KEY, b"bytes")
    private = edit_of(cache, tmp_path, b"bytes")
    os.unlink(cache.layout.path_record(KEY.name))
    cache.changes._adopt(KEY, os.path.relpath(private, cache.layout.local))
    assert [file.kind for file in _record(cache).files] == [Kind.OBJECT]
    assert hand_out(cache, entry, "copy").parts[-4] == "0"


# --- directories ------------------------------------------------------------------------------------------------------

DIRECTORY = Place(key_of("d/"), "bucket", "d/")


def _whole(cache: Cache, contents: dict[str, bytes]) -> Path:
    items = []
    for name, data in contents.items():
        entry = fill(cache, key_of(name), data, data.decode())
        path = cache.blob_path(entry)
        place = Place(entry.key, "bucket", name)
        items.append((place, Content.of_entry(entry), lambda path=path: os.open(path, os.O_RDONLY)))
    return Path(exact_directory(cache.local, DIRECTORY, items))


def _shown(path: Path) -> dict[str, bytes]:
    return {f"d/{file.relative_to(path)}": file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_whole_directory_has_exactly_its_items_and_the_same_path_until_one_changes(cache: Cache) -> None:
    contents = {"d/a": b"a", "d/b/c": b"c"}
    path = _whole(cache, contents)
    assert _shown(path) == contents and _whole(cache, contents) == path
    os.unlink(path / "a")  # as an eviction does
    assert _shown(_whole(cache, contents)) == contents
    newer = {**contents, "d/a": b"A"}
    assert _whole(cache, newer) != path and _shown(_whole(cache, newer)) == newer
    fewer = {"d/a": b"A"}
    assert _shown(_whole(cache, fewer)) == fewer, "without the object that was deleted"
    made = _whole(cache, fewer) / "made"
    made.write_bytes(b"made")
    assert _shown(_whole(cache, fewer)) == {**fewer, "d/made": b"made"}


def test_a_whole_directory_leaves_no_descriptors(cache: Cache) -> None:
    _whole(cache, {"d/a": b"a"})
    before = len(os.listdir("/dev/fd"))
    for number in range(5):
        _whole(cache, {"d/a": b"%d" % number, "d/b": b"b"})
    assert len(os.listdir("/dev/fd")) == before


def test_a_cached_directory_is_the_newest_tree_that_has_it_or_a_new_one(cache: Cache) -> None:
    assert cached_directory(cache.local, DIRECTORY) == f"{cache.layout.local}/0/s3/bucket/d"
    view_of(cache, "d/a")
    view_of(cache, "d/a", etag="e2", data=b"newer")
    assert cached_directory(cache.local, DIRECTORY) == f"{cache.layout.local}/1/s3/bucket/d"


# --- stores that go, and processes that are killed --------------------------------------------------------------------


def test_a_path_is_made_in_a_store_that_was_removed(cache: Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    with open(cache.blob_path(entry), "rb") as blob:
        shutil.rmtree(cache.root)
        path = Path(cache.local.path(Place(KEY, "bucket", "k"), Content.of_entry(entry), blob.fileno()))
    assert path.read_bytes() == b"bytes"


def test_a_full_disk_makes_no_path_and_leaves_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = fill(cache, KEY, b"bytes")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("casstore.fs.copying.clone", lambda *_: False)
        patched.setattr("casstore.fs.copying.copy_bytes", full)
        with pytest.raises(casstore.StoreFullError):
            hand_out(cache, entry, "copy")
    assert os.listdir(cache.lease.paths.staging) == []
    assert hand_out(cache, entry, "copy").parts[-4] == "0"


@pytest.mark.needs_locks
def test_a_process_that_hangs_with_a_record_is_named_in_time(cache: Cache, tmp_path: Path) -> None:
    entry = fill(cache, KEY, b"bytes")

    def hang() -> None:
        owner = cache.local.locked(KEY)
        with owner, owner:
            (tmp_path / "has").touch()
            eventually((tmp_path / "done").exists)

    pid = fork(hang)
    eventually((tmp_path / "has").exists)
    owner = cache.local.locked(KEY, 0.01)
    with (
        pytest.raises(LockTimeoutError, match=r"s3://bucket/k: timed out after 0\.01 s: .*: wait for it"),
        owner,
        owner,
    ):
        raise AssertionError
    (tmp_path / "done").touch()
    assert status_of(pid) == 0
    assert hand_out(cache, entry, "copy").exists()


def _everything(cache: Cache, tmp_path: Path) -> None:
    """All calls that change something, one after the other."""
    entry = fill(cache, KEY, b"bytes")
    view_of(cache, "linked", "link")
    path = hand_out(cache, entry, "copy")
    path.write_bytes(b"edit")
    (write,) = cache.record_changes(KEY)
    proof = cache.pending.strong_digest(write)
    cache.local.uploaded(KEY, str(path), write.digest, proof, entry.validator)
    cache.pending.discard(write)
    private = edit_of(cache, tmp_path, b"bytes", entry.validator)
    private.write_bytes(b"private")
    made = outbox_of(cache, "made")
    made.write_bytes(b"made")
    (write,) = cache.record_changes(key_of("made"))
    cache.pending.discard(write)
    cache.local.release(key_of("made"), str(made))
    cache.local.release(KEY, str(private))
    cache.execute(cache.plan(max_size=0, min_free=0))


@pytest.mark.needs_locks
def test_whatever_call_is_killed_loses_nothing_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASSTORE_LOCAL_PATH_GRACE", "0")
    monkeypatch.setattr("casstore.eviction.reaper.locks_are_exclusive", lambda _: True)  # proved elsewhere, and slow

    def steps_of(root: Path, last: int | None) -> list[str]:
        def work(steps: Steps) -> None:
            cache = casstore.open(root)
            steps.wrap_system_calls()
            steps.begin()
            _everything(cache, tmp_path)

        return crash(work, root.with_name(f"{root.name}.log"), last).points

    points = steps_of(tmp_path / "whole", None)
    assert len(points) > 50
    for number in sampled(range(len(points)), 25, "local paths"):
        root = tmp_path / str(number)
        steps_of(root, number)
        status = forked(lambda root=root: _look(root))  # type: ignore[misc]
        assert status == 0, points[number]
        shutil.rmtree(root)


def _look(root: Path) -> None:
    cache = casstore.open(root)
    files = [path for path in Path(cache.layout.local).rglob("*") if path.is_file()]
    # An edit that was uploaded or dropped, and whose eviction was killed halfway, is in a private tree.
    is_evicted = [path.relative_to(cache.layout.local).parts[0].startswith("e") for path in files]
    found = [(path.read_bytes(), moved) for path, moved in zip(files, is_evicted, strict=True)]
    written = {data for data, moved in found if not (moved and data == b"edit")}
    kept = reaped(cache).kept
    assert kept == ()
    assert not [name for name in os.listdir(cache.layout.local) if name.startswith("e")], "a private tree stays"
    recorded = {data for _, _, data in held(cache)}
    # What is still a file was told, or is what the record says that it is.
    left = {path.read_bytes() for path in Path(cache.layout.local).rglob("*") if path.is_file()}
    assert written - {b"bytes", b""} <= recorded | left
    assert recorded <= {b"edit", b"private", b"made", b""}
    for name, data in (("k", b"bytes"), ("linked", b"bytes")):
        assert view_of(cache, name, data=data, etag="later").read_bytes() == data
    assert reaped(cache).recorded == ()
