"""The command line of ``scripts/demo_writes``; standard library only: it is parsed before an environment exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devtools.arguments import add_results, count

FEWEST: Final = 4
"""Processes: two are killed, one fails to append, and one fails to write another object."""


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed options; each process appends *lines* before the first failure."""

    processes: int
    lines: int
    keep: bool
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Parse *arguments*; a usage error exits with a message."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo_writes",
        description="Several processes append lines to one object of a real S3 server (SeaweedFS, started for this). "
        "Two are killed during an upload. The network fails while the others close their files, and recovers. "
        "`casstore push` uploads the pending writes. Then all lines are counted: none may be lost or stored twice.",
        epilog="The last line is the verdict. Exit status: 0 if no line was lost or stored twice, 1 if not.",
    )
    parser.add_argument(
        "--processes", type=_processes, default=8, metavar="N", help="number of writing processes (default 8)"
    )
    parser.add_argument(
        "--lines", type=count, default=25, metavar="N", help="lines that each process appends (default 25)"
    )
    add_results(parser, "the store and the journals")
    given = parser.parse_args(arguments)
    return Options(**vars(given))


def _processes(text: str) -> int:
    number = count(text)
    if number < FEWEST:
        raise argparse.ArgumentTypeError(
            f"{text} is too few: use {FEWEST} or more, because two are killed and two must continue"
        )
    return number
