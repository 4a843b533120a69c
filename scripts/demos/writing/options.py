"""The command line of ``scripts/demo_writes``; standard library only: it is read before there is an environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from demos.reading.options import positive

FEWEST: Final = 4
"""Processes: two are killed, one fails to append, and one fails to write an object of its own."""


@dataclass(frozen=True, slots=True)
class Options:
    """*lines* are those that each process appends before anything fails."""

    processes: int
    lines: int
    keep: bool
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Exits with a usage message where *arguments* mean nothing."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo_writes",
        description="Has processes append lines to one object of a real S3 server (SeaweedFS, started for this), kills "
        "two of them in the middle of an upload, takes the network away while the others close their files, brings it "
        "back, uploads with `casstore push` what was kept, and counts the lines: none is lost, none is there twice.",
        epilog="Exit status: 0 if no line is lost, and none there twice; 1 if not.",
    )
    parser.add_argument("--processes", type=_processes, default=8, metavar="N", help="that write (default 8)")
    parser.add_argument("--lines", type=positive, default=25, metavar="N", help="each appends (default 25)")
    parser.add_argument("--keep", action="store_true", help="leave the store and the journals where they are")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    return Options(given.processes, given.lines, given.keep, given.json)


def _processes(text: str) -> int:
    number = positive(text)
    if number < FEWEST:
        raise argparse.ArgumentTypeError(
            f"{text} are too few: two are killed, and two have to go on ({FEWEST} or more)"
        )
    return number
