"""Reaping: remove what killed processes left, except what a user may still want.

The kernel knows which processes are dead: if a lease can be locked, neither its process nor a forked child is alive.
This requires locks that exclude, so a second lock of one file proves that first. If they do not, every lease counts as
alive.

    lease of a dead process     changes in its private trees become pending writes, and the trees are removed; then it
                                is renamed to trash/. If one cannot be recorded, it stays whole and is reported
    local/<n>/                  files that tools made become pending writes; the files stay
    leases/.new-<random>/       an interrupted creation; a live creator starts again
    trash/                      emptied; any process may do that
    index-v1/<n>/               deleted once superseded, even with readers: see `_remove_superseded`
    locks/write/<hash>          unlinked under its lock, as its writers do
    incomplete pending writes   of dead leases: data or record without the other
    temporary names             of writers of small files; after a day

Safe against kill -9 at any point, and against another reaper: each thing is in its place, or in trash/ under a unique
name, or deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casstore.errors import CasstoreError
from casstore.eviction.local_copies import forget_old
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.index.database import Index
from casstore.leases.lease import Lease
from casstore.local.changes import ChangeRecorder
from casstore.locks.lock_files import locks_are_exclusive, try_lock_existing
from casstore.pending.records import PendingWrite
from casstore.pending.store import Pending

TEMPORARY_SECONDS: Final = 24 * 3600.0
"""Age at which a temporary name counts as a killed process's. Its writer takes milliseconds. If a clock is wrong by a
day, the writer gets an error and nothing is lost.
"""

_RANDOM: Final = re.compile(r"[0-9a-f]{16}")
_LEASE: Final = re.compile(r"(\.new-)?[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class RetainedLease:
    """A lease that stays because its process is alive, or because *edited* files in it could not be recorded."""

    name: str
    reason: str
    edited: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether its process is, or may be, alive."""
        return not self.edited


@dataclass(frozen=True, slots=True)
class ReapResult:
    """What was deleted: *leases* of dead processes, *generations* of the index, *bytes* of the disk in all.

    *kept* are the leases that stay: all of them without *locks_exclude*, when no process can be proved dead. *recorded*
    became pending writes: edits, and files that tools left.
    """

    leases: int
    bytes: int
    generations: int
    kept: tuple[RetainedLease, ...]
    locks_exclude: bool
    recorded: tuple[PendingWrite, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """The result for one lease: *bytes* freed, or why it was *retained*; neither if another process reaped it."""

    bytes: int | None = None
    retained: RetainedLease | None = None
    recorded: tuple[PendingWrite, ...] = ()


def reap(layout: Layout, index: Index, changes: ChangeRecorder, *, own_lease: str | None = None) -> ReapResult:
    """Delete what dead processes left in the store, except *own_lease*, this process's lease.

    Looks at every local file: not for reads. Raises: OSError if the store is not writable.
    """
    exclude = locks_are_exclusive(layout.locks)
    leases = size = 0
    kept: list[RetainedLease] = []
    recorded: list[PendingWrite] = []
    if exclude:
        # Before the leases that prove their writers dead.
        size += _remove_orphans(layout)
    for name in _leases(layout):
        if name == own_lease:
            continue
        if not exclude:
            kept.append(RetainedLease(name, "its process may be alive: file locks do not work on this file system"))
            continue
        outcome = _reap_lease(layout, name, changes)
        recorded.extend(outcome.recorded)
        if outcome.retained is not None:
            kept.append(outcome.retained)
        elif outcome.bytes is not None:
            leases, size = leases + 1, size + outcome.bytes
    recorded += changes.record_everything()
    forget_old(changes.paths)
    generations = _remove_superseded(layout, index)
    if exclude:
        _remove_free_locks(layout)
    size += sum(generations) + _remove_temporary_files(layout)
    size += sum(files.remove(layout.trashed(name)) for name in files.list_names(layout.trash))
    return ReapResult(leases, size, len(generations), tuple(kept), exclude, tuple(recorded))


def _leases(layout: Layout) -> list[str]:
    with os.scandir(layout.leases) as entries:
        return sorted(e.name for e in entries if _LEASE.fullmatch(e.name) and e.is_dir(follow_symlinks=False))


def _reap_lease(layout: Layout, name: str, changes: ChangeRecorder) -> LeaseOutcome:
    """Delete a dead process's lease after recording its changes; keep it if one cannot be recorded."""
    lease = LeaseLayout(layout.lease(name))
    try:
        lock = try_lock_existing(lease.lock)
    except FileNotFoundError:
        if name.startswith("."):
            # It was not locked yet. A live creator finds the directory gone, and starts again.
            return LeaseOutcome(_discard(layout, lease.path))
        if not os.path.isdir(lease.path):
            return LeaseOutcome()
        reason = "its lock file is missing, so its process may be alive: delete it if not"
        return LeaseOutcome(retained=RetainedLease(name, reason))
    if lock is None:
        return LeaseOutcome(retained=RetainedLease(name, "its process is alive"))
    recorded: list[PendingWrite] = []
    try:
        for tree in Lease.private_trees(layout, name):
            recorded += changes.remove_private(tree)
        kept = tuple(_files_of_former_version(lease))
        if kept:
            reason = "an earlier version of casstore left files in it: copy what you need, then delete it"
            return LeaseOutcome(None, RetainedLease(name, reason, kept), tuple(recorded))
        return LeaseOutcome(_discard(layout, lease.path), None, tuple(recorded))
    except FileNotFoundError:
        return LeaseOutcome(recorded=tuple(recorded))
    except (OSError, CasstoreError) as error:
        reason = f"a change could not be recorded ({error})"
        return LeaseOutcome(None, RetainedLease(name, reason, (layout.local,)), tuple(recorded))
    finally:
        lock.close()


def _files_of_former_version(lease: LeaseLayout) -> Iterator[str]:
    """Yield what users may have made or changed in a lease that has local paths: the store dated its own copies."""
    for kind in ("views", "outbox", "edits"):
        for parent, _, names in os.walk(f"{lease.path}/{kind}"):
            for path in (f"{parent}/{name}" for name in names):
                if kind != "views" or os.lstat(path).st_mtime_ns % 1_000_000_000:
                    yield path


def _remove_superseded(layout: Layout, index: Index) -> list[int]:
    """Delete the superseded generations of the index; return the bytes that each freed.

    Readers need not close one first. They read the mapped, now unnamed file until their next check of CURRENT; a commit
    into it is noticed afterwards and repeated. No process reuses an old number: see `Index`. The directory is deleted
    as a whole: two processes with one data file and two lock files would destroy it.
    """
    sizes = [_discard(layout, layout.generation(number)) for number in index.generations.superseded()]
    return [size for size in sizes if size is not None]


def _discard(layout: Layout, path: str) -> int | None:
    """Delete a directory by way of the trash, at once; return the bytes freed, None if it is missing."""
    return files.discard_directory(path, layout.trashed(os.urandom(8).hex()))


def _remove_free_locks(layout: Layout) -> None:
    """Unlink the lock files of dead writers, each under its lock: locking an unlinked file is retried."""
    directory = layout.write_locks + "/"
    for name in files.list_names(directory):
        with contextlib.suppress(OSError):
            file = try_lock_existing(directory + name)
            if file is not None:
                with file:
                    files.unlink_quietly(directory + name)


def _remove_orphans(layout: Layout) -> int:
    """Delete incomplete pending writes of killed processes, which were never promised; return the bytes freed."""
    size = 0
    pending = Pending(layout)
    deadline = time.time() - TEMPORARY_SECONDS
    for path, lease in pending.orphans():
        with contextlib.suppress(OSError), _is_dead(layout, lease) as is_dead:
            # No process can complete it now, but its own may have before the lock.
            stem, suffix = os.path.splitext(path)
            if lease and os.path.lexists(stem + {".json": ".data", ".data": ".json"}[suffix]):
                continue
            # The process of a deleted lease may still work: the store was deleted under it.
            if is_dead or os.lstat(path).st_ctime < deadline:
                size += files.remove(path)
    pending.remove_empty_directories()
    return size


@contextlib.contextmanager
def _is_dead(layout: Layout, lease: str) -> Iterator[bool]:
    """Yield whether the process of *lease* is dead; it stays so in the block. False for a missing lease.

    Raises: BlockingIOError if it is alive, FileNotFoundError if that is unknown.
    """
    path = layout.lease(lease)
    if not lease or not os.path.isdir(path):
        yield False
        return
    file = try_lock_existing(LeaseLayout(path).lock)
    if file is None:
        raise BlockingIOError(errno.EAGAIN, "the process is alive", path)
    try:
        yield True
    finally:
        file.close()


def _remove_temporary_files(layout: Layout) -> int:
    """Delete temporary names that killed writers of small files left; return the bytes freed."""
    size = 0
    deadline = time.time() - TEMPORARY_SECONDS
    for path in _temporary_files(layout):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_mtime < deadline:
                size += files.remove(path)
    return size


def _temporary_files(layout: Layout) -> Iterator[str]:
    generations = [f"{layout.index}/{name}" for name in files.list_names(layout.index)]
    for directory in (layout.root, layout.index, *generations, layout.locks, layout.pins, layout.quarantine):
        for name in files.list_names(directory):
            if _RANDOM.fullmatch(name):
                yield f"{directory}/{name}"
    for name in files.list_names(layout.quarantine):
        # The reason is written first; the blob may be missing.
        if name.endswith(".txt") and not os.path.lexists(layout.quarantined(name.removesuffix(".txt"))):
            yield layout.quarantined(name)
