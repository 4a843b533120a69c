"""The command line of ``scripts/demo``; standard library only, because it is parsed before an environment exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools.arguments import add_dataset, add_results, count

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
    parser.add_argument("--workers", type=count, default=8, metavar="N", help="number of reading processes (default 8)")
    parser.add_argument(
        "--start-method", choices=START_METHODS, default="fork", help="how the workers are started (default fork)"
    )
    add_dataset(parser, FILES)
    parser.add_argument(
        "--serve",
        action="store_true",
        help="only start the server, with a bucket, and print the exports that reach it; Ctrl-C stops it",
    )
    add_results(parser, "the store and the dataset")
    given = parser.parse_args(arguments)
    if given.no_server and given.cloud is not None:
        parser.error(f"--cloud {given.cloud} starts a server, --no-server starts none: leave one of them out")
    if given.no_server and given.serve:
        parser.error("--serve starts a server, --no-server starts none: leave one of them out")
    given.cloud = "file" if given.no_server else given.cloud or "s3"
    del given.no_server
    return Options(**vars(given))
