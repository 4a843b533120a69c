"""What a lease's list says of its views, and how an edit is told from everything else that befalls a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore.format.layout import LeaseLayout
from casstore.leases.proof import path_has_bytes
from casstore.leases.scan import scan_lease
from casstore.leases.views import View, encode_line, parse_line, read_manifest
from tests.casstore.support.fill import fill, hand_out, key_of


@pytest.fixture(params=["link", "copy"])
def path(request: pytest.FixtureRequest, cache: casstore.Cache) -> Path:
    """A view, as either kind."""
    return _view(cache, "k", request.param)


def _view(cache: casstore.Cache, name: str, mode: str = "copy") -> Path:
    entry = fill(cache, key_of(name), b"bytes of " + name.encode())
    return hand_out(cache, entry, mode)


def _edited(cache: casstore.Cache) -> list[str]:
    return [Path(path).name for path in scan_lease(cache.lease.paths).edited]


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(data)
    new.replace(path)


def _write_in_place(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"mine")


def _write_as_many(path: Path) -> None:
    _replace(path, b"BYTES OF K")


def _cut(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 1)


def _append(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"more")


def _make_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def _make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


EDITS: dict[str, Callable[[Path], object]] = {
    "written in place": _write_in_place,
    "replaced by another file": lambda path: _replace(path, b"mine"),
    "replaced by one of its size": _write_as_many,
    "cut": _cut,
    "appended to": _append,
    "replaced by a link": _make_a_link,
    "replaced by a pipe": _make_a_pipe,
}

NO_EDITS: dict[str, Callable[[Path], object]] = {
    "left alone": lambda path: None,
    "touched": os.utime,
    "replaced by the same bytes": lambda path: _replace(path, path.read_bytes()),
    "removed": lambda path: path.unlink(),
    "given other rights": lambda path: path.chmod(0o600),
}


@pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")
@pytest.mark.parametrize("what", EDITS)
def test_a_file_that_was_changed_is_edited(path: Path, cache: casstore.Cache, what: str) -> None:
    EDITS[what](path)
    assert _edited(cache) == ["k"]


@pytest.mark.parametrize("what", NO_EDITS)
def test_a_file_with_its_bytes_is_not_edited(path: Path, cache: casstore.Cache, what: str) -> None:
    NO_EDITS[what](path)
    assert _edited(cache) == []


@pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")
def test_a_file_that_somebody_put_beside_a_view_is_somebodys(path: Path, cache: casstore.Cache) -> None:
    path.with_name("result.csv").write_bytes(b"mine")
    assert _edited(cache) == ["result.csv"]


@pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")
def test_what_this_version_does_not_know_of_a_lease_is_somebodys(cache: casstore.Cache) -> None:
    outbox = Path(cache.lease.paths.path) / "of-a-later-version" / "bucket"
    outbox.mkdir(parents=True)
    (outbox / "new.csv").write_bytes(b"mine")
    assert _edited(cache) == ["new.csv"]


def test_staging_files_and_counts_are_nobodys(cache: casstore.Cache) -> None:
    cache.lease.report_progress("n", 1)
    os.makedirs(cache.lease.paths.staging)
    Path(cache.lease.paths.staging, "half").write_bytes(b"half")
    assert _edited(cache) == []


@pytest.mark.parametrize("keep", [0, 100])
def test_a_view_whose_line_was_lost_is_told_by_the_time_that_its_bytes_give_it(
    path: Path, cache: casstore.Cache, keep: int
) -> None:
    os.truncate(cache.lease.paths.views_list, keep)
    assert _edited(cache) == []


@pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")
def test_an_edit_of_a_view_whose_line_was_lost_is_an_edit(path: Path, cache: casstore.Cache) -> None:
    os.truncate(cache.lease.paths.views_list, 0)
    before = path.stat().st_mtime_ns
    _replace(path, b"mine")
    assert _edited(cache) == ["k"]
    # Nor does a whole second of that very time make other bytes the store's.
    os.utime(path, ns=(before, before))
    assert _edited(cache) == ["k"]


def test_views_are_known_again_in_a_store_that_was_moved(cache: casstore.Cache, tmp_path: Path) -> None:
    path = _view(cache, "k")
    os.utime(path)
    lease = cache.lease
    os.rename(cache.root, tmp_path / "moved")
    moved = LeaseLayout(f"{tmp_path}/moved/leases/{lease.name}")
    assert scan_lease(moved).edited == ()
    (Path(moved.path) / os.path.relpath(path, lease.paths.path)).write_bytes(b"mine")
    assert len(scan_lease(moved).edited) == 1


@pytest.mark.parametrize("key", ["a\nb", "é" * 300, "\udcff", "x\u2028y", '"'])
def test_a_line_gives_back_the_view_that_it_was_made_of(cache: casstore.Cache, key: str) -> None:
    path = _view_of_key(cache, key)
    ((view,),) = read_manifest(cache.lease.paths).handed_out.values()
    assert isinstance(view, View)
    assert (view.path, view.key.uri, view.state.size) == (str(path), f"s3://bucket/{key}", 5)
    assert view.is_untouched()
    assert path_has_bytes(cache.layout, view.path, view.digest)
    assert parse_line(encode_line(view)) == view


def _view_of_key(cache: casstore.Cache, key: str) -> Path:
    entry = fill(cache, key_of(key), b"bytes")
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    path = cache.view(entry, descriptor, "bucket", key, "copy")
    os.close(descriptor)
    return Path(path)


def test_no_torn_line_is_a_view(cache: casstore.Cache) -> None:
    _view(cache, "k")
    ((view,),) = read_manifest(cache.lease.paths).handed_out.values()
    assert isinstance(view, View)
    line = encode_line(view).rstrip("\n")
    assert [parse_line(line[:end]) for end in range(len(line))] == [None] * len(line)
    assert parse_line("[]") is parse_line('"x"') is parse_line("{}") is None


def test_two_looks_see_the_same_unless_something_happened_between(cache: casstore.Cache) -> None:
    path = _view(cache, "k")
    first = scan_lease(cache.lease.paths)
    assert scan_lease(cache.lease.paths) == first
    os.utime(path)
    assert scan_lease(cache.lease.paths) != first


def test_a_lease_that_is_gone_has_no_survey(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan_lease(LeaseLayout(str(tmp_path / "gone")))
