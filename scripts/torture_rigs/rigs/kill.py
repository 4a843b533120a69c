"""The rig `kill`: kill, stop and continue workers at random moments, forking or not; then check the store."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import casstore
from torture_rigs.oracle.checker import Checker
from torture_rigs.oracle.promises import Writes, read_everything, read_of
from torture_rigs.report import Report
from torture_rigs.rigs.negative_controls import weaken
from torture_rigs.run_state import Run
from torture_rigs.workload.reads import scale_down
from torture_rigs.workload.workers import adopt_orphans, bear, kill_all, locks_exclude

WORKERS: Final = 3
BATCH: Final = 20
"""Kills between two checks."""

_LIVES: Final = (0.030, 0.030, 0.030, 0.150, 0.600)
"""Maximum lifetimes in seconds, equally likely: opening the store takes 10 ms, most operations one or two."""


@dataclass(slots=True)
class _Life:
    pid: int
    ends: float
    stops: float | None
    goes_on: float | None
    with_children: bool


class Killer:
    """One run of `torture kill`."""

    def __init__(self, run: Run, seed: int, control: str | None) -> None:
        self._run, self._seed = run, seed
        self._random = random.Random(seed)
        self._checker = Checker(run.store, run.ledgers, run.scratch)
        self._writes = Writes(run)
        self._control = control
        self._born = 0
        self._lives: list[_Life] = []
        self.report = Report("kill", seed)

    def run(self, kills: int | None, seconds: float | None) -> Report:
        """Run until so many kills, for so long, or until the first violation."""
        adopt_orphans()
        scale_down()
        weaken(self._control)
        began = time.monotonic()
        while not self.report.violations:
            count = BATCH if kills is None else min(BATCH, kills - self.report.counts["kills"])
            if count <= 0 or (seconds is not None and time.monotonic() - began > seconds):
                break
            self._batch(count)
            self._check()
            if self.report.violations:
                self.report.kept = self._run.keep()
        self.report.counts.update(self._run.tally.totals())
        self.report.counts["kept promises"] = self._writes.kept
        return self.report

    # --- living and dying --------------------------------------------------------------------------------------------

    def _batch(self, kills: int) -> None:
        for _ in range(kills):
            while len(self._lives) < WORKERS:
                self._lives.append(self._bear())
            self._kill_next()
        for life in self._lives:
            self._kill(life.pid, with_children=True)
        self._lives = []
        kill_all()

    def _bear(self) -> _Life:
        self._born += 1
        pid = bear(self._run, self._born, f"{self._seed} {self._born}")
        chance = self._random
        lasts = chance.uniform(0, chance.choice(_LIVES))
        now = time.monotonic()
        stops = now + chance.uniform(0, lasts) if chance.random() < 0.1 else None
        goes_on = None if stops is None or chance.random() < 0.5 else stops + chance.uniform(0, 0.05)
        return _Life(pid, now + lasts, stops, goes_on, chance.random() < 0.5)

    def _kill_next(self) -> None:
        """Wait until a worker dies; until then, stop and continue workers."""
        while True:
            at, what, life = min(self._due(), key=lambda due: due[0])
            time.sleep(max(0.0, at - time.monotonic()))
            if what == "kill":
                self._lives.remove(life)
                self._kill(life.pid, with_children=life.with_children)
                self.report.counts["kills"] += 1
                return
            with contextlib.suppress(ProcessLookupError):
                if what == "stop":
                    life.stops = None
                    os.kill(life.pid, signal.SIGSTOP)
                    self.report.counts["stops"] += 1
                else:
                    life.goes_on = None
                    os.kill(life.pid, signal.SIGCONT)

    def _due(self) -> Iterator[tuple[float, str, _Life]]:
        for life in self._lives:
            if life.stops is not None:
                yield life.stops, "stop", life
            elif life.goes_on is not None:
                yield life.goes_on, "go on", life
            else:
                yield life.ends, "kill", life

    def _kill(self, pid: int, *, with_children: bool) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if with_children:
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status not in (0, -signal.SIGKILL):
            self._run.violate(f"a worker ended with {status}, and nobody sent it that")

    # --- checking ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        report = self.report
        checked = self._checker.check()
        report.violations += checked.violations
        report.violations += self._writes.check()
        report.violations += self._run.violations()
        report.counts["checks"] += 1
        for what in ("entries", "blobs", "views", "leases", "pending"):
            report.counts[f"checked {what}"] += getattr(checked, what)
        if report.violations:
            return
        excludes = locks_exclude(self._run.scratch)
        settles = excludes and self._random.random() < 0.5
        report.violations += read_everything(self._run, is_strict=True, settles=settles, locks_exclude=excludes)
        report.violations += self._checker.check().violations
        report.violations += self._writes.check()
        report.counts["settled"] += settles
        if report.violations:
            return
        if self._random.random() < 0.15:
            # The next workers make the store anew, all at once.
            self._writes.forget()
            shutil.rmtree(self._run.store)
            report.counts["stores"] += 1
        else:
            self._sweep_up()

    def _sweep_up(self) -> None:
        """Collect after all workers died: the collection must remove everything that they left behind."""
        self.report.violations += read_of(self._collect)
        if not locks_exclude(self._run.scratch):
            # Without locks, dead processes cannot be detected, and all leases stay.
            shutil.rmtree(f"{self._run.store}/leases")
            return
        for place in ("leases", "trash", "locks/write"):
            left = os.listdir(f"{self._run.store}/{place}")
            if left:
                self.report.violations.append(f"a collection left {len(left)} things in {place}, {left[0]} for one")

    def _collect(self) -> list[str]:
        cache = casstore.open(self._run.store)
        cache.execute(cache.plan())
        cache.close()
        return []
