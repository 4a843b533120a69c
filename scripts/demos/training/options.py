"""The command line of ``scripts/demo_torch``; standard library only, because it is parsed before torch exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools.arguments import add_dataset, add_results, count

from demos.reading.options import START_METHODS

FILES = 400
"""Files in one version of the default dataset: about 800 objects, which eight workers read faster than they start."""


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed options: *dataset*, *files* and *python* are None unless given.

    *start_methods* are some of `START_METHODS`; *loader* is ``torch`` or ``plain``.
    """

    workers: int
    epochs: int
    start_methods: tuple[str, ...]
    dataset: Path | None
    files: int | None
    server: bool
    loader: str
    python: Path | None
    install: bool
    keep: bool
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Parse *arguments*; a usage error exits with a message."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo_torch",
        description="Reads like a training job: torch's DataLoader reads a real dataset through one store with worker "
        "processes, and every byte is compared. Meanwhile `casstore gc --max-size` runs in a loop, with a third of the "
        "dataset's bytes as the budget.",
        epilog="The last line is the verdict. Exit status: 0 if every target was met, or if torch cannot be installed "
        "(the reason is printed); else 1.",
    )
    parser.add_argument("--workers", type=count, default=8, metavar="N", help="workers of the DataLoader (default 8)")
    parser.add_argument(
        "--epochs", type=count, default=2, metavar="N", help="number of passes over the dataset (default 2)"
    )
    parser.add_argument(
        "--start-method",
        dest="start_methods",
        choices=(*START_METHODS, "all"),
        default="all",
        help="how the workers are started (default all, in turn)",
    )
    add_dataset(parser, FILES)
    parser.add_argument(
        "--loader",
        choices=("torch", "plain"),
        default="torch",
        help="plain uses a process pool of the standard library instead of torch",
    )
    parser.add_argument(
        "--python", type=Path, metavar="PYTHON", help="use this Python, which has torch; install nothing"
    )
    parser.add_argument("--install", action="store_true", help="install torch into .venv-torch without asking")
    add_results(parser, "the stores and the dataset")
    given = parser.parse_args(arguments)
    given.start_methods = START_METHODS if given.start_methods == "all" else (given.start_methods,)
    given.server = not vars(given).pop("no_server")
    return Options(**vars(given))
