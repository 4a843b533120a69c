"""Run the tests named beside a line, and tell whether they noticed that it is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mutation.private_copy import PrivateCopy
from mutation.safety_lines import SafetyLine, StaleLineError

_LIMIT_SECONDS: Final = 300.0
"""Until the tests of one line count as hanging: a bound, and no expectation."""
_SHOWN: Final = 2_000  # characters of pytest's output
_NOT_INHERITED: Final = ("CASSTORE_TEST_NO_LOCKS", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_VERSION")


class Outcome(StrEnum):
    NOTICED = "noticed"
    """A test failed."""
    SURVIVED = "survived"
    """All tests passed."""
    SKIPPED = "skipped"
    """This machine cannot run the tests."""
    STALE = "stale"
    """The code does not have the line."""
    FAILED = "failed"
    """The tests could not be run, or hang, or fail with the line as well."""

    @property
    def is_good(self) -> bool:
        """Whether a run with this outcome is a success."""
        return self in (Outcome.NOTICED, Outcome.SKIPPED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one line; *detail* is the reason of a failure, or the test that noticed."""

    line: SafetyLine
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _TestRun:
    """*failed* are tests of *count*, by name; *skipped* of them did not run. With *problem*, nothing is known."""

    count: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    problem: str = ""


class Trial:
    """Runs tests in private copies; from several threads, each with a copy of its own."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()

    def stop(self) -> None:
        """End all tests that are running."""
        for process in list(self._processes):
            _end(process)

    def try_line(self, copy: PrivateCopy, line: SafetyLine, *, control: bool = False) -> Verdict:
        """Run the tests of *line* without it."""
        began = time.monotonic()
        try:
            with copy.without(line, control=control):
                done = self._run(copy, line.tests, stops=True)
        except (StaleLineError, FileNotFoundError) as error:
            return Verdict(line, Outcome.STALE, str(error))
        seconds = time.monotonic() - began
        if done.problem:
            return Verdict(line, Outcome.FAILED, done.problem, seconds)
        if done.failed:
            return Verdict(line, Outcome.NOTICED, done.failed[0], seconds)
        return Verdict(line, Outcome.SKIPPED if done.skipped == done.count else Outcome.SURVIVED, "", seconds)

    def failing_before(self, copy: PrivateCopy, lines: Iterable[SafetyLine]) -> dict[str, str]:
        """Run the tests of all *lines* in the copy as it is. Return the names of lines, each with those of its tests
        that fail: they would prove nothing.
        """
        lines = list(lines)
        tests = list(dict.fromkeys(test for line in lines for test in line.tests))
        done = self._run(copy, tests, stops=False)
        if done.problem:
            return {line.name: done.problem for line in lines}
        found = {
            line.name: [name for name in done.failed if any(_is_of(name, test) for test in line.tests)]
            for line in lines
        }
        return {name: "\n".join(failed) for name, failed in found.items() if failed}

    def _run(self, copy: PrivateCopy, tests: Sequence[str], *, stops: bool) -> _TestRun:
        temporary = copy.directory.with_name(copy.directory.name + ".tmp")
        temporary.mkdir(exist_ok=True)
        report = temporary / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        # Limits of single tests would make a slow machine's time-out a failure.
        command += ["-o", "timeout=0", "-o", "faulthandler_timeout=0", "-o", "tmp_path_retention_policy=none"]
        command += ["-x", *tests] if stops else list(tests)
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environment |= {"PYTHONPATH": str(copy.directory), "TMPDIR": str(temporary)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        output = temporary / "output"
        with open(output, "wb") as file:
            # Not a pipe: what a failed test has started may keep it open.
            process = subprocess.Popen(
                command,
                cwd=copy.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.add(process)
        try:
            process.wait(_LIMIT_SECONDS * (1 if stops else len(tests)))
        except subprocess.TimeoutExpired:
            return _TestRun(problem=f"its tests hang: {' '.join(tests)}")
        finally:
            self._processes.discard(process)
            _end(process)
        # 0: all passed. 1: some failed. All others: pytest could not run them.
        if process.returncode not in (0, 1) or not report.exists():
            return _TestRun(problem=output.read_text(encoding="utf-8", errors="replace")[-_SHOWN:])
        return _read(report)


def _is_of(name: str, test: str) -> bool:
    """Whether *name*, of a report, is that of a case of *test*, a node id."""
    file, _, inside = test.partition("::")
    path = ".".join([file.removesuffix(".py").replace("/", "."), *inside.split("::")[:-1]])
    whole = f"{path}::{inside.rpartition('::')[2]}"
    return name == whole or name.startswith(whole + "[")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the group: what tests had started may live on."""
    if process.poll() is None:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(report: Path) -> _TestRun:
    cases = list(ET.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    names = tuple(f"{case.get('classname')}::{case.get('name')}" for case in failed)
    return _TestRun(len(cases), sum(case.find("skipped") is not None for case in cases), names)
