"""Ctrl-C, and handlers that use the library, at every point of every kind of call: nothing stays locked or half.

`tests/harness/interrupts.py` says what a point is, `tests/harness/interrupt_calls.py` what is called, and
`tests/harness/interrupt_scenes.py` what is checked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.interrupt_calls import SAMPLED, SCENES
from tests.harness.sampling import by_pass

pytestmark = pytest.mark.needs_locks

ROOT: Final = Path(__file__).parents[2]
HANDLED: Final = ("warm-hit", "cold-read", "write", "append", "unlink", "listing", "collect")
"""Of each kind one: a handler takes its time."""


def run(directory: Path, scene: str, how: str, count: int, control: str = "none") -> dict[str, Any]:
    """Return what the process of one scene reports."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.interrupt_scenes", scene, how, str(count), control, str(directory)],
        cwd=ROOT,
        env={**os.environ, "CASSTORE_LOCK_TIMEOUT": "20" if control == "none" else "0.1"},
        capture_output=True,
        text=True,
        timeout=3_000,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def shown(violations: list[dict[str, Any]]) -> str:
    """Return a line for each."""
    return "\n".join(f"{each['point']} {each['where']}: {'; '.join(each['wrong'])}" for each in violations)


@pytest.mark.parametrize("scene", SCENES)
def test_an_interrupt_at_any_point_leaves_nothing_locked_and_nothing_half(tmp_path: Path, scene: str) -> None:
    report = run(tmp_path, scene, "raise", by_pass(12, 0))
    assert report["points"] > 100
    assert not (wrong := report["violations"]), shown(wrong)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scene", SAMPLED)
def test_an_interrupt_of_other_calls_does_not_either(tmp_path: Path, scene: str) -> None:
    report = run(tmp_path, scene, "raise", by_pass(6, 12))
    assert report["points"] > 100
    assert not (wrong := report["violations"]), shown(wrong)


@pytest.mark.parametrize("scene", HANDLED)
def test_a_handler_that_reads_and_writes_at_any_point_never_waits_for_itself(tmp_path: Path, scene: str) -> None:
    report = run(tmp_path, scene, "handle", by_pass(12, 0))
    assert not (wrong := report["violations"]), shown(wrong)


@pytest.mark.parametrize(
    ("scene", "how", "control", "expected"),
    [
        ("cold-read", "raise", "flights", "a (flight|fill)"),
        ("text-write", "raise", "text", "a half object"),
    ],
)
def test_without_its_mending_a_fault_is_noticed(
    tmp_path: Path, scene: str, how: str, control: str, expected: str
) -> None:
    """The negative control."""
    report = run(tmp_path, scene, how, 0, control)
    assert any(re.search(expected, wrong) for violation in report["violations"] for wrong in violation["wrong"])
