"""A race over one store: two processes that fill it, two that read it, one that collects; `Race` keeps them going."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from tests.casstore.support.fill import REPOSITORY
from tests.casstore.support.race_workers import LOST_PATH, WRONG_READ, Board, Count

_PLACES: Final = ("filler", "filler", "reader", "reader", "collector")
_TURNS: Final = 40
"""How many everybody gets, however slow the machine is."""
_LIFE: Final = 5.0
"""Seconds that he lives after that at most."""


@dataclass
class _Running:
    role: str
    row: int
    process: subprocess.Popen[str]
    errors: IO[str]
    ends: float = 0.0
    is_killed: bool = False


class Race:
    """Two fillers, two readers and a collector over the store in *directory*; use as a context manager.

    With *kills*, every other process ends by ``kill -9``, and all do at the end. *control* takes one protection away.
    """

    def __init__(self, directory: Path, *, kills: bool, control: str = "") -> None:
        self.board = Board(directory / "board")
        self.violations: list[int] = []
        self._directory = directory
        self._kills = kills
        self._control = control
        self._chance = random.Random(directory.name)
        self._rows: dict[str, list[int]] = {role: [] for role in _PLACES}
        self._running: list[_Running] = []

    def __enter__(self) -> Self:
        for role in _PLACES:
            self._start(role)
        return self

    def __exit__(self, *exc: object) -> None:
        for running in self._running:
            running.process.kill()
            running.process.wait()
            running.errors.close()

    def _start(self, role: str) -> None:
        row = 1 + sum(map(len, self._rows.values()))
        self._rows[role].append(row)
        errors = (self._directory / f"{role}-{row}").open("w+")
        command = [
            sys.executable,
            "-m",
            "tests.casstore.support.race_workers",
            role,
            str(self._directory),
            str(row),
            self._control,
        ]
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=errors, text=True)
        self._running.append(_Running(role, row, process, errors))

    def tend(self) -> None:
        """See to it that all five run; each for its time."""
        for running in list(self._running):
            if running.process.poll() is not None:
                self._bury(running)
                self._start(running.role)
            elif not running.ends:
                if self.board.of(running.row, Count.TURNS) >= _TURNS:
                    running.ends = time.monotonic() + self._chance.uniform(0, _LIFE)
            elif time.monotonic() > running.ends:
                self._end(running, kill=self._kills and running.row % 2 == 0)

    def _end(self, running: _Running, *, kill: bool) -> None:
        if kill and not running.is_killed:
            running.is_killed = True
            running.process.kill()
        elif not self.board.of(running.row, Count.IS_OVER):
            self.board.add(running.row, Count.IS_OVER)

    def _bury(self, running: _Running) -> None:
        self._running.remove(running)
        status = running.process.wait()
        running.errors.seek(0)
        said = running.errors.read()
        running.errors.close()
        if status in (WRONG_READ, LOST_PATH):
            self.violations.append(status)
            print(said)
        else:
            # A kill may come after the end.
            assert status in ((0, -signal.SIGKILL) if running.is_killed else (0,)), f"a {running.role} failed: {said}"

    def stop(self) -> None:
        """End them all."""
        for running in self._running:
            self._end(running, kill=self._kills)
        for running in list(self._running):
            running.process.wait(timeout=1_000)
            self._bury(running)

    @property
    def readers(self) -> int:
        """How many there were."""
        return len(self._rows["reader"])

    def did(self, role: str, count: Count) -> int:
        """What the processes of a role did, those that are gone included."""
        return sum(self.board.of(row, count) for row in self._rows[role])
