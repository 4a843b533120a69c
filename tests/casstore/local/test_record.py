"""The record of an object's local paths: what it gives back, and what a damaged one is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from casstore import Cache, Key, Validator
from casstore.errors import ReentrantCallError
from casstore.format.digest import Digest
from casstore.format.layout import Layout
from casstore.local.record import Kind, LocalFile, PathRecord, records
from tests.casstore.support.fill import key_of
from tests.casstore.support.local_edits import KEY, in_place, view_of

DIGEST = Digest("xxh3-128", b"d" * 16)


@pytest.mark.parametrize("name", ["k", "a\nb", "é" * 300, "\udcff", "x\u2028y", '"', "x\0y"])
def test_a_record_gives_back_what_it_was_made_of(cache: Cache, name: str) -> None:
    record = PathRecord(key_of(name, "s3@http://host"))
    record.put(LocalFile(f"0/s3/b/{name}", Kind.OBJECT, 5, 1 << 62, DIGEST, Validator(5, "e1", mtime_ns=7), 1 << 63))
    record.put(LocalFile(f"1/s3/b/{name}", Kind.ABSENT))
    record.write(cache.layout)
    assert PathRecord.read(cache.layout, record.key.name) == record
    assert [found for _, found in records(cache.layout)] == [record]


def test_no_damaged_record_and_none_of_another_object_is_read(cache: Cache) -> None:
    view_of(cache)
    path = Path(cache.layout.path_record(KEY.name))
    whole = path.read_bytes()
    for data in [*(whole[:end] for end in range(len(whole))), b"[]", b"{}", b'"x"', whole.replace(b'"object"', b'"x"')]:
        path.write_bytes(data)
        assert PathRecord.read(cache.layout, KEY.name) is None
        assert list(records(cache.layout)) == []
    path.write_bytes(whole)
    other = key_of("other")
    os.makedirs(cache.layout.pending(other.name))
    Path(cache.layout.path_record(other.name)).write_bytes(whole)
    assert PathRecord.read(cache.layout, other.name) is None
    assert PathRecord.read(cache.layout, KEY.name, Key(KEY.uri, "s3@other")) is None


def test_a_record_without_files_goes_with_its_directory(cache: Cache) -> None:
    view_of(cache)
    record = PathRecord.read(cache.layout, KEY.name)
    assert record is not None
    record.files = []
    record.write(cache.layout)
    assert not os.path.exists(cache.layout.pending(KEY.name))
    record.write(cache.layout)


def test_a_name_is_in_a_record_once(cache: Cache) -> None:
    record = PathRecord(KEY)
    record.put(LocalFile("0/x", Kind.ABSENT))
    changed = LocalFile("0/x", Kind.SAVED, 1, 2)
    record.put(changed)
    assert record.files == [changed]
    assert record.of_path("/elsewhere/local/0/x") == record.at("0/x") == changed
    assert record.of_path("/elsewhere/local/10/x") is None
    record.drop(changed)
    assert record.files == []


@pytest.mark.parametrize(
    ("size", "mtime_ns", "boot", "is_changed"),
    [(5, 2_000, 1, False), (4, 2_000, 1, True), (5, 2_001, 1, True), (4, 2_001, 2, True), (4, 2_000, 2, False)],
)
def test_a_change_is_told_from_what_a_power_cut_did(
    tmp_path: Path, size: int, mtime_ns: int, boot: int, is_changed: bool
) -> None:
    layout = Layout(tmp_path)
    path = Path(layout.local_path("0/x"))
    path.parent.mkdir(parents=True)
    file = LocalFile("0/x", Kind.OBJECT, 5, 2_000, DIGEST, boot=1)
    assert not file.is_changed(layout, boot)
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    assert file.is_changed(layout, boot) == is_changed


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/hostname", path)])
def test_what_is_no_file_is_no_change(tmp_path: Path, make: object) -> None:
    layout = Layout(tmp_path)
    os.makedirs(layout.local_path("0"))
    make(layout.local_path("0/x"))  # type: ignore[operator]
    assert not LocalFile("0/x", Kind.ABSENT).is_changed(layout, 1)


def test_a_locked_record_is_read_anew_and_excludes_threads_and_signal_handlers(cache: Cache) -> None:
    path = view_of(cache)
    owner, other = cache.local.locked(KEY), cache.local.locked(KEY)
    with owner, owner as record:
        assert record.files[0].name.endswith("/k")
        with pytest.raises(ReentrantCallError, match="signal handler"), other, other:
            raise AssertionError
        in_place(path)
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(len(cache.record_changes(KEY))))
        thread.start()
        thread.join(0.05)
        assert found == []
    thread.join()
    assert found == [1]
    owner = cache.local.locked(KEY)
    with owner, owner as record:
        assert [file.kind for file in record.files] == [Kind.SAVED]


def test_whatever_interrupts_a_lock_leaves_it_free(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(BaseException):
        pass

    def late(*_: object) -> None:
        raise Interrupted

    real = cache._locks._try
    for name in ("read", "_try"):
        with monkeypatch.context() as patched:
            if name == "read":
                patched.setattr(PathRecord, "read", late)
            else:
                patched.setattr(cache._locks, "_try", lambda lock: late(real(lock)))
            owner = cache.local.locked(KEY)
            with pytest.raises(Interrupted), owner, owner:
                raise AssertionError
        owner = cache.local.locked(KEY, 0)
        with owner, owner:
            pass
