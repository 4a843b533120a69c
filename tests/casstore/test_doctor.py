"""``casstore doctor``: what is not fit for a store is named, with a way out, and nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from casstore import Cache, doctor
from casstore.cli.main import run
from casstore.doctor import Check, State
from casstore.fs import files
from casstore.fs import mounts as machine
from tests.casstore.support.damage import fill_variously
from tests.casstore.support.fill import REPOSITORY
from tests.casstore.support.mounts import small_disk
from tests.casstore.support.pending_writes import pend
from tests.casstore.verify.test_verifier import _tree
from tests.harness import nolocks


@pytest.fixture
def filled(cache: Cache) -> Cache:
    fill_variously(cache)
    cache.close()
    return cache


def _checks(root: str | Path) -> dict[str, Check]:
    found = list(doctor.examine(root))
    assert all(check.advice for check in found if check.state is State.WRONG)
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def _wrong(root: str | Path) -> list[str]:
    return [name for name, check in _checks(root).items() if check.state is State.WRONG]


@pytest.mark.needs_locks
def test_a_sound_store_has_nothing_wrong_and_is_left_as_it_is(filled: Cache) -> None:
    before = {path: what for path, what in _tree(filled.root).items() if not path.endswith("/.")}
    checks = _checks(filled.root)
    assert [name for name, check in checks.items() if check.state is State.WRONG] == []
    assert checks["store"].found == filled.root
    assert "rows in" in checks["index"].found
    assert {"lmdb", "boto3", "obstore"} <= set(checks)
    filled.close()
    assert {path: what for path, what in _tree(filled.root).items() if not path.endswith("/.")} == before


def test_where_there_is_no_store_none_is_made_and_that_is_said(tmp_path: Path) -> None:
    checks = _checks(tmp_path / "not" / "yet")
    assert checks["store"].state is State.NOTE
    assert "none was made" in checks["store"].found
    assert "index" not in checks
    assert os.listdir(tmp_path) == []


def test_a_damaged_index_is_wrong_names_the_repair_and_stays(filled: Cache) -> None:
    os.truncate(filled.layout.index_file(1), 3 * 4096)
    for _ in range(2):
        check = _checks(filled.root)["index"]
        assert (check.state, "verify --repair" in check.advice) == (State.WRONG, True)
    assert sorted(os.listdir(filled.layout.index)) == ["1", "CURRENT"]


@pytest.mark.needs_locks
def test_a_store_that_cannot_be_opened_is_wrong_and_the_rest_is_looked_at(filled: Cache) -> None:
    Path(filled.layout.store).write_text("{")
    assert _wrong_in_a_process(filled.root) == ["store"]


def test_a_disk_with_less_room_than_is_to_stay_free_is_wrong(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_MIN_FREE", "1000PB")
    assert "free space" in _wrong_in_a_process(filled.root)


def _wrong_in_a_process(root: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "casstore", "--dir", root, "doctor", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    wrong = [check["name"] for check in found["checks"] if check["state"] == "wrong"]
    assert (done.returncode, found["is_good"]) == (1 if wrong else 0, not wrong)
    return wrong


def test_locks_that_do_not_exclude_are_wrong(filled: Cache) -> None:
    here = str(Path(nolocks.__file__).parent)
    assert _wrong_in_a_process(filled.root, PYTHONPATH=here, CASSTORE_TEST_NO_LOCKS="1") == ["file locks"]


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "vfat"])
def test_a_file_system_that_is_no_place_for_a_store_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda path: machine.Mount(1, kind))
    check = _checks(tmp_path)["file system"]
    assert (check.state, kind in check.found) == (State.WRONG, True)


@pytest.mark.needs_root
def test_a_real_disk_without_reflinks_is_told_apart(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as place:
        checks = _checks(place)
        assert checks["file system"].found == "tmpfs"
        assert checks["hard links"].state is State.GOOD
        assert checks["reflinks"].state is State.NOTE


def test_hard_links_that_are_refused_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files, "link", refuse)
    assert "hard links" in _wrong(tmp_path)
    assert os.listdir(tmp_path) == []


def test_pending_writes_are_a_note(filled: Cache) -> None:
    pend(filled)
    check = _checks(filled.root)["pending writes"]
    assert (check.state, check.found) == (State.NOTE, "1 are not in the cloud")


def _need(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    about = Message()
    about["Provides-Extra"] = "odd"
    for line in lines:
        about["Requires-Dist"] = line
    monkeypatch.setattr("importlib.metadata.metadata", lambda _: about)


@pytest.mark.parametrize(
    ("line", "name", "state"),
    [
        ("xxhash>=3.1", "xxhash", State.GOOD),
        ("xxhash>=999.1", "xxhash", State.WRONG),
        ("xxhash!=3.0,>=3.1; python_version >= '3.11'", "xxhash", State.GOOD),
        ("no-such-package>=1", "no-such-package", State.WRONG),
        ("no-such-package>=1; extra == 'odd'", "no-such-package", State.NOTE),
    ],
)
def test_packages_are_held_against_what_the_distribution_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, name: str, state: State
) -> None:
    _need(monkeypatch, line)
    assert _checks(tmp_path)[name].state is state


def test_what_another_platform_needs_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _need(monkeypatch, "no-such-package>=1; sys_platform == 'nowhere'", "casstore[odd]; extra == 'odd'", "xxhash>=3.1")
    found = _checks(tmp_path)
    assert "xxhash" in found
    assert {"no-such-package", "casstore"}.isdisjoint(found)


def test_the_extra_that_is_missing_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _need(monkeypatch, "no-such-package>=1; extra == 'odd'")
    check = _checks(tmp_path)["no-such-package"]
    assert (check.found, check.advice) == (
        "not installed: the extra odd has it",
        "pip install 'casstore[odd]'",
    )


@pytest.mark.needs_locks
def test_the_table_has_a_line_for_each_and_json_the_same(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", filled.root, "doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert run(["--dir", filled.root, "doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(lines) == len(found["checks"]) + 1
    assert found["checks"][0] == {"name": "store", "state": "good", "found": filled.root, "advice": ""}
