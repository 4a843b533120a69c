"""Roots: made once by many, recognised, refused with nothing changed; and settings."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import signal
import warnings
from pathlib import Path

import pytest

import casstore
from casstore import NotAStoreError, StoreFormatError, StoreReadOnlyError, StoreUnavailableError
from casstore.fs import mounts as machine
from casstore.root import open_root
from tests.casstore.support.fill import fork, status_of


def _tree(path: Path) -> dict[str, bytes | None]:
    return {
        str(name.relative_to(path)): name.read_bytes() if name.is_file() else None for name in sorted(path.rglob("*"))
    }


def test_many_creators_make_one_store(root: Path, tmp_path: Path) -> None:
    def work(number: int) -> None:
        (tmp_path / f"id{number}").write_text(open_root(root, None, {}).store_id)

    pids = [fork(lambda number=number: work(number)) for number in range(6)]  # type: ignore[misc]
    assert [status_of(pid) for pid in pids] == [0] * 6
    assert len({(tmp_path / f"id{number}").read_text() for number in range(6)}) == 1


def test_a_new_store_is_private_and_marked(root: Path) -> None:
    opened = open_root(root, None, {})
    assert os.stat(root).st_mode & 0o777 == 0o700
    assert (root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert json.loads((root / "store.json").read_text()) == {"format": 1, "digest": "xxh3-128", "id": opened.store_id}


def test_a_half_made_store_is_completed(root: Path) -> None:
    open_root(root, None, {})
    (root / "store.json").unlink()
    (root / "0123456789abcdef").touch()  # a killed creator's temporary file
    for name in ("config.toml", "statistics.json"):
        (root / name).touch()  # of before the marker was lost
    assert open_root(root, None, {}).store_id


def test_several_processes_may_complete_a_store_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each directory that is missing is made by another process in the very moment in which this one makes it."""
    open_root(root, None, {})
    (root / "leases").rmdir()
    (root / "pins").rmdir()
    make = os.mkdir

    def make_twice(path: str, mode: int = 0o777) -> None:
        make(path, mode)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", make_twice)
    open_root(root, None, {})
    assert (root / "leases").is_dir() and (root / "pins").is_dir()


def test_a_root_of_which_nothing_may_be_looked_at_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of ``/``: the search for a directory that exists ends there."""

    def refuse(path: str) -> machine.Mount:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os.path, "exists", lambda path: False)
    monkeypatch.setattr(machine, "mount_of", refuse)
    with pytest.raises(PermissionError, match="'/'"):
        open_root(root, None, {})


def test_somebody_elses_files_are_refused_and_untouched(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").write_text("precious")
    (root / "blobs").mkdir()
    before = _tree(root)
    with pytest.raises(NotAStoreError, match=r"thesis\.tex"):
        open_root(root, None, {})
    assert _tree(root) == before


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_place_of_the_directory_is_refused(root: Path, below: str) -> None:
    root.write_text("a file")
    with pytest.raises((NotAStoreError, StoreUnavailableError)):
        open_root(root / below, None, {})
    assert root.read_text() == "a file"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "digest": "crc", "id": "x"}', "\0\0", '{"format": "x"}'],
)
def test_a_damaged_marker_is_an_error_and_nothing_is_changed(root: Path, text: str) -> None:
    open_root(root, None, {})
    (root / "store.json").write_text(text)
    before = _tree(root)
    with pytest.raises(StoreFormatError, match="damaged"):
        open_root(root, None, {})
    assert _tree(root) == before


def test_a_newer_format_is_refused_with_the_way_out(root: Path) -> None:
    open_root(root, None, {})
    (root / "store.json").write_text('{"format": 2, "digest": "sha3", "id": "x"}')
    with pytest.raises(StoreFormatError, match="upgrade"):
        open_root(root, None, {})


@pytest.mark.parametrize("algorithm", casstore.ALGORITHMS)
def test_a_store_keeps_the_digest_it_was_made_with(root: Path, algorithm: str) -> None:
    assert open_root(root, algorithm, {}).algorithm == algorithm
    assert open_root(root, None, {"CASSTORE_DIGEST": "sha256"}).algorithm == algorithm
    other = next(name for name in casstore.ALGORITHMS if name != algorithm)
    with pytest.raises(StoreFormatError, match=algorithm):
        open_root(root, other, {})
    with pytest.raises(StoreFormatError, match="unknown"):
        open_root(root, "md5", {})


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.s3fs"])
def test_a_network_file_system_is_refused_before_anything_is_made(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda _: machine.Mount(1, kind))
    with pytest.raises(StoreUnavailableError, match=kind):
        open_root(root, None, {})
    assert not root.exists()


def test_a_root_of_another_user_is_refused_and_untouched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    if not os.geteuid():
        os.chown(root, 65534, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StoreUnavailableError, match=r"user nobody.* can write to .* and replace files of the store"):
        open_root(root, None, {})
    assert _tree(root) == {}


def test_a_root_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    def refuse(path: str, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StoreUnavailableError, match="CASSTORE_DIR"):
        open_root(root, None, {})


def test_an_unfit_default_gives_way_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    mount_of = machine.mount_of
    # The default lies in `home`, which does not exist yet: its parent is asked.
    fallback = str(tmp_path / "tmp")
    monkeypatch.setattr(
        machine, "mount_of", lambda path: mount_of(path) if path.startswith(fallback) else machine.Mount(1, "nfs4")
    )
    with pytest.warns(UserWarning, match="CASSTORE_DIR") as caught:
        cache = casstore.open()
    assert len(caught) == 1
    assert "Errno" not in str(caught[0].message)
    assert cache.root.startswith(fallback)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert casstore.open() is cache
    cache.close()


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_a_fallback_that_somebody_else_may_have_made_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    name = tmp_path / "tmp" / f"casstore-{os.geteuid()}"
    mount_of = machine.mount_of
    monkeypatch.setattr(
        machine, "mount_of", lambda path: mount_of(path) if "/tmp/casstore" in path else machine.Mount(1, "nfs4")
    )
    if kind == "link":
        (tmp_path / "target").mkdir()
        name.symlink_to(tmp_path / "target")
    elif kind == "open":
        name.mkdir()
        name.chmod(0o777)
    else:
        name.touch()
    with pytest.raises(StoreUnavailableError, match="another user"):
        open_root(None, None, {})


def _loose(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o777)
    return path


def test_a_store_is_refused_while_other_users_can_write_to_one_of_its_directories(root: Path) -> None:
    layout = open_root(root, None, {}).layout
    for directory in layout.directories():
        os.chmod(directory, 0o770 if os.geteuid() == 0 else 0o777)
        if os.geteuid() == 0:
            os.chown(directory, -1, 4711)
        with pytest.raises(StoreUnavailableError, match=rf"can replace files in it: run chmod go-w {directory}, or"):
            open_root(root, None, {})
        open_root(root, None, {"CASSTORE_TRUST_ROOT": "1"})
        os.chmod(directory, 0o700)
    open_root(root, None, {})


def test_an_empty_directory_becomes_private_to_its_new_store(root: Path) -> None:
    _loose(root)
    open_root(root, None, {})
    assert os.stat(root).st_mode & 0o777 == 0o755
    open_root(root, None, {})


def test_a_place_in_which_others_can_rename_the_store_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    place = _loose(tmp_path / "shared")
    message = rf"every user can write to {place} and replace files of the store: .*set CASSTORE_TRUST_ROOT=1"
    for _ in ("new", "existing"):
        if os.geteuid():
            with pytest.raises(StoreUnavailableError, match=message):
                open_root(place / "store", None, {})
            assert os.listdir(place) == []
        else:
            warned: list[str] = []
            open_root(place / "store", None, {}, warned.append)
            assert re.search(message, "\n".join(warned))
    open_root(place / "store", None, {"CASSTORE_TRUST_ROOT": "1"})


def test_a_place_like_tmp_is_good_enough(tmp_path: Path) -> None:
    place = _loose(tmp_path / "tmp")
    place.chmod(0o1777)
    open_root(place / "store", None, {})
    open_root(place / "store", None, {})


@pytest.mark.needs_root
def test_a_user_is_refused_where_others_can_rename_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _loose(tmp_path / "shared")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StoreUnavailableError, match=f"every user can write to {place} and replace files of the store"):
        open_root(place / "store", None, {})
    assert os.listdir(place) == []


def test_missing_parents_are_writable_for_this_user_only_whatever_the_umask(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        open_root(tmp_path / "a" / "b" / "store", None, {})
    finally:
        os.umask(former)
    modes = [os.stat(tmp_path / name).st_mode & 0o777 for name in ("a", "a/b", "a/b/store")]
    assert modes == [0o755, 0o755, 0o700]


@pytest.mark.needs_root
@pytest.mark.parametrize("name", ["blobs", "index-v1", "store.json", "config.toml"])
def test_a_store_with_a_part_of_another_user_is_refused_and_root_only_reads_it(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_root(root, None, {})
    if name == "config.toml":
        (root / name).write_text("trust_root = true\n")
    os.chown(root / name, 4711, -1)
    is_read = (
        contextlib.nullcontext() if name == "config.toml" else pytest.raises(StoreReadOnlyError, match="only read")
    )
    warned: list[str] = []
    with is_read as raised:
        open_root(root, None, {}, warned.append)
    assert f"user 4711 can write to {root / name} and replace files of the store" in "\n".join(warned)
    told = rf"another user (uid 4711, the owner of {root / name}) and is only read: "
    assert raised is None or (told in str(raised.value) and "CASSTORE_TRUST_ROOT=1" in str(raised.value))
    open_root(root, None, {"CASSTORE_TRUST_ROOT": "1"})
    open_root(root, None, {}, trust_root=True)
    (root / "config.toml").write_text("trust_root = true\n")
    os.chown(root / "config.toml", 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4712)
    with pytest.raises(StoreUnavailableError, match="user 4711 can write to"):
        open_root(root, None, {})
    os.chown(root / "config.toml", 0, -1)
    open_root(root, None, {})
    (root / "config.toml").rename(root.parent / "mine.toml")
    (root / "config.toml").symlink_to(root.parent / "mine.toml")
    open_root(root, None, {})
    os.chown(root / "config.toml", 4711, -1, follow_symlinks=False)
    with pytest.raises(StoreUnavailableError):
        open_root(root, None, {})


@pytest.mark.parametrize("name", ["store.json", "config.toml"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "nested"])
def test_no_file_of_a_store_stops_or_fills_the_process_that_opens_it(root: Path, name: str, kind: str) -> None:
    """Before it is known whose they are: the directory may be another user's."""
    open_root(root, None, {})
    (root / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(root / name)
    elif kind == "endless":
        (root / name).symlink_to("/dev/zero")
    else:
        (root / name).write_text("a = " * (name == "config.toml") + "[" * 50_000)
    limits = resource.getrlimit(resource.RLIMIT_DATA)

    def open_it() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, limits[1]))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        with pytest.raises((OSError, StoreFormatError), match=r"regular|Invalid argument|damaged|TOML"):
            open_root(root, None, {})

    assert status_of(fork(open_it)) == 0


def test_a_store_is_refused_where_no_directory_can_be_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os.path, "isdir", lambda _: False)  # as if every stat failed
        with pytest.raises(OSError, match=r"exists|permitted|denied"):
            casstore.open(root)
