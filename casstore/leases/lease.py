"""A lease: this process's directory in the store, locked for the life of the process.

    leases/<random>/lock         flocked for life; a process that can lock it knows that the owner is dead
                    staging/     staging files on file systems without unnamed files, and copies in the making
                    progress/    byte counts of long downloads, for processes that wait for them
                    uses         the local paths that the process uses now: see `casstore.local.uses`

It is created and locked as ``.new-<random>``, then renamed: no process ever sees a lease without its lock. A forked
child creates its own lease on next use. The parent's stays locked until both have ended, which errs on the safe side.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.locks.lock_files import LockedFile, create_locked, locks_are_exclusive, try_lock_existing

_locked: Final[set[LockedFile]] = set()
"""Files of leases of this process, and of its parents: a child has those open as long as it lives."""
_forks = 0
"""How often this process has forked with Python's hooks."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork)


class Lease:
    """This process's claim on one store; thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pid = os.getpid()
        self._forks = _forks  # set first: a fork from now on gives the lease to a child
        self.name, self._file = _create(layout)
        _locked.add(self._file)
        self.paths = LeaseLayout(layout.lease(self.name))

    def report_progress(self, name: str, count: int) -> None:
        """Write a download's byte count for processes that wait for *name*; called about once a second."""
        os.makedirs(self.paths.progress, 0o700, exist_ok=True)
        with open(f"{self.paths.progress}/{name}", "w", encoding="ascii") as file:
            file.write(str(count))

    def end_progress(self, name: str) -> None:
        """Remove the byte count: the download has ended."""
        files.unlink_quietly(f"{self.paths.progress}/{name}")

    def close(self) -> None:
        """End the lease at a normal exit. It stays if a forked child still has it, or if the collector has to record
        what is in its private trees.
        """
        if not self.abandon():
            return
        with contextlib.suppress(OSError):  # the collector removes the rest
            if self.private_trees(self._layout, self.name):
                return
            # A lock that succeeds proves that no other process has the lease. If locks do not exclude, only a process
            # that never forked knows that.
            if self._forks != _forks and not locks_are_exclusive(self._layout.locks):
                return
            lock = try_lock_existing(self.paths.lock)
            if lock is not None:
                with lock:
                    files.discard_directory(self.paths.path, self._layout.trashed(os.urandom(8).hex()))

    @staticmethod
    def private_trees(layout: Layout, lease: str) -> list[str]:
        """Return the trees in ``local/`` that are private to the process of a lease."""
        return [name for name in files.list_names(layout.local) if name.startswith(f"e{lease}-")]

    def abandon(self) -> bool:
        """Unlock the lease, and leave its directory; return False if this process does not have the lock."""
        if self._pid != os.getpid() or self._file.closed:
            return False  # the child of a fork without hooks: the parent lives on
        self._file.close()
        _locked.discard(self._file)
        return True

    def exists(self) -> bool:
        return os.path.exists(self.paths.lock)


def _create(layout: Layout) -> tuple[str, LockedFile]:
    for _ in range(100):
        name = os.urandom(8).hex()
        new = layout.lease(f".new-{name}")
        os.mkdir(new, 0o700)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            # Either error: another process reaped the directory before it was locked, or is about to: it has the lock.
            file = create_locked(LeaseLayout(new).lock)
            try:
                files.rename(new, layout.lease(name))
                return name, file
            except BaseException:
                file.close()
                raise
    raise OSError(errno.EAGAIN, "new leases were deleted 100 times: try again", layout.leases)
