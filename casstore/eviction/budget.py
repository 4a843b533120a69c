"""The budget of a store, and how much it contains."""

from __future__ import annotations

import os
from dataclasses import dataclass

from casstore.config.settings import Rule
from casstore.eviction.policies import ADAPTIVE
from casstore.format.keys import BLOB
from casstore.format.records import peek_blob
from casstore.index.database import Index


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a store: *max_size* bytes of blobs at most (None: no limit), *min_free* bytes of disk left free.

    What was last used more than *max_age* seconds ago is evicted in any case (None: nothing). *rules* apply to URIs by
    their longest prefix. *policy* is the order of eviction (`casstore.eviction.policies`). A local path that was handed
    out *grace* seconds ago may go, if no process uses it.
    """

    max_size: int | None
    min_free: int
    max_age: int | None = None
    rules: tuple[Rule, ...] = ()
    policy: str = ADAPTIVE
    grace: float = 0.0

    @property
    def has_rules(self) -> bool:
        """Whether anything is evicted although there is room."""
        return self.max_age is not None or bool(self.rules)


def free_bytes(root: str) -> int:
    """Return the bytes that this user may still write to the disk."""
    space = os.statvfs(root)
    return space.f_bavail * space.f_frsize


def stored_bytes(index: Index) -> int:
    """Add up the sizes in the rows of blobs. Cheaper than a plan, and without the files that have no row."""
    return sum(peek_blob(row, record) or 0 for row, record in index.scan(BLOB))
