"""Which local paths this process uses now: a byte of its lease for each, for those who look for room.

A name is a byte of the file by its hash. Names that share one only stay longer.
"""

from __future__ import annotations

import io
import os
import weakref
from collections import deque
from typing import Final

from casstore.format.digest import name_hash
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.leases.holder import LeaseHolder
from casstore.locks.lock_files import locks_are_exclusive, try_lock_existing
from casstore.locks.mutex import new_mutex

_SIZE: Final = 1 << 16


class LocalUse:
    """A use of a local path, until it is dropped; kept by the `CloudPath` that handed the path out."""

    __slots__ = ("__weakref__", "_ended", "_number")

    def __init__(self, ended: deque[int], number: int) -> None:
        self._ended, self._number = ended, number

    def __del__(self) -> None:
        # Garbage collection runs anywhere, also while this thread has the mutex. The next use notes it.
        self._ended.append(self._number)


class LocalUses:
    """The uses of one process; thread-safe. They are in the file of the lease that it has."""

    def __init__(self, leases: LeaseHolder, before: LocalUses | None = None) -> None:
        """*before* are the uses of this process's former lease, or those that a forked child inherits."""
        self._leases = leases
        self._mutex = new_mutex()
        self.counts: dict[int, int] = {} if before is None else before.counts
        self.ended: deque[int] = deque() if before is None else before.ended
        self._lease: weakref.ref[object] | None = None
        self._file: io.FileIO | None = None

    def begin(self, name: str) -> LocalUse:
        """Use the path of *name*: an object's encoded key, or the URI of a directory."""
        number = _number(name)
        with self._mutex:
            self.counts[number] = self.counts.get(number, 0) + 1
            use = LocalUse(self.ended, number)
            self._write(number)
        self.settle()
        return use

    def settle(self) -> None:
        """Note the uses that have ended."""
        with self._mutex:
            while self.ended:
                number = self.ended.popleft()
                self.counts[number] = self.counts.get(number, 1) - 1
                if self.counts[number] <= 0:
                    del self.counts[number]
                    if self._file is not None:
                        os.pwrite(self._file.fileno(), b"\0", number)

    def _write(self, number: int) -> None:
        lease = self._leases.get()
        if self._file is None or self._lease is None or self._lease() is not lease:
            # The first use, or those of another lease: of a parent, or of a store that was deleted meanwhile.
            self._close()
            self._file = file = io.FileIO(lease.paths.uses, "r+", opener=_create)
            file.truncate(_SIZE)
            self._lease = weakref.ref(lease)
            for known in self.counts:
                os.pwrite(file.fileno(), b"\1", known)
        os.pwrite(self._file.fileno(), b"\1", number)

    def close(self) -> None:
        """Close the file; in a forked child, the parent's. Uses that go on are noted in the next lease, with its first
        use.
        """
        with self._mutex:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


class UsesOfAll:
    """The uses of all processes that are alive, as they were when they were read."""

    def __init__(self, layout: Layout) -> None:
        self._tables: list[bytes] = []
        # Where locks do not exclude, no process can be proved dead.
        exclude = locks_are_exclusive(layout.locks)
        for name in files.list_names(layout.leases):
            lease = LeaseLayout(layout.lease(name))
            try:
                with open(lease.uses, "rb") as file:
                    table = file.read()
                lock = try_lock_existing(lease.lock) if exclude else None
            except OSError:
                continue  # it has used none, or was removed
            if lock is None:
                self._tables.append(table)
            else:
                lock.close()

    @property
    def has_processes(self) -> bool:
        """Whether a process is alive that has used a local path."""
        return bool(self._tables)

    def include(self, names: list[str]) -> bool:
        """Whether a process uses the path of one of *names*."""
        numbers = list(map(_number, names))
        return any(table[number : number + 1] == b"\1" for table in self._tables for number in numbers)


def _number(name: str) -> int:
    return int.from_bytes(name_hash(name.encode("utf-8", "surrogatepass"))[:2], "big")
