"""What others do to files that were handed out is noticed: once, with the right bytes, and nothing else."""

from __future__ import annotations

import errno
import os
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
from tests.casstore.support.fill import fill, key_of, read
from tests.casstore.support.local_edits import KEY, by_rename, bytes_of, cut, held, in_place, view_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")

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
