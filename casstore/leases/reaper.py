"""Reaping: what killed processes left behind goes away, and nothing that a user may still want.

The kernel says who is dead: a lease whose lock can be taken has no process, nor any forked child of one. That holds
only where locks exclude, so it is proved first, with a second process; where they do not, every lease counts as alive.

    lease of a dead process     edits, and files that tools made, become pending writes; then it is renamed to trash/,
                                unless it holds files that cannot be recorded: then it stays whole, and is reported
    leases/.new-<random>/       a birth that was cut off; one that is under way starts again
    trash/                      emptied; anybody may
    index-v1/<n>/               removed once superseded, whoever still reads it: see `_remove_superseded`
    locks/write/<hash>          unlinked by whoever holds the lock, as its writers do
    halves of pending writes    of dead leases: data or record without the other
    temporary names             of writers of small files; after a day

Safe against kill -9 at any point, and against another reaper: a thing is where it was, or in trash/ under a name of its
own, or gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casstore.blobs.blob_store import BlobStore
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.index.database import Index
from casstore.leases.edits import EditRecorder
from casstore.leases.scan import scan_lease
from casstore.locks.lock_files import locks_are_exclusive, try_lock_existing
from casstore.pending.records import PendingWrite
from casstore.pending.store import Pending

TEMPORARY_SECONDS: Final = 24 * 3600.0
"""Age at which a temporary name is taken for a killed process's. Its writer takes milliseconds; were a clock wrong by a
day, it would get an error and nothing would be lost."""

_RANDOM: Final = re.compile(r"[0-9a-f]{16}")
_LEASE: Final = re.compile(r"(\.new-)?[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class RetainedLease:
    """A lease that stays, and why: its process lives, or *edited* files lie in it that could not be recorded and that
    nothing else may hold.
    """

    name: str
    reason: str
    edited: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether, for all that is known, its process lives."""
        return not self.edited


@dataclass(frozen=True, slots=True)
class ReapResult:
    """What was taken away: *leases* of dead processes, *generations* of the index, and *bytes* of the disk in all.

    *kept* are the leases that stay. Without *locks_exclude* nobody can be told to be dead, and all of them do.
    *recorded* is what became a pending write: edits, and files that tools had left.
    """

    leases: int
    bytes: int
    generations: int
    kept: tuple[RetainedLease, ...]
    locks_exclude: bool
    recorded: tuple[PendingWrite, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """What became of one lease: *bytes* given back, or why it was *kept*; neither where somebody else has taken it."""

    bytes: int | None = None
    retained: RetainedLease | None = None
    recorded: tuple[PendingWrite, ...] = ()


def reap(layout: Layout, index: Index, blobs: BlobStore, *, own_lease: str | None = None) -> ReapResult:
    """Take away what dead processes left in the store; *own* is the name of this process's lease.

    Not for the path of a read: starts a process and looks at every view of a dead one. Raises OSError where the store
    cannot be written to.
    """
    exclude = locks_are_exclusive(layout.locks)
    leases = size = 0
    kept: list[RetainedLease] = []
    recorded: list[PendingWrite] = []
    if exclude:
        # Before the leases that tell whose they are.
        size += _remove_orphans(layout)
    for name in _leases(layout):
        if name == own_lease:
            continue
        if not exclude:
            kept.append(RetainedLease(name, "its process may be alive: locks do not exclude on this file system"))
            continue
        outcome = reap_lease(layout, name, blobs)
        recorded.extend(outcome.recorded)
        if outcome.retained is not None:
            kept.append(outcome.retained)
        elif outcome.bytes is not None:
            leases, size = leases + 1, size + outcome.bytes
    generations = _remove_superseded(layout, index)
    if exclude:
        _remove_free_locks(layout)
    size += sum(generations) + _remove_temporary_files(layout) + empty_trash(layout)
    return ReapResult(leases, size, len(generations), tuple(kept), exclude, tuple(recorded))


def _leases(layout: Layout) -> list[str]:
    """What else lies there is somebody else's."""
    with os.scandir(layout.leases) as entries:
        return sorted(e.name for e in entries if _LEASE.fullmatch(e.name) and e.is_dir(follow_symlinks=False))


def reap_lease(layout: Layout, name: str, blobs: BlobStore | None) -> LeaseOutcome:
    """Remove one lease if its process is dead, having recorded what was edited or made in it; it stays where a file
    cannot be recorded. Without *blobs*, none is.

    For whoever knows that locks exclude, or that nobody else can hold it.
    """
    lease = LeaseLayout(layout.lease(name))
    try:
        descriptor = try_lock_existing(lease.lock)
    except FileNotFoundError:
        if name.startswith("."):
            # Its lock was still to come. A creator that lives finds the directory gone, and starts again.
            return LeaseOutcome(_discard(layout, lease.path))
        if not os.path.isdir(lease.path):
            return LeaseOutcome()
        reason = "its lock file is missing, so that nobody can tell whether its process lives: remove it"
        return LeaseOutcome(retained=RetainedLease(name, reason))
    if descriptor is None:
        return LeaseOutcome(retained=RetainedLease(name, "its process is alive"))
    recorded: tuple[PendingWrite, ...] = ()
    try:
        first = scan_lease(lease)
        if blobs is not None and first.unrecorded:
            recorded = EditRecorder.of_lease(layout, blobs, name).record(lease, first.unrecorded)
        second = scan_lease(lease)
        if second.unrecorded:
            reason = "files in it were edited, or made, and are nowhere else"
            return LeaseOutcome(None, RetainedLease(name, reason, second.edited), recorded)
        if first.states != second.states:
            return LeaseOutcome(None, RetainedLease(name, "somebody is changing files in it"), recorded)
        return LeaseOutcome(_discard(layout, lease.path), None, recorded)
    except FileNotFoundError:
        return LeaseOutcome(recorded=recorded)
    finally:
        os.close(descriptor)


def empty_trash(layout: Layout) -> int:
    """Remove what lies in the trash, as far as it can be; bytes of the disk that this gave back."""
    size = 0
    for name in files.list_names(layout.trash):
        size += _remove(layout.trashed(name))
    return size


def _remove(path: str) -> int:
    """Remove a file or a tree; bytes given back. Somebody else may be removing it as well."""
    size = _bytes_in(path)
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):  # macOS says the second of a directory
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return 0
    return size - _bytes_in(path)


def _bytes_in(path: str) -> int:
    """What would be free without *path*: files with other names give nothing back."""
    size = 0
    found = [path]
    while found:
        path = found.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                found.extend(f"{path}/{name}" for name in os.listdir(path))
            if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                size += status.st_blocks * 512
    return size


def _remove_superseded(layout: Layout, index: Index) -> list[int]:
    """Remove the generations of the index that were left behind; bytes that each gave back.

    No process has to let go of one first: it goes on reading the file that it has mapped, which has no name any more,
    until its next look at CURRENT, and a commit into it is found out afterwards and done again. Nobody makes a
    generation anew under an old number: see `Index`. The directory goes as a whole, for two processes that have one
    data file and two lock files would destroy it under each other.
    """
    sizes = [_discard(layout, layout.generation(number)) for number in index.generations.superseded()]
    return [size for size in sizes if size is not None]


def _discard(layout: Layout, path: str) -> int | None:
    """Away with a directory, by way of the trash: nobody sees half of it. Bytes given back; None where it is gone."""
    target = layout.trashed(os.urandom(8).hex())
    try:
        files.rename(path, target)
    except FileNotFoundError:
        return None
    return _remove(target)


def _remove_free_locks(layout: Layout) -> None:
    """Unlink the lock files of dead writers, each while it is held: a taker of an unlinked file starts again."""
    directory = layout.write_locks + "/"
    for name in files.list_names(directory):
        with contextlib.suppress(OSError):
            descriptor = try_lock_existing(directory + name)
            if descriptor is not None:
                files.unlink_quietly(directory + name)
                os.close(descriptor)


def _remove_orphans(layout: Layout) -> int:
    """Remove what killed processes left of pending writes that were never promised; bytes given back."""
    size = 0
    pending = Pending(layout)
    deadline = time.time() - TEMPORARY_SECONDS
    for path, lease in pending.orphans():
        with contextlib.suppress(OSError), _is_dead(layout, lease) as is_dead:
            # Nobody can complete it now; but that may have been done before the lock was taken.
            if lease and not _is_orphan(path):
                continue
            # Whoever held a lease that is gone could be at it still: the store was removed under a running process.
            if is_dead or os.lstat(path).st_ctime < deadline:
                size += _remove(path)
    pending.remove_empty_directories()
    return size


@contextlib.contextmanager
def _is_dead(layout: Layout, lease: str) -> Iterator[bool]:
    """Whether the process of *lease* is dead, and kept so; False for a lease that is gone. Raises BlockingIOError where
    it lives, FileNotFoundError where nobody can tell.
    """
    path = layout.lease(lease)
    if not lease or not os.path.isdir(path):
        yield False
        return
    descriptor = try_lock_existing(LeaseLayout(path).lock)
    if descriptor is None:
        raise BlockingIOError(errno.EAGAIN, "it is alive", path)
    try:
        yield True
    finally:
        os.close(descriptor)


def _is_orphan(path: str) -> bool:
    stem, suffix = os.path.splitext(path)
    return not os.path.lexists(stem + {".json": ".data", ".data": ".json"}[suffix])


def _remove_temporary_files(layout: Layout) -> int:
    """Remove what killed writers of small files left under temporary names; bytes given back."""
    size = 0
    deadline = time.time() - TEMPORARY_SECONDS
    for path in _temporary_files(layout):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_mtime < deadline:
                size += _remove(path)
    return size


def _temporary_files(layout: Layout) -> Iterator[str]:
    generations = [f"{layout.index}/{name}" for name in files.list_names(layout.index)]
    for directory in (layout.root, layout.index, *generations, layout.locks, layout.pins, layout.quarantine):
        for name in files.list_names(directory):
            if _RANDOM.fullmatch(name):
                yield f"{directory}/{name}"
    for name in files.list_names(layout.quarantine):
        # The reason is written first, and the blob may never have come.
        if name.endswith(".txt") and not os.path.lexists(layout.quarantined(name.removesuffix(".txt"))):
            yield layout.quarantined(name)
