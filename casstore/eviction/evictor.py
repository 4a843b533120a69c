"""Plan and carry out evictions and clearings of one store, one process at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from casstore.blobs.blob_store import BlobStore
from casstore.counters import Counters
from casstore.errors import LockTimeoutError
from casstore.exit_hooks import ExitHook
from casstore.format.records import Entry
from casstore.fs import files
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.leases.holder import LeaseHolder
from casstore.locks.lock_files import LockedFile, LockFile
from casstore.root import Root, check_marker

if TYPE_CHECKING:
    # Imported when they are used: most processes evict nothing.
    from casstore.eviction.clear import ClearResult
    from casstore.eviction.collector import CollectResult
    from casstore.eviction.plan import Plan
    from casstore.eviction.reaper import ReapResult
    from casstore.eviction.removal import RemovedBlob
    from casstore.local.changes import ChangeRecorder


class Evictor:
    """Removes entries and blobs for one process; thread-safe. A forked child makes its own."""

    def __init__(
        self,
        root: Root,
        index: Index,
        committer: Committer,
        leases: LeaseHolder,
        blobs: BlobStore,
        changes: Callable[[], ChangeRecorder],
        counters: Counters,
        exit_hook: ExitHook,
    ) -> None:
        self.directory, self.settings = root.layout.root, root.settings
        self.index, self.committer, self.counters = index, committer, counters
        self.lock = LockFile(root.layout.collector_lock)  # to save work: two collectors at once are safe
        self._root, self.layout = root, root.layout
        self._blobs, self._leases, self._changes, self._exit = blobs, leases, changes, exit_hook

    def evict(self, entries: Sequence[Entry]) -> CollectResult:
        """Drop *entries*, except those that changed or are pinned, and the blobs that no entry uses then."""
        from casstore.eviction.collector import evict

        with files.full_disk(self.directory):
            done = evict(self.index, self.layout, entries)
        self._count(done)
        return done

    def plan(
        self, max_size: int | None = None, min_free: int | None = None, max_age: int | None = None, *, at_least: int = 0
    ) -> Plan:
        """Return what to evict so that the blobs take at most *max_size* bytes, *min_free* bytes of the disk are free,
        and nothing was last used more than *max_age* seconds ago.

        By default the limits of the settings; their rules apply in any case, and *at_least* so many bytes are evicted.
        Reads only.
        """
        from casstore.eviction.budget import Budget
        from casstore.eviction.plan import make_plan

        self.committer.flush()
        self._changes().paths.uses.settle()
        settings = self.settings
        budget = Budget(
            settings.max_size if max_size is None else max_size,
            settings.keep_free(os.statvfs(self.directory)) if min_free is None else min_free,
            settings.max_age if max_age is None else max_age,
            settings.rules,
            settings.policy,
            settings.local_path_grace,
        )
        return make_plan(self.index, self.layout, budget, at_least)

    def execute(self, plan: Plan, on_removed: Callable[[RemovedBlob], object] | None = None) -> CollectResult:
        """Carry out *plan*, and reap what dead processes left; blobs that were used since the plan stay.

        *on_removed* is called with each blob. What is in use stays. Waits for another collector; raises
        LockTimeoutError.
        """
        with files.full_disk(self.directory), self._lock():
            return self.collect(plan, on_removed)

    def collect(
        self, plan: Plan, on_removed: Callable[[RemovedBlob], object] | None = None, *, reaps: bool = True
    ) -> CollectResult:
        """Carry out *plan* for a caller who has the lock; without *reaps*, what dead processes left stays."""
        from casstore.eviction.collector import collect

        reaped = self._reap() if reaps else None
        self.index.check_readers()
        done = collect(self.index, self._changes().paths, plan, on_removed, reaped)
        self._count(done)
        return done

    def clear(
        self, prefix: str = "", on_removed: Callable[[RemovedBlob], object] | None = None, *, dry_run: bool = False
    ) -> ClearResult:
        """Drop all entries at or below *prefix* (``s3://b/1`` is not above ``s3://b/10``), and their blobs.

        Return what was removed, and what stays: pins, pending writes and local edits, always.

        Without a prefix, unused blobs and the quarantine are removed too. What dead processes left is reaped in any
        case, and their edits become pending writes. Local paths in use stay; a fill meanwhile may stay. *on_removed* is
        called with each blob. With *dry_run*, nothing changes: the result is what would be done.

        Waits for another collector. Raises LockTimeoutError, StoreFullError, and NotAStoreError if the store's marker
        is gone or another store's.
        """
        from casstore.eviction.clear import Clearing, Preview
        from casstore.eviction.local_copies import LocalInventory, remove_copies

        check_marker(self.layout, self._root.store_id)
        grace = self.settings.local_path_grace
        self.committer.flush()
        self._changes().paths.uses.settle()
        if dry_run:
            return Preview(self.index, self.layout, prefix, grace, on_removed).clear(None)
        with files.full_disk(self.directory), self._lock():
            reaped = self._reap()
            self.index.check_readers()
            copies = [copy for copy in LocalInventory(self.layout, grace, prefix).copies if copy.may_go]
            _, freed = remove_copies(self._changes().paths, copies)
            done = Clearing(self.index, self.layout, prefix, grace, on_removed).clear(reaped)
            done = replace(done, bytes=done.bytes + freed)
        self._count(done)
        return done

    def reap(self) -> ReapResult | None:
        """Remove what dead processes left; None while another process collects."""
        with files.full_disk(self.directory), self.lock.acquire(0) as file:
            return self._reap() if file.is_locked else None

    def _reap(self) -> ReapResult:
        from casstore.eviction.reaper import reap

        return reap(self.layout, self.index, self._changes(), own_lease=self._leases.own_name())

    def mark_synced(self) -> int:
        """Sync the store's file system, and record for which entries; return how many. Their blobs need not be hashed
        after the next boot. May take as long as the disk is behind.
        """
        from casstore.index.durability import mark_synced

        self.committer.flush()
        return mark_synced(self.index, self.layout, self._blobs, self._root.boot_mount)

    def _lock(self) -> LockedFile:
        """Become the only collector, until the result is closed."""
        timeout = self.settings.lock_timeout
        file = self.lock.acquire(timeout)
        if not file.is_locked:
            file.close()
            raise LockTimeoutError(f"another process collects in {self.directory}: timed out after {timeout:g} s")
        return file

    def _count(self, done: CollectResult | ClearResult) -> None:
        self.counters.count_eviction(done.entries, done.blobs, done.bytes)
        self._exit.ensure()

    def after_fork_in_child(self) -> None:
        """Close the parent's collector lock."""
        self.lock.after_fork_in_child()
