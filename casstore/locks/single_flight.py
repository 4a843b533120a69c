"""Single flight: one download of an object, however many threads and processes read it.

A flight has a name: the row of a URI, or of a checksum that a listing stated. Threads of one process share a table;
processes share a byte lock. A reader without the flight polls for the holder's result. It downloads on its own if the
holder reports no progress for the timeout. Locks only save work: two flights of one name cause two downloads of the
same bytes and nothing worse.

    with flights.acquire(name) as flight, flight:
        for _ in flight.polls():
            if (found := look()) is not None:
                return found
        download()
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty
from typing import Final, Self

from casstore.format.digest import name_hash_hex
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.locks.byte_locks import ByteLock, ByteLocks
from casstore.locks.lock_files import POLL_LAST, polls_until
from casstore.locks.mutex import TimedQueue, is_interrupted, new_mutex

_LOOK_AT_PROGRESS: Final = 1.0
"""Seconds between two looks at another process's byte count."""

_LOOK_AT_RESULT: Final = 0.05
"""Seconds between two polls of a thread that waits for another thread, which wakes it with the result."""


class Flight:
    """A request for the right to download *name*: granted when `polls` ends, given up at the end of the block.

    Use it twice in one ``with`` (`casstore.locks.mutex` says why). Whatever has it may release it.
    """

    __slots__ = ("_flights", "_result", "_thread", "is_published", "lock", "name", "passes_by")

    def __init__(self, flights: SingleFlight, name: bytes) -> None:
        self._flights, self.name = flights, name
        self._result: TimedQueue[None] = TimedQueue()
        self._thread = threading.get_ident()
        self.is_published = False
        self.passes_by = False
        """Whether another reader has the flight and stalls, so that this one downloads beside it."""
        self.lock: ByteLock | None = None

    @property
    def progress_name(self) -> str:
        return name_hash_hex(self.name)

    def enter(self) -> Flight | None:
        """Make this the process's flight of its name; return the earlier one if there is one."""
        earlier = self._flights.under_way.setdefault(self.name, self)
        return None if earlier is self else earlier

    def polls(self) -> Iterator[None]:
        """Wait for the right to download; yield whenever a result may be ready, and once more when it is granted."""
        flights = self._flights
        if flights.locks is None:
            yield
            return
        while (earlier := self.enter()) is not None:
            if earlier.is_own or is_interrupted() or flights.locks.is_writing():
                self.passes_by = True
                yield
                return
            # Another thread contends, for all threads of this process.
            flights.waits += 1
            stall = _Stall(flights, self.progress_name)
            while True:
                yield
                if flights.under_way.get(self.name) is not earlier:
                    break  # it ended, without a result
                if stall.is_over():
                    self.passes_by = True
                    return
                earlier.wait_for_result()
        stall = _Stall(flights, self.progress_name)
        for tries, _ in enumerate(polls_until(math.inf)):
            flights.waits += tries == 1
            self.lock = flights.locks.try_acquire(self.name)
            yield  # after the lock: a result that was committed before its release is found
            self.passes_by = self.lock is None and stall.is_over()
            if self.lock is not None or self.passes_by:
                return

    @property
    def is_own(self) -> bool:
        """Whether this thread is downloading *name* already: a signal handler must not wait for what it interrupted."""
        return self._thread == threading.get_ident() and not self.is_published

    def wait_for_result(self) -> None:
        """Wait a moment, in another thread, for what `publish_result` tells."""
        if self.is_published:
            # Its result is of no use to this caller: only the commit is left, a few milliseconds.
            time.sleep(POLL_LAST)
        else:
            with contextlib.suppress(Empty):
                self._result.get(timeout=_LOOK_AT_RESULT)
                self._result.put(None)  # for the next thread

    def publish_result(self) -> None:
        """Tell the other threads of this process that they can see the result; they need not wait for its commit."""
        self.is_published = True
        self._result.put(None)

    def release(self) -> None:
        """Let the next reader in: the result is committed, or there is none. A second call does nothing."""
        flights = self._flights
        with flights.mutex:
            if flights.under_way.get(self.name) is self:
                del flights.under_way[self.name]
        self.publish_result()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Flights:
    """The flights of one download, released together: by a block that uses it twice, unless the committer does it."""

    def __init__(self, requests: Iterable[Flight] = ()) -> None:
        self.requests = list(requests)
        self.are_committers: Callable[[], bool] = lambda: False
        """Whether the committer owns the result, and releases them."""

    def add(self, request: Flight) -> Flight:
        """Own *request* from before it is granted."""
        self.requests.append(request)
        return request

    def release(self) -> None:
        """Release all, unless the result is queued. A second call does nothing."""
        if not self.are_committers():
            for flight in self.requests:
                flight.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class SingleFlight:
    """The flights of one store in this process; without *locks*, no reader waits for another."""

    def __init__(self, layout: Layout, locks: ByteLocks | None, timeout: float) -> None:
        self.layout, self.locks, self.timeout = layout, locks, timeout
        self.mutex = new_mutex()
        self.under_way: dict[bytes, Flight] = {}
        self.waits = 0

    def acquire(self, name: bytes) -> Flight:
        """Return a request for the flight: use it as a context manager, and `Flight.polls` inside."""
        return Flight(self, name)

    def try_grant(self, flight: Flight) -> bool:
        """Return whether *flight*, a new request, could be granted without waiting."""
        if self.locks is None:
            return True
        try:
            earlier = flight.enter()
            if earlier is not None:
                # One of ours whose result only waits for its commit: the caller has found a newer version since.
                return earlier.is_published
            flight.lock = self.locks.try_acquire(flight.name)
            return flight.lock is not None
        finally:
            if flight.lock is None:
                flight.release()


class _Stall:
    """Whether the holder of a flight has stalled: its byte count, or the lack of one, has not changed for long."""

    def __init__(self, flights: SingleFlight, name: str) -> None:
        now = time.monotonic()
        self._flights, self._name, self._count = flights, name, ""
        self._deadline, self._look = now + flights.timeout, now + _LOOK_AT_PROGRESS

    def is_over(self) -> bool:
        now = time.monotonic()
        if now < self._look:
            return False
        self._look = now + _LOOK_AT_PROGRESS
        count = self._progress()
        if count != self._count:
            self._count, self._deadline = count, now + self._flights.timeout
        return now > self._deadline

    def _progress(self) -> str:
        counts, layout = [], self._flights.layout
        for lease in files.list_names(layout.leases):
            path = f"{LeaseLayout(layout.lease(lease)).progress}/{self._name}"
            with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
                counts.append(file.read())
        return " ".join(sorted(counts))
