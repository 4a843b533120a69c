"""Evict entries, and carry out plans."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from casstore.eviction.local_copies import remove_copies
from casstore.eviction.pins import is_pinned
from casstore.eviction.plan import Plan, Retained, make_plan
from casstore.eviction.removal import Removal, RemovedBlob, Selection
from casstore.eviction.victims import Victim
from casstore.format.keys import row_name
from casstore.format.layout import Layout
from casstore.format.records import Entry
from casstore.index.database import Index
from casstore.index.entries import current_entry, users_checksum, users_of
from casstore.index.eviction_history import record_evictions
from casstore.index.transactions import Txn

if TYPE_CHECKING:
    from casstore.eviction.reaper import ReapResult
    from casstore.local.paths import LocalPaths


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What was removed: *entries* rows, and *blobs* files that no other entry used. They and copies at local paths took
    *bytes*.

    *copies* at local paths were removed. *still_in_use* blobs of a plan stayed because they were used again. With
    *is_stale* the index was replaced, and the rest of the plan was not carried out. Of a collection, *shortfall* is by
    how many bytes the budget is still missed, *rule_overrun* by how many the sizes of rules are, *retained* the blobs
    that could not be evicted for it, and *reaped* what dead processes had left.
    """

    entries: int
    blobs: int
    bytes: int
    copies: int = 0
    still_in_use: int = 0
    is_stale: bool = False
    shortfall: int = 0
    rule_overrun: int = 0
    retained: Sequence[Retained] = ()
    reaped: ReapResult | None = None


class EntryRemoval(Removal[Entry]):
    """Removes those entries that are still as they were seen and are not pinned, and their blobs."""

    def select(self, txn: Txn, batch: Sequence[Entry]) -> Selection:
        selection = Selection()
        for entry in batch:
            selection.uris.setdefault(entry.digest.value, [])
            now = current_entry(txn, entry.key)
            if now is not None and now.same_content(entry) and not is_pinned(self.layout, row_name(entry.key.row_key)):
                selection.add(now)
        return selection


def evict(index: Index, layout: Layout, entries: Sequence[Entry]) -> CollectResult:
    """Drop those of *entries* that are still as they were seen and are not pinned, then sweep their blobs."""
    dropped = blobs = size = 0
    for _, uris, swept in EntryRemoval(index, layout).run(entries):
        removed = [status for status in swept.values() if status is not None]
        dropped += sum(map(len, uris.values()))
        blobs, size = blobs + len(removed), size + sum(status.st_size for status in removed)
    return CollectResult(dropped, blobs, size)


def collect(
    index: Index,
    paths: LocalPaths,
    plan: Plan,
    on_removed: Callable[[RemovedBlob], object] | None = None,
    reaped: ReapResult | None = None,
) -> CollectResult:
    """Carry out *plan*, after *reaped* was removed.

    If that is not enough, because files that were linked from a reaped lease can be evicted now or because the index
    was replaced, a second plan for the same budget is made and carried out.
    """
    done = execute(index, paths, plan, on_removed)
    shortfall, retained = plan.shortfall(done.bytes, 0 if reaped is None else reaped.bytes), plan.retained
    is_missed = shortfall or plan.rule_overrun
    if is_missed and (done.is_stale or (reaped is not None and _is_unlinked(paths.layout, plan.retained))):
        plan = make_plan(index, paths.layout, plan.budget)
        more = execute(index, paths, plan, on_removed)
        shortfall, retained = plan.shortfall(more.bytes), plan.retained
        done = CollectResult(
            done.entries + more.entries,
            done.blobs + more.blobs,
            done.bytes + more.bytes,
            done.copies + more.copies,
            done.still_in_use + more.still_in_use,
            more.is_stale,
        )
    return replace(done, shortfall=shortfall, rule_overrun=plan.rule_overrun, retained=retained, reaped=reaped)


def _is_unlinked(layout: Layout, retained: Sequence[Retained]) -> bool:
    """Whether a blob that had other links has none now: they were in a reaped lease, or in the trash."""
    for blob in retained:
        with contextlib.suppress(FileNotFoundError):
            if not blob.is_pinned and os.lstat(layout.blob(blob.digest)).st_nlink == 1:
                return True
    return False


def execute(
    index: Index, paths: LocalPaths, plan: Plan, on_removed: Callable[[RemovedBlob], object] | None = None
) -> CollectResult:
    """Carry out *plan*; what was used again since it was made stays. *on_removed* is called with each blob.

    Raises StoreFullError if the disk is so full that not even one blob's rows can be dropped.
    """
    entries = blobs = in_use = 0
    used_again, size = remove_copies(paths, plan.copies)
    is_stale = False
    try:
        for batch, dropped, swept in PlanRemoval(index, paths.layout, plan).run(plan.victims):
            in_use += len(batch) - len(swept)
            reasons = {blob.digest: blob.reason for blob in batch}
            for digest, uris in dropped.items():
                status = swept.get(digest)
                removed = RemovedBlob(digest, tuple(uris), 0 if status is None else status.st_size, reasons[digest])
                entries, blobs, size = entries + len(uris), blobs + (removed.bytes > 0), size + removed.bytes
                if on_removed is not None and (removed.uris or removed.bytes):
                    on_removed(removed)
    except _StalePlanError:
        is_stale = True
    return CollectResult(entries, blobs, size, len(plan.copies) - used_again, in_use + used_again, is_stale)


class _StalePlanError(Exception):
    """The index that a plan was made from was replaced."""


class PlanRemoval(Removal[Victim]):
    """Removes the blobs of a plan: those that are as they were planned, with all their entries or with none."""

    def __init__(self, index: Index, layout: Layout, plan: Plan) -> None:
        super().__init__(index, layout)
        self._plan = plan
        self._planned: dict[bytes, Victim] = {}

    def select(self, txn: Txn, batch: Sequence[Victim]) -> Selection:
        if self.index.generation != self._plan.generation:
            raise _StalePlanError
        self._planned = {blob.digest: blob for blob in batch}
        selection = Selection()
        for blob in batch:
            self._select_blob(txn, blob, selection)
        if not self.dropping.lacks_room:
            evicted = ((blob.digest, blob.expert) for blob in batch if selection.uris.get(blob.digest))
            record_evictions(txn, evicted, self._plan.blobs)
        return selection

    def _select_blob(self, txn: Txn, blob: Victim, selection: Selection) -> None:
        users = users_of(txn, blob.digest)
        if users_checksum(users) != blob.users or not _is_file_as_planned(self.layout, blob):
            return
        # A pin gets its name in a write transaction, too: either this one sees the pin, or that one finds no entry.
        if any(is_pinned(self.layout, user.name) for user in users):
            return
        selection.rows += (user.row for user in users)
        selection.rows += (user.key.row_key for user in users if user.key is not None)
        selection.uris[blob.digest] = [user.key.uri for user in users if user.key is not None]

    def may_sweep(self, digest: bytes, status: os.stat_result) -> bool:
        return _is_as_planned(self._planned[digest], status)


def _is_file_as_planned(layout: Layout, blob: Victim) -> bool:
    try:
        status = os.lstat(layout.blob(blob.digest))
    except FileNotFoundError:
        return not blob.size
    return _is_as_planned(blob, status)


def _is_as_planned(blob: Victim, status: os.stat_result) -> bool:
    """Whether it is the file that was planned, without a link since: of a publication, or of a local path."""
    is_changed = status.st_ctime_ns != blob.ctime_ns if blob.ctime_ns else status.st_nlink > 1
    return status.st_ino == blob.inode and not is_changed
