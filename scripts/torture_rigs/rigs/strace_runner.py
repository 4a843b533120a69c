"""Runs programs under strace with one failing system call, then checks the store."""

from __future__ import annotations

import contextlib
import importlib
import mimetypes
import os
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
from pathlib import Path
from typing import Final

import xxhash

import casstore
from pathapi.exceptions import CloudPathException
from torture_rigs.oracle.checker import Checker
from torture_rigs.oracle.index_reader import live_generation
from torture_rigs.oracle.pending_reader import all_waiting
from torture_rigs.oracle.promises import read_all, read_of, settle_all
from torture_rigs.rigs.fault_points import Point
from torture_rigs.shared_memory import Note, SharedLedger
from torture_rigs.workload.programs import KEY, NEW, OLD, ORIGIN, PROGRAMS, Program, WrongBytesError
from torture_rigs.workload.scenes import SCENES
from torture_rigs.workload.workers import kill_all, locks_exclude

ALL: Final = (*PROGRAMS, *SCENES)

_READ_EACH: Final = 8
"""Of points after which another process finishes the work, one in so many is also followed by reading everything: the
finished store has been checked."""

_SECONDS: Final = 1_000
"""Seconds that a program may take: longer than any of its waits, on a busy machine too."""


class Bench:
    """Runs programs under strace, one by one, each on its own store."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        directory = directory.resolve()
        self._directory = directory
        self._current = directory / "current"
        self._current.mkdir()
        self._scratch = directory / "scratch"
        self._scratch.mkdir()
        self._root = str(directory / "store")
        self._templates: set[str] = set()
        self._note, self._looked = Note(), Note()
        self._ledger = SharedLedger({})
        self._before: dict[str, tuple[int, ...]] = {}
        self._problems: list[str] = []
        self._finished = 0
        self.locks_exclude = locks_exclude(str(self._scratch))
        self.problem = ""

    def problems(self) -> list[str]:
        """Return the violations since the last call."""
        said, self._problems = self._problems, []
        return said

    def keep(self, number: int) -> None:
        """Keep the store for debugging."""
        if os.path.isdir(self._root):
            os.rename(self._root, self._directory / f"kept-{number}")

    def count(self, program: Program) -> Counter[str] | None:
        """Return the number of each system call, of the thread with most; None if strace does not work."""
        log = self._directory / "log"
        outcome = self._trace(program, ["-o", str(log)])
        if outcome is None:
            return None
        note = self._note.take()
        for name in _modules_of(note[3] if isinstance(note, tuple) else None):
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
        # Those who look afterwards are forked from here for each point.
        for name in _modules_of(self._looked.take()):
            importlib.import_module(name)
        mimetypes.init()
        return counts

    def fail(self, point: Point) -> str:
        """Run a program with a failure and check everything; return the outcome in a word."""
        program = next(program for program in ALL if program.name == point.program)
        outcome = self._trace(
            program, ["-o", "/dev/null", "-e", f"trace={point.call}", "-e", f"inject={point.injection}"]
        )
        if outcome is None:
            self._problems.append(f"not traced: {self.problem}")
            return "untraced"
        return self._judge(program, outcome, point)

    # --- running -----------------------------------------------------------------------------------------------------

    def _begin(self, program: Program) -> None:
        """Create the store that *program* needs."""
        self._ledger = SharedLedger({key: [data] for key, data in program.objects.items()})
        template = f"{self._directory}/{program.name}"
        if program.name not in self._templates:
            self._templates.add(program.name)
            self._in_child(program.prepare, template)
        shutil.rmtree(self._root, ignore_errors=True)
        if os.path.isdir(template):
            shutil.copytree(template, self._root, symlinks=True)
        if program.arrange is not None:
            self._in_child(program.arrange, self._root)
        self._before = {} if program.changes else _tree(self._root)

    def _in_child(self, work: object, root: str) -> None:
        assert callable(work)
        pid = os.fork()
        if pid == 0:
            try:
                work(root, self._ledger)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - printed
                traceback.print_exc()
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0, "a store could not be prepared"

    def _trace(self, program: Program, arguments: list[str]) -> int | None:
        """Return the status of *program* under strace; None if strace could not attach."""
        self._begin(program)
        self._note.leave(None)
        pid = os.fork()
        if pid == 0:
            self._be_traced(program)
        os.waitpid(pid, os.WUNTRACED)
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-b", "execve", *arguments, "-p", str(pid)],
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
            # `tempfile` tries the current directory last, and leaves its probe there if the unlink fails.
            os.chdir(self._current)
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
        self._problems += self._judge_kept(program)
        self._problems += self._judge_verdicts(point)
        if not program.changes:
            after = _tree(self._root)
            changed = {path for path, _ in self._before.items() ^ after.items()}
            self._problems += [f"it changed {path}" for path in sorted(changed)]
        if program.judge is not None and not program.is_damaged:
            self._problems += program.judge(self._root, str(self._scratch))
        self._check(program)
        return "killed" if killed else "succeeded" if is_done else "refused"

    def _judge_writes(self, program: Program, said: str, *, is_done: bool) -> Iterator[str]:
        """The bucket has the old bytes or the new ones; and where a user's were promised, they are somewhere."""
        held = self._ledger.now(KEY)[1]
        waiting = [write.data for write in all_waiting(self._root)]
        if held != OLD and (program.made is None or held != program.made):
            yield "the bucket has bytes that nobody meant to write"
        if is_done and program.made is not None and held != program.made:
            yield "it returned, and the bucket does not have what it wrote"
        if is_done and waiting and not program.keeps and not program.kept:
            yield f"it returned, and {len(waiting)} writes are pending"
        if program.keeps and waiting != [NEW]:
            yield "what was pending is not any more"
        if program.made is not None and held != program.made and program.made not in waiting:
            if program.waits:
                yield "what was pending is neither that any more nor in the bucket"
            elif "kept at" in said:
                yield f"what was said to be kept is not: {said}"
        if any(data not in (program.made or NEW, *program.kept) for data in waiting):
            yield "bytes are pending that nobody wrote"

    def _judge_kept(self, program: Program, *, is_finished: bool = False) -> Iterator[str]:
        """What a user made of local copies, and where there was nothing, is recorded or where he left it."""
        found = [write.data for write in all_waiting(self._root)]
        if not is_finished:
            for directory, _, names in os.walk(f"{self._root}/local"):
                found += [Path(directory, name).read_bytes() for name in names]
        for data in program.kept:
            if data not in found:
                yield f"nothing has {data[:40]!r}... any more, which a user wrote"

    def _judge_verdicts(self, point: Point | None) -> Iterator[str]:
        """No blob is condemned for what says nothing of its bytes."""
        if point is not None and point.how in ("EIO", "EACCES"):
            return
        quarantine = f"{self._root}/quarantine"
        for name in os.listdir(quarantine) if os.path.isdir(quarantine) else []:
            path = Path(quarantine, name)
            is_blob = len(name) == 41 and path.is_file() and not path.is_symlink()
            if is_blob and xxhash.xxh3_128_hexdigest(path.read_bytes()) == name[:32]:
                yield f"right bytes are in quarantine: {name}"

    def _check(self, program: Program) -> None:
        checker = Checker(self._root, {ORIGIN: self._ledger}, str(self._scratch), after_failures=True)
        if self._is_mended() and not program.is_damaged:
            self._problems += checker.check().violations
        if program.finish is not None:
            self._problems += read_of(lambda: self._finish(program))
            self._problems += self._judge_kept(program, is_finished=True)
            if program.judge is not None:
                self._problems += program.judge(self._root, str(self._scratch))
            self._problems += checker.check().violations
            self._finished += 1
            if self._finished % _READ_EACH and not self._problems:
                return
        self._problems += read_of(self._read_and_settle)
        if self._is_mended():
            self._problems += checker.check().violations

    def _finish(self, program: Program) -> Iterator[str]:
        assert program.finish is not None
        warnings.simplefilter("ignore")
        yield from program.finish(self._root)
        self._looked.leave(sorted(sys.modules))

    def _read_and_settle(self) -> Iterator[str]:
        ledgers = {ORIGIN: self._ledger}
        yield from read_all(self._root, ledgers, is_strict=False, locks_exclude=self.locks_exclude)
        if self.locks_exclude:
            yield from settle_all(self._root, ledgers, lambda _: None)
        self._looked.leave(sorted({*sys.modules, *_strings(self._looked.take())}))

    def _is_mended(self) -> bool:
        """Whether the index is complete: a truncated one must not be mapped, not even by the checker."""
        data = f"{self._root}/index-v1/{live_generation(self._root)}/data.mdb"
        return not os.path.exists(data) or os.path.getsize(data) > self._truncated_size()

    def _truncated_size(self) -> int:
        template = f"{self._directory}/mend/index-v1/1/data.mdb"
        return os.path.getsize(template) if os.path.exists(template) else 0


def _tree(root: str) -> dict[str, tuple[int, ...]]:
    """Return everything below *root*, except what a reader may change: locks, counters, and LMDB's table of readers."""
    found: dict[str, tuple[int, ...]] = {}
    for directory, directories, names in os.walk(root):
        if directory == root:
            directories.remove("locks")
        for name in names:
            if name not in ("lock.mdb", "statistics.json"):
                status = os.lstat(f"{directory}/{name}")
                found[f"{directory}/{name}"] = (
                    status.st_ino,
                    status.st_size,
                    status.st_mode,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
    return found


def _strings(note: object) -> list[str]:
    return note if isinstance(note, list) else []


def _modules_of(note: object) -> list[str]:
    """Return the modules that another process has imported and this one has not."""
    return [name for name in _strings(note) if name not in sys.modules]


def _is_clear(error: BaseException) -> bool:
    """Whether an error is one that the API documents, and not a bug."""
    if isinstance(error, WrongBytesError):
        return False
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, OSError | MemoryError | casstore.CasstoreError | CloudPathException)


def _is_traced(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return any(line.startswith("TracerPid:") and int(line.split()[1]) > 0 for line in file)
    return False
