"""Makes the checkout's virtual environments, for the scripts beside this file: standard library only.

An environment is keyed by a hash of what it is made from, so that a second run finds it ready within milliseconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = "s3,gs,azure"
"""For the group dev. One set for all scripts, or each would make the environment anew for its own."""
_STAMP = "made-from"


def ensure(group: str = "dev", extras: str = EXTRAS, *, with_node: bool = False) -> Path:
    """The Python of an environment that holds this checkout (editable) and a dependency group of pyproject.toml.

    ``.venv`` for the group ``dev``, ``.venv-GROUP`` for another. A version such as ``3.13`` is the group ``dev`` on
    that Python, which must be the one that runs this. *extras* is a comma-separated list of the project's own. Made or
    renewed when pyproject.toml or the interpreter changed. *with_node* says that the programs from npm are
    wanted too, in ``node`` below it. Raises SystemExit with pip's own words above.
    """
    directory = _directory(group)
    python = directory / "bin" / "python"
    directory.mkdir(exist_ok=True)
    with open(directory / "making.lock", "w", encoding="utf-8") as lock:
        # Two scripts may start at once in a fresh clone.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(group, extras):
            # What another script asked for stays, or two would make it anew in turns.
            both = sorted(_split(extras) | _stamped_extras(group))
            (directory / _STAMP).unlink(missing_ok=True)
            made_from = _made_from()
            _make(directory, python, group, ",".join(both))
            (directory / _STAMP).write_text("\n".join([made_from, *both]), encoding="utf-8")
        if with_node:
            _install_node_programs(directory / "node")
    return python


def is_ready(group: str, extras: str = "") -> bool:
    """Whether `ensure` would find its environment as it should be."""
    stamp = _directory(group) / _STAMP
    is_made = stamp.exists() and stamp.read_text(encoding="utf-8").partition("\n")[0] == _made_from()
    has_all = _split(extras) <= _stamped_extras(group)
    return is_made and has_all and (_directory(group) / "bin" / "python").exists()


def requirements(group: str) -> list[str]:
    """What pyproject.toml has in a dependency group."""
    project: dict[str, dict[str, list[str]]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["dependency-groups"]["dev" if group[0].isdigit() else group]


def node_programs() -> dict[str, str]:
    """What the tests use of npm, with the version of each."""
    project: dict[str, dict[str, dict[str, dict[str, str]]]] = tomllib.loads(
        (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    return project["tool"]["casstore"]["node"]


def _directory(group: str) -> Path:
    return ROOT / (".venv" if group == "dev" else f".venv-{group}")


def _split(extras: str) -> set[str]:
    return set(filter(None, extras.split(",")))


def _stamped_extras(group: str) -> set[str]:
    stamp = _directory(group) / _STAMP
    return set(stamp.read_text(encoding="utf-8").split("\n")[1:]) if stamp.exists() else set()


def _made_from() -> str:
    metadata = (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(b"\0".join([metadata, sys.version.encode(), str(ROOT).encode()])).hexdigest()


def _make(directory: Path, python: Path, group: str, extras: str) -> None:
    print(f"Making {directory.name} (once for each pyproject.toml; a minute or two) ...", file=sys.stderr, flush=True)
    if not _works(python):
        for leftover in ("bin", "lib", "lib64", "include"):
            path = directory / leftover
            path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(directory)], "Debian and Ubuntu keep venv in the package python3-venv.")
    itself = f"{ROOT}[{extras}]" if extras else str(ROOT)
    # Not compiling on installation saves a fifth of its time: most modules of the SDKs are never imported.
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
    _run([*pip, *requirements(group), "--editable", itself], "Is the package index reachable?")


def _install_node_programs(directory: Path) -> None:
    """Where that cannot be, it is said; tests that need them are skipped then (and fail where ``CI`` is set)."""
    wanted = {name: version for name, version in node_programs().items() if _node_version(directory, name) != version}
    if not wanted:
        return
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        print(
            "There is no Node.js (node and npm): what needs Azurite or pyright cannot run.", file=sys.stderr, flush=True
        )
        return
    programs = [f"{name}@{version}" for name, version in wanted.items()]
    print(f"Installing {', '.join(programs)} from npm (once; a minute or two) ...", file=sys.stderr, flush=True)
    directory.mkdir(exist_ok=True)
    (directory / "package.json").write_text("{}\n", encoding="utf-8")
    quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--omit=dev", "--loglevel=error"]
    if subprocess.run([npm, "install", "--prefix", str(directory), *quiet, *programs], stdout=2).returncode != 0:
        print("npm failed, see above: what needs Azurite or pyright cannot run.", file=sys.stderr, flush=True)


def _node_version(directory: Path, name: str) -> str | None:
    try:
        package: dict[str, str] = json.loads((directory / "node_modules" / name / "package.json").read_bytes())
    except FileNotFoundError:
        return None
    return package["version"]


def _works(python: Path) -> bool:
    """Whether the interpreter is there and is the one that asks; an upgrade of Python leaves a broken environment."""
    if not python.exists():
        return False
    answer = subprocess.run([python, "-c", "import sys, pip; print(sys.version)"], capture_output=True, text=True)
    return answer.returncode == 0 and answer.stdout.strip() == sys.version


def _run(command: list[str], hint: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if subprocess.run(command, env=environment).returncode != 0:
        raise SystemExit(f"{' '.join(command[:6])} ... failed; see above. {hint}")
