"""What the processes of a store count together: hits, misses, bytes, downloads that were saved, evictions.

A process counts in memory and adds what is new to one file of the store: at most every `FLUSH_SECONDS` while it fills,
or reads what it has not read for an hour, and when it ends. A hit writes nothing. Counts are lost when a process is
killed before it adds them, or where locks do not exclude: they are for people and graphs, and nothing depends on them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from casstore.format.layout import Layout
from casstore.fs import files
from casstore.locks.lock_files import LockFile
from casstore.locks.mutex import new_mutex
from casstore.locks.single_flight import SingleFlight

FLUSH_SECONDS: Final = 5.0
"""How long counts stay in memory while the process fills."""

_LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of all processes since *since_ns*, when the first of them was written (0: none yet).

    A *hit* is an open that the store served, *disk_bytes* their sizes; a *miss* is a download, *cloud_bytes* its size.
    *linked* objects were not downloaded, because another URI's blob has their bytes; *shared* ones were downloaded and
    are stored once. *waits* were for a download by another thread or process. *revalidated* entries were confirmed by
    the server; *streamed* objects were read and not stored. *evicted* are entries, blobs, and the bytes of those.
    *damaged_blobs* were quarantined, *collisions* not stored.
    """

    since_ns: int = 0
    hits: int = 0
    disk_bytes: int = 0
    misses: int = 0
    cloud_bytes: int = 0
    linked: int = 0
    linked_bytes: int = 0
    shared: int = 0
    shared_bytes: int = 0
    waits: int = 0
    revalidated: int = 0
    streamed: int = 0
    evicted_entries: int = 0
    evicted_blobs: int = 0
    evicted_bytes: int = 0
    damaged_blobs: int = 0
    collisions: int = 0

    @property
    def hit_ratio(self) -> float:
        """Hits over hits and misses; 0.0 without either."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0


def statistics_facts(statistics: Statistics) -> dict[str, object]:
    """Return *statistics* in types that JSON has."""
    from datetime import UTC, datetime  # few processes show them

    since = statistics.since_ns
    began = datetime.fromtimestamp(since / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    counts = {name: getattr(statistics, name) for name in NAMES}
    return {"since": began if since else None, **counts, "hit_ratio": round(statistics.hit_ratio, 4)}


NAMES: Final = tuple(field.name for field in fields(Statistics) if field.name != "since_ns")


class Counters:
    """What one process counted of one store; thread-safe, as far as counts need be. A forked child makes its own.

    *hits* and *disk_bytes* are plain numbers, since the warm path increments them. Without *layout* nothing is written;
    *flights* count the waits.
    """

    __slots__ = ("_added", "_counts", "_due", "_flights", "_layout", "_mutex", "disk_bytes", "hits")

    def __init__(self, layout: Layout | None, flights: SingleFlight | None = None) -> None:
        self._layout = layout
        self._flights = flights
        self._counts: Counter[str] = Counter()
        self._added: Mapping[str, int] = {}
        self._due = time.monotonic() + FLUSH_SECONDS
        self._mutex = new_mutex()
        self.hits = self.disk_bytes = 0

    def increment(self, what: str, count: int = 1) -> None:
        """Add *count* to *what*."""
        self._counts[what] += count

    def count_eviction(self, entries: int, blobs: int, size: int) -> None:
        """Count what was evicted: *entries*, and *blobs* of *size* bytes."""
        self._counts.update(evicted_entries=entries, evicted_blobs=blobs, evicted_bytes=size)
        self.flush_if_due()

    def counts(self) -> dict[str, int]:
        """Return what this process counted."""
        waits = 0 if self._flights is None else self._flights.waits
        return {**self._counts, "hits": self.hits, "disk_bytes": self.disk_bytes, "waits": waits}

    def statistics(self) -> Statistics:
        """Return the counts of all processes, with what this one has not added yet. Raises OSError."""
        since, counts = (0, Counter[str]()) if self._layout is None else _read(self._layout)
        counts.update(self._new())
        return Statistics(since, **{name: counts[name] for name in NAMES})

    def _new(self) -> dict[str, int]:
        return {name: new for name, count in self.counts().items() if (new := count - self._added.get(name, 0))}

    def flush_if_due(self) -> None:
        """Flush if the last time was `FLUSH_SECONDS` ago; one comparison otherwise."""
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self, timeout: float = 0.0) -> None:
        """Add what is new to the store's file; after *timeout* seconds of waiting for another process, leave it."""
        if self._layout is None:
            return
        self._due = time.monotonic() + FLUSH_SECONDS
        with self._mutex, contextlib.suppress(OSError):  # a full disk, a removed store: these are only counts
            self._add_to_file(self._layout, timeout)

    def _add_to_file(self, layout: Layout, timeout: float) -> None:
        counted = self.counts()
        new = self._new()
        # If the store was removed, or replaced by something else, nothing there is ours to write.
        if not new or not os.path.exists(layout.store):
            return
        with LockFile(layout.statistics_lock).acquire(timeout) as file:
            if file.is_locked:
                since, counts = _read(layout)
                counts.update(new)
                record = {"since": since or time.time_ns(), "counts": counts}
                self._added = counted
                files.replace(layout.statistics, json.dumps(record).encode())


def _read(layout: Layout) -> tuple[int, Counter[str]]:
    """Return when counting began, and the counts; nothing if the file is absent or damaged. Raises OSError."""
    try:
        with files.open_regular(layout.statistics) as file:
            record = json.loads(file.read(_LARGEST))
        return int(record["since"]), Counter({str(name): int(count) for name, count in record["counts"].items()})
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError, AttributeError):
        return 0, Counter()
