"""Who may read a file that replaces another one."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from casstore.fs import copying, files

_ACL = "system.posix_acl_access"
_GROUP, _OTHER_GROUP, _OTHER_USER = 12_345, 12_346, 12_347


@pytest.fixture(autouse=True)
def _common_umask() -> Iterator[None]:
    former = os.umask(0o022)
    yield
    os.umask(former)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(b"secret")
    with files.opened(str(tmp_path / "source"), os.O_RDONLY) as descriptor:
        yield descriptor


@pytest.mark.parametrize("named", [False, True])
def test_bytes_for_a_private_file_are_private_while_they_are_copied(
    tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "private").write_bytes(b"before")
    (folder / "private").chmod(0o600)
    modes: list[int] = []
    original = copying.copy_bytes

    def copy_bytes(one: int, other: int) -> int:
        count = original(one, other)
        modes.extend([stat.S_IMODE(os.fstat(other).st_mode), *map(_mode, folder.iterdir())])
        return count

    monkeypatch.setattr(copying, "clone", lambda *_: False)
    monkeypatch.setattr(copying, "copy_bytes", copy_bytes)
    if named:
        monkeypatch.setattr(files, "open_unnamed", lambda *_: None)
    copying.copy_out(source, str(folder / "private"))
    assert modes
    assert set(modes) == {0o600}
    assert (folder / "private").read_bytes() == b"secret"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o755, 0o4755])
def test_a_copy_keeps_the_mode_of_the_file_that_it_replaces(tmp_path: Path, source: int, mode: int) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    target.chmod(mode)
    copying.copy_out(source, str(target))
    assert _mode(target) == mode & 0o777
    copying.copy_out(source, str(tmp_path / "new"))
    assert _mode(tmp_path / "new") == 0o644


def test_a_private_file_that_appears_during_the_copy_stays_private(
    tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    original = files.link_descriptor

    def link_descriptor(descriptor: int, name: str) -> None:
        if name == str(target):
            target.touch(0o600)
        original(descriptor, name)

    monkeypatch.setattr(files, "link_descriptor", link_descriptor)
    if files.open_unnamed(str(tmp_path)) is None:
        pytest.skip("no O_TMPFILE here")
    copying.copy_out(source, str(target))
    assert (_mode(target), target.read_bytes()) == (0o600, b"secret")


@pytest.mark.needs_root
def test_root_leaves_a_file_to_its_owner_and_group(tmp_path: Path, source: int) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    os.chown(target, _OTHER_USER, _GROUP)
    target.chmod(0o640)
    copying.copy_out(source, str(target))
    found = target.stat()
    assert (found.st_uid, found.st_gid, _mode(target)) == (_OTHER_USER, _GROUP, 0o640)


@pytest.mark.parametrize(("mode", "left"), [(0o640, 0o600), (0o664, 0o644), (0o770, 0o700)])
def test_a_group_that_cannot_be_kept_gives_its_rights_to_no_other_group(
    tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch, mode: int, left: int
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    target.chmod(mode)
    original = os.stat

    def stat_of_another_group(path: str | int) -> os.stat_result:
        found = original(path)
        return os.stat_result((*found[:5], _OTHER_GROUP, *found[6:]))

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "stat", stat_of_another_group)
    monkeypatch.setattr(os, "fchown", refuse)
    with files.opened(str(tmp_path / "new"), os.O_RDWR | os.O_CREAT) as descriptor:
        copying.copy_permissions(descriptor, str(target))
    monkeypatch.undo()
    assert _mode(tmp_path / "new") == left


def _set_acl(path: Path, user: int, mask: int) -> None:
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 4, user), (4, 0, nobody), (16, mask, nobody), (32, 0, nobody)]
    try:
        os.setxattr(path, _ACL, struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))
    except (OSError, AttributeError):
        pytest.skip("no access control lists here")


def test_a_copy_keeps_the_access_control_list_of_the_file_that_it_replaces(tmp_path: Path, source: int) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    _set_acl(target, _OTHER_USER, 4)
    before = os.getxattr(target, _ACL)
    copying.copy_out(source, str(target))
    assert os.getxattr(target, _ACL) == before


def test_a_copy_has_no_list_that_the_replaced_file_did_not_have(tmp_path: Path, source: int) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    target.chmod(0o640)
    with files.opened(str(tmp_path / "new"), os.O_RDWR | os.O_CREAT) as descriptor:
        _set_acl(tmp_path / "new", _OTHER_USER, 4)
        copying.copy_permissions(descriptor, str(target))
    assert _ACL not in os.listxattr(tmp_path / "new")
    assert _mode(tmp_path / "new") == 0o640


@pytest.mark.parametrize("named", [False, True])
def test_a_file_that_is_replaced_keeps_its_mode(
    tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    (tmp_path / "target").write_bytes(b"before")
    (tmp_path / "target").chmod(0o640)
    if named:
        monkeypatch.setattr(files, "open_unnamed", lambda *_: None)
    copying.copy_out(source, str(tmp_path / "target"))
    assert _mode(tmp_path / "target") == 0o640
