"""What others do to files that were handed out becomes pending writes: once, with the right bytes, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import Condition, PendingState, PendingWrite, StillBeingWrittenError, Validator
from casstore.blobs.staging import Staging
from casstore.fs import files
from casstore.leases import edits
from casstore.leases.reaper import ReapResult, reap
from casstore.leases.views import read_manifest
from casstore.pass_through import PassThroughCache
from tests.casstore.support.fill import eventually, fill, fork, forked, hand_out, key_of, read, run, status_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")

KEY = key_of("k")


def view_of(
    cache: casstore.Cache, name: str = "k", mode: str = "copy", etag: str = "e1", data: bytes = b"bytes"
) -> Path:
    entry = fill(cache, key_of(name), data, etag)
    return hand_out(cache, entry, mode)


def outbox_of(cache: casstore.Cache, name: str = "k") -> Path:
    return Path(cache.outbox(key_of(name), "bucket", name))


def edit_of(cache: casstore.Cache, tmp_path: Path, data: bytes | None, base: Validator | None = None) -> Path:
    if data is None:
        return Path(cache.edit(KEY, "dir/k", base))
    source = tmp_path / "source"
    source.write_bytes(data)
    with source.open("rb") as file:
        return Path(cache.edit(KEY, "dir/k", base, file.fileno()))


def in_place(path: Path, data: bytes = b"mine") -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def by_rename(path: Path, data: bytes = b"mine") -> None:
    new = path.with_name(".new")
    new.write_bytes(data)
    new.replace(path)


def cut(path: Path, data: bytes = b"by") -> None:
    path.chmod(0o600)
    os.truncate(path, len(data))


def bytes_of(cache: casstore.Cache, write: PendingWrite) -> bytes:
    return Path(cache.pending.path(write)).read_bytes()


def held(cache: casstore.Cache) -> list[tuple[str, PendingState, bytes]]:
    return [(write.uri, write.state, bytes_of(cache, write)) for write in cache.pending.all()]


def reaped(cache: casstore.Cache) -> ReapResult:
    return reap(cache.layout, cache.index, cache.blobs, own_lease=cache.lease.name)


CHANGES: dict[str, tuple[Callable[[Path], None], bytes]] = {
    "in place": (in_place, b"mine"),
    "with as many bytes": (lambda path: in_place(path, b"BYTES"), b"BYTES"),
    "by rename": (by_rename, b"mine"),
    "by rename, with as many bytes": (lambda path: by_rename(path, b"BYTES"), b"BYTES"),
    "cut": (cut, b"by"),
    "emptied": (lambda path: in_place(path, b""), b""),
}

# --- noticed by the process that has the path -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("what", CHANGES)
def test_a_view_that_was_changed_is_recorded_once_as_an_edit_of_the_version_it_was_of(
    cache: casstore.Cache, mode: str, what: str
) -> None:
    change, data = CHANGES[what]
    path = view_of(cache, mode=mode)
    assert not cache.has_local_edits(KEY)
    change(path)
    assert cache.has_local_edits(KEY)
    (write,) = cache.record_changes(KEY)
    assert (write.state, write.condition, write.base) == (PendingState.EDIT, Condition.MATCH, Validator(5, "e1"))
    assert (write.source, write.why) == (str(path), "its local copy was changed outside the API")
    assert (write.lease, write.name[:16]) == (cache.lease.name, cache.lease.name)
    assert (bytes_of(cache, write), path.read_bytes()) == (data, data)
    assert not os.path.samefile(cache.pending.path(write), path)
    assert not cache.has_local_edits(KEY)
    assert cache.record_changes(KEY) == []
    assert cache.pending.of(KEY) == [write]


def _instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": os.utime,
    "written again with the same bytes": lambda path: by_rename(path, b"bytes"),
    "written in place with the same bytes": lambda path: in_place(path, b"bytes"),
    "removed": lambda path: path.unlink(),
    "a directory": _instead(os.mkdir),
    "a link": _instead(lambda path: path.symlink_to("/etc/hostname")),
    "a pipe": _instead(os.mkfifo),
}


@pytest.mark.parametrize("what", NO_CHANGES)
def test_a_view_with_its_bytes_or_with_none_is_no_edit(cache: casstore.Cache, what: str) -> None:
    path = view_of(cache)
    NO_CHANGES[what](path)
    assert cache.record_changes(KEY) == []
    assert not cache.has_local_edits(KEY), "it was looked at"
    assert not cache.pending.has(KEY)


def test_of_what_was_not_handed_out_nothing_is_looked_at(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, KEY, b"bytes")
    assert not cache.has_local_edits(KEY)
    view_of(cache, "other")
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", None)
        assert not cache.has_local_edits(KEY)
        assert cache.record_changes(KEY) == []


def test_what_changes_further_is_recorded_anew_and_the_older_record_goes(cache: casstore.Cache) -> None:
    path = view_of(cache)
    in_place(path, b"first")
    (first,) = cache.record_changes(KEY)
    in_place(path, b"second")
    (second,) = cache.record_changes(KEY)
    assert cache.pending.of(KEY) == [second] != [first]
    assert bytes_of(cache, second) == b"second"
    os.utime(path)
    assert cache.record_changes(KEY) == []
    assert cache.pending.of(KEY) == [second]


def test_the_older_record_goes_only_when_the_new_one_is_there(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = view_of(cache)
    in_place(path, b"first")
    (first,) = cache.record_changes(KEY)
    in_place(path, b"second")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(files, "create_synced", full)
        with pytest.raises(casstore.StoreFullError):
            cache.record_changes(KEY)
    assert cache.pending.of(KEY) == [first]
    assert cache.has_local_edits(KEY), "it is tried again"
    assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [b"second"]


def test_an_older_record_that_somebody_is_uploading_stays(cache: casstore.Cache) -> None:
    path = view_of(cache)
    in_place(path, b"first")
    (first,) = cache.record_changes(KEY)
    first = cache.pending.mark(first, PendingState.UPLOADING)
    in_place(path, b"second")
    (second,) = cache.record_changes(KEY)
    assert cache.pending.of(KEY) == [first, second]


def test_a_record_that_was_dealt_with_does_not_come_again_until_the_file_changes(cache: casstore.Cache) -> None:
    path = view_of(cache)
    in_place(path)
    (write,) = cache.record_changes(KEY)
    cache.pending.discard(write)
    assert cache.record_changes(KEY) == []
    os.utime(path)
    assert cache.record_changes(KEY) == []
    cache.close()
    assert held(cache) == []


def test_bytes_that_come_back_after_others_are_a_change_again(cache: casstore.Cache) -> None:
    path = view_of(cache)
    in_place(path)
    (write,) = cache.record_changes(KEY)
    cache.pending.discard(write)
    in_place(path, b"bytes")
    assert cache.record_changes(KEY) == []
    in_place(path)
    assert [bytes_of(cache, again) for again in cache.record_changes(KEY)] == [b"mine"]


def test_every_version_that_was_handed_out_is_looked_at(cache: casstore.Cache) -> None:
    old, new = view_of(cache), view_of(cache, etag="e2", data=b"newer")
    in_place(old, b"one")
    in_place(new, b"two")
    writes = {write.source: (write.base, bytes_of(cache, write)) for write in cache.record_changes(KEY)}
    assert writes == {str(old): (Validator(5, "e1"), b"one"), str(new): (Validator(5, "e2"), b"two")}


def test_an_edit_starts_from_the_version_that_was_handed_out_last(cache: casstore.Cache) -> None:
    path = view_of(cache)
    assert view_of(cache, etag="e2") == path
    in_place(path)
    (write,) = cache.record_changes(KEY)
    assert write.base == Validator(5, "e2")


def test_a_file_is_read_only_when_another_write_to_it_would_leave_another_mtime(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(5):
        path.write_bytes(b"mine")
        with edits.stable_read(str(path)) as (_, state):
            assert time.time_ns() - state.mtime_ns >= 10_000_000


def test_another_uri_with_the_same_bytes_is_untouched(cache: casstore.Cache) -> None:
    path = view_of(cache)
    fill(cache, key_of("other"), b"bytes")
    in_place(path)
    cache.record_changes(KEY)
    assert read(cache, key_of("other")) == b"bytes"
    assert not cache.pending.has(key_of("other"))


def test_an_edited_view_gives_way_to_another_that_is_watched_as_well(cache: casstore.Cache) -> None:
    first = view_of(cache)
    in_place(first)
    cache.record_changes(KEY)
    second = view_of(cache)
    assert second != first and second.read_bytes() == b"bytes"
    in_place(second, b"mine too")
    (write,) = cache.record_changes(KEY)
    assert write.source == str(second)
    assert sorted(bytes_of(cache, write) for write in cache.pending.of(KEY)) == [b"mine", b"mine too"]


def test_a_released_view_is_not_looked_at(cache: casstore.Cache) -> None:
    path = view_of(cache)
    cache.release_view(str(path))
    by_rename(path)
    assert not cache.has_local_edits(KEY)
    assert cache.record_changes(KEY) == []


def test_threads_that_notice_at_once_make_one_record(cache: casstore.Cache) -> None:
    path = view_of(cache)
    in_place(path)
    found: list[PendingWrite] = []
    threads = [threading.Thread(target=lambda: found.extend(cache.record_changes(KEY))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.pending.of(KEY) == found
    assert len(found) == 1


# --- still being written ----------------------------------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_copied_is_still_being_written(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = view_of(cache)
    in_place(path)
    real = Staging.copy_from

    def slow(staging: Staging, source: int) -> None:
        real(staging, source)
        with path.open("ab") as file:
            file.write(b" and more")

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "copy_from", slow)
        with pytest.raises(StillBeingWrittenError, match=f"still being written.*{path}"):
            cache.record_changes(KEY)
        with pytest.raises(StillBeingWrittenError, match=f"still being written.*{path}"):
            cache.copy_local(str(path))
        assert not cache.pending.has(KEY)
        cache.lease.close()
        assert path.exists(), "nor does the end of the process take it away"
    assert issubclass(StillBeingWrittenError, OSError)


@pytest.mark.parametrize("change", [lambda path: by_rename(path, b"MINE"), lambda path: path.unlink()])
def test_a_file_that_is_replaced_while_it_is_copied_is_still_being_written(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    path = view_of(cache)
    in_place(path)
    real = Staging.rehash

    def slow(staging: Staging) -> casstore.Digest:
        change(path)
        return real(staging)

    monkeypatch.setattr(Staging, "rehash", slow)
    with pytest.raises(StillBeingWrittenError):
        cache.copy_local(str(path))


def test_a_private_copy_has_the_bytes_and_their_digest(cache: casstore.Cache, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    staging = cache.copy_local(str(path))
    path.write_bytes(b"y")
    entry = cache.record_write(cache.snapshot(KEY), staging, Validator(100_000, "e"), cache.now())
    assert entry is not None
    assert read(cache, KEY) == b"x" * 100_000


@pytest.mark.parametrize("plant", [os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/hostname", path), lambda _: None])
def test_what_is_no_file_has_no_private_copy(
    cache: casstore.Cache, tmp_path: Path, plant: Callable[[str], None]
) -> None:
    plant(str(tmp_path / "odd"))
    with pytest.raises(OSError, match="odd"):
        cache.copy_local(str(tmp_path / "odd"))


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
from tests.casstore.leases.test_edits import KEY, in_place, key_of, outbox_of, view_of
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


# --- the tripwire -----------------------------------------------------------------------------------------------------


def test_a_blob_that_was_edited_through_a_view_is_recorded_for_those_who_had_views_and_fetched_by_the_rest(
    cache: casstore.Cache,
) -> None:
    path = view_of(cache, mode="link")
    other = fill(cache, key_of("other"), b"bytes")
    in_place(path)
    assert os.path.samefile(path, cache.blob_path(other))
    assert read(cache, key_of("other")) is None
    (write,) = cache.pending.all()
    assert (write.key, write.state, write.base, write.source) == (KEY, PendingState.EDIT, Validator(5, "e1"), str(path))
    assert bytes_of(cache, write) == b"mine" == path.read_bytes()
    assert not os.path.exists(cache.blob_path(other))
    assert os.listdir(cache.layout.quarantine) == os.listdir(cache.layout.trash) == []
    fill(cache, key_of("other"), b"bytes")
    assert read(cache, key_of("other")) == b"bytes"
    assert cache.record_changes(KEY) == [], "it is recorded already"
    cache.close()
    assert list(cache.pending.all()) == [write]


def test_an_edit_that_was_noticed_before_the_wire_trips_is_not_recorded_again(cache: casstore.Cache) -> None:
    path = view_of(cache, mode="link")
    in_place(path)
    (write,) = cache.record_changes(KEY)
    cache.pending.discard(write)
    assert read(cache, KEY) is None
    assert held(cache) == []
    assert os.listdir(cache.layout.quarantine) == []


def test_every_reader_trips_over_an_edited_blob_and_one_record_is_left(cache: casstore.Cache, tmp_path: Path) -> None:
    path = view_of(cache, mode="link")
    for name in "abcd":
        fill(cache, key_of(name), b"bytes")
    in_place(path, b"mine" * 100_000)
    go = tmp_path / "go"

    def look(name: str) -> Callable[[], None]:
        def work() -> None:
            eventually(go.exists)
            assert read(cache, key_of(name)) is None

        return work

    pids = [fork(look(name)) for name in "abcd"]
    go.touch()
    assert [status_of(pid) for pid in pids] == [0] * 4
    assert held(cache) == [(KEY.uri, PendingState.EDIT, b"mine" * 100_000)]


def test_an_edit_through_a_link_that_nobody_knows_of_is_of_all_who_use_the_blob(
    cache: casstore.Cache, tmp_path: Path
) -> None:
    entry = fill(cache, KEY, b"bytes", "e1")
    fill(cache, key_of("other"), b"bytes", "e2")
    os.link(cache.blob_path(entry), tmp_path / "mine")
    in_place(tmp_path / "mine")
    assert read(cache, KEY) is None
    writes = [(write.uri, write.state, write.base, write.source) for write in cache.pending.all()]
    assert writes == [
        ("s3://bucket/k", "edit", Validator(5, "e1"), None),
        ("s3://bucket/other", "edit", Validator(5, "e2"), None),
    ]
    assert os.listdir(cache.layout.quarantine) == []


def test_an_edited_blob_that_meets_the_same_bytes_again_is_recorded_too(cache: casstore.Cache) -> None:
    path = view_of(cache, mode="link")
    in_place(path)
    fill(cache, key_of("other"), b"bytes")
    assert held(cache) == [(KEY.uri, PendingState.EDIT, b"mine")]
    assert read(cache, key_of("other")) == b"bytes"


def test_a_blob_that_is_being_written_to_is_a_miss_and_keeps_its_name(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = view_of(cache, mode="link")
    entry = fill(cache, key_of("other"), b"bytes")
    in_place(path)
    real = edits.EditRecorder.record_file

    def late(recorder: edits.EditRecorder, *arguments: object) -> object:
        def take(staging: Staging, source: int) -> None:
            os.utime(path)

        with monkeypatch.context() as patched:
            patched.setattr(Staging, "copy_from", take)
            return real(recorder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(edits.EditRecorder, "record_file", late)
    assert read(cache, key_of("other")) is None
    assert os.path.samefile(path, cache.blob_path(entry))
    with cache.begin(key_of("other")) as filling:
        filling.write(b"bytes")
        stored = filling.publish(Validator(5, "e1"))
    assert stored.entry is None
    assert os.pread(stored.descriptor, 10, 0) == b"bytes"
    os.close(stored.descriptor)
    assert held(cache) == []


def test_the_name_goes_last(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = view_of(cache, mode="link")
    entry = fill(cache, key_of("other"), b"bytes")
    in_place(path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(files, "create_synced", full)
        with pytest.raises(casstore.StoreFullError):
            read(cache, key_of("other"))
    assert os.path.samefile(path, cache.blob_path(entry))
    assert read(cache, key_of("other")) is None
    assert len(held(cache)) == 1


def test_a_touched_blob_with_views_is_no_edit(cache: casstore.Cache) -> None:
    path = view_of(cache, mode="link")
    os.utime(path)
    assert read(cache, KEY) == b"bytes"
    assert cache.record_changes(KEY) == []
    cache.close()
    assert held(cache) == []


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
