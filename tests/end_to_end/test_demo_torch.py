"""`scripts/demo_torch` on a tiny dataset: by torch where a Python here has it, and by a plain pool everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "demo_torch"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Forty files, some with equal bytes, one empty, one large."""
    directory = tmp_path / "dataset"
    for number in range(39):
        path = directory / f"part {number % 5}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number % 30}\n".encode() * 2000 * (number % 30))
    (directory / "large.bin").write_bytes(os.urandom(9 << 20))
    return directory


@pytest.fixture
def train(tmp_path: Path) -> Run:
    """Runs the job with a temporary directory of its own."""
    (tmp_path / "tmp").mkdir()

    def run(*arguments: str, program: str = "", python: str = sys.executable) -> subprocess.CompletedProcess[str]:
        command = [python, program] if program else [python, "-m", "demos.training.__main__"]
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
                "TMPDIR": str(tmp_path / "tmp"),
                "CASSTORE_OFFLINE": "1",  # It must not get into the job's own store.
            },
            capture_output=True,
            text=True,
            timeout=1_000,
            stdin=subprocess.DEVNULL,
        )

    return run


def python_with_torch() -> str:
    """One that has torch and all that casstore needs; skips the test where there is none."""
    told = os.environ.get("CASSTORE_TEST_TORCH_PYTHON")
    candidates = [told] if told else [str(ROOT / ".venv-torch" / "bin" / "python"), sys.executable]
    for python in candidates:
        if os.access(python, os.X_OK) and subprocess.run([python, "-c", "import torch, boto3"]).returncode == 0:
            return python
    pytest.skip(f"no torch in {' or '.join(candidates)}: scripts/demo_torch makes one")


def check(done: subprocess.CompletedProcess[str], *, start_methods: list[str], samples: int) -> None:
    assert done.returncode in (0, 1), done.stderr
    readings: list[dict[str, Any]] = json.loads(done.stdout)
    assert [reading["start_method"] for reading in readings] == start_methods
    for reading in readings:
        assert reading["errors"] == []
        assert reading["wrong_bytes"] == 0
        assert reading["samples"] == samples
        # Nothing is stored if the last file was the large one, which alone exceeds the budget.
        assert 0 <= reading["stored_bytes"] <= reading["budget"]
        assert reading["evicted_bytes"] > 0
        assert reading["missed"] == []


@pytest.mark.slow
def test_torch_trains_while_the_collector_runs(train: Run, dataset: Path, tmp_path: Path) -> None:
    """However the DataLoader's workers are started, from a real server."""
    done = train("--dataset", str(dataset), "--workers", "2", "--json", python=python_with_torch())
    check(done, start_methods=["fork", "spawn", "forkserver"], samples=2 * (2 * 40))
    assert list((tmp_path / "tmp").glob("casstore-*")) == []  # torch leaves directories of its own


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_plain_pool_trains_while_the_collector_runs(
    train: Run, dataset: Path, tmp_path: Path, start_method: str
) -> None:
    """The same dataset class and collector, without torch and without a server."""
    options = ["--loader", "plain", "--no-server", "--dataset", str(dataset), "--workers", "4", "--json"]
    done = train(*options, "--start-method", start_method)
    check(done, start_methods=[start_method], samples=2 * (2 * 40))
    assert list((tmp_path / "tmp").iterdir()) == []


WRONG = """
import runpy, sys
from demos.training import samples

class Wrong(samples.CachedFiles):
    def _read(self, number):
        sample = super()._read(number)
        if number == 3:
            1 / 0
        wrong = self._count_wrong(number, b"!" + b"x" * sample.size) if number == 4 else 0
        return samples.Sample(number, sample.size, sample.wrong_bytes + wrong)

samples.CachedFiles = Wrong
sys.argv[0] = "training"
runpy.run_module("demos.training.__main__", run_name="__main__")
"""


@pytest.mark.slow
def test_a_wrong_byte_and_a_failure_are_counted_and_make_the_status_1(
    train: Run, dataset: Path, tmp_path: Path
) -> None:
    """What the other tests here rely on: that it can say no."""
    (tmp_path / "wrong.py").write_text(WRONG)
    options = ["--loader", "plain", "--no-server", "--dataset", str(dataset), "--workers", "2", "--json"]
    done = train(*options, "--start-method", "fork", "--epochs", "1", program=str(tmp_path / "wrong.py"))
    assert done.returncode == 1, done.stderr
    (reading,) = json.loads(done.stdout)
    assert reading["wrong_bytes"] > 0
    assert len(reading["errors"]) == 1 and "ZeroDivisionError" in reading["errors"][0]
    assert {"wrong bytes", "errors"} <= set(reading["missed"])


@pytest.mark.slow
def test_without_torch_it_is_skipped_with_the_reason(train: Run, tmp_path: Path) -> None:
    """Exit status 0, and one line."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not for this machine')")
    poor = tmp_path / "python"
    poor.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    poor.chmod(0o755)
    done = train("--python", str(poor), program=str(SCRIPT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: ") and "torch is not for this machine" in done.stdout
    assert done.stdout.count("\n") == 1
