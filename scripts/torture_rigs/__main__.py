"""Run one rig; `scripts/torture` starts this with the environment's Python."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Final, NoReturn

from torture_rigs.options import Options, parse
from torture_rigs.report import Report
from torture_rigs.run_state import Run
from torture_rigs.workload.workers import kill_all

_FOREIGN: Final = ("CASSTORE_", "CLOUDPATHLIB_")
_SHOWN: Final = 20


def main(options: Options) -> int:
    """Run the rig; return the exit status."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN):
            del os.environ[name]  # the user's settings must not affect this store
    signal.signal(signal.SIGTERM, _leave)
    run = Run.start(options.directory)
    began = time.monotonic()
    try:
        report = _torture(options, run)
    except KeyboardInterrupt:
        kill_all()
        run.remove()
        return 130
    except SystemExit:
        kill_all()
        run.remove()
        raise
    report.seconds = time.monotonic() - began
    for violation in report.violations[:_SHOWN]:
        print(f"violation: {violation}", file=sys.stderr)
    if report.violations:
        print(f"kept: {run.directory}, with the store: {report.kept or run.store}", file=sys.stderr)
    else:
        run.remove()
    print(report.as_json() if options.as_json else report.summary())
    return 1 if report.violations else 0


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _torture(options: Options, run: Run) -> Report:
    # Imported here: each rig has its own requirements.
    if options.rig == "kill":
        from torture_rigs.rigs.kill import Killer

        return Killer(run, options.seed, options.control).run(options.count, options.seconds)
    if options.rig == "cut":
        from torture_rigs.rigs.power_cut import Cutter

        return Cutter(run, options.seed, options.control).run(options.count, options.seconds)
    from torture_rigs.rigs.syscall_faults import Failer

    return Failer(run, options).run(options.count, options.seconds)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
