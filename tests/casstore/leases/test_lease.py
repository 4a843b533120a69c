"""Views: readable and unchanged for as long as their process lives, whatever happens to the blob."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

import casstore
from casstore.format.layout import LeaseLayout
from casstore.fs import files
from tests.casstore.support.fill import (
    alone,
    edited_views,
    fill,
    fork,
    fork_without_hooks,
    forked,
    key_of,
    run,
    status_of,
)


@pytest.fixture(params=["link", "copy", "auto"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CASSTORE_VIEWS", request.param)
    return str(request.param)


def _view(cache: casstore.Cache, entry: casstore.Entry) -> Path:
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    try:
        return Path(cache.view(entry, descriptor, "bucket", entry.uri.removeprefix("s3://bucket/")))
    finally:
        os.close(descriptor)


def _overwrite(path: Path, data: bytes) -> None:
    """As an editor does: a new file over the name, so that no blob is written through a link."""
    temporary = path.with_name("edited")
    temporary.write_bytes(data)
    temporary.replace(path)


@pytest.mark.needs_locks
def test_a_lease_is_born_locked_and_nobody_sees_it_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = casstore.open(root)
    seen = []
    rename = files.rename

    def look(source: str, target: str) -> None:
        seen.append((os.path.basename(source)[:5], os.listdir(source), _is_locked(source)))
        rename(source, target)

    monkeypatch.setattr(files, "rename", look)
    lease = cache.lease
    assert seen == [(".new-", ["lock"], True)]
    assert _is_locked(lease.paths.path)
    assert os.listdir(cache.layout.leases) == [lease.name]


def _is_locked(lease: str) -> bool:
    with open(LeaseLayout(lease).lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.needs_locks
def test_a_killed_process_leaves_its_lease_unlocked(cache: casstore.Cache) -> None:
    assert forked(lambda: cache.lease) == 0
    (name,) = os.listdir(cache.layout.leases)
    assert not _is_locked(cache.layout.lease(name))


def test_a_view_has_the_objects_name_and_bytes(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    path = _view(cache, fill(cache, key_of("dir/file.csv"), b"bytes"))
    assert path.parts[-4:] == ("s3", "bucket", "dir", "file.csv")
    assert path.read_bytes() == b"bytes"


def test_the_same_version_has_the_same_path(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    assert _view(cache, entry) == _view(cache, entry)


def test_siblings_meet_in_one_directory(cache: casstore.Cache) -> None:
    one, two = (_view(cache, fill(cache, key_of(name), name.encode())) for name in ("a.shp", "a.dbf"))
    assert one.parent == two.parent


def test_a_link_shares_the_blobs_bytes_and_a_copy_does_not(root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    link = cache.view(entry, descriptor, "bucket", "linked", "link")
    assert os.path.samefile(link, cache.blob_path(entry))
    os.close(descriptor)
    other = fill(cache, key_of("other"), b"others")
    descriptor = cache.open_entry(other)
    assert descriptor is not None
    copy = cache.view(other, descriptor, "bucket", "copied", "copy")
    assert not os.path.samefile(copy, cache.blob_path(other))
    os.close(descriptor)


def test_a_view_outlives_its_blob(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)
    cache.evict(lambda _: True)
    assert not os.path.exists(cache.blob_path(entry))
    assert path.read_bytes() == b"bytes"


def test_a_view_of_a_blob_that_was_swept_since_it_was_opened_has_its_bytes(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    cache.evict(lambda _: True)
    assert Path(cache.view(entry, descriptor, "bucket", "k")).read_bytes() == b"bytes"
    os.close(descriptor)


def test_a_view_is_never_a_link_to_another_file_than_the_one_that_was_opened(root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    path = Path(cache.blob_path(entry))
    path.unlink()
    path.write_bytes(b"BYTES")
    assert Path(cache.view(entry, descriptor, "bucket", "k", "link")).read_bytes() == b"bytes"
    os.close(descriptor)


def test_a_new_version_leaves_the_old_view_alone(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    old = _view(cache, fill(cache, key_of("k"), b"old", "e1"))
    new = _view(cache, fill(cache, key_of("k"), b"new", "e2"))
    assert old.read_bytes() == b"old"
    assert new.read_bytes() == b"new"
    assert old.name == new.name


def test_an_object_that_is_also_a_prefix_has_its_view_in_the_next_tree(cache: casstore.Cache) -> None:
    one = _view(cache, fill(cache, key_of("a"), b"file"))
    two = _view(cache, fill(cache, key_of("a/b"), b"below"))
    three = _view(cache, fill(cache, key_of("c/d"), b"below"))
    four = _view(cache, fill(cache, key_of("c"), b"file"))
    assert [path.read_bytes() for path in (one, two, three, four)] == [b"file", b"below", b"below", b"file"]


@pytest.mark.parametrize("key", ["../../escape", "a//b", "/lead", "dir/", "x\0y", "/" * 1000, "é" * 500, "\udcff"])
def test_a_strange_key_has_a_view_inside_the_lease(cache: casstore.Cache, key: str) -> None:
    path = _view(cache, fill(cache, key_of(key), b"bytes"))
    assert path.read_bytes() == b"bytes"
    assert os.path.realpath(path).startswith(cache.lease.paths.path)


def test_an_edited_view_is_not_handed_out_again(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    edited = _view(cache, entry)
    _overwrite(edited, b"mine")
    fresh = _view(cache, entry)
    assert fresh != edited
    assert (fresh.read_bytes(), edited.read_bytes()) == (b"bytes", b"mine")
    assert [view.path for view in edited_views(cache)] == [str(edited)]
    with pytest.warns(UserWarning, match="1 local files were changed or created.*s3://bucket/k.*casstore pending"):
        cache.close()
    (write,) = cache.pending.of(key_of("k"))
    assert Path(cache.pending.path(write)).read_bytes() == b"mine"
    assert os.listdir(cache.layout.leases) == []


def test_a_mere_touch_is_no_edit(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)
    _overwrite(path, b"bytes")
    assert edited_views(cache) == []
    assert _view(cache, entry) == path


def test_a_removed_view_is_made_again(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)
    path.unlink()
    assert edited_views(cache) == []
    assert _view(cache, entry).read_bytes() == b"bytes"


def test_a_released_view_is_gone_and_an_edited_one_stays(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)
    cache.release_view(str(path))
    assert not path.exists()
    path = _view(cache, entry)
    _overwrite(path, b"mine")
    cache.release_view(str(path))
    assert path.read_bytes() == b"mine"
    with pytest.warns(UserWarning, match="kept as pending writes"):
        cache.close()


def test_a_closed_cache_takes_its_views_along_and_makes_new_ones(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)
    cache.close()
    assert not path.exists()
    assert os.listdir(cache.layout.leases) == os.listdir(cache.layout.trash) == []
    assert _view(cache, entry).read_bytes() == b"bytes"


def test_a_normal_exit_leaves_no_lease(root: Path) -> None:
    code = """
import sys, casstore
from tests.casstore.support.fill import fill, key_of
cache = casstore.open(sys.argv[1])
entry = fill(cache, key_of("k"), b"bytes")
print(cache.view(entry, cache.open_entry(entry), "bucket", "k"))
"""
    done = run(code, str(root))
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(done.stdout.strip())
    assert os.listdir(casstore.open(root).layout.leases) == []


def test_an_edited_view_survives_the_exit_as_a_pending_write_and_is_said(root: Path) -> None:
    code = """
import os, sys, casstore
from tests.casstore.support.fill import fill, key_of
cache = casstore.open(sys.argv[1])
entry = fill(cache, key_of("k"), b"bytes")
path = cache.view(entry, cache.open_entry(entry), "bucket", "k")
open(path + "x", "w").write(sys.argv[2])
os.replace(path + "x", path)
"""
    cache = casstore.open(root)
    for flags in ("", "error"):
        done = run(code, str(root), f"mine {flags}", PYTHONWARNINGS=flags)
        assert "1 local files were changed or created" in done.stderr and "s3://bucket/k" in done.stderr
        write = cache.pending.of(key_of("k"))[-1]
        assert Path(cache.pending.path(write)).read_text() == f"mine {flags}"
        assert (write.state, write.base) == ("edit", cache.stat("s3://bucket/k").validator)  # type: ignore[union-attr]
    assert os.listdir(cache.layout.leases) == []


def test_a_file_that_nobody_handed_out_survives_the_exit_where_it_is_and_is_said(root: Path) -> None:
    code = """
import sys, casstore
from tests.casstore.support.fill import fill, key_of
cache = casstore.open(sys.argv[1])
entry = fill(cache, key_of("k"), b"bytes")
path = cache.view(entry, cache.open_entry(entry), "bucket", "k")
open(path + "x", "w").write("mine")
print(path + "x")
"""
    done = run(code, str(root))
    assert Path(done.stdout.strip()).read_text() == "mine"
    assert f"they are kept at: {done.stdout.strip()}" in done.stderr
    assert "pending" not in done.stderr


def test_a_forked_child_has_a_lease_of_its_own_and_its_exit_leaves_the_parents_alone(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)

    def work() -> None:
        assert path.read_bytes() == b"bytes"
        assert _view(cache, entry) != path
        cache.close()

    assert forked(work) == 0
    assert path.read_bytes() == b"bytes"
    assert len(os.listdir(cache.layout.leases)) == 1


def test_a_lease_that_somebody_removed_is_taken_anew(cache: casstore.Cache) -> None:
    import shutil

    entry = fill(cache, key_of("k"), b"bytes")
    path = _view(cache, entry)
    shutil.rmtree(cache.lease.paths.path)
    again = _view(cache, entry)
    assert again.read_bytes() == b"bytes"
    assert again != path


def test_many_processes_have_views_of_one_blob(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("k"), b"bytes")

    def work() -> None:
        for _ in range(20):
            assert _view(cache, entry).read_bytes() == b"bytes"
            cache.close()

    assert [status_of(pid) for pid in [fork(work) for _ in range(4)]] == [0] * 4


def test_a_lease_is_taken_in_a_store_that_was_removed(cache: casstore.Cache) -> None:
    import shutil

    entry = fill(cache, key_of("k"), b"bytes")
    before = _view(cache, entry)
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    shutil.rmtree(cache.root)
    again = Path(cache.view(entry, descriptor, "bucket", "k"))
    os.close(descriptor)
    assert again.read_bytes() == b"bytes"
    assert again != before


def test_leases_that_went_leave_no_descriptors(cache: casstore.Cache) -> None:
    import shutil

    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        shutil.rmtree(cache.lease.paths.path)
    assert cache.lease.exists()
    assert len(os.listdir("/dev/fd")) <= before + 1


def test_a_child_of_a_fork_without_hooks_does_not_end_its_parents_lease(cache: casstore.Cache) -> None:
    def parent() -> None:
        lease = cache.lease

        def child() -> None:
            assert not lease.abandon()

        assert status_of(fork_without_hooks(child)) == 0
        assert lease.abandon()

    assert alone(parent) == 0


def test_a_view_with_other_bytes_of_its_size_is_not_handed_out_again(mode: str, root: Path) -> None:
    cache = casstore.open(root)
    entry = fill(cache, key_of("k"), b"bytes")
    edited = _view(cache, entry)
    _overwrite(edited, b"MINE!")
    assert _view(cache, entry) != edited
    cache.release_view(str(edited))
    assert edited.read_bytes() == b"MINE!", "nor is it removed"
    with pytest.warns(UserWarning, match="kept as pending writes"):
        cache.close()
