"""Which blobs a verification hashes: all, a random fraction, or the newest."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import time
from datetime import timedelta


class Sample:
    """A random *fraction* of the *newest* blobs (a number of them, or a maximum age).

    Raises:
        ValueError: *fraction* or *newest* is out of range.
    """

    def __init__(self, fraction: float | None = None, newest: int | timedelta | None = None) -> None:
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"sample must be greater than 0 and at most 1, not {fraction}")
        if newest is not None and (newest <= timedelta() if isinstance(newest, timedelta) else newest < 1):
            raise ValueError(f"newest must be at least 1, or a positive duration, not {newest}")
        self._fraction = fraction
        self._newest = newest
        self._paths: frozenset[str] = frozenset()
        self._since_ns = 0

    def select(self, blobs: str) -> None:
        """Find the newest files below *blobs*, if *newest* was given."""
        if isinstance(self._newest, timedelta):
            self._since_ns = time.time_ns() - int(self._newest.total_seconds() * 1e9)
        elif self._newest is not None:
            # The blob checks report directories that cannot be listed.
            paths = (f"{directory}/{name}" for directory, _, names in os.walk(blobs) for name in names)
            ages = ((changed, path) for path in paths if (changed := _changed_ns(path)) is not None)
            self._paths = frozenset(path for _, path in heapq.nlargest(self._newest, ages))

    def includes(self, path: str) -> bool:
        """Whether to hash that blob; True for a file without a readable status, so that the check reports it."""
        if self._paths and path not in self._paths:
            return False
        if self._since_ns and (_changed_ns(path) or self._since_ns) < self._since_ns:
            return False
        return self._fraction is None or random.random() < self._fraction


def _changed_ns(path: str) -> int | None:
    # The ctime is the time of the last link, and so of the download. The mtime is derived from the digest.
    with contextlib.suppress(OSError):
        return os.lstat(path).st_ctime_ns
    return None
