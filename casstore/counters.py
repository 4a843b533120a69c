"""What the processes of a store count together: hits, misses, bytes, what was not downloaded twice, what was evicted.

A process counts in memory, and adds what is new to one file of the store now and then: while it fills or reads what it
has not read for an hour, at most every `FLUSH_SECONDS`, and when it ends. Nothing is written for a hit. A process that
is killed takes what it had not added yet with it; so does a lock that does not exclude. The counts are for people and
for graphs: nothing else asks them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from casstore.format.layout import Layout
from casstore.fs import files
from casstore.locks.lock_files import LockFile

FLUSH_SECONDS: Final = 5.0
"""How long what was counted stays in memory while the process fills."""

_LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of all processes since *since_ns*, when the first of them was written (0: none was yet).

    A *hit* is an open that the store served, *disk_bytes* the sizes of what it served; a *miss* one that the cloud did,
    *cloud_bytes* what came. *linked* objects were not downloaded, since their bytes were held under another URI;
    *shared* ones were, and their bytes are stored once. *waits* were for another's download of the same object.
    *revalidated* entries were confirmed by the cloud; *streamed* objects were read and not stored. Of what was
    *evicted*: entries, blobs, and the bytes of those. *damaged_blobs* were quarantined, *collisions* not stored.
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
        """Hits over hits and misses; 0.0 for neither."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0


def statistics_facts(statistics: Statistics) -> dict[str, object]:
    """The same in types that JSON has."""
    from datetime import UTC, datetime  # only for whoever shows them

    since = statistics.since_ns
    began = datetime.fromtimestamp(since / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    counts = {name: getattr(statistics, name) for name in NAMES}
    return {"since": began if since else None, **counts, "hit_ratio": round(statistics.hit_ratio, 4)}


NAMES: Final = tuple(field.name for field in fields(Statistics) if field.name != "since_ns")


class Counters:
    """What one process counted of one store; thread-safe, as far as counts need be. A forked child begins its own.

    *hits* and *disk_bytes* are plain numbers, since the warm path raises them. Without *layout* nothing is written.
    """

    __slots__ = ("_added", "_counts", "_due", "_layout", "_mutex", "_waits", "disk_bytes", "hits")

    def __init__(self, layout: Layout | None, waits: Callable[[], int]) -> None:
        self._layout = layout
        self._waits = waits
        self._counts: Counter[str] = Counter()
        self._added: Mapping[str, int] = {}
        self._due = time.monotonic() + FLUSH_SECONDS
        self._mutex = threading.Lock()
        self.hits = self.disk_bytes = 0

    def increment(self, what: str, count: int = 1) -> None:
        """Count."""
        self._counts[what] += count

    def counts(self) -> dict[str, int]:
        """What this process counted."""
        return {**self._counts, "hits": self.hits, "disk_bytes": self.disk_bytes, "waits": self._waits()}

    def statistics(self) -> Statistics:
        """Of all processes: what they have added, and what this one has not added yet. Raises OSError."""
        since, counts = (0, Counter[str]()) if self._layout is None else _read(self._layout)
        counts.update(self._new())
        return Statistics(since, **{name: counts[name] for name in NAMES})

    def _new(self) -> dict[str, int]:
        return {name: new for name, count in self.counts().items() if (new := count - self._added.get(name, 0))}

    def flush_if_due(self) -> None:
        """`flush`, if the last one is long ago; one comparison otherwise."""
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self, timeout: float = 0.0) -> None:
        """Add what is new to the store's file; while another process is at it, for *patience* seconds, or next time."""
        if self._layout is None or not self._mutex.acquire(blocking=timeout > 0):
            return
        try:
            self._due = time.monotonic() + FLUSH_SECONDS
            with contextlib.suppress(OSError):  # a full disk, a store that was removed: they are counts
                self._add_to_file(self._layout, timeout)
        finally:
            self._mutex.release()

    def _add_to_file(self, layout: Layout, timeout: float) -> None:
        counted = self.counts()
        new = self._new()
        # Where somebody removed the store, or put something else there, nothing is ours to write.
        if not new or not os.path.exists(layout.store):
            return
        with LockFile(layout.statistics_lock).acquire(timeout) as is_ours:
            if is_ours:
                since, counts = _read(layout)
                counts.update(new)
                said = {"since": since or time.time_ns(), "counts": counts}
                self._added = counted
                files.replace(layout.statistics, json.dumps(said).encode())


def _read(layout: Layout) -> tuple[int, Counter[str]]:
    """When the counting began, and the counts; nothing where the file is not there or is damaged. Raises OSError where
    that cannot be told.
    """
    try:
        with open(layout.statistics, "rb") as file:
            said = json.loads(file.read(_LARGEST))
        return int(said["since"]), Counter({str(name): int(count) for name, count in said["counts"].items()})
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError, AttributeError):
        return 0, Counter()
