"""The command line of ``scripts/demo``; standard library only, because it is parsed before an environment exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

START_METHODS = ("fork", "spawn", "forkserver")
CLOUDS = {"s3": "SeaweedFS", "gs": "fake-gcs-server", "az": "Azurite", "http": "a plain HTTP server"}
"""The server that is started for each cloud."""
FILES = 750
"""Files in one version of the default dataset: about 1,500 objects, which eight workers read in about a minute."""


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed options: *dataset* and *files* are None unless given.

    *start_method* is one of `START_METHODS`. *cloud* is one of `CLOUDS` or, without a server, ``file``.
    """

    workers: int
    start_method: str
    dataset: Path | None
    files: int | None
    cloud: str
    serve: bool
    keep: bool
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    """Parse *arguments*; a usage error exits with a message."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Starts a real server, uploads a real dataset in two versions, and reads all of it through one "
        "store with several worker processes. A table shows the requests, the bytes and the seconds.",
        epilog="The last line is the verdict. Exit status: 0 if every target was met, 1 if not.",
    )
    parser.add_argument(
        "--cloud",
        choices=CLOUDS,
        help="protocol of the server (default s3): "
        + ", ".join(f"{cloud} is {server}" for cloud, server in CLOUDS.items())
        + "; az needs Node.js",
    )
    parser.add_argument(
        "--workers", type=positive, default=8, metavar="N", help="number of reading processes (default 8)"
    )
    parser.add_argument(
        "--start-method", choices=START_METHODS, default="fork", help="how the workers are started (default fork)"
    )
    parser.add_argument(
        "--dataset",
        type=directory,
        metavar="DIR",
        help=f"upload all files below DIR instead of {FILES} files of this environment's site-packages",
    )
    parser.add_argument("--files", type=positive, metavar="N", help="upload at most N files")
    parser.add_argument("--no-server", action="store_true", help="read from a file:// bucket; requests are not counted")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="only start the server, with a bucket, and print the exports that reach it; Ctrl-C stops it",
    )
    parser.add_argument("--keep", action="store_true", help="keep the store and the dataset")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    if given.no_server and given.cloud is not None:
        parser.error(f"--cloud {given.cloud} starts a server, --no-server starts none: leave one of them out")
    if given.no_server and given.serve:
        parser.error("--serve starts a server, --no-server starts none: leave one of them out")
    cloud = "file" if given.no_server else given.cloud or "s3"
    return Options(
        given.workers,
        given.start_method,
        given.dataset,
        given.files,
        cloud,
        given.serve,
        given.keep,
        given.json,
    )


def positive(text: str) -> int:
    """Parse a count of at least one, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def directory(text: str) -> Path:
    """Parse the name of a directory that exists, for argparse."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path.resolve()


positive.__name__ = "count"  # argparse puts it into its message: invalid count value
