"""The command line of `scripts/torture`; standard library only, since no environment exists yet."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from devtools.arguments import count

CONTROLS: Final = {
    "kill": ("publish-unchecked", "sweep-unchecked", "pending-unrecorded", "discard-early", "edits-unseen"),
    "cut": (
        *("place-unchecked", "synced-unsynced", "pending-unsynced", "pending-unrecorded", "discard-early"),
        *("save-unsynced", "edits-unseen"),
    ),
    "syscalls": ("index-unchecked", "pins-unseen"),
}
"""By rig: the protections that a negative control can disable, to prove that the rig detects it."""

PROGRAMS: Final = (
    *("create", "fill", "read", "write", "append", "refuse", "push", "drop", "gc", "verify", "mend"),
    *("collect", "clear", "inspect", "sample", "repair", "reindex"),
)
"""The programs whose system calls can fail."""

_ERRORS: Final = ("EIO", "ENOSPC", "EMFILE", "EACCES", "EAGAIN")

WAYS: Final = (*_ERRORS, *(f"{error}+" for error in _ERRORS), "EINTR", "KILL")
"""The kinds of failure; with a plus, the call and all later ones fail."""

_UNITS: Final = {"kill": "kills", "cut": "cuts", "syscalls": "points"}


@dataclass(frozen=True, slots=True)
class Options:
    """*count* kills, cuts or points, started within *seconds*; None means no limit.

    *only* selects programs, *ways* kinds of failure.
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
        description="Stress a store: kill its processes, cut its power, fail its system calls. An independent checker "
        "then examines the store.",
        epilog="Exit status: 0 without a violation or if the rig is skipped, 1 with a violation; the store is then "
        "kept. A control disables one protection in the workers: the rig must then find a violation.",
    )
    rigs = parser.add_subparsers(dest="rig", required=True, metavar="RIG")
    for name, text, default in (
        ("kill", "kill workers that fill, read, write, push, evict and fork, at random moments", 500),
        ("cut", "cut the power of a mounted ext4 file system (root and Linux only)", 50),
        (
            "syscalls",
            "fail each system call of fill, read, write, push, gc, verify and more (needs strace)",
            None,
        ),
    ):
        rig = rigs.add_parser(name, help=text, description=text)
        unit = _UNITS[name]
        shown = "all" if default is None else str(default)
        rig.add_argument(f"--{unit}", dest="count", type=count, metavar="N", help=f"number of {unit} (default {shown})")
        rig.add_argument("--seconds", type=float, metavar="S", help=f"start no more {unit} after this time")
        rig.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random numbers (default 1)")
        rig.add_argument("--control", choices=CONTROLS[name], help="disable this protection")
        rig.add_argument("--dir", dest="directory", metavar="DIR", help="working directory (default: a temporary one)")
        rig.add_argument("--json", dest="as_json", action="store_true", help="print the summary as JSON")
        rig.set_defaults(default=default, only=PROGRAMS, ways=WAYS)
    programs = f"only these programs: {', '.join(PROGRAMS)}"
    rigs.choices["syscalls"].add_argument("--only", type=_several(PROGRAMS), metavar="NAME,...", help=programs)
    ways = f"only these kinds of failure: {', '.join(WAYS)}"
    rigs.choices["syscalls"].add_argument("--ways", type=_several(WAYS), metavar="WAY,...", help=ways)
    given = parser.parse_args(arguments)
    default = vars(given).pop("default")
    if given.count is None and given.seconds is None:
        given.count = default
    return Options(**vars(given))


def _several(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def several(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(text.split(",")))
        if not set(chosen) <= set(names):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(names)}")
        return chosen

    return several
