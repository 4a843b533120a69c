"""Single flight: one download however many threads and processes ask.

A flight has a name: the row of a URI, or of what a listing stated about its bytes. Threads of one process share a
table; processes share a byte lock. Whoever does not get the flight looks again and again for its result, and gives up,
to download on its own, when the one who has it reports no progress for the timeout. Locks only save work: two flights
of one name give two downloads of the same bytes and nothing worse.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from casstore.format.digest import name_hash_hex
from casstore.format.layout import Layout, LeaseLayout
from casstore.locks.byte_locks import ByteLock, ByteLocks
from casstore.locks.lock_files import POLL_FIRST, POLL_LAST

Found = TypeVar("Found")

_LOOK_AT_PROGRESS: Final = 1.0
"""Seconds between two looks at another process's byte count."""

_LOOK_AT_RESULT: Final = 0.05
"""Seconds between two looks of a thread that waits for another thread, which wakes it when it announces."""


class Flight:
    """The right, or the turn after giving up, to download what *name* stands for."""

    __slots__ = ("_done", "_flights", "_lock", "name")

    def __init__(self, flights: SingleFlight, name: bytes, done: threading.Event, lock: ByteLock | None) -> None:
        self._flights = flights
        self._done = done
        self._lock = lock
        self.name = name

    @property
    def progress_name(self) -> str:
        """Under which byte counts of it are reported."""
        return name_hash_hex(self.name)

    def publish_result(self) -> None:
        """The result can be seen inside this process: its other threads need not wait for the commit."""
        self._done.set()

    def release(self) -> None:
        """The result is committed, or there is none."""
        self._flights.finish(self.name, self._done)
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class SingleFlight:
    """The flights of one store in this process."""

    def __init__(self, layout: Layout, locks: ByteLocks, timeout: float) -> None:
        self._layout = layout
        self._locks = locks
        self._timeout = timeout
        self._mutex = threading.Lock()
        self._under_way: dict[bytes, threading.Event] = {}
        self.waits = 0

    def acquire(self, name: bytes, look: Callable[[], Found | None]) -> Flight | Found:
        """A flight, or what *look* finds meanwhile; *look* is called once more after the flight was won."""
        while True:
            with self._mutex:
                done = self._under_way.get(name)
                mine = done is None
                if done is None:
                    done = self._under_way[name] = threading.Event()
            result = self._contend(name, done, look) if mine else self._wait_for_thread(name, done, look)
            if result is not None:
                return result

    def try_acquire(self, name: bytes) -> Flight | None:
        """The flight if nobody else is downloading, without waiting."""
        done = threading.Event()
        with self._mutex:
            earlier = self._under_way.get(name)
            if earlier is not None:
                # One of ours that has landed but for its commit: the caller has found a newer version since.
                return Flight(self, name, done, None) if earlier.is_set() else None
            self._under_way[name] = done
        lock = None
        try:
            lock = self._locks.try_acquire(name)
        finally:
            if lock is None:
                self.finish(name, done)
        return None if lock is None else Flight(self, name, done, lock)

    def _contend(self, name: bytes, done: threading.Event, look: Callable[[], Found | None]) -> Flight | Found:
        """Contend with other processes, for all threads of this one."""
        boarded = False
        try:
            pause, stall = POLL_FIRST, _Stall(self._layout, name, self._timeout)
            while True:
                lock = self._locks.try_acquire(name)
                try:
                    found = look()
                except BaseException:
                    if lock is not None:
                        lock.release()
                    raise
                if found is not None:
                    if lock is not None:
                        lock.release()
                    return found
                if lock is not None or stall.is_over():
                    boarded = True
                    return Flight(self, name, done, lock)
                self.waits += pause == POLL_FIRST
                time.sleep(pause)
                pause = min(pause * 2, POLL_LAST)
        finally:
            if not boarded:
                self.finish(name, done)

    def _wait_for_thread(
        self, name: bytes, done: threading.Event, look: Callable[[], Found | None]
    ) -> Flight | Found | None:
        """Wait for another thread's flight; None when it has landed without a result."""
        self.waits += 1
        stall = _Stall(self._layout, name, self._timeout)
        while True:
            found = look()
            if found is not None:
                return found
            with self._mutex:
                if self._under_way.get(name) is not done:
                    return None
            if stall.is_over():
                return Flight(self, name, threading.Event(), None)
            if done.is_set():
                # Announced, but its result is of no use to this caller: what is left is the commit, a few milliseconds.
                time.sleep(POLL_LAST)
            else:
                done.wait(_LOOK_AT_RESULT)

    def finish(self, name: bytes, done: threading.Event) -> None:
        """The flight that *done* stands for is over; called by `Flight.release`."""
        with self._mutex:
            if self._under_way.get(name) is done:
                del self._under_way[name]
        done.set()


class _Stall:
    """Whether the one who has the flight stands still: its byte count, or the lack of one, has not changed for long."""

    __slots__ = ("_deadline", "_layout", "_look", "_name", "_said", "_timeout")

    def __init__(self, layout: Layout, name: bytes, timeout: float) -> None:
        now = time.monotonic()
        self._layout, self._name, self._timeout = layout, name_hash_hex(name), timeout
        self._deadline, self._look = now + timeout, now + _LOOK_AT_PROGRESS
        self._said = ""

    def is_over(self) -> bool:
        now = time.monotonic()
        if now < self._look:
            return False
        self._look = now + _LOOK_AT_PROGRESS
        said = progress_of(self._layout, self._name)
        if said != self._said:
            self._said, self._deadline = said, now + self._timeout
        return now > self._deadline


def progress_of(layout: Layout, name: str) -> str:
    """What the holders of *name*'s downloads have reported, to be compared with what they said before."""
    counts = []
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.leases) as leases:
        for lease in leases:
            path = f"{LeaseLayout(lease.path).progress}/{name}"
            with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
                counts.append(file.read())
    return " ".join(sorted(counts))
