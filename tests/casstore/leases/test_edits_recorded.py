"""New files and edits become pending writes: by their process, at its end, and of killed ones by the reaper."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

import casstore
from casstore import Condition, PendingState, Validator
from casstore.fs import files
from casstore.leases import edits
from casstore.leases.views import read_manifest
from casstore.pass_through import PassThroughCache
from tests.casstore.support.fill import forked, key_of, run
from tests.casstore.support.local_edits import KEY, bytes_of, edit_of, held, in_place, outbox_of, reaped, view_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")


# --- outbox and edits -------------------------------------------------------------------------------------------------


def test_a_path_in_the_outbox_has_the_objects_name_and_room_for_it(cache: casstore.Cache) -> None:
    path = outbox_of(cache, "dir/new.csv")
    assert path.parts[-6:] == ("outbox", "0", "s3", "bucket", "dir", "new.csv")
    assert path.parent.is_dir() and not path.exists()
    assert outbox_of(cache, "dir/new.csv") == path
    path.write_bytes(b"mine")
    assert outbox_of(cache, "dir/new.csv") == path
    assert outbox_of(cache, "dir/other").parent == path.parent


@pytest.mark.parametrize("names", [("a", "a/b", "a/b/c"), ("a/b/c", "a/b", "a"), ("a/b", "a", "a/b/c")])
def test_a_name_that_is_file_and_directory_goes_to_the_next_tree_of_the_outbox(
    cache: casstore.Cache, names: tuple[str, ...]
) -> None:
    paths = {name: outbox_of(cache, name) for name in names}
    for name, path in paths.items():
        path.write_text(name)
    assert [path.read_text() for path in paths.values()] == [*names]


def test_a_file_in_the_outbox_is_incomplete_and_blocks_nothing(cache: casstore.Cache) -> None:
    path = outbox_of(cache)
    assert not cache.has_local_edits(KEY)
    path.write_bytes(b"mine")
    assert cache.has_local_edits(KEY)
    (write,) = cache.record_changes(KEY)
    assert (write.state, write.condition, write.base) == (PendingState.INCOMPLETE, Condition.ABSENT, None)
    assert (write.source, write.why) == (str(path), "a file was put at its local path and never uploaded")
    assert not write.blocks and bytes_of(cache, write) == b"mine"
    assert cache.record_changes(KEY) == []
    with path.open("ab") as file:
        file.write(b" and more")
    (longer,) = cache.record_changes(KEY)
    assert cache.pending.of(KEY) == [longer]
    assert bytes_of(cache, longer) == b"mine and more"


def test_a_released_path_goes_with_its_file_and_its_directories(cache: casstore.Cache) -> None:
    path, other = outbox_of(cache, "dir/a/b"), outbox_of(cache, "dir/c")
    path.write_bytes(b"mine")
    assert cache.release_path(str(path))
    assert not path.parent.exists() and other.parent.exists()
    assert not cache.has_local_edits(key_of("dir/a/b"))
    assert not cache.release_path(str(path)), "it is nobody's any more"
    assert cache.release_path(str(other))
    assert os.listdir(cache.lease.paths.path) == ["lock", "views.list"] or not Path(other).parent.exists()
    assert outbox_of(cache, "dir/a/b") == path


def test_a_file_that_changed_since_it_was_uploaded_is_not_released(cache: casstore.Cache) -> None:
    path = outbox_of(cache)
    path.write_bytes(b"mine")
    (write,) = cache.record_changes(KEY)
    path.write_bytes(b"more")
    assert not cache.release_path(str(path), write.digest)
    assert path.read_bytes() == b"more" and outbox_of(cache) == path
    path.write_bytes(b"mine")
    assert cache.release_path(str(path), write.digest)
    assert not path.exists()


@pytest.mark.parametrize("data", [None, b"bytes"])
def test_an_edit_has_a_path_of_its_own_with_the_objects_name(
    cache: casstore.Cache, tmp_path: Path, data: bytes | None
) -> None:
    one, two = (edit_of(cache, tmp_path, data, Validator(5, "e1")) for _ in range(2))
    assert one != two and one.name == two.name == "k"
    assert one.parents[1] == Path(cache.lease.paths.path, "edits")
    assert os.listdir(one.parent) == ([] if data is None else ["k"])
    if data is not None:
        assert one.read_bytes() == data
        assert one.stat().st_mode & 0o777 == 0o600
    one.write_bytes(b"mine")
    assert not cache.has_local_edits(KEY), "its block is not at its end"
    assert cache.record_changes(KEY) == []
    assert cache.release_path(str(one))
    assert not one.parent.exists() and two.parent.exists()


def test_what_else_lies_beside_an_edit_is_not_removed_with_it(cache: casstore.Cache, tmp_path: Path) -> None:
    path = edit_of(cache, tmp_path, b"bytes")
    beside = path.with_name("beside")
    beside.touch()
    assert cache.release_path(str(path))
    assert beside.exists() and not path.exists()


@pytest.mark.parametrize("base", [None, Validator(5, "e1")])
def test_an_edit_that_was_never_finished_is_incomplete(
    cache: casstore.Cache, tmp_path: Path, base: Validator | None
) -> None:
    path = edit_of(cache, tmp_path, b"bytes", base)
    path.write_bytes(b"BYTES")
    edit_of(cache, tmp_path, b"bytes", base)  # never touched
    edit_of(cache, tmp_path, None, base)  # never made
    cache.close()
    assert held(cache) == [(KEY.uri, PendingState.INCOMPLETE, b"BYTES")]
    (write,) = cache.pending.of(KEY)
    assert (write.base, write.condition) == (base, Condition.ABSENT if base is None else Condition.MATCH)
    assert os.listdir(cache.layout.leases) == []


# --- the end of a process, and killed ones ----------------------------------------------------------------------------


_LIFE = """
import os, signal, sys, time, casstore
from pathlib import Path
from tests.casstore.support.local_edits import KEY, in_place, key_of, outbox_of, view_of
cache = casstore.open(sys.argv[1])
path, new = view_of(cache, "k", sys.argv[2]), outbox_of(cache, "new")
fresh = view_of(cache, "fresh", data=b"others")
in_place(path)
new.write_bytes(b"new")
if "notice" in sys.argv:
    assert len(cache.record_changes(KEY)) == len(cache.record_changes(key_of("new"))) == 1
if "discard" in sys.argv:
    for write in cache.pending.all():
        cache.pending.discard(write)
if "kill" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""

_BOTH = [("s3://bucket/k", "edit", b"mine"), ("s3://bucket/new", "incomplete", b"new")]


@pytest.mark.needs_locks
@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("noticed", [True, False])
def test_what_a_killed_process_left_is_recorded_once(cache: casstore.Cache, mode: str, noticed: bool) -> None:
    done = run(_LIFE, cache.root, mode, "kill", *["notice"] * noticed)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = reaped(cache)
    assert held(cache) == _BOTH
    assert sorted(write.uri for write in found.recorded) == ([] if noticed else [uri for uri, _, _ in _BOTH])
    assert [write.base for write in cache.pending.all()] == [Validator(5, "e1"), None]
    assert (found.leases, found.kept) == (1, ())
    again = reaped(cache)
    assert (again.recorded, held(cache)) == ((), _BOTH)


@pytest.mark.needs_locks
def test_what_was_dealt_with_before_the_process_was_killed_does_not_come_again(cache: casstore.Cache) -> None:
    done = run(_LIFE, cache.root, "copy", "notice", "discard", "kill")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert reaped(cache).leases == 1
    assert held(cache) == []


@pytest.mark.parametrize("noticed", [True, False])
def test_a_process_that_ends_records_what_nobody_has(cache: casstore.Cache, noticed: bool) -> None:
    done = run(_LIFE, cache.root, "copy", *["notice"] * noticed)
    assert done.returncode == 0, done.stderr
    assert held(cache) == _BOTH
    assert ("2 local files were changed or created, and not uploaded" in done.stderr) != noticed
    assert noticed or ("s3://bucket/k, s3://bucket/new" in done.stderr and done.stderr.count("UserWarning") == 1)


@pytest.mark.needs_locks
def test_a_record_whose_maker_was_killed_before_he_said_so_is_not_made_twice(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        path = view_of(cache)
        in_place(path)
        monkeypatch.setattr(edits, "append_line", die)
        cache.record_changes(KEY)

    assert forked(work) == -signal.SIGKILL
    before = list(cache.pending.all())
    assert len(before) == 1
    done = reaped(cache)
    assert (done.leases, done.recorded) == (1, ())
    assert list(cache.pending.all()) == before


@pytest.mark.needs_locks
def test_a_full_disk_keeps_the_lease_until_its_edits_can_be_recorded(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forked(lambda: in_place(view_of(cache))) == 0

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(files, "create_synced", full)
        (kept,) = reaped(cache).kept
    assert [Path(path).read_bytes() for path in kept.edited] == [b"mine"]
    assert held(cache) == []
    assert len(reaped(cache).recorded) == 1


@pytest.mark.needs_locks
def test_a_lists_torn_end_swallows_no_line_that_comes_after_it(cache: casstore.Cache) -> None:
    path = view_of(cache)
    in_place(path)
    cache.record_changes(KEY)
    size = os.stat(cache.lease.paths.views_list).st_size
    os.truncate(cache.lease.paths.views_list, size - 5)
    assert read_manifest(cache.lease.paths).reconciled == {}
    in_place(path, b"again")
    cache.record_changes(KEY)
    assert len(read_manifest(cache.lease.paths).reconciled) == 1


@pytest.mark.needs_locks
def test_halves_of_records_go_with_their_makers_and_living_ones_keep_theirs(cache: casstore.Cache) -> None:
    name = cache.lease.name
    assert forked(lambda: cache.lease) == 0
    (dead,) = set(os.listdir(cache.layout.leases)) - {name}
    directory = Path(cache.layout.pending(KEY.name))
    directory.mkdir()
    gone = "1" * 16
    for maker in (name, dead, gone):
        (directory / f"{maker}-{'0' * 16}.data").touch()
        (directory / f"{maker}-{'1' * 16}.json").touch()
    (directory / "temporary").touch()
    empty = Path(cache.layout.pending("empty"))
    empty.mkdir()
    reaped(cache)
    left = sorted(path.name[:16] for path in directory.iterdir())
    assert left == sorted([name, name, gone, gone, "temporary"])
    assert not empty.exists()


# --- without a store --------------------------------------------------------------------------------------------------


def test_without_a_store_what_was_edited_or_made_stays_and_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "private"))
    monkeypatch.setattr("tempfile.tempdir", None)
    cache = PassThroughCache(str(root), OSError(errno.EROFS, "no store"))
    path = outbox_of(cache)
    path.write_bytes(b"mine")
    assert not cache.has_local_edits(KEY)
    assert cache.record_changes(KEY) == []
    with pytest.warns(UserWarning, match=f"not uploaded; they are kept at: {path}"):
        cache.close()
    assert path.read_bytes() == b"mine"
