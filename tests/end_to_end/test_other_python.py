"""`scripts/test --full` finds the newest Python of the machine, and goes on where there is none that can be used."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
OWN = sys.version_info[:3]
OLDER = (OWN[0], OWN[1] - 1)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("devtools.other_python")


def link(directory: Path, name: str, target: str | None = sys.executable) -> Path:
    """Put a program there; a link, since the file system of the tests may forbid to execute files."""
    assert target is not None
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).symlink_to(target)
    return directory / name


@pytest.mark.parametrize("where", ["path", "pyenv", "home"])
def test_a_newer_python_is_found_on_path_and_in_pyenv(tool: Any, tmp_path: Path, where: str) -> None:
    link(tmp_path / "bin", "python3")
    link(tmp_path / "bin", "python3.99-config")
    below = {"path": "bin", "pyenv": "root/versions/x/bin", "home": "home/.pyenv/versions/x/bin"}[where]
    program = link(tmp_path / below, "python3.99")
    environment = {"PATH": f":{tmp_path / 'bin'}:/nowhere", "HOME": str(tmp_path / "home")}
    if where == "pyenv":
        environment["PYENV_ROOT"] = str(tmp_path / "root")
    assert tool.find_newest(environment, OLDER) == (program, OWN)
    assert tool.find_newest(environment, OWN[:2]) is None
    assert tool.find_newest({}, OLDER) is None


def test_what_does_not_start_is_passed_over(tool: Any, tmp_path: Path) -> None:
    link(tmp_path / "bin", "python3.98", shutil.which("false"))
    link(tmp_path / "bin", "python3.97", "nowhere")
    link(tmp_path / "bin", "python3.96", shutil.which("echo"))
    (tmp_path / "bin/python3.95").write_text("")
    environment = {"PATH": str(tmp_path / "bin")}
    assert tool.find_newest(environment, OLDER) is None
    program = link(tmp_path / "bin", "python3.94")
    assert tool.find_newest(environment, OLDER) == (program, OWN)


def test_the_newest_is_chosen_and_an_older_one_is_not_started(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"python3.9": (3, 9, 7), "python3.12": (3, 12, 1), "python3.13": (3, 13, 0), "python3.14": None}
    for name in versions:
        link(tmp_path / "bin", name)
    asked = []

    def version_of(program: Path, environment: Any) -> Any:
        asked.append(program.name)
        return versions[program.name]

    monkeypatch.setattr(tool, "_version_of", version_of)
    found = tool.find_newest({"PATH": str(tmp_path / "bin")}, (3, 11))
    assert found == (tmp_path / "bin/python3.13", (3, 13, 0))
    assert sorted(asked) == ["python3.12", "python3.13", "python3.14"]


def test_without_a_newer_python_the_run_goes_on(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "find_newest", lambda environment, newer_than: None)
    assert tool.run_path_suites() == 0
    assert capsys.readouterr().out == f"== no Python newer than {OWN[0]}.{OWN[1]} was found to test on\n"


def test_without_its_environment_the_run_goes_on(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Path(shutil.which("false") or ""), (3, 99, 0)
    monkeypatch.setattr(tool, "find_newest", lambda environment, newer_than: found)
    assert tool.run_path_suites() == 0
    assert capsys.readouterr().out == ("== NOT TESTED on Python 3.99: its environment cannot be made, see above\n")


def test_making_the_environment_ends_in_time(tool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tool, "_MAKING_SECONDS", 0.1)
    monkeypatch.setattr(tool, "_MAKE", "import os, time; os.fork(); time.sleep(1_000)")
    assert tool._ensure(Path(sys.executable), "3.99") is None


@pytest.mark.parametrize("status", [0, 1])
def test_a_failure_on_the_newest_python_is_one(tool: Any, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("CASSTORE_TEST_AZURITE", os.environ.get("CASSTORE_TEST_AZURITE", ""))
    monkeypatch.setattr(tool, "find_newest", lambda environment, newer_than: (Path("python3.99"), (3, 99, 0)))
    monkeypatch.setattr(tool, "_ensure", lambda program, version: f"{program} of {version}")
    ran = []

    def run(python: str, variant: object, arguments: list[str]) -> int:
        ran.append((python, arguments[-3:]))
        return status

    monkeypatch.setattr(tool, "run", run)
    assert tool.run_path_suites() == status
    assert ran == [("python3.99 of 3.99", ["tests/pathapi/path", "tests/pathapi/metadata", "tests/pathapi/drop_in"])]
