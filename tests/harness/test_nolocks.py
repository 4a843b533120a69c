"""The lock-free run proves nothing unless locks really are off, here and in children."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import nolocks

TWO_HOLDERS = """
import fcntl, sys
with open(sys.argv[1], "w") as one, open(sys.argv[1], "w") as two:
    fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("both hold it", end="")
"""


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts fcntl and the environment back after the test."""
    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, getattr(fcntl, name))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv(nolocks.VARIABLE, "1")


def test_two_hold_an_exclusive_lock_in_this_process_and_in_a_child(restored: None, tmp_path: Path) -> None:
    nolocks.install()
    exec(TWO_HOLDERS.replace("sys.argv[1]", repr(str(tmp_path / "lock"))))
    child = subprocess.run(
        [sys.executable, "-c", TWO_HOLDERS, tmp_path / "lock"], capture_output=True, text=True, check=True
    )
    assert child.stdout == "both hold it"


def test_other_fcntl_calls_still_work(restored: None, tmp_path: Path) -> None:
    nolocks.install()
    with open(tmp_path / "file", "w") as file:
        assert fcntl.fcntl(file, fcntl.F_GETFD) == fcntl.FD_CLOEXEC


def test_the_lock_of_a_file_bucket_still_excludes(restored: None, tmp_path: Path) -> None:
    nolocks.install()
    own = {"__name__": "pathapi.backends.file.atomic"}
    with pytest.raises(BlockingIOError):
        exec(TWO_HOLDERS.replace("sys.argv[1]", repr(str(tmp_path / "lock"))), own)
