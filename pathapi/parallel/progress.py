"""How far something is that takes many objects, as its callback sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

TELL_SECONDS: Final = 0.1
"""How often callbacks hear of progress."""


@dataclass(slots=True)
class Progress:
    """How far it is; *total* figures grow while listings and first answers come in.

    *bytes* counts what is done, *held* the objects that were there before, *underway* the bytes received of objects
    that are not complete (by all of this process's downloads).
    """

    files: int = 0
    total_files: int = 0
    bytes: int = 0
    total_bytes: int = 0
    held: int = 0
    underway: int = 0
    is_listing: bool = True


ProgressCallback: TypeAlias = Callable[[Progress], object]
"""Called some ten times a second and at the end, from the thread that waits."""
