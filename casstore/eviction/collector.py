"""Taking entries and blobs away, safely while others read and fill.

Evict drops rows and commits; sweep then takes away, inside write transactions, the blobs that no entry uses. A crash
between the two leaves blobs without users, never entries without a blob.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from casstore.blobs.blob_store import BlobStore
from casstore.errors import IndexDamagedError, IndexUnavailableError, StoreFullError
from casstore.eviction.pins import is_pinned
from casstore.eviction.plan import Plan, Retained, make_plan
from casstore.eviction.victims import Reason, Victim
from casstore.format.keys import blob_row, row_name, user_prefix
from casstore.format.layout import Layout
from casstore.format.records import Entry
from casstore.fs import files
from casstore.index.blob_users import users_checksum, users_of
from casstore.index.database import Index
from casstore.index.entries import current_entry, delete_entry
from casstore.index.eviction_history import record_evictions
from casstore.index.transactions import Txn

if TYPE_CHECKING:
    from casstore.leases.reaper import ReapResult

FIRST_BATCH: Final = 64
LEAST_BATCH: Final = 32
MOST_BATCH: Final = 256
"""Blobs that one write transaction is about: to begin with, and at least and at most whatever a clock says."""

_BATCH_SECONDS: Final = 0.020
"""What is done in one takes so long; a writer that comes meanwhile waits for that and for the commit."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What was taken away: *entries* rows, and *blobs* files of *bytes* that nobody else used.

    *kept* blobs of a plan stayed, having come back into use. With *is_stale* the index was replaced meanwhile, and what
    was left of the plan was not carried out. Of a collection, *short* is by how many bytes the budget is still missed,
    *overdue* by how many the sizes of rules are, *held* the blobs that could not go for it, and *reaped* what dead
    processes had left.
    """

    entries: int
    blobs: int
    bytes: int
    still_in_use: int = 0
    is_stale: bool = False
    shortfall: int = 0
    rule_overrun: int = 0
    retained: Sequence[Retained] = ()
    reaped: ReapResult | None = None


@dataclass(frozen=True, slots=True)
class RemovedBlob:
    """One blob that is gone, and who used it. *bytes* is 0 where it came back into use after its entries had gone, or
    where others use it, or links hold its bytes.
    """

    digest: bytes
    uris: tuple[str, ...]
    bytes: int
    reason: Reason = Reason.SIZE


class BatchSizer:
    """How many blobs the next write transaction is to be about, by how long what was done in the last one took.

    A commit takes its time however little there is to it, so few large ones are quicker; but writers wait for each.
    """

    def __init__(self) -> None:
        self.count = FIRST_BATCH
        self.lacks_room = False
        """Whether a commit failed for want of it."""

    @contextlib.contextmanager
    def timed(self, count: int) -> Iterator[None]:
        """The block is what is done about *count* blobs."""
        start = time.monotonic()
        yield
        seconds = max(time.monotonic() - start, 1e-6)
        fitting = int(count * _BATCH_SECONDS / seconds)
        # One that was held up by something else says little, and so does the short one at the end.
        fitting = min(max(fitting, self.count // 2), self.count * 2)
        self.count = min(max(fitting, LEAST_BATCH), MOST_BATCH)

    def run_in_batches(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """*work*, a write transaction, for all *items*, so many at a time as `count` says then; each batch and what
        that gave.

        Raises StoreFullError where the disk has not even room for a commit about one.
        """
        start, step = 0, self.count
        while start < len(items):
            batch = items[start : start + step]
            try:
                result = work(batch)
            except (StoreFullError, IndexUnavailableError):
                # On a full disk (where LMDB may say that it failed, and not why) a commit finds no pages; the fewer
                # rows it touches, the fewer it takes, and what the first blobs free serves the rest.
                if step == 1:
                    raise
                step, self.lacks_room = 1, True
                continue
            start, step = start + len(batch), min(2 * step, self.count)
            yield batch, result


def evict(index: Index, layout: Layout, doomed: Sequence[Entry]) -> CollectResult:
    """Drop those of *doomed* that still stand as they were seen and are not pinned, then sweep their blobs."""
    pace = BatchSizer()
    drop = partial(_drop, index, layout, pace)
    dropped = sum(count for _, count in pace.run_in_batches(doomed, drop))
    digests = list({entry.digest.value: None for entry in doomed})
    swept = sweep(index, layout, digests)
    sizes = [size for size in swept.values() if size is not None]
    return CollectResult(dropped, len(sizes), sum(sizes))


def _drop(index: Index, layout: Layout, pace: BatchSizer, doomed: Sequence[Entry]) -> int:
    def drop(txn: Txn) -> int:
        dropped = 0
        with pace.timed(len(doomed)):
            for entry in doomed:
                now = current_entry(txn, entry.key)
                if now is not None and now.same_content(entry) and not is_pinned(layout, row_name(entry.key.row_key)):
                    delete_entry(txn, now)
                    dropped += 1
        return dropped

    return index.write(drop)


def collect(
    index: Index,
    layout: Layout,
    blobs: BlobStore,
    plan: Plan,
    on_removed: Callable[[RemovedBlob], object] | None = None,
    *,
    own_lease: str | None = None,
    reaps: bool = True,
) -> CollectResult:
    """Reap what dead processes left, if *reaps*, and carry out *plan*; *own* is the name of this process's lease.

    Where that is not enough, because what was linked from what the dead left can go now or because the index was
    replaced, a second plan for the same budget is made and carried out.
    """
    from casstore.leases.reaper import reap  # it loads shutil, and readers collect nothing

    reaped = reap(layout, index, blobs, own_lease=own_lease) if reaps else None
    index.check_readers()
    freed = execute(index, layout, plan, on_removed)
    short, held = plan.shortfall(freed.bytes, 0 if reaped is None else reaped.bytes), plan.retained
    if (short or plan.rule_overrun) and (freed.is_stale or (reaped is not None and _is_free(layout, plan.retained))):
        plan = make_plan(index, layout, plan.budget)
        more = execute(index, layout, plan, on_removed)
        short, held = plan.shortfall(more.bytes), plan.retained
        freed = CollectResult(
            freed.entries + more.entries,
            freed.blobs + more.blobs,
            freed.bytes + more.bytes,
            freed.still_in_use + more.still_in_use,
            more.is_stale,
        )
    return replace(freed, shortfall=short, rule_overrun=plan.rule_overrun, retained=held, reaped=reaped)


def _is_free(layout: Layout, held: Sequence[Retained]) -> bool:
    """Whether a blob that had other links has none now: they went with a lease, or with what a killed reaper had left
    of one in the trash.
    """
    for blob in held:
        with contextlib.suppress(FileNotFoundError):
            if not blob.is_pinned and os.lstat(layout.blob(blob.digest)).st_nlink == 1:
                return True
    return False


def execute(
    index: Index, layout: Layout, plan: Plan, on_removed: Callable[[RemovedBlob], object] | None = None
) -> CollectResult:
    """Carry out *plan*; what came back into use since it was made stays. *on_removed* is told of each blob.

    Raises StoreFullError where the disk is so full that not even one blob's rows can be dropped.
    """
    entries = blobs = size = kept = 0
    dropping, sweeping = BatchSizer(), BatchSizer()
    for batch, dropped in dropping.run_in_batches(plan.victims, partial(_drop_users, index, layout, plan, dropping)):
        if dropped is None:
            return CollectResult(entries, blobs, size, kept, is_stale=True)
        swept = sweep(index, layout, list(dropped), _Planned(batch).is_doomed, pace=sweeping)
        kept += len(batch) - len(swept)
        reasons = {blob.digest: blob.reason for blob in batch}
        for digest, uris in dropped.items():
            removed = RemovedBlob(digest, uris, swept.get(digest) or 0, reasons[digest])
            entries, blobs, size = entries + len(uris), blobs + (removed.bytes > 0), size + removed.bytes
            if on_removed is not None and (removed.uris or removed.bytes):
                on_removed(removed)
    return CollectResult(entries, blobs, size, kept)


def _drop_users(
    index: Index, layout: Layout, plan: Plan, pace: BatchSizer, batch: Sequence[Victim]
) -> dict[bytes, tuple[str, ...]] | None:
    """Drop the entries of those blobs of *batch* that are as they were planned; their URIs by digest. All users of a
    blob go, or none. It is noted by which way they went, if there is room. None where the index has been replaced.
    """

    def drop(txn: Txn) -> dict[bytes, tuple[str, ...]] | None:
        if index.generation != plan.generation:
            return None
        with pace.timed(len(batch)):
            dropped = {blob.digest: uris for blob in batch if (uris := _drop_users_of(txn, layout, blob)) is not None}
            if not pace.lacks_room:
                record_evictions(
                    txn, ((blob.digest, blob.expert) for blob in batch if dropped.get(blob.digest)), plan.blobs
                )
        return dropped

    return index.write(drop)


def _drop_users_of(txn: Txn, layout: Layout, blob: Victim) -> tuple[str, ...] | None:
    users = users_of(txn, blob.digest)
    if users_checksum(users) != blob.users or not _is_file_as_planned(layout, blob):
        return None
    # Pins get their names in such a transaction, too: this one finds the pin, or that one no entry.
    if any(is_pinned(layout, user.name) for user in users):
        return None
    for user in users:
        txn.delete(user.row)
        if user.key is not None:
            txn.delete(user.key.row_key)
    return tuple(user.key.uri for user in users if user.key is not None)


def _is_file_as_planned(layout: Layout, blob: Victim) -> bool:
    try:
        status = os.lstat(layout.blob(blob.digest))
    except FileNotFoundError:
        return not blob.size
    return _is_as_planned(blob, status)


def _is_as_planned(blob: Victim, status: os.stat_result) -> bool:
    """Whether it is the file that was planned, and nobody linked it since: a publication, or a view of it."""
    return status.st_ino == blob.inode and status.st_ctime_ns == blob.ctime_ns


class _Planned:
    """A batch of a plan, for `sweep` to ask."""

    def __init__(self, batch: Sequence[Victim]) -> None:
        self._blobs = {blob.digest: blob for blob in batch}

    def is_doomed(self, digest: bytes, status: os.stat_result) -> bool:
        """Whether the blob's file is still the one that was planned to go."""
        return _is_as_planned(self._blobs[digest], status)


def sweep(
    index: Index,
    layout: Layout,
    digests: Sequence[bytes],
    is_doomed: Callable[[bytes, os.stat_result], bool] | None = None,
    quarantine_path: str | None = None,
    pace: BatchSizer | None = None,
) -> dict[bytes, int | None]:
    """Take away those blobs that no entry uses, if *is_doomed* of their file; what came back into use stays.

    With *keep_at*, the path for the one of *digests*, it is kept there. The bytes freed, by digest; None for a row that
    had no file.
    """
    pace = pace or BatchSizer()
    freed: dict[bytes, int | None] = {}
    for _, swept in pace.run_in_batches(
        digests, partial(_sweep_batch, index, layout, pace, is_doomed, quarantine_path)
    ):
        freed |= swept
    return freed


def _sweep_batch(
    index: Index,
    layout: Layout,
    pace: BatchSizer,
    is_doomed: Callable[[bytes, os.stat_result], bool] | None,
    quarantine_path: str | None,
    digests: Sequence[bytes],
) -> dict[bytes, int | None]:
    trash: dict[str, str] = {}

    def take(txn: Txn) -> dict[bytes, int | None]:
        freed: dict[bytes, int | None] = {}
        for digest in digests:
            if _is_in_use(txn, digest):
                continue
            path = layout.blob(digest)
            # What somebody put in the place of a blob is his, unless it is to be kept elsewhere.
            status = files.lstat_regular(path) if quarantine_path is None else files.lstat_or_none(path)
            if status is None:
                txn.delete(blob_row(digest))
                freed[digest] = None
            elif is_doomed is None or is_doomed(digest, status):
                target = quarantine_path or layout.trashed(os.urandom(8).hex())
                files.rename(path, target)
                if quarantine_path is None:
                    trash[target] = path
                txn.delete(blob_row(digest))
                freed[digest] = status.st_size
        return freed

    # A writer publishes inside its own write transaction and checks there that its blob is the one it linked. This one
    # re-checks use and takes the file away inside its transaction. One of the two runs first; either is right.
    try:
        with index.writing() as txn, pace.timed(len(digests)):
            freed = take(txn)
    except BaseException as error:
        # Nothing of the transaction counts. Where the index was replaced meanwhile, whoever writes to the new one may
        # have found the names taken and relied on them.
        for target, path in trash.items():
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # taken meanwhile; the trash was emptied
                files.link(target, path)
            files.unlink_quietly(target)
        if isinstance(error, IndexDamagedError):
            return {}
        raise
    for target in trash:
        files.unlink_quietly(target)
    return freed


def _is_in_use(txn: Txn, digest: bytes) -> bool:
    return txn.has(user_prefix(digest))
