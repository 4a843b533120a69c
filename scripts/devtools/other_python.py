"""The path suites on the newest Python of this machine, for `scripts/test --full`; standard library only."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from devtools.environment import ROOT
from devtools.suite_variants import Variant, run

_SUITES: Final = ("tests/pathapi/path", "tests/pathapi/metadata", "tests/pathapi/drop_in")
_START_SECONDS: Final = 60
_MAKING_SECONDS: Final = 900
"""A package without a wheel is compiled, which may take an hour."""
_VERSION: Final = "import sys; v = sys.version_info; print(sys.implementation.name, v.releaselevel, v[0], v[1], v[2])"
_MAKE: Final = "import sys; from devtools.environment import ensure; print(ensure(sys.argv[1]))"
_NAME: Final = re.compile(r"python3\.\d+")


def run_path_suites() -> int:
    """Run them with the quick pass's samples; without another Python or its environment, print why and return 0."""
    newest = find_newest(os.environ, sys.version_info[:2])
    if newest is None:
        print(f"== no Python newer than {sys.version_info[0]}.{sys.version_info[1]} was found to test on", flush=True)
        return 0
    program, (major, minor, _) = newest
    python = _ensure(program, f"{major}.{minor}")
    if python is None:
        print(f"== NOT TESTED on Python {major}.{minor}: its environment cannot be made, see above", flush=True)
        return 0
    azurite = ROOT / ".venv/node/node_modules/.bin/azurite-blob"
    if azurite.exists():
        os.environ.setdefault("CASSTORE_TEST_AZURITE", str(azurite))
    print(f"== Python {major}.{minor}: {program}", flush=True)
    # The peer has been compared in the main pass. No cache: another pass uses it at the same time.
    return run(python, Variant(), ["-q", "-p", "no:cacheprovider", "-k", "not cloudpathlib", *_SUITES])


def find_newest(
    environment: Mapping[str, str], newer_than: tuple[int, int]
) -> tuple[Path, tuple[int, int, int]] | None:
    """Return the newest released CPython on PATH or of pyenv, and its version; only one that starts counts."""
    found = {program: _version_of(program, environment) for program in _candidates(environment, newer_than)}
    newer = {version: program for program, version in found.items() if version is not None and version[:2] > newer_than}
    return (newer[max(newer)], max(newer)) if newer else None


def _candidates(environment: Mapping[str, str], newer_than: tuple[int, int]) -> Iterable[Path]:
    home = environment.get("HOME")
    pyenv = environment.get("PYENV_ROOT") or (f"{home}/.pyenv" if home else "")
    below = (Path(pyenv) / "versions").glob("*/bin/python3.*") if pyenv else ()
    directories = [Path(name) for name in environment.get("PATH", "").split(os.pathsep) if name]
    on_path = (each for directory in directories for each in directory.glob("python3.*"))
    for program in (*below, *on_path):
        is_newer = _NAME.fullmatch(program.name) and int(program.suffix[1:]) > newer_than[1]
        if is_newer and os.access(program, os.X_OK):
            yield program


def _version_of(program: Path, environment: Mapping[str, str]) -> tuple[int, int, int] | None:
    """Return None for what does not start (version managers leave such names on PATH) and for pre-releases."""
    command = [str(program), "-I", "-c", _VERSION]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_START_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match done.stdout.split():
        case ["cpython", "final", major, minor, micro]:
            return int(major), int(minor), int(micro)
    return None


def _ensure(program: Path, version: str) -> str | None:
    """Return the Python of ``.venv-VERSION``, which *program* itself makes as it makes ``.venv``."""
    with subprocess.Popen(
        [program, "-B", "-c", _MAKE, version],
        cwd=ROOT / "scripts",
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=_MAKING_SECONDS)
        except BaseException as error:
            # With pip and its compilers, whose parent it is.
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise
    return said.splitlines()[-1] if process.returncode == 0 else None
