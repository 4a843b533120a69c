"""Try the safety lines; `scripts/mutate` starts this with the environment's Python."""

from __future__ import annotations

import queue
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mutation import report
from mutation.options import Options, parse
from mutation.private_copy import PrivateCopy
from mutation.safety_lines import InvalidListError, SafetyLine, chosen, load, problems
from mutation.verdicts import Outcome, Trial, Verdict

ROOT = Path(__file__).resolve().parents[2]


def main(options: Options) -> int:
    """Try the lines; return the exit status."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        lines = load() if options.directory is None else load(Path(options.directory))
        lines = chosen(lines, options.only, options.sample, options.seed)
    except InvalidListError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"there is no line {error}: scripts/mutate --list names them", file=sys.stderr)
        return 2
    if options.lists:
        print(report.listed(lines, as_json=options.as_json))
        return 0
    if options.checks:
        found = problems(lines, ROOT)
        print("\n".join([*found, f"{len(lines)} lines, {len(found)} problems"]))
        return 1 if found else 0
    began = time.monotonic()
    verdicts = _try_all(lines, min(options.jobs, len(lines)), control=options.control)
    seconds = time.monotonic() - began
    print(report.as_json(verdicts, seconds) if options.as_json else report.as_text(verdicts, seconds))
    return 0 if all(verdict.outcome.is_good for verdict in verdicts) else 1


def _try_all(lines: Sequence[SafetyLine], jobs: int, *, control: bool) -> list[Verdict]:
    trial = Trial()
    with _copies(jobs) as copies, ThreadPoolExecutor(jobs) as pool:
        first = copies.get()
        _show(0, len(lines), 0)
        failing = trial.failing_before(first, lines)
        copies.put(first)

        def work(line: SafetyLine) -> Verdict:
            if line.name in failing:
                return Verdict(line, Outcome.FAILED, f"its tests fail with the line as well:\n{failing[line.name]}")
            copy = copies.get()
            try:
                return trial.try_line(copy, line, control=control)
            finally:
                copies.put(copy)

        running = {pool.submit(work, line): number for number, line in enumerate(lines)}
        found: dict[int, Verdict] = {}
        try:
            for future in as_completed(running):
                found[running[future]] = future.result()
                bad = sum(not verdict.outcome.is_good for verdict in found.values())
                _show(len(found), len(lines), bad)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            trial.stop()
            raise
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return [found[number] for number in range(len(lines))]


@contextmanager
def _copies(count: int) -> Iterator[queue.SimpleQueue[PrivateCopy]]:
    """Yield *count* private copies of the tree, which are removed afterwards."""
    # A short name: servers of tests have sockets below it.
    with tempfile.TemporaryDirectory(prefix="mutate-", ignore_cleanup_errors=True) as directory:
        copies: queue.SimpleQueue[PrivateCopy] = queue.SimpleQueue()
        for number in range(count):
            copies.put(PrivateCopy(ROOT, Path(directory) / str(number)))
        yield copies


def _show(done: int, total: int, bad: int) -> None:
    """Draw the progress: at first, the tests are run with all lines in place."""
    if sys.stderr.isatty():
        print(f"\r\033[K{done} of {total} lines, {bad} not noticed", end="", file=sys.stderr, flush=True)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main(parse(sys.argv[1:])))
    except KeyboardInterrupt:
        sys.exit(130)
