"""Every system call of a small program fails once, and from then on, in every way; and the process is killed at it.

A child stops itself, strace is attached, and the child goes on: so the calls are counted from a known moment, thread by
thread, and nothing of the interpreter's own start is hit. The bucket is in shared memory and makes no system call.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import casstore
from pathapi.exceptions import CloudPathException
from tortures.checker import Checker
from tortures.controls import weaken
from tortures.lives import adopt_orphans, kill_all, locks_exclude
from tortures.programs import KEY, NEW, OLD, ORIGIN, PROGRAMS, Program, WrongBytesError
from tortures.report import Report
from tortures.rows import live_generation
from tortures.run import Run
from tortures.shared import Note, SharedLedger
from tortures.truth import read_all, read_of, settle_all
from tortures.waiting import all_waiting

RUNNERS: Final = 2
_READING: Final = (
    "read",
    "pread64",
    "readv",
    "preadv",
    "preadv2",
    "lseek",
    "getdents64",
    "sendfile",
    "copy_file_range",
)
_WRITING: Final = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate")
_SYNCING: Final = ("fsync", "fdatasync", "sync_file_range", "syncfs", "msync")
_OPENING: Final = ("open", "openat", "openat2", "creat", "dup", "dup3", "pipe2", "close")
_LOOKING: Final = (
    *("stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs"),
    *("access", "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd"),
)
_NAMING: Final = (
    *("link", "linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "utimensat", "chmod", "fchmod", "fchmodat", "fchmodat2"),
)
_LOCKING: Final = ("fcntl", "flock", "ioctl")
_FAILURES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(_READING, ("EIO", "EINTR")),
    **dict.fromkeys(_WRITING, ("EIO", "ENOSPC", "EINTR")),
    **dict.fromkeys(_SYNCING, ("EIO", "ENOSPC", "EINTR")),
    **dict.fromkeys(_OPENING, ("EIO", "ENOSPC", "EMFILE", "EACCES", "EINTR")),
    **dict.fromkeys(_LOOKING, ("EIO", "EACCES")),
    **dict.fromkeys(_NAMING, ("EIO", "ENOSPC", "EACCES")),
    **dict.fromkeys(_LOCKING, ("EIO", "EACCES", "EINTR")),
    **dict.fromkeys(("lseek", "close"), ("EIO",)),
    "clone": ("EAGAIN",),
    "clone3": ("EAGAIN",),
}
"""How each call can fail, of EIO, ENOSPC, EMFILE, EACCES and EINTR, by its manual page; and how threads run out.

Memory does not: where a new thread gets none, CPython's `Thread.start` waits for it for ever.
"""

_SECONDS: Final = 100
"""What a program may take: longer than anything in it waits for anybody."""


@dataclass(frozen=True, slots=True)
class Point:
    """One way to fail. *how* is an error's name or KILL; *lasting* means this call and all that follow it."""

    program: str
    call: str
    number: int
    how: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.program}: {self.call} {self.number}{' and on' if self.lasting else ''} {self.how}"

    @property
    def injection(self) -> str:
        """For strace."""
        what = "signal=SIGKILL" if self.how == "KILL" else f"error={self.how}"
        return f"{self.call}:{what}:when={self.number}{'+' if self.lasting else ''}"


def points_of(program: Program, counts: Counter[str]) -> list[Point]:
    """All ways in which a program with so many calls of each kind can fail."""
    found = []
    for call, count in sorted(counts.items()):
        errors = () if call in program.spares else _FAILURES.get(call, ())
        for number in range(1, count + 1):
            for error in errors:
                found.append(Point(program.name, call, number, error, lasting=False))
                # Whoever is interrupted, or told that a lock is busy, tries again for as long as that lasts.
                if error != "EINTR" and (call, error) not in (("fcntl", "EACCES"), ("flock", "EACCES")):
                    found.append(Point(program.name, call, number, error, lasting=True))
            if errors:
                found.append(Point(program.name, call, number, "KILL", lasting=False))
    return found


class Failer:
    """One run of `torture syscalls`."""

    def __init__(self, run: Run, seed: int, control: str | None) -> None:
        self._run, self._seed, self._control = run, seed, control
        self.report = Report("syscalls", seed)

    def run(self, count: int | None, seconds: float | None) -> Report:
        """All points in a random order, or *count* of them, or as many as can be begun in that time."""
        report = self.report
        if shutil.which("strace") is None:
            report.skipped = "there is no strace"
            return report
        adopt_orphans()
        weaken(self._control)
        began = time.monotonic()
        bench = _Bench(self._run.directory / "count")
        points: list[Point] = []
        for program in PROGRAMS:
            # Twice: what is imported on first use shall be there already, so that only the store's own calls fail.
            counts = bench.count(program) and bench.count(program)
            if counts is None:
                report.skipped = f"strace cannot attach: {bench.problem}"
                return report
            # A program that fails without any failure is a finding, too.
            report.violations += [f"{program.name}, undisturbed: {said}" for said in bench.problems()]
            points += points_of(program, counts)
            report.counts[f"calls in {program.name}"] = sum(
                number for call, number in counts.items() if call in _FAILURES
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
            bench = _Bench(self._run.directory / f"runner-{number}")
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


class _Bench:
    """Runs programs under strace, one after the other, each on a store of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._scratch = directory / "scratch"
        self._scratch.mkdir()
        self._root = str(directory / "store")
        self._templates: set[str] = set()
        self._note = Note()
        self._ledger = SharedLedger({})
        self._problems: list[str] = []
        self._locks_exclude = locks_exclude(str(self._scratch))
        self.problem = ""

    def problems(self) -> list[str]:
        """What was wrong since last asked."""
        said, self._problems = self._problems, []
        return said

    def keep(self, number: int) -> None:
        """Put the store aside."""
        if os.path.isdir(self._root):
            os.rename(self._root, self._directory / f"kept-{number}")

    def count(self, program: Program) -> Counter[str] | None:
        """How often each call is made, by the thread that makes it most; None where nothing can be traced."""
        log = self._directory / "log"
        outcome = self._trace(program, ["-o", str(log)])
        if outcome is None:
            return None
        for name in _modules_of(self._note.take()):
            importlib.import_module(name)
        by_thread: Counter[tuple[str, str]] = Counter()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            called = re.match(r"(\d+)\s+(\w+)\(", line)
            if called is not None:
                by_thread[called[1], called[2]] += 1
        counts: Counter[str] = Counter()
        for (_, call), number in by_thread.items():
            counts[call] = max(counts[call], number)
        self._judge(program, outcome, None)
        return counts

    def fail(self, point: Point) -> str:
        """Run a program with that failure and look at everything; the outcome in a word."""
        program = next(program for program in PROGRAMS if program.name == point.program)
        outcome = self._trace(
            program, ["-o", "/dev/null", "-e", f"trace={point.call}", "-e", f"inject={point.injection}"]
        )
        if outcome is None:
            self._problems.append(f"not traced: {self.problem}")
            return "untraced"
        return self._judge(program, outcome, point)

    # --- running -----------------------------------------------------------------------------------------------------

    def _begin(self, program: Program) -> None:
        """A store as *program* wants to find it."""
        self._ledger = SharedLedger({KEY: [OLD]})
        template = f"{self._directory}/{program.name}"
        if program.name not in self._templates:
            self._templates.add(program.name)
            self._in_child(program.prepare, template)
        shutil.rmtree(self._root, ignore_errors=True)
        if os.path.isdir(template):
            shutil.copytree(template, self._root, symlinks=True)

    def _in_child(self, work: object, root: str) -> None:
        assert callable(work)
        pid = os.fork()
        if pid == 0:
            try:
                work(root, self._ledger)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def _trace(self, program: Program, arguments: list[str]) -> int | None:
        """The status of *program* under strace; None where it could not be attached."""
        self._begin(program)
        self._note.leave(None)
        pid = os.fork()
        if pid == 0:
            self._be_traced(program)
        os.waitpid(pid, os.WUNTRACED)
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", *arguments, "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            while tracer.poll() is None and not _is_traced(pid):
                time.sleep(0.0005)
            if tracer.poll() is not None:
                self.problem = tracer.stderr.read().decode(errors="replace").strip() if tracer.stderr else ""
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
            os.kill(pid, signal.SIGCONT)
            return self._wait(pid)
        finally:
            tracer.wait()
            if tracer.stderr is not None:
                tracer.stderr.close()
            kill_all()

    def _wait(self, pid: int) -> int:
        deadline = time.monotonic() + _SECONDS
        pause = 0.001
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                self._problems.append(f"it hangs (over {_SECONDS} s)")
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return -signal.SIGKILL
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    def _be_traced(self, program: Program) -> None:
        said: tuple[str, str, bool] = ("done", "", True)
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            warnings.simplefilter("ignore")
            os.kill(os.getpid(), signal.SIGSTOP)
            program.run(self._root, self._ledger)
        except BaseException as error:  # noqa: BLE001 - left for the parent
            text = "".join(traceback.format_exception(error))
            said = (type(error).__name__, text, _is_clear(error))
        finally:
            self._note.leave((*said, sorted(sys.modules)))
            os._exit(0)

    # --- judging -----------------------------------------------------------------------------------------------------

    def _judge(self, program: Program, status: int, point: Point | None) -> str:
        said = self._note.take()
        assert said is None or isinstance(said, tuple)
        killed = point is not None and point.how == "KILL" and status == -signal.SIGKILL
        if status != 0 and not killed:
            self._problems.append(f"it ended with {status}")
        elif said is not None and not said[2]:
            self._problems.append(f"no clear error: {said[1]}")
        elif said is not None and said[0] != "done" and point is None:
            self._problems.append(said[1])
        is_done = said is not None and said[0] == "done"
        self._problems += self._judge_writes(program, "" if said is None else str(said[1]), is_done=is_done)
        self._check()
        return "killed" if killed else "succeeded" if is_done else "refused"

    def _judge_writes(self, program: Program, said: str, *, is_done: bool) -> Iterator[str]:
        """The bucket has the old bytes or the new ones; and where a user's were promised, they are somewhere."""
        held = self._ledger.now(KEY)[1]
        waiting = [write.data for write in all_waiting(self._root)]
        if held != OLD and (program.made is None or held != program.made):
            yield "the bucket has bytes that nobody meant to write"
        if is_done and program.made is not None and held != program.made:
            yield "it returned, and the bucket does not have what it wrote"
        if is_done and waiting and not program.keeps:
            yield f"it returned, and {len(waiting)} writes are pending"
        if program.keeps and waiting != [NEW]:
            yield "what was pending is not any more"
        if program.made is not None and held != program.made and program.made not in waiting:
            if program.waits:
                yield "what was pending is neither that any more nor in the bucket"
            elif "kept at" in said:
                yield f"what was said to be kept is not: {said}"
        if any(data != (program.made or NEW) for data in waiting):
            yield "bytes are pending that nobody wrote"

    def _check(self) -> None:
        checker = Checker(self._root, {ORIGIN: self._ledger}, str(self._scratch), after_failures=True)
        if self._is_mended():
            self._problems += checker.check().violations
        self._problems += read_of(self._read_and_settle)
        if self._is_mended():
            self._problems += checker.check().violations

    def _read_and_settle(self) -> Iterator[str]:
        ledgers = {ORIGIN: self._ledger}
        yield from read_all(self._root, ledgers, is_strict=False, locks_exclude=self._locks_exclude)
        if self._locks_exclude:
            yield from settle_all(self._root, ledgers, lambda _: None)

    def _is_mended(self) -> bool:
        """Nobody may map a truncated index, the checker neither."""
        data = f"{self._root}/index-v1/{live_generation(self._root)}/data.mdb"
        return not os.path.exists(data) or os.path.getsize(data) > self._truncated_size()

    def _truncated_size(self) -> int:
        template = f"{self._directory}/mend/index-v1/1/data.mdb"
        return os.path.getsize(template) if os.path.exists(template) else 0


def _modules_of(note: object) -> list[str]:
    """What a program has imported and this process has not."""
    return [name for name in note[3] if name not in sys.modules] if isinstance(note, tuple) else []


def _is_clear(error: BaseException) -> bool:
    """Whether an error says what happened to whoever calls the API, and is no mistake of the code's own."""
    if isinstance(error, WrongBytesError):
        return False
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, OSError | MemoryError | casstore.CasstoreError | CloudPathException)


def _is_traced(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return any(line.startswith("TracerPid:") and int(line.split()[1]) > 0 for line in file)
    return False
