"""A blob that was edited through a link is recorded for its views and downloaded by the other URIs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Pending, PendingState, PendingWrite, Validator
from casstore.blobs.staging import Staging
from casstore.errors import StillBeingWrittenError
from casstore.fs import files
from casstore.leases import edits
from tests.casstore.support.fill import eventually, fill, fork, key_of, read, status_of
from tests.casstore.support.local_edits import KEY, bytes_of, held, in_place, view_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")


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


def test_wrong_bytes_with_the_time_of_the_blob_are_damage_though_a_view_links_to_them(cache: casstore.Cache) -> None:
    path = view_of(cache, mode="link")
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    entry = cache.lookup(KEY)
    assert entry is not None
    assert cache.open_entry(entry, verify=True) is None
    assert held(cache) == []
    assert len(os.listdir(cache.layout.quarantine)) == 2, "the blob, and the reason"


def test_bytes_that_change_while_they_are_copied_are_not_recorded(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"first")
    copy = Staging.copy_from

    def copy_and_change(self: Staging, source: int) -> None:
        copy(self, source)
        (tmp_path / "file").write_bytes(b"others")

    monkeypatch.setattr(Staging, "copy_from", copy_and_change)
    recorder = edits.EditRecorder.of_lease(cache.layout, cache.blobs, cache.lease.name)
    with files.opened(str(tmp_path / "file"), os.O_RDONLY) as descriptor, pytest.raises(StillBeingWrittenError):
        recorder.record_bytes(KEY, None, descriptor)
    assert held(cache) == []


def test_of_two_records_of_one_state_that_are_made_at_once_the_older_stays(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    record, made = Pending.record, list[PendingWrite]()

    def record_twice(self: Pending, *arguments: Any, **options: Any) -> PendingWrite:
        made.append(record(self, *arguments, **options))  # by another process, which had found no record either
        made.append(record(self, *arguments, **options))
        return made[-1]

    monkeypatch.setattr(Pending, "record", record_twice)
    recorder = edits.EditRecorder.of_lease(cache.layout, cache.blobs, cache.lease.name)
    with files.opened(str(tmp_path / "file"), os.O_RDONLY) as descriptor:
        recorder.record_bytes(KEY, None, descriptor)
    assert cache.pending.of(KEY) == made[:1]
