"""Which blobs a verification hashes: all of them, a random part, or those that are newest on this disk."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import time
from collections.abc import Iterator
from datetime import timedelta


class Sample:
    """A choice of blobs: of the *newest* (so many, or named so long ago at most) the part *fraction*, at random.

    A file counts as named when it got its last link: its mtime is its digest's. Raises ValueError.
    """

    __slots__ = ("_fraction", "_newest", "_paths", "_since_ns")

    def __init__(self, fraction: float | None = None, newest: int | timedelta | None = None) -> None:
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"a sample is a part between 0 and 1, not {fraction}")
        if newest is not None and (newest <= timedelta() if isinstance(newest, timedelta) else newest < 1):
            raise ValueError(f"the newest are one at least, or of some time: not {newest}")
        self._fraction = fraction
        self._newest = newest
        self._paths: frozenset[str] = frozenset()
        self._since_ns = 0

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self._newest is None and self._fraction in (None, 1)

    def look(self, blobs: str) -> None:
        """Find out which files below *blobs* are the newest, if that was asked for: one look at each."""
        if isinstance(self._newest, timedelta):
            self._since_ns = time.time_ns() - int(self._newest.total_seconds() * 1e9)
        elif self._newest is not None:
            named = ((changed, path) for path in _files_in(blobs) if (changed := _changed_ns(path)) is not None)
            self._paths = frozenset(path for _, path in heapq.nlargest(self._newest, named))

    def includes(self, path: str) -> bool:
        """Whether that blob is among them; True for one that nobody can look at, so that it is said."""
        if self._paths and path not in self._paths:
            return False
        if self._since_ns and (_changed_ns(path) or self._since_ns) < self._since_ns:
            return False
        return self._fraction is None or random.random() < self._fraction


def _files_in(blobs: str) -> Iterator[str]:
    # What cannot be listed is said by whoever checks it.
    for directory, _, names in os.walk(blobs):
        for name in names:
            yield f"{directory}/{name}"


def _changed_ns(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_ctime_ns
    return None
