"""Which other users can put something in the place of a path."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from casstore.fs import ownership
from casstore.fs.ownership import Intruder, find_changers, find_movers, find_owner, find_writers, gravest

_STRANGER = 4_711


def _find_mover(path: str) -> Intruder | None:
    return gravest(find_movers(path))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two directories that only this user may write to."""
    (tmp_path / "above" / "below").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "above", tmp_path / "above" / "below"):
        path.chmod(0o755)
    return tmp_path / "above" / "below"


def _name_the_group(monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], user: str = "me") -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name=name, gr_mem=members))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=user))


def test_what_only_this_user_can_rename_is_safe_and_so_is_what_is_missing(place: Path) -> None:
    assert _find_mover(str(place)) is None
    assert _find_mover(str(place / "not" / "made")) is None
    assert find_changers(str(place)) is None
    assert find_owner(str(place)) is None
    assert find_owner(str(place / "missing")) is None


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o2777])
@pytest.mark.parametrize("missing", [False, True])
def test_a_writable_directory_above_lets_every_user_replace_what_is_below(
    place: Path, mode: int, missing: bool
) -> None:
    place.parent.chmod(mode)
    assert _find_mover(str(place / "missing" if missing else place)) == Intruder("every user", str(place.parent))
    assert find_changers(str(place.parent)) == Intruder("every user", str(place.parent))


def test_in_a_sticky_directory_a_file_is_its_owners(place: Path) -> None:
    place.parent.chmod(0o1777)
    assert _find_mover(str(place)) is None
    assert _find_mover(str(place / "missing")) is None
    assert find_changers(str(place.parent)) is not None


@pytest.mark.needs_root
def test_an_owner_of_a_directory_above_or_of_a_name_in_a_sticky_one_is_found(place: Path) -> None:
    place.parent.chmod(0o1777)
    os.chown(place, _STRANGER, -1)
    expected = Intruder(f"user {_STRANGER}", str(place))
    assert _find_mover(str(place)) == _find_mover(str(place / "file")) == expected
    assert find_owner(str(place)) == _STRANGER
    os.chown(place, 0, -1)
    os.chown(place.parent, _STRANGER, -1)
    assert _find_mover(str(place)) == Intruder(f"user {_STRANGER}", str(place.parent))


@pytest.mark.parametrize("relative", [False, True])
def test_the_way_through_symbolic_links_is_checked_too(place: Path, tmp_path: Path, relative: bool) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (open_to_all / "second").symlink_to("../above" if relative else place.parent)
    (tmp_path / "first").symlink_to("open/second" if relative else open_to_all / "second")
    assert _find_mover(str(tmp_path / "first" / "below")) == Intruder("every user", str(open_to_all))
    open_to_all.chmod(0o755)
    assert _find_mover(str(tmp_path / "first" / "below")) is None
    (tmp_path / "circle").symlink_to("circle")
    assert _find_mover(str(tmp_path / "circle" / "below")) is None


@pytest.mark.parametrize(
    ("name", "members", "is_safe"),
    [("me", [], True), ("me", ["me"], True), ("me", ["me", "you"], False), ("lab", [], False), ("lab", ["me"], False)],
)
def test_a_group_with_other_users_may_not_write_and_the_users_own_may(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], is_safe: bool
) -> None:
    place.chmod(0o775)
    status = os.stat(place)
    _name_the_group(monkeypatch, name, members)
    as_seen = os.stat_result((*status[:4], 1000, 1000, *status[6:]))
    assert (find_writers(str(place), as_seen) is None) is is_safe


def test_the_group_of_root_may_write_unless_it_has_members(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.chmod(0o775)
    status = os.stat(place)
    as_seen = os.stat_result((*status[:4], 1000, 0, *status[6:]))
    for members, is_safe in (([], True), (["root"], True), (["you"], False)):
        _name_the_group(monkeypatch, "root", members, user="root")
        assert (find_writers(str(place), as_seen) is None) is is_safe


def test_an_access_control_list_may_name_any_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.chmod(0o775)
    monkeypatch.setattr(os, "listxattr", lambda _: ["system.posix_acl_access"], raising=False)
    _name_the_group(monkeypatch, "me", [])
    assert find_changers(str(place)) is not None


def test_users_without_a_number_in_the_namespace_are_trusted_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for is_namespace in (False, True):
        monkeypatch.setattr(ownership, "_is_namespace", lambda is_namespace=is_namespace: is_namespace)
        assert ownership._is_trusted(65534) is is_namespace
        assert not ownership._is_trusted(_STRANGER)
        assert ownership._is_trusted(0)
