"""The rig `syscalls`: fail each system call of a small program, once or from then on, with every error; or kill at it.

A child stops itself, strace is attached, and the child continues. So the calls of each thread are counted from a known
moment, after the start of the interpreter. The bucket is in shared memory and makes no system calls.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import traceback
from collections import Counter
from typing import Final

from torture_rigs.options import Options
from torture_rigs.report import Report
from torture_rigs.rigs.fault_points import FAILURES, Point, points_of
from torture_rigs.rigs.negative_controls import weaken
from torture_rigs.rigs.strace_runner import ALL, Bench
from torture_rigs.run_state import Run
from torture_rigs.workload.workers import adopt_orphans, kill_all

RUNNERS: Final = 2


class Failer:
    """One run of `torture syscalls`."""

    def __init__(self, run: Run, options: Options) -> None:
        self._run, self._seed, self._control = run, options.seed, options.control
        self._programs = [program for program in ALL if program.name in options.only]
        assert len(self._programs) == len(options.only), "the options know other programs"
        self._ways = options.ways
        self.report = Report("syscalls", options.seed)

    def run(self, count: int | None, seconds: float | None) -> Report:
        """Run all points in a random order, or *count* of them, or those that can start in that time."""
        report = self.report
        if shutil.which("strace") is None:
            report.skipped = "there is no strace"
            return report
        adopt_orphans()
        weaken(self._control)
        began = time.monotonic()
        bench = Bench(self._run.directory / "count")
        points: list[Point] = []
        # Without locks, dead processes cannot be detected, and their files stay forever.
        programs = [program for program in self._programs if program.arrange is None or bench.locks_exclude]
        for program in programs:
            # Twice: what is imported on first use shall be there already, so that only the store's own calls fail.
            counts = bench.count(program) and bench.count(program)
            if counts is None:
                report.skipped = f"strace cannot attach: {bench.problem}"
                return report
            # A program that fails without any failure is a finding, too.
            report.violations += [f"{program.name}, undisturbed: {said}" for said in bench.problems()]
            points += [point for point in points_of(program, counts) if point.way in self._ways]
            report.counts[f"calls in {program.name}"] = sum(
                number for call, number in counts.items() if call in FAILURES
            )
        report.counts["possible points"] = len(points)
        random.Random(self._seed).shuffle(points)
        points = points[:count]
        deadline = None if seconds is None else began + seconds
        self._run_points(points, deadline)
        return report

    def _run_points(self, points: list[Point], deadline: float | None) -> None:
        pids = []
        for number in range(RUNNERS):
            pid = os.fork()
            if pid == 0:
                self._be_runner(number, points[number::RUNNERS], deadline)
            pids.append(pid)
        for number, pid in enumerate(pids):
            _, status = os.waitpid(pid, 0)
            answer = self._run.directory / f"answer-{number}"
            if status != 0 or not answer.exists():
                self.report.violations.append(f"a runner of the rig ended with {os.waitstatus_to_exitcode(status)}")
                continue
            said = json.loads(answer.read_text(encoding="utf-8"))
            self.report.violations += said["violations"]
            self.report.counts.update(said["counts"])

    def _be_runner(self, number: int, points: list[Point], deadline: float | None) -> None:
        status = 1
        try:
            adopt_orphans()
            bench = Bench(self._run.directory / f"runner-{number}")
            counts: Counter[str] = Counter()
            violations: list[str] = []
            for point in points:
                if deadline is not None and time.monotonic() > deadline:
                    break
                outcome = bench.fail(point)
                counts["points"] += 1
                counts[outcome] += 1
                said = bench.problems()
                violations += [f"{point}: {problem}" for problem in said]
                if said:
                    bench.keep(len(violations))
            answer = {"violations": violations, "counts": counts}
            (self._run.directory / f"answer-{number}").write_text(json.dumps(answer), encoding="utf-8")
            status = 0
        except BaseException:  # noqa: BLE001 - printed
            traceback.print_exc()
        finally:
            kill_all()
            os._exit(status)
