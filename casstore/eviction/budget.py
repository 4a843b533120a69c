"""What a store may hold: its budget, and what it holds now."""

from __future__ import annotations

import os
from dataclasses import dataclass

from casstore.config.rules import Rule
from casstore.config.settings import Settings
from casstore.eviction.policies import ADAPTIVE
from casstore.format.keys import BLOB
from casstore.format.records import peek_blob
from casstore.index.database import Index


@dataclass(frozen=True, slots=True)
class Budget:
    """What the store may take: *max_size* bytes of blobs at most (None: any), *min_free* bytes of disk left free.

    What was not used for *max_age* seconds goes in any case (None: nothing does). *rules* hold for URIs by prefix: of
    several the one with the longest. *policy* says in which order blobs make way (`casstore.policies`).
    """

    max_size: int | None
    min_free: int
    max_age: int | None = None
    rules: tuple[Rule, ...] = ()
    policy: str = ADAPTIVE

    @property
    def has_rules(self) -> bool:
        """Whether anything goes although there is room."""
        return self.max_age is not None or bool(self.rules)


def budget_of(
    settings: Settings,
    root: str,
    max_size: int | None = None,
    min_free: int | None = None,
    max_age: int | None = None,
) -> Budget:
    """The budget as asked for, else as the store is set."""
    return Budget(
        settings.max_size if max_size is None else max_size,
        settings.keep_free(os.statvfs(root)) if min_free is None else min_free,
        settings.max_age if max_age is None else max_age,
        settings.rules,
        settings.policy,
    )


def free_bytes(root: str) -> int:
    """What this user may still write to the disk."""
    space = os.statvfs(root)
    return space.f_bavail * space.f_frsize


def stored_bytes(index: Index) -> int:
    """What the rows say that the blobs take. Cheaper than a plan, and blind to files without a row."""
    return sum(peek_blob(row, record) or 0 for row, record in index.scan(BLOB))
