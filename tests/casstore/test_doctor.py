"""``casstore doctor``: each problem is named with a fix, and no file is left behind."""

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
from casstore.doctor import Check, CheckState
from casstore.fs import files, mounts
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
    assert all(check.advice for check in found if check.state is CheckState.FAILED)
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def _wrong(root: str | Path) -> list[str]:
    return [name for name, check in _checks(root).items() if check.state is CheckState.FAILED]


@pytest.mark.needs_locks
def test_a_sound_store_has_no_problems_and_is_unchanged(filled: Cache) -> None:
    before = {path: what for path, what in _tree(filled.root).items() if not path.endswith("/.")}
    checks = _checks(filled.root)
    assert [name for name, check in checks.items() if check.state is CheckState.FAILED] == []
    assert checks["store"].found == filled.root
    assert "rows in" in checks["index"].found
    assert {"lmdb", "boto3", "obstore"} <= set(checks)
    filled.close()
    assert {path: what for path, what in _tree(filled.root).items() if not path.endswith("/.")} == before


def test_without_a_store_none_is_created_and_the_report_says_so(tmp_path: Path) -> None:
    checks = _checks(tmp_path / "not" / "yet")
    assert checks["store"].state is CheckState.WARNING
    assert "there is no store" in checks["store"].found
    assert "index" not in checks
    assert os.listdir(tmp_path) == []


def test_a_damaged_index_fails_with_the_repair_command_and_is_unchanged(filled: Cache) -> None:
    os.truncate(filled.layout.index_file(1), 3 * 4096)
    for _ in range(2):
        check = _checks(filled.root)["index"]
        assert (check.state, "verify --repair" in check.advice) == (CheckState.FAILED, True)
    assert sorted(os.listdir(filled.layout.index)) == ["1", "CURRENT"]


@pytest.mark.needs_locks
def test_a_store_that_cannot_be_opened_fails_and_the_other_checks_run(filled: Cache) -> None:
    Path(filled.layout.store).write_text("{")
    assert _wrong_in_a_process(filled.root) == ["store"]


def test_a_disk_with_less_than_min_free_fails(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_MIN_FREE", "1000PB")
    assert "free space" in _wrong_in_a_process(filled.root)


def _wrong_in_a_process(root: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "casstore", "--dir", root, "doctor", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1_000,
    )
    found = json.loads(done.stdout)
    wrong = [check["name"] for check in found["checks"] if check["state"] == "wrong"]
    assert (done.returncode, found["is_good"]) == (1 if wrong else 0, not wrong)
    return wrong


def test_locks_that_do_not_exclude_fail(filled: Cache) -> None:
    here = str(Path(nolocks.__file__).parent)
    assert _wrong_in_a_process(filled.root, PYTHONPATH=here, CASSTORE_TEST_NO_LOCKS="1") == ["file locks"]


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "vfat"])
def test_an_unsuitable_file_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(mounts, "mount_of", lambda path: mounts.Mount(1, kind))
    check = _checks(tmp_path)["file system"]
    assert (check.state, kind in check.found) == (CheckState.FAILED, True)


@pytest.mark.needs_root
def test_other_users_who_can_replace_the_store_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _checks(tmp_path / "store")["other users"].state is CheckState.OK
    tmp_path.chmod(0o777)
    found = _checks(tmp_path / "store")["other users"]
    assert found.state is (CheckState.FAILED if os.geteuid() else CheckState.WARNING)
    assert found.found == f"every user can write to {tmp_path} and replace the store"
    monkeypatch.setenv("CASSTORE_TRUST_ROOT", "1")
    assert _checks(tmp_path / "store")["other users"].state is CheckState.WARNING


def test_a_disk_without_reflinks_is_a_warning(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as place:
        checks = _checks(place)
        assert checks["file system"].found == "tmpfs"
        assert checks["hard links"].state is CheckState.OK
        assert checks["reflinks"].state is CheckState.WARNING


def test_refused_hard_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files, "link", refuse)
    assert "hard links" in _wrong(tmp_path)
    assert os.listdir(tmp_path) == []


def test_pending_writes_are_a_warning(filled: Cache) -> None:
    pend(filled)
    check = _checks(filled.root)["pending writes"]
    assert (check.state, check.found) == (CheckState.WARNING, "1 not uploaded")


def _need(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    about = Message()
    about["Provides-Extra"] = "odd"
    for line in lines:
        about["Requires-Dist"] = line
    monkeypatch.setattr("importlib.metadata.metadata", lambda _: about)


@pytest.mark.parametrize(
    ("line", "name", "state"),
    [
        ("xxhash>=3.1", "xxhash", CheckState.OK),
        ("xxhash>=999.1", "xxhash", CheckState.FAILED),
        ("xxhash!=3.0,>=3.1; python_version >= '3.11'", "xxhash", CheckState.OK),
        ("no-such-package>=1", "no-such-package", CheckState.FAILED),
        ("no-such-package>=1; extra == 'odd'", "no-such-package", CheckState.WARNING),
    ],
)
def test_packages_are_compared_with_the_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, name: str, state: CheckState
) -> None:
    _need(monkeypatch, line)
    assert _checks(tmp_path)[name].state is state


def test_requirements_of_another_platform_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _need(
        monkeypatch,
        "no-such-package>=1; sys_platform == 'nowhere'",
        "casstore[odd]; extra == 'odd'",
        "xxhash>=3.1",
    )
    found = _checks(tmp_path)
    assert "xxhash" in found
    assert {"no-such-package", "casstore"}.isdisjoint(found)


def test_a_missing_extra_is_named_with_its_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _need(monkeypatch, "no-such-package>=1; extra == 'odd'")
    check = _checks(tmp_path)["no-such-package"]
    assert (check.found, check.advice) == (
        "not installed: part of the extra odd",
        "pip install 'casstore[odd]'",
    )


@pytest.mark.needs_locks
def test_the_table_and_json_list_every_check(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", filled.root, "doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert run(["--dir", filled.root, "doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(lines) == len(found["checks"]) + 1
    assert found["checks"][0] == {"name": "store", "state": "good", "found": filled.root, "advice": ""}
