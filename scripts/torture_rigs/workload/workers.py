"""Worker processes: started here, and all ended before a check."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time
from typing import Final

from torture_rigs.run_state import Run
from torture_rigs.workload.reads import run_worker

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_STOP_SECONDS: Final = 10.0


def adopt_orphans() -> None:
    """Adopt the children of killed workers, so that none of them is alive during a check (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def bear(run: Run, number: int, seed: str) -> int:
    """Fork a worker with its own process group; return its pid. Call with one thread and no open store."""
    pid = os.fork()
    if pid == 0:
        _die_with_parent()
        run.slot = 2 * (number % 30)
        run_worker(run, seed)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _die_with_parent() -> None:
    """Kill the workers when the rig ends in any way (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_all() -> None:
    """Kill every child of this process, and those that it adopts meanwhile."""
    while pids := _children(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def stop_all(groups: list[int]) -> None:
    """Kill these process groups, and wait until no process of them runs."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGSTOP)
    deadline = time.monotonic() + _STOP_SECONDS
    while any(_state(pid) not in "TtZX" for pid in _descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.0005)


def locks_exclude(directory: str) -> bool:
    """Whether locks work; tests may replace them by functions that return at once."""
    with open(f"{directory}/lock", "wb") as one, open(f"{directory}/lock", "wb") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    return found + [further for child in found for further in _descendants(child)]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        found = [int(child) for child in file.read().split()]
    return found


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
