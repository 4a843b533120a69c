"""The lock that one collecting process has at a time, to save work. Two collectors at once are safe."""

from __future__ import annotations

from casstore.format.layout import Layout
from casstore.locks.lock_files import LockFile


class CollectorLock(LockFile):
    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.collector_lock)
