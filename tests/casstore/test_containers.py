"""Directories as containers have them: volumes of other users, images that root has made, users without a name."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import Cache, Entry, StoreReadOnlyError, StoreUnavailableError
from casstore.format.digest import Digest
from casstore.fs import ownership
from casstore.pass_through import PassThroughCache
from casstore.root import open_root
from tests.casstore.support.fill import fill, forked, key_of, read
from tests.casstore.support.mounts import become_nobody, let_others_in, mounted

_LOADED = """
import codecs, grp, os, pwd, sys, tempfile, warnings
import casstore, platformdirs
from tests.casstore.support.fill import fill, key_of, read
codecs.lookup("ascii")
with tempfile.TemporaryDirectory() as directory:
    warm = casstore.open(directory)
    read(warm, fill(warm, key_of("a"), b"bytes").key)
    warm.close()
"""
"""Loads what the child needs before it is another user, who may not reach this interpreter's library."""
_FILL = """
os.setgroups([int(sys.argv[2])]); os.setgid(65534); os.setuid(65534)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try: cache = casstore.open(sys.argv[1])
    except casstore.StoreUnavailableError as error: sys.exit(f"refused: {error}")
fill(cache, key_of("a"), b"bytes")
assert read(cache, key_of("a")) == b"bytes"
cache.close()
print(*(warning.message for warning in caught), sep="\\n")
"""


def _in_container(root: Path, group: int = 65534) -> subprocess.CompletedProcess[str]:
    """Open a store as the only user of a container: its first process is of that user."""
    code = [sys.executable, "-c", _LOADED + _FILL, str(root), str(group)]
    command = ["unshare", "--pid", "--fork", "--mount-proc", *code]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    return done


@pytest.mark.needs_root
@pytest.mark.parametrize("below", ["", "below"])
@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o2775, 4711)], ids=["emptyDir", "fsGroup"])
def test_a_volume_is_used_by_the_only_user_of_a_container_who_is_told_what_that_costs(
    tmp_path: Path, mode: int, group: int, below: str
) -> None:
    let_others_in(tmp_path)
    with mounted("tmpfs", tmp_path / "volume", "-t", "tmpfs", "-o", f"size=8m,mode={mode:o},gid={group}") as volume:
        for _ in ("empty", "with a store"):
            done = _in_container(volume / below, group)
            assert done.returncode == 0, done.stderr
            assert f"can write to {volume} and replace files of the store: name" in done.stdout
            assert "CASSTORE_TRUST_ROOT=1 if you trust them" in done.stdout
            assert done.stdout.count("\n") == 1
        assert os.stat(volume).st_mode & 0o7777 == mode, "the volume's mode is its owner's business"

        def outside() -> None:
            ownership.find_changers(str(volume))  # loads what it needs
            become_nobody()
            with pytest.raises(StoreUnavailableError, match=f"can write to {volume} and replace files of the store"):
                open_root(volume / below, None, {})
            assert open_root(volume / below, None, {}, trust_root=True).store_id

        assert forked(outside) == 0, "where other users may run, it must be allowed"


@pytest.mark.needs_root
def test_a_directory_that_is_no_volume_is_refused_in_a_container_too(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory").chmod(0o777)
    done = _in_container(tmp_path / "directory")
    assert "refused: " in done.stderr
    assert f"every user can write to {tmp_path / 'directory'} and replace files" in done.stderr


@pytest.mark.needs_root
@pytest.mark.parametrize("below", ["", "store"])
def test_a_directory_of_another_user_in_a_volume_is_refused(tmp_path: Path, below: str) -> None:
    let_others_in(tmp_path)
    with mounted("tmpfs", tmp_path / "volume", "-t", "tmpfs", "-o", "size=8m,mode=777") as volume:
        assert forked(lambda: casstore.open(volume / "planted", trust_root=True).close()) == 0
        for path in (volume / "planted", *(volume / "planted").rglob("*")):
            os.chown(path, 4711, -1)
            path.chmod(0o777 if path.is_dir() else 0o666)
        done = _in_container(volume / "planted" / below)
        assert f"refused: [Errno 1] user 4711 can write to {volume / 'planted'} and replace files" in done.stderr


@pytest.mark.needs_root
def test_root_uses_the_volume_of_a_user_and_leaves_its_owner_and_mode(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    os.chown(volume, 65534, 65534)
    with pytest.warns(UserWarning, match=rf"user nobody .*can write to {volume}") as caught:
        cache = casstore.open(volume)
    assert len(caught) == 1
    fill(cache, key_of("a"), b"bytes")
    assert read(cache, key_of("a")) == b"bytes"
    assert (os.stat(volume).st_uid, os.stat(volume).st_mode & 0o777) == (65534, 0o777)
    cache.close()


@pytest.mark.needs_root
def test_a_third_users_store_is_read_only_if_that_user_is_trusted(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    root = tmp_path / "place" / "store"
    root.parent.mkdir()
    os.chown(root.parent, 65534, 65534)

    def make() -> None:
        become_nobody()
        cache = casstore.open(root)
        fill(cache, key_of("a"), b"bytes")
        cache.close()

    def read_as_another() -> None:
        os.setgroups([])
        os.setgid(4711)
        os.setuid(4711)
        with pytest.raises(StoreUnavailableError, match=r"can write to .* and replace files of the store") as refused:
            casstore.open(root, or_uncached=True)
        assert type(refused.value) is StoreUnavailableError
        with pytest.warns(UserWarning, match=r"caching is disabled.*cannot write to the store"):
            cache = casstore.open(root, or_uncached=True, trust_root=True)
        assert read(cache, key_of("a")) == b"bytes"
        assert cache.lookup(key_of("b")) is None

    assert forked(make) == 0
    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    assert forked(read_as_another) == 0


# --- stores that are only read ---------------------------------------------------------------------------------------


def _unreadable_index(cache: Cache) -> Callable[[], PassThroughCache]:
    """Make *cache* a store that this user may only read, root included; how to open it."""
    cache.flush()
    root, error = cache.root, StoreReadOnlyError(30, "read-only", cache.root)

    def open_again() -> PassThroughCache:
        return PassThroughCache(root, error, reads=True)

    return open_again


def _read_entry(stand_in: PassThroughCache, entry: Entry, *, verify: bool | None = None) -> bytes | None:
    descriptor = stand_in.open_entry(entry, verify=verify)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:
        return file.read()


def test_wrong_bytes_of_a_read_only_store_are_a_miss_and_a_lost_mtime_is_none(cache: Cache) -> None:
    entries = {name: fill(cache, key_of(name), name.encode() * 100) for name in ("sound", "touched", "wrong", "gone")}
    stand_in = _unreadable_index(cache)()
    os.utime(cache.blob_path(entries["touched"]), (1, 1))
    for name, change in (("wrong", b"wrong" * 99 + b"other"), ("gone", None)):
        path = Path(cache.blob_path(entries[name]))
        path.unlink()
        if change is not None:
            path.write_bytes(change)
    for name in entries:
        found = stand_in.lookup(key_of(name))
        assert found is not None
        expected = None if name in ("wrong", "gone") else name.encode() * 100
        for verify in (None, True, None):
            assert _read_entry(stand_in, found, verify=verify) == expected
    assert [entry.uri for entry in stand_in.entries()] == [entry.uri for entry in cache.entries()]
    assert stand_in.stat(key_of("sound").uri) == cache.stat(key_of("sound").uri)
    assert stand_in.usage() == cache.usage()


def test_bytes_that_a_power_cut_may_have_damaged_are_hashed_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    assert entry.written_on, "or this tests nothing"
    stand_in = _unreadable_index(cache)()
    hashed: list[Digest] = []
    verify = cache.blobs.verify

    def count(_: object, descriptor: int, digest: Digest) -> bool:
        hashed.append(digest)
        return verify(descriptor, digest)

    monkeypatch.setattr(type(cache.blobs), "verify", count)
    for _ in range(3):
        assert _read_entry(stand_in, entry) == b"bytes"
    assert hashed == [entry.digest]
    path = Path(cache.blob_path(entry))
    path.chmod(0o644)
    path.write_bytes(b"bites")
    assert _read_entry(stand_in, entry) is None


def test_what_its_owner_changes_meanwhile_is_seen(cache: Cache) -> None:
    fill(cache, key_of("a"), b"first")
    stand_in = _unreadable_index(cache)()
    former = stand_in.lookup(key_of("a"))
    fill(cache, key_of("a"), b"second", etag="2")
    fill(cache, key_of("b"), b"b")
    cache.flush()
    assert former is not None
    assert _read_entry(stand_in, former) is None, "the entry was replaced since"
    for name, data in (("a", b"second"), ("b", b"b")):
        found = stand_in.lookup(key_of(name))
        assert found is not None
        assert _read_entry(stand_in, found) == data
    cache.evict(lambda _: True)
    assert stand_in.lookup(key_of("a")) is None


# --- users without a home --------------------------------------------------------------------------------------------


def test_a_user_without_a_home_and_a_name_gets_a_private_temporary_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    import platformdirs

    def refuse(*_: object, **__: object) -> str:
        raise RuntimeError("could not determine the home directory")

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(platformdirs, "user_cache_dir", refuse)
    monkeypatch.delenv("CASSTORE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # another default than that of the tests before
    with pytest.warns(UserWarning, match=rf"no home directory: set CASSTORE_DIR; using {tmp_path}/tmp/casstore-"):
        cache = casstore.open()
    assert os.stat(cache.root).st_mode & 0o777 == 0o700
    fill(cache, key_of("a"), b"bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert casstore.open() is cache
    cache.close()


@pytest.mark.needs_root
def test_the_number_of_a_user_alone_is_enough(tmp_path: Path) -> None:
    code = """
for name in ("HOME", "XDG_CACHE_HOME", "CASSTORE_DIR"): os.environ.pop(name, None)
os.setgroups([]); os.setgid(54321); os.setuid(54321)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cache = casstore.open()
fill(cache, key_of("a"), b"bytes")
assert read(cache, key_of("a")) == b"bytes"
cache.close()
print(cache.root, *(warning.message for warning in caught))
"""
    let_others_in(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", _LOADED + code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/tmp/casstore-54321 ~/.cache/casstore: user 54321 has no home directory")
