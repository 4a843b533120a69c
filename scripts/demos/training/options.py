"""The command line of ``scripts/demo_torch``; standard library only, for it is looked at before there is torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demos.reading.options import START_METHODS, directory, positive

FILES = 400
"""Of one version of the default dataset: some 800 objects, which eight workers read in less time than they take to
start by spawn.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """*start_methods* are some of `START_METHODS`; *loader* is ``torch`` or ``plain``; *dataset*, *files* and *python*
    are None unless given.
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
    """Exits with a usage message where *arguments* mean nothing."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo_torch",
        description="Trains, so to speak: torch's DataLoader reads a real dataset through one store with worker "
        "processes, every byte is compared, and all the while `casstore gc --max-size` with a third of the dataset's "
        "bytes runs in a loop.",
        epilog="Exit status: 0 if no byte was wrong and nothing failed or hung; 0 too, with the reason, where there is "
        "no torch; else 1.",
    )
    parser.add_argument("--workers", type=positive, default=8, metavar="N", help="of the DataLoader (default 8)")
    parser.add_argument("--epochs", type=positive, default=2, metavar="N", help="times all is read (default 2)")
    parser.add_argument(
        "--start-method", choices=(*START_METHODS, "all"), default="all", help="of the workers (default all, in turn)"
    )
    parser.add_argument(
        "--dataset",
        type=directory,
        metavar="DIR",
        help=f"upload all files below DIR, not {FILES} from this environment's own site-packages",
    )
    parser.add_argument("--files", type=positive, metavar="N", help="take at most N files")
    parser.add_argument("--no-server", action="store_true", help="read from a file:// bucket; no GET is counted")
    parser.add_argument(
        "--loader",
        choices=("torch", "plain"),
        default="torch",
        help="plain: a process pool of the standard library in place of torch",
    )
    parser.add_argument(
        "--python", type=Path, metavar="PYTHON", help="use this Python, which has torch, and install nothing"
    )
    parser.add_argument(
        "--install", action="store_true", help="install torch into .venv-torch without asking, whatever its size"
    )
    parser.add_argument("--keep", action="store_true", help="leave the stores and the dataset where they are")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    return Options(
        given.workers,
        given.epochs,
        START_METHODS if given.start_method == "all" else (given.start_method,),
        given.dataset,
        given.files,
        not given.no_server,
        given.loader,
        given.python,
        given.install,
        given.keep,
        given.json,
    )
