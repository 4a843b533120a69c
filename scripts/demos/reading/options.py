"""The command line of ``scripts/demo``; standard library only, for it is looked at before there is an environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

START_METHODS = ("fork", "spawn", "forkserver")
CLOUDS = {"s3": "SeaweedFS", "gs": "fake-gcs-server", "az": "Azurite", "http": "a plain HTTP server"}
"""And the server that is started for each."""
FILES = 750
"""Files of one version of the default dataset: some 1,500 objects, which eight workers read in about a minute."""


@dataclass(frozen=True, slots=True)
class Options:
    """*dataset* and *files* are None unless given. *start_method* is one of `START_METHODS`. *cloud* is one of `CLOUDS`
    or, without a server, ``file``.
    """

    workers: int
    start_method: str
    dataset: Path | None
    files: int | None
    cloud: str
    keep: bool
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Exits with a usage message where *arguments* mean nothing."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Uploads a real dataset in two versions to a real server, started for this, has worker processes "
        "read all of it through one store, and shows what went over the wire and how long it took.",
        epilog="Exit status: 0 if every target of the table is met, 1 if not.",
    )
    parser.add_argument(
        "--cloud",
        choices=CLOUDS,
        help="whose protocol the server speaks (default s3): "
        + ", ".join(f"{cloud} is {server}" for cloud, server in CLOUDS.items())
        + "; az needs Node.js",
    )
    parser.add_argument("--workers", type=positive, default=8, metavar="N", help="reading processes (default 8)")
    parser.add_argument("--start-method", choices=START_METHODS, default="fork", help="of the workers (default fork)")
    parser.add_argument(
        "--dataset",
        type=directory,
        metavar="DIR",
        help=f"upload all files below DIR, not {FILES} from this environment's own site-packages",
    )
    parser.add_argument("--files", type=positive, metavar="N", help="take at most N files")
    parser.add_argument("--no-server", action="store_true", help="read from a file:// bucket; nothing is counted")
    parser.add_argument("--keep", action="store_true", help="leave the store and the dataset where they are")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    if given.no_server and given.cloud is not None:
        parser.error(f"--cloud {given.cloud} is a server, and --no-server wants none: leave one of them out")
    cloud = "file" if given.no_server else given.cloud or "s3"
    return Options(given.workers, given.start_method, given.dataset, given.files, cloud, given.keep, given.json)


def positive(text: str) -> int:
    """A count of at least one, as argparse takes it."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def directory(text: str) -> Path:
    """A directory that is there, as argparse takes it."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path.resolve()


positive.__name__ = "count"  # argparse puts it into its message: invalid count value
