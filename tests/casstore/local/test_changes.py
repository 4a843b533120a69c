"""What others do to local files is noticed: once, with the right bytes, of the right object, and nothing else."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import (
    Cache,
    Condition,
    Pending,
    PendingState,
    PendingWrite,
    Place,
    StillBeingWrittenError,
    Validator,
)
from casstore.blobs.staging import Staging
from casstore.fs import files
from casstore.local.changes import ChangeRecorder, has_bytes
from casstore.local.record import PathRecord
from casstore.pass_through import PassThroughCache
from tests.casstore.support.fill import eventually, fill, fork, forked, hand_out, key_of, read, run, status_of
from tests.casstore.support.local_edits import (
    KEY,
    by_rename,
    bytes_of,
    cut,
    edit_of,
    held,
    in_place,
    outbox_of,
    reaped,
    view_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")

CHANGES: dict[str, tuple[Callable[[Path], None], bytes]] = {
    "in place": (in_place, b"mine"),
    "with as many bytes": (lambda path: in_place(path, b"BYTES"), b"BYTES"),
    "by rename": (by_rename, b"mine"),
    "by rename, with as many bytes": (lambda path: by_rename(path, b"BYTES"), b"BYTES"),
    "cut": (cut, b"by"),
    "emptied": (lambda path: in_place(path, b""), b""),
}


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "full")


# --- edits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_was_changed_is_recorded_once_as_an_edit_of_the_version_it_was_of(
    cache: Cache, mode: str, what: str
) -> None:
    change, data = CHANGES[what]
    path = view_of(cache, mode=mode)
    assert not cache.has_local_changes(KEY)
    change(path)
    assert cache.has_local_changes(KEY)
    (write,) = cache.record_changes(KEY)
    assert (write.state, write.condition, write.base) == (PendingState.EDIT, Condition.MATCH, Validator(5, "e1"))
    assert (write.source, write.why) == (str(path), "its local copy was changed outside the API")
    assert (write.lease, write.name[:16]) == (cache.lease.name, cache.lease.name)
    assert (bytes_of(cache, write), path.read_bytes()) == (data, data)
    assert not os.path.samefile(cache.pending.path(write), path)
    assert not cache.local.has_changes(KEY)
    assert cache.record_changes(KEY) == []
    assert forked(lambda: os._exit(len(cache.record_changes(KEY)) + len(cache.record_local()))) == 0
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
    "given other rights": lambda path: path.chmod(0o600),
    "removed": os.unlink,
    "a directory": _instead(os.mkdir),
    "a link": _instead(lambda path: path.symlink_to("/etc/hostname")),
    "a pipe": _instead(os.mkfifo),
}


@pytest.mark.parametrize("what", NO_CHANGES)
def test_a_file_with_its_bytes_or_none_is_no_edit(cache: Cache, what: str) -> None:
    path = view_of(cache)
    NO_CHANGES[what](path)
    assert cache.record_changes(KEY) == []
    assert not cache.has_local_changes(KEY), "it was looked at"
    assert list(cache.pending.all()) == []


def test_of_what_was_not_handed_out_nothing_is_looked_at(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, KEY, b"bytes")
    view_of(cache, "other")
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", None)
        assert not cache.has_local_changes(KEY)
        assert cache.record_changes(KEY) == []


def test_bytes_that_only_have_the_digest_of_the_stores_are_an_edit(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests that anybody can make equal are not believed; strong ones are, and need no blob."""
    entry = fill(cache, KEY, b"bytes")
    path = hand_out(cache, entry, "copy")
    by_rename(path, b"BYTES")
    with path.open("rb") as file:
        monkeypatch.setattr("casstore.local.changes.hash_descriptor", lambda *_: entry.digest)
        assert not has_bytes(cache.layout, file.fileno(), entry.digest)
    assert len(cache.record_changes(KEY)) == 1
    monkeypatch.undo()
    with path.open("rb") as file:
        strong = casstore.Digest("sha256", b"x" * 32)
        assert not has_bytes(cache.layout, file.fileno(), strong)


def test_the_same_bytes_are_no_edit_though_their_blob_was_evicted_and_the_digest_is_weak(cache: Cache) -> None:
    path = view_of(cache)
    cache.evict(lambda _: True)
    by_rename(path, b"bytes")
    writes = cache.record_changes(KEY)
    # Without the blob nothing proves it: in doubt the bytes are kept.
    assert [bytes_of(cache, write) for write in writes] == [b"bytes"]


def test_what_changes_further_is_recorded_anew_and_the_older_record_goes(cache: Cache) -> None:
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


def test_the_older_record_goes_only_when_the_new_one_is_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = view_of(cache)
    in_place(path, b"first")
    (first,) = cache.record_changes(KEY)
    in_place(path, b"second")
    with monkeypatch.context() as patched:
        patched.setattr(files, "create_synced", _full)
        with pytest.raises(casstore.StoreFullError):
            cache.record_changes(KEY)
    assert cache.pending.of(KEY) == [first]
    assert cache.has_local_changes(KEY), "it is tried again"
    assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [b"second"]


def test_an_older_record_that_somebody_is_uploading_stays(cache: Cache) -> None:
    path = view_of(cache)
    in_place(path, b"first")
    (first,) = cache.record_changes(KEY)
    first = cache.pending.mark(first, PendingState.UPLOADING)
    in_place(path, b"second")
    (second,) = cache.record_changes(KEY)
    assert cache.pending.of(KEY) == [first, second]


def test_a_record_that_was_dealt_with_does_not_come_again_until_the_file_changes(cache: Cache) -> None:
    path = view_of(cache)
    in_place(path)
    (write,) = cache.record_changes(KEY)
    cache.pending.discard(write)
    assert cache.record_changes(KEY) == []
    os.utime(path)
    assert cache.record_changes(KEY) == []
    cache.close()
    assert held(cache) == []
    in_place(path, b"more")
    assert [bytes_of(cache, again) for again in cache.record_changes(KEY)] == [b"more"]


def test_every_version_that_was_handed_out_is_looked_at(cache: Cache) -> None:
    old, new = view_of(cache), view_of(cache, etag="e2", data=b"newer")
    in_place(old, b"one")
    in_place(new, b"two")
    writes = {write.source: (write.base, bytes_of(cache, write)) for write in cache.record_changes(KEY)}
    assert writes == {str(old): (Validator(5, "e1"), b"one"), str(new): (Validator(5, "e2"), b"two")}


def test_one_file_that_cannot_be_recorded_does_not_hide_another(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = view_of(cache), view_of(cache, etag="e2", data=b"newer")
    in_place(bad, b"one")
    in_place(good, b"two")
    real = files.opened

    def refuse(path: str, *arguments: int) -> object:
        if path == str(bad):
            raise PermissionError(errno.EACCES, "denied", path)
        return real(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(files, "opened", refuse)
        with pytest.raises(PermissionError, match="denied"):
            cache.record_changes(KEY)
    assert [data for _, _, data in held(cache)] == [b"two"]
    assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [b"one"]


def test_an_edit_starts_from_the_version_that_was_handed_out_last(cache: Cache) -> None:
    path = view_of(cache)
    assert view_of(cache, etag="e2") == path
    in_place(path)
    (write,) = cache.record_changes(KEY)
    assert write.base == Validator(5, "e2")


def test_another_uri_with_the_same_bytes_is_untouched(cache: Cache) -> None:
    path = view_of(cache)
    fill(cache, key_of("other"), b"bytes")
    in_place(path)
    cache.record_changes(KEY)
    assert read(cache, key_of("other")) == b"bytes"
    assert cache.pending.of(key_of("other")) == []


def test_an_edited_file_gives_way_to_another_that_is_watched_as_well(cache: Cache) -> None:
    first = view_of(cache)
    in_place(first)
    cache.record_changes(KEY)
    second = view_of(cache)
    assert second != first and second.read_bytes() == b"bytes"
    assert cache.local.changed_path(KEY) == str(first)
    in_place(second, b"mine too")
    (write,) = cache.record_changes(KEY)
    assert write.source == str(second)
    assert sorted(bytes_of(cache, write) for write in cache.pending.of(KEY)) == [b"mine", b"mine too"]


@pytest.mark.needs_locks
def test_threads_and_processes_that_notice_at_once_make_one_record(cache: Cache, tmp_path: Path) -> None:
    path, go = view_of(cache), tmp_path / "go"
    in_place(path, b"mine" * 100_000)

    def work() -> None:
        eventually(go.exists)
        threads = [threading.Thread(target=lambda: cache.record_changes(KEY)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pids = [fork(work) for _ in range(3)]
    go.touch()
    assert [status_of(pid) for pid in pids] == [0] * 3
    assert held(cache) == [(KEY.uri, PendingState.EDIT, b"mine" * 100_000)]


def test_a_file_that_changes_while_it_is_copied_is_still_being_written(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
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
        for call in (lambda: cache.record_changes(KEY), lambda: cache.changes.copy_privately(str(path))):
            with pytest.raises(StillBeingWrittenError, match=f"still being written.*{path}"):
                call()
        assert list(cache.pending.all()) == []
        cache.close()
    assert path.exists() and len(cache.record_changes(KEY)) == 1, "the end of the process does not take it away"


def test_a_private_copy_has_the_bytes_and_their_digest(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    staging = cache.changes.copy_privately(str(path))
    path.write_bytes(b"y")
    assert cache.record_write(cache.snapshot(KEY), staging, Validator(100_000, "e"), cache.now()) is not None
    assert read(cache, KEY) == b"x" * 100_000


# --- edits through hard links -----------------------------------------------------------------------------------------


def test_an_edit_through_a_link_is_recorded_for_its_object_and_the_others_are_fetched_again(cache: Cache) -> None:
    path = view_of(cache, mode="link")
    for name in "abc":
        fill(cache, key_of(name), b"bytes")
    in_place(path, b"mine" * 100_000)
    pids = [fork(lambda name=name: os._exit(read(cache, key_of(name)) is not None)) for name in "abc"]  # type: ignore[misc]
    assert [status_of(pid) for pid in pids] == [0] * 3
    (write,) = cache.pending.all()
    assert (write.key, write.state, write.base, write.source) == (KEY, PendingState.EDIT, Validator(5, "e1"), str(path))
    assert bytes_of(cache, write) == b"mine" * 100_000 == path.read_bytes()
    assert os.listdir(cache.layout.quarantine) == os.listdir(cache.layout.trash) == []
    fill(cache, key_of("a"), b"bytes")
    assert read(cache, key_of("a")) == b"bytes"


def test_an_edited_blob_that_meets_the_same_bytes_again_is_recorded_too(cache: Cache) -> None:
    in_place(view_of(cache, mode="link"))
    fill(cache, key_of("other"), b"bytes")
    assert held(cache) == [(KEY.uri, PendingState.EDIT, b"mine")]
    assert read(cache, key_of("other")) == b"bytes"


def test_an_edit_through_a_link_that_was_dealt_with_is_neither_damage_nor_recorded_again(cache: Cache) -> None:
    in_place(view_of(cache, mode="link"))
    (write,) = cache.record_changes(KEY)
    cache.pending.discard(write)
    assert read(cache, KEY) is None
    assert held(cache) == []
    assert os.listdir(cache.layout.quarantine) == []


def test_an_edit_through_a_link_that_was_moved_out_is_the_users_and_nobodys_bytes(cache: Cache, tmp_path: Path) -> None:
    path = view_of(cache, mode="link")
    path.rename(tmp_path / "mine")
    in_place(tmp_path / "mine")
    assert read(cache, KEY) is None
    assert cache.record_local() == []
    assert held(cache) == []
    assert (tmp_path / "mine").read_bytes() == b"mine"
    fill(cache, KEY, b"bytes")
    assert read(cache, KEY) == b"bytes"


def test_wrong_bytes_with_the_time_of_the_blob_are_damage_though_a_path_links_to_them(cache: Cache) -> None:
    path = view_of(cache, mode="link")
    before = path.stat()
    in_place(path, b"wrong")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    entry = cache.lookup(KEY)
    assert entry is not None
    assert cache.open_entry(entry, verify=True) is None
    assert held(cache) == []
    assert len(os.listdir(cache.layout.quarantine)) == 2, "the blob, and the reason"


@pytest.mark.parametrize("error", [StillBeingWrittenError, casstore.StoreFullError])
def test_an_edited_blob_keeps_its_name_until_the_edit_is_recorded(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    path = view_of(cache, mode="link")
    entry = fill(cache, key_of("other"), b"bytes")
    in_place(path)
    with monkeypatch.context() as patched:
        if error is StillBeingWrittenError:
            patched.setattr(Staging, "rehash", lambda _: os.utime(path))
            assert read(cache, key_of("other")) is None
        else:
            patched.setattr(files, "create_synced", _full)
            with pytest.raises(casstore.StoreFullError):
                read(cache, key_of("other"))
    assert os.path.samefile(path, cache.blob_path(entry))
    assert held(cache) == []
    assert read(cache, key_of("other")) is None
    assert len(held(cache)) == 1


# --- files that tools make --------------------------------------------------------------------------------------------


def test_a_file_at_a_path_to_create_is_incomplete_and_blocks_nothing(cache: Cache) -> None:
    path = outbox_of(cache)
    assert not cache.has_local_changes(KEY)
    path.write_bytes(b"mine")
    assert cache.has_local_changes(KEY)
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


@pytest.mark.parametrize("name", ["k", "k.npy", "k/part=1/0.parquet", "beside", "k%2F", "a b\nc"])
def test_a_file_that_a_tool_makes_at_beside_or_below_a_path_is_of_the_uri_that_its_path_names(
    cache: Cache, name: str
) -> None:
    made = outbox_of(cache).parent / name
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(b"made")
    (write,) = cache.record_local()
    assert (write.uri, write.state, write.source) == (f"s3://bucket/{name}", PendingState.INCOMPLETE, str(made))
    assert bytes_of(cache, write) == b"made"
    assert cache.record_local() == []
    cache.pending.discard(write)
    assert cache.record_local() == []


def test_what_was_made_near_one_path_is_found_without_a_look_at_others(cache: Cache) -> None:
    near, far = outbox_of(cache).with_name("k.npy"), outbox_of(cache, "other")
    near.write_bytes(b"near")
    far.write_bytes(b"far")
    assert [write.source for write in cache.record_made(Place(KEY, "bucket", "k"))] == [str(near)]
    assert [write.source for write in cache.record_local()] == [str(far)]


def test_a_copy_of_a_cached_object_that_a_user_puts_at_its_path_is_that_object(cache: Cache) -> None:
    entry = fill(cache, KEY, b"bytes")
    path = Path(cache.layout.local, "0/s3/bucket/k")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"bytes")
    assert cache.record_local() == []
    assert hand_out(cache, entry, "copy") == path


def test_a_file_that_is_open_for_writing_is_recorded_when_it_is_closed(cache: Cache) -> None:
    path = outbox_of(cache).with_name("other")
    with path.open("wb") as file:
        file.write(b"ma")
        file.flush()
        assert cache.record_local() == []
        file.write(b"de")
    assert [bytes_of(cache, write) for write in cache.record_local()] == [b"made"]


def _with_the_old_mtime(path: Path, data: bytes) -> None:
    before = path.stat()
    by_rename(path, data) if data == b"first" else in_place(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_changes_of_the_same_size_by_programs_that_set_the_mtime_back_are_recorded(cache: Cache) -> None:
    path = view_of(cache)
    for data in (b"first", b"later"):
        _with_the_old_mtime(path, data)
        assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [data]
        assert not cache.local.has_changes(KEY)
    (write,) = cache.pending.of(KEY)
    entry = fill(cache, KEY, b"later", "e2")
    cache.local.uploaded(KEY, str(path), entry.digest, cache.pending.strong_digest(write), entry.validator)
    cache.pending.discard(write)
    _with_the_old_mtime(path, b"first")
    assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [b"first"]


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux tells")
def test_writes_through_a_map_are_recorded_after_a_look_though_they_leave_the_mtime(cache: Cache) -> None:
    path = view_of(cache)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = b"first"
        assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [b"first"]
        assert cache.record_changes(KEY) == []
        mapped[:] = b"later"
    assert [bytes_of(cache, write) for write in cache.record_changes(KEY)] == [b"later"]
    assert not cache.local.has_changes(KEY)
    assert [data for _, _, data in held(cache)] == [b"later"]


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux tells")
@pytest.mark.parametrize("what", ["pushed", "dropped"])
def test_writes_to_a_file_that_was_open_when_its_edit_was_dealt_with_are_recorded(cache: Cache, what: str) -> None:
    path = view_of(cache)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = b"first"
        (write,) = cache.record_changes(KEY)
        if what == "pushed":
            entry = fill(cache, KEY, b"first", "e2")
            proof = cache.pending.strong_digest(write)
            cache.local.uploaded(KEY, str(path), entry.digest, proof, entry.validator)
            cache.pending.discard(write)
        else:
            with cache.changes.releasing_source(write):
                cache.pending.discard(write)
        assert cache.record_changes(KEY) == []
        mapped[:] = b"later"
    (write,) = cache.record_changes(KEY)
    assert (bytes_of(cache, write), write.base) == (b"later", Validator(5, "e2" if what == "pushed" else "e1"))


# --- private paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, Validator(5, "e1")])
def test_a_private_change_that_was_never_finished_is_incomplete(
    cache: Cache, tmp_path: Path, base: Validator | None
) -> None:
    path = edit_of(cache, tmp_path, b"bytes", base)
    path.write_bytes(b"BYTES")
    path.with_name("beside").write_bytes(b"beside")
    edit_of(cache, tmp_path, b"bytes", base)  # never touched
    edit_of(cache, tmp_path, None, base)  # never made
    cache.close()
    assert held(cache) == [
        ("s3://bucket/beside", PendingState.INCOMPLETE, b"beside"),
        (KEY.uri, PendingState.INCOMPLETE, b"BYTES"),
    ]
    (write,) = cache.pending.of(KEY)
    assert (write.base, write.condition) == (base, Condition.ABSENT if base is None else Condition.MATCH)
    assert write.outcome_unknown
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.local) == []


@pytest.mark.needs_locks
@pytest.mark.parametrize("odd", [lambda path: path.symlink_to("k"), os.mkfifo])
def test_a_private_tree_with_a_file_that_cannot_be_recorded_stays_and_is_told_until_it_is_gone(
    cache: Cache, tmp_path: Path, odd: Callable[[Path], None]
) -> None:
    path = edit_of(cache, tmp_path, b"bytes")
    odd(path.with_name("odd"))
    path.write_bytes(b"mine")
    with pytest.warns(UserWarning, match=f"kept at: .*{path.parent}"):
        cache.close()
    (kept,) = reaped(cache).kept
    assert not kept.is_alive and kept.edited
    path.with_name("odd").unlink()
    assert (reaped(cache).kept, [data for _, _, data in held(cache)]) == ((), [b"mine"])
    assert not path.parent.exists()


# --- the end of a process, and killed ones ----------------------------------------------------------------------------


_LIFE = """
import os, signal, sys, casstore
from tests.casstore.support.local_edits import KEY, in_place, key_of, outbox_of, view_of
cache = casstore.open(sys.argv[1])
path, new = view_of(cache, "k", sys.argv[2]), outbox_of(cache, "new")
fresh = view_of(cache, "fresh", data=b"others")
in_place(path)
new.write_bytes(b"new")
new.with_name("new.npy").write_bytes(b"beside")
if "notice" in sys.argv:
    assert len(cache.record_local()) == 3
if "discard" in sys.argv:
    for write in cache.pending.all():
        cache.pending.discard(write)
if "kill" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""

_ALL = [
    ("s3://bucket/k", "edit", b"mine"),
    ("s3://bucket/new", "incomplete", b"new"),
    ("s3://bucket/new.npy", "incomplete", b"beside"),
]


@pytest.mark.needs_locks
@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("noticed", [True, False])
def test_what_a_killed_process_left_is_recorded_once_and_its_files_stay(cache: Cache, mode: str, noticed: bool) -> None:
    done = run(_LIFE, cache.root, mode, "kill", *["notice"] * noticed)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = reaped(cache)
    assert held(cache) == _ALL
    assert sorted(write.uri for write in found.recorded) == ([] if noticed else [uri for uri, _, _ in _ALL])
    assert [write.base for write in cache.pending.all()] == [Validator(5, "e1"), None, None]
    assert (found.leases, found.kept) == (1, ())
    again = reaped(cache)
    assert (again.recorded, held(cache)) == ((), _ALL)
    assert all(Path(write.source or "").is_file() for write in cache.pending.all())


@pytest.mark.needs_locks
def test_what_was_dealt_with_before_the_process_was_killed_does_not_come_again(cache: Cache) -> None:
    done = run(_LIFE, cache.root, "copy", "notice", "discard", "kill")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert reaped(cache).leases == 1
    assert held(cache) == []


@pytest.mark.parametrize("flags", ["", "error"])
@pytest.mark.parametrize("noticed", [True, False])
def test_a_process_that_ends_records_and_says_what_nobody_has(cache: Cache, noticed: bool, flags: str) -> None:
    done = run(_LIFE, cache.root, "copy", *["notice"] * noticed, PYTHONWARNINGS=flags)
    assert held(cache) == _ALL
    assert ("local files were changed or created, and not uploaded" in done.stderr) != noticed
    assert noticed or "s3://bucket/k, s3://bucket/new, s3://bucket/new.npy" in done.stderr
    assert os.listdir(cache.layout.leases) == []


def test_the_end_of_a_process_names_the_files_that_it_could_not_record(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = view_of(cache)
    in_place(path)
    with monkeypatch.context() as patched:
        patched.setattr(files, "create_synced", _full)
        with pytest.warns(UserWarning, match=f"local files .* kept at: {path}$"):
            cache.close()
    assert path.read_bytes() == b"mine"
    assert len(reaped(cache).recorded) == 1


def test_a_record_whose_maker_was_killed_before_it_said_so_is_not_made_twice(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        in_place(view_of(cache))
        monkeypatch.setattr(PathRecord, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        cache.record_changes(KEY)

    assert forked(work) == -signal.SIGKILL
    before = list(cache.pending.all())
    assert len(before) == 1
    assert cache.record_local() == []
    assert list(cache.pending.all()) == before


def test_processes_that_no_lock_excludes_lose_no_change(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where byte locks are for show, two may record one state; neither loses it."""
    path = view_of(cache)
    in_place(path)
    record, twice = Pending.record, [True]

    def record_beside(self: Pending, *arguments: object, **options: object) -> PendingWrite:
        if twice.pop() if twice else False:
            assert len(other.record_changes(KEY)) == 1
        return record(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Pending, "record", record_beside)
    other = ChangeRecorder(cache.local, cache.pending)
    monkeypatch.setattr(cache._locks, "_try", lambda _: True)
    cache.record_changes(KEY)
    assert {data for _, _, data in held(cache)} == {b"mine"}
    assert cache.record_changes(KEY) == []


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
    assert not cache.has_local_changes(KEY)
    assert cache.record_changes(KEY) == []
    with pytest.warns(UserWarning, match=f"not uploaded; they are kept at: {path}"):
        cache.close()
    assert path.read_bytes() == b"mine"
