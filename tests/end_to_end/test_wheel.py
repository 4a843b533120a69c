"""The built wheel, as a user gets it: alone in a fresh environment, without an extra."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SDKS = ("boto3", "botocore", "google.cloud", "azure", "obstore", "urllib3", "fsspec")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", directory, ROOT)
    (built,) = directory.glob("casstore-*.whl")
    return built


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and what it requires, and nothing else."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin" / "python"
    _pip(python, "install", "--no-compile", wheel)
    return python


def _pip(python: Path | str, command: str, *arguments: Path | str) -> None:
    subprocess.run([python, "-m", "pip", command, "-q", "--disable-pip-version-check", *arguments], check=True)


def _run(python: Path, code: str, cwd: Path) -> str:
    """What *code* prints, run in isolation: neither the checkout nor PYTHONPATH is on its path."""
    done = subprocess.run(
        [python, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, env={"CASSTORE_DIR": str(cwd / "store")}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_both_packages_typed_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"casstore", "pathapi"}
    assert {"casstore/py.typed", "pathapi/py.typed"} <= set(names)


@pytest.mark.slow
def test_a_file_url_is_served_through_the_cache_with_nothing_else_installed(fresh_python: Path, tmp_path: Path) -> None:
    data = tmp_path / "bucket" / "data.txt"
    data.parent.mkdir()
    data.write_bytes(b"kept once")
    code = f"""
import importlib.util
found = [name for name in {SDKS!r} if importlib.util.find_spec(name.partition(".")[0])]
assert not found, found

import casstore
from pathapi import CloudPath
path = CloudPath({data.as_uri()!r})
assert path.read_bytes() == b"kept once"
(entry,) = casstore.open().entries()
print(entry.uri, entry.size)
"""
    assert _run(fresh_python, code, tmp_path).split() == [data.as_uri(), "9"]


@pytest.mark.slow
def test_the_command_works_with_nothing_else_installed(fresh_python: Path, tmp_path: Path) -> None:
    command = fresh_python.with_name("casstore")
    done = subprocess.run([command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "prefetch" in done.stdout, "pathapi's commands join through the entry point"
    assert (
        _pip_version(fresh_python, tmp_path)
        in subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True).stdout
    )


def _pip_version(python: Path, cwd: Path) -> str:
    return _run(python, "from importlib.metadata import version; print(version('casstore'), end='')", cwd)


def test_importing_pathapi_loads_no_sdk_and_nothing_of_the_command_line(tmp_path: Path) -> None:
    absent = (*SDKS, "click", "rich", "blake3")
    code = f"import sys, pathapi; print([name for name in {absent!r} if name in sys.modules], end='')"
    # Here, where all of them are installed: in an environment without them it would be no feat.
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]", done.stderr
