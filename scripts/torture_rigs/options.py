"""The command line of `scripts/torture`: standard library only, read before there is an environment."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

CONTROLS: Final = {
    "kill": ("publish-unchecked", "sweep-unchecked", "pending-unrecorded", "discard-early", "edits-unseen"),
    "cut": (
        *("place-unchecked", "synced-unsynced", "pending-unsynced", "pending-unrecorded", "discard-early"),
        *("save-unsynced", "edits-unseen"),
    ),
    "syscalls": ("index-unchecked", "pins-unseen"),
}
"""By rig: protections that can be taken away, to see that the rig notices."""

PROGRAMS: Final = (
    *("create", "fill", "read", "write", "append", "refuse", "push", "drop", "gc", "verify", "mend"),
    *("collect", "clear", "inspect", "sample", "repair", "reindex"),
)
"""Whose system calls can fail."""

_ERRORS: Final = ("EIO", "ENOSPC", "EMFILE", "EACCES", "EAGAIN")

WAYS: Final = (*_ERRORS, *(f"{error}+" for error in _ERRORS), "EINTR", "KILL")
"""How they can; with a plus, that call and all that follow."""

_UNITS: Final = {"kill": "kills", "cut": "cuts", "syscalls": "points"}


@dataclass(frozen=True, slots=True)
class Options:
    """*count* of kills, cuts or points; *seconds* to begin new ones in; None for no limit of that kind.

    *only* these programs are made to fail, in these *ways*.
    """

    rig: str
    count: int | None
    seconds: float | None
    seed: int
    control: str | None
    directory: str | None
    as_json: bool
    only: tuple[str, ...] = PROGRAMS
    ways: tuple[str, ...] = WAYS


def parse(arguments: Sequence[str]) -> Options:
    """Raises SystemExit, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Does to a store what the field does (kills its users, cuts its power, fails its system calls), "
        "and has an independent checker look at what is left.",
        epilog="Exit status: 0 without a violation (or where a rig is skipped, with its reason), 1 with one; its store "
        "is kept. A control takes one protection away in the workers: then a violation is what should be found.",
    )
    rigs = parser.add_subparsers(dest="rig", required=True, metavar="RIG")
    for name, text, default in (
        ("kill", "workers that fill, read, write, push, evict and fork, killed at random moments", 500),
        ("cut", "power cuts below a mounted ext4 (root and Linux only)", 50),
        (
            "syscalls",
            "each system call of fill, read, write, push, gc, verify and more failing (needs strace)",
            None,
        ),
    ):
        rig = rigs.add_parser(name, help=text, description=text)
        unit = _UNITS[name]
        said = "all" if default is None else str(default)
        rig.add_argument(f"--{unit}", dest="count", type=_count, metavar="N", help=f"how many (default {said})")
        rig.add_argument("--seconds", type=float, metavar="S", help=f"begin no more {unit} after this time")
        rig.add_argument("--seed", type=int, default=1, metavar="N", help="of everything that is random (default 1)")
        rig.add_argument("--control", choices=CONTROLS[name], help="take this protection away")
        rig.add_argument("--dir", dest="directory", metavar="DIR", help="work below DIR, not the temporary directory")
        rig.add_argument("--json", dest="as_json", action="store_true", help="print the summary as JSON")
        rig.set_defaults(default=default, only=PROGRAMS, ways=WAYS)
    said = f"only these programs, of {', '.join(PROGRAMS)}"
    rigs.choices["syscalls"].add_argument("--only", type=_several(PROGRAMS), metavar="NAME,...", help=said)
    said = f"only in these ways, of {', '.join(WAYS)}"
    rigs.choices["syscalls"].add_argument("--ways", type=_several(WAYS), metavar="WAY,...", help=said)
    given = parser.parse_args(arguments)
    count = given.count if given.count is not None or given.seconds is not None else given.default
    return Options(
        given.rig,
        count,
        given.seconds,
        given.seed,
        given.control,
        given.directory,
        given.as_json,
        given.only,
        given.ways,
    )


def _several(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def several(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(text.split(",")))
        if not set(chosen) <= set(names):
            raise argparse.ArgumentTypeError(f"{text!r} names something else than {', '.join(names)}")
        return chosen

    return several


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_count.__name__ = "count"  # argparse puts it into its message: invalid count value
