"""The command line of `scripts/mutate`; standard library only, since no environment exists yet."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from devtools.arguments import count


@dataclass(frozen=True, slots=True)
class Options:
    """*only* are names of lines, none for all; *sample* is how many to draw with *seed*, None for all.

    *directory* has another list.
    """

    only: tuple[str, ...]
    sample: int | None
    seed: int
    jobs: int
    directory: str | None
    lists: bool
    checks: bool
    control: bool
    as_json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Raises SystemExit, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="scripts/mutate",
        description="Remove safety lines from the code, one at a time. Each time, the tests named beside the line must "
        "fail. The lines are in scripts/mutation/lines. The checkout is never changed: a private copy is.",
        epilog="Exit status: 0 if each line was noticed or its tests are skipped here; 1 if a line survived, is not in "
        "the code any more (stale), or could not be tried; 2 for wrong options.",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME,...", help="only these lines; can be repeated"
    )
    parser.add_argument("--sample", type=count, metavar="N", help="only N lines, drawn at random")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the sample (default 1)")
    parser.add_argument(
        "--jobs", type=count, default=_processors(), metavar="N", help="lines at a time (default %(default)s)"
    )
    parser.add_argument("--lines", dest="directory", metavar="DIR", help="a directory with another list")
    parser.add_argument("--list", dest="lists", action="store_true", help="print the lines and change nothing")
    parser.add_argument(
        "--check",
        dest="checks",
        action="store_true",
        help="only check that each line is in the code once, and that its tests exist; seconds",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="keep each line, and change a comment: all lines must survive, with exit status 1",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    only = tuple(dict.fromkeys(name for names in given.only for name in names.split(",")))
    return Options(**{**vars(given), "only": only})


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
