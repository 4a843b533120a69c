"""The suite under conditions worse than usual: `Variant`, for `scripts/test`; standard library only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from devtools import run_as_nobody as nobody
from devtools.environment import ROOT

_OTHER: Final = Path("/dev/shm")
_ROOM: Final = 2 << 30
"""Bytes that a run may leave behind: containers often give /dev/shm no more than 64 MiB."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the suite; the default is the plain one. *seed* is for the order and for Python's hashes."""

    no_locks: bool = False
    nobody: bool = False
    other_tmp: bool = False
    shuffled: bool = False
    seed: int = 0

    @property
    def is_plain(self) -> bool:
        return not (self.no_locks or self.nobody or self.other_tmp or self.shuffled)

    def __str__(self) -> str:
        parts = {
            "without file locks": self.no_locks,
            "as nobody": self.nobody,
            f"TMPDIR in {_OTHER}": self.other_tmp,
            f"in random order with random hashes (--seed {self.seed})": self.shuffled,
        }
        return ", ".join(name for name, is_so in parts.items() if is_so) or "plain"


def seed_of_commit() -> int:
    """The same for everybody who tests the same commit: a green run here is then one elsewhere."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(answer.stdout[:8], 16) if answer.returncode == 0 else 0


def run(python: str, variant: Variant, arguments: list[str]) -> int:
    """Run pytest; what of *variant* this machine does not allow is left out, and said. Returns pytest's status."""
    if variant.is_plain:
        return _run([python, "-m", "pytest", *arguments], variant, {})
    variant = _without(variant, "other_tmp", _why_no_other_file_system())
    variant = _without(variant, "nobody", _why_not_nobody())
    with tempfile.TemporaryDirectory(
        prefix="casstore-suite-", dir=_OTHER if variant.other_tmp else None, ignore_cleanup_errors=True
    ) as scratch:
        return _run_in(scratch, python, variant, arguments)


def _run_in(scratch: str, python: str, variant: Variant, arguments: list[str]) -> int:
    # Nothing is written into the checkout: nobody may not, and random order has no use for the last run's failures.
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=failed", *arguments]
    variables = {
        "TMPDIR": scratch,
        "HOME": f"{scratch}/home",
        "PYTHONPYCACHEPREFIX": f"{scratch}/pycache",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{scratch}/hypothesis",
    }
    os.mkdir(variables["HOME"])
    # Other samples than those of the plain pass.
    variables["CASSTORE_TEST_SEED"] = str(variant.seed + 1)
    if variant.no_locks:
        variables["CASSTORE_TEST_NO_LOCKS"] = "1"
        pytest += ["-m", "not needs_locks"]
    if variant.shuffled:
        variables["PYTHONHASHSEED"] = str(variant.seed)
        pytest += ["-p", "randomly", "--randomly-dont-reset-seed", f"--randomly-seed={variant.seed}"]
    if not variant.nobody:
        return _run(pytest, variant, variables)
    user = pwd.getpwnam("nobody")
    for path in (scratch, variables["HOME"]):
        os.chown(path, user.pw_uid, user.pw_gid)
    prefix = subprocess.run([python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True)
    needed = [str(ROOT), str(ROOT / "pyproject.toml"), prefix.stdout.strip()]
    become = [sys.executable, "-B", nobody.__file__, *needed, "--"]
    if subprocess.run([*become, python, "-c", ""], cwd=ROOT, env={**os.environ, **variables}).returncode == 0:
        return _run([*become, *pytest], variant, variables)
    for path in (scratch, variables["HOME"]):
        os.chown(path, os.getuid(), os.getgid())
    return _run(pytest, _without(variant, "nobody", "see above"), variables)


def _run(command: list[str], variant: Variant, variables: dict[str, str]) -> int:
    shown = command[command.index("pytest") :]
    print(f"== {' '.join(shown)}\n   {variant}", flush=True)
    start = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}).returncode
    if not variant.is_plain:
        print(f"   {'ok' if status == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s: {variant}", flush=True)
    return status


def _without(variant: Variant, condition: str, reason: str) -> Variant:
    if not reason or not getattr(variant, condition):
        return variant
    left: Variant = replace(variant, **{condition: False})
    print(f"   NOT {replace(Variant(), **{condition: True})}: {reason}", flush=True)
    return left


def _why_no_other_file_system() -> str:
    if not _OTHER.is_dir() or not os.access(_OTHER, os.W_OK):
        return f"there is no {_OTHER}"
    if _OTHER.stat().st_dev == os.stat(tempfile.gettempdir()).st_dev:
        return "it is the usual one"
    free = shutil.disk_usage(_OTHER).free
    return "" if free >= _ROOM else f"it has {free >> 20} MiB, and this may need {_ROOM >> 20}"


def _why_not_nobody() -> str:
    if os.geteuid() != 0:
        return "only root can become nobody"
    return "" if sys.platform == "linux" else "this needs Linux"
