"""Run `casstore gc` in a loop beside the readers: `looping`, and the program that it starts.

The loop is a program, because a process that starts children from a thread while it forks leaks pipes into them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_HANGS: Final = 1200.0
"""Seconds after which a run counts as hanging."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command; *status* is None if it hung."""

    status: int | None
    out: str
    err: str

    @property
    def failure(self) -> str:
        """What failed; empty if nothing did."""
        if self.status is None:
            return f"casstore gc hung: {self.err}"
        # Blobs that came back into use leave the store over its budget: no failure while workers read.
        if self.status != 0 and self.facts.get("within_budget") is not False:
            return f"casstore gc exited with {self.status}: {self.err or self.out}"
        return "" if self.facts else f"casstore gc --json printed no JSON but {self.out!r}"

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that the command printed as JSON."""
        try:
            answer: dict[str, Any] = json.loads(self.out)
        except ValueError:
            return {}
        return answer


def run_once(store: str, budget: int) -> Run:
    """Run `casstore gc --max-size` on *store*."""
    arguments = ["--dir", store, "gc", "--max-size", str(budget), "--yes", "--json"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "casstore", *arguments], capture_output=True, text=True, timeout=_HANGS
        )
    except subprocess.TimeoutExpired as error:
        return Run(None, "", str(error.stderr or ""))
    return Run(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def looping(store: str, budget: int, report: Path) -> Iterator[list[Run]]:
    """Run the command in a loop during the body; at its end the list has every run."""
    runs: list[Run] = []
    report.touch()
    command = [sys.executable, "-m", "demos.training.gc_loop", store, str(budget), str(report)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield runs
    finally:
        process.send_signal(signal.SIGTERM)
        # A loop that has not started yet is ended by the signal itself.
        if process.wait(2 * _HANGS) not in (0, -signal.SIGTERM):
            runs.append(Run(process.returncode, "", "the loop itself failed"))
        runs += [Run(**json.loads(line)) for line in report.read_text(encoding="utf-8").splitlines()]


def _loop(store: str, budget: int, report: Path) -> None:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    parent = os.getppid()
    with report.open("a", encoding="utf-8") as file:
        while not stopped and os.getppid() == parent:
            file.write(json.dumps(asdict(run_once(store, budget))) + "\n")
            file.flush()


if __name__ == "__main__":
    _loop(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
