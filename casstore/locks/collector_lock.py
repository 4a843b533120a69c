"""Whose turn it is to collect: one process at a time, to save work. Two collectors at once are safe all the same."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from casstore.format.layout import Layout
from casstore.locks.lock_files import POLL_LAST, create_locked


class CollectorLock:
    """The collector's lock of one store in this process; thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._descriptors: set[int] = set()

    @contextlib.contextmanager
    def acquire(self, timeout: float) -> Iterator[bool]:
        """Hold the lock for the block; False where somebody else had it for *timeout* seconds."""
        descriptor = self._wait(time.monotonic() + timeout)
        if descriptor is None:
            yield False
            return
        self._descriptors.add(descriptor)
        try:
            yield True
        finally:
            # In a child that was forked meanwhile, `forget` has closed it already.
            if descriptor in self._descriptors:
                self._descriptors.discard(descriptor)
                os.close(descriptor)

    def _wait(self, deadline: float) -> int | None:
        while True:
            with contextlib.suppress(BlockingIOError):
                return create_locked(self._layout.collector_lock)
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_LAST)

    def after_fork_in_child(self) -> None:
        """In a forked child: let go of the parent's turn without ending it; closing does that."""
        descriptors, self._descriptors = self._descriptors, set()
        for descriptor in descriptors:
            os.close(descriptor)
