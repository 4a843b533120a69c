"""The progress of an operation on many objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

PROGRESS_SECONDS: Final = 0.1
"""The least time between two calls of a callback."""


@dataclass(slots=True)
class Progress:
    """Counts so far; the totals grow while a listing runs.

    *held* counts objects that needed no transfer, *underway* the bytes of this process's unfinished downloads.
    """

    files: int = 0
    total_files: int = 0
    bytes: int = 0
    total_bytes: int = 0
    held: int = 0
    underway: int = 0
    is_listing: bool = True


ProgressCallback: TypeAlias = Callable[[Progress], object]
"""Called about ten times a second and at the end, from the calling thread."""
