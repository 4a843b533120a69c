"""Arguments that several command lines have; standard library only, since no environment exists yet."""

from __future__ import annotations

import argparse
from pathlib import Path


def count(text: str) -> int:
    """Parse a number of at least one; argparse puts the name of this function into its message."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def directory(text: str) -> Path:
    """Parse the name of a directory that exists."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path.resolve()


def add_dataset(parser: argparse.ArgumentParser, files: int) -> None:
    """Add the options of the demos that read a dataset, by default of so many *files*."""
    parser.add_argument(
        "--dataset",
        type=directory,
        metavar="DIR",
        help=f"upload all files below DIR instead of {files} files of this environment's site-packages",
    )
    parser.add_argument("--files", type=count, metavar="N", help="upload at most N files")
    parser.add_argument("--no-server", action="store_true", help="read from a file:// bucket; requests are not counted")


def add_results(parser: argparse.ArgumentParser, kept: str) -> None:
    """Add the options of all demos: what is *kept*, and in which form the result is printed."""
    parser.add_argument("--keep", action="store_true", help=f"keep {kept}")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
