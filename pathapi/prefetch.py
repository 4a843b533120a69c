"""Fill the store ahead of use: listings first, then only what they show to be missing, in parallel."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from casstore import Entry
from pathapi.backend import ObjectInfo
from pathapi.parallel.progress import PROGRESS_SECONDS, Progress
from pathapi.path import CloudPath

THREADS = 16
"""Objects under way at a time; large ones share the threads that read parts."""


@dataclass(frozen=True, slots=True)
class PrefetchedObject:
    """One object that is there now; *was_held*: this version of it was there before. *entry* is None where the bytes
    could not be stored.
    """

    path: CloudPath
    entry: Entry | None
    was_held: bool


@dataclass(frozen=True, slots=True)
class Prefetched:
    """What a prefetch did: *files* objects of *bytes* are in the store, *held* of them were before.

    *errors* holds (URI, error) for what could not be had.
    """

    files: int
    bytes: int
    held: int
    errors: list[tuple[str, Exception]] = field(default_factory=list)


def prefetch(
    paths: str | CloudPath | Iterable[str | CloudPath],
    *,
    client: Any = None,
    threads: int = THREADS,
    progress: Callable[[Progress], object] | None = None,
    recursive: bool = True,
    on_object: Callable[[PrefetchedObject], object] | None = None,
) -> Prefetched:
    """Have every object of *paths*, and below those that are prefixes, in the store.

    Without *recursive* all *paths* are objects: one request each and no listing, by the freshness of their client.

    What the listing shows to be held in the version listed costs nothing more; what has a checksum that is held is
    linked without a request; the rest is one GET each. *on_object* gets each object once it is there, in no order;
    *progress* is called some ten times a second and at the end; both from the calling thread. Objects that fail are
    reported in the result; an error in listing is raised. Ctrl-C ends it after what is under way; what is done is kept.
    """
    given = [paths] if isinstance(paths, str | CloudPath) else list(paths)
    roots = [path if isinstance(path, CloudPath) else CloudPath(path, client=client) for path in given]
    return _Prefetch(roots, threads, progress, recursive, on_object).run()


class _Prefetch:
    def __init__(
        self,
        roots: list[CloudPath],
        threads: int,
        progress: Callable[[Progress], object] | None,
        recursive: bool,
        on_object: Callable[[PrefetchedObject], object] | None,
    ) -> None:
        self._roots = roots
        self._recursive = recursive
        self._on_object = on_object
        self._arrived: deque[PrefetchedObject] = deque()
        self._threads = max(1, threads)
        self._tell = progress
        self._work: queue.Queue[tuple[CloudPath, int] | None] = queue.Queue(maxsize=4 * self._threads)
        self._mutex = threading.Lock()
        self._progress = Progress()
        self._errors: list[tuple[str, Exception]] = []
        self._failed_files = self._failed_bytes = 0
        self._stopping = False
        self._told = 0.0

    def run(self) -> Prefetched:
        workers = [
            threading.Thread(target=self._drain, name=f"prefetch-{n}", daemon=True) for n in range(self._threads)
        ]
        for worker in workers:
            worker.start()
        try:
            for path, size in self._expand() if self._recursive else ((root, 0) for root in self._roots):
                with self._mutex:
                    self._progress.total_files += 1
                    self._progress.total_bytes += size
                self._put((path, size))
            self._progress.is_listing = False
            for _ in workers:
                self._put(None)
            for worker in workers:
                while worker.is_alive():
                    worker.join(PROGRESS_SECONDS)
                    self._report()
        except BaseException:
            self._stop()
            raise
        self._report()
        for cache in {id(root.client.cache): root.client.cache for root in self._roots}.values():
            cache.flush()
        done = self._progress
        files, size = done.files - self._failed_files, done.bytes - self._failed_bytes
        return Prefetched(files, size, done.held, self._errors)

    def _stop(self) -> None:
        """Let the threads end after what they have in hand; waits for none of them."""
        self._stopping = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()
        for _ in range(self._threads):
            self._work.put_nowait(None)

    def _put(self, item: tuple[CloudPath, int] | None) -> None:
        while True:
            try:
                self._work.put(item, timeout=PROGRESS_SECONDS)
            except queue.Full:
                self._report()
            else:
                break
        if time.monotonic() - self._told > PROGRESS_SECONDS:
            # Where threads and listing keep pace, the queue is never full for long.
            self._report()

    def _report(self) -> None:
        self._told = time.monotonic()
        while self._arrived:
            arrived = self._arrived.popleft()
            if self._on_object is not None:
                self._on_object(arrived)
        if self._tell is not None:
            underway = self._roots[0].client.cache.underway() if self._roots else None
            with self._mutex:
                now = replace(self._progress)
            if underway is not None:
                now.underway = underway.received
                if not self._recursive:
                    now.total_bytes = now.bytes + underway.expected
            self._tell(now)

    def _expand(self) -> Iterator[tuple[CloudPath, int]]:
        """Every object: of a prefix what is below, else the path itself."""
        for root in self._roots:
            found = False
            if not str(root).endswith("/") and root.key:
                info = root._head()
                if info is not None:
                    yield root, info.size
                    found = True
            for item, listed in root._list(root._listing_prefix, delimited=False):
                # An empty object of a directory's name only marks it.
                if isinstance(item, ObjectInfo) and (item.size or not item.key.endswith("/")):
                    found = True
                    yield root._child(item.key, listed), item.size
            if not found:
                error = FileNotFoundError(f"there is nothing at or below {root.uri.shown}")
                self._errors.append((root.uri.canonical, error))

    def _drain(self) -> None:
        while (work := self._work.get()) is not None:
            if self._stopping:
                continue
            path, size = work
            arrived = None
            try:
                arrived, size = self._have(path)
            except Exception as error:  # noqa: BLE001 (a thread that died would be waited for without end)
                with self._mutex:
                    self._errors.append((path.uri.canonical, error))
            with self._mutex:
                self._progress.files += 1
                self._progress.bytes += size
                if arrived is None:
                    self._failed_files += 1
                    self._failed_bytes += size
                else:
                    self._progress.held += arrived.was_held
                    self._arrived.append(arrived)

    def _have(self, path: CloudPath) -> tuple[PrefetchedObject, int]:
        """Bring one object in; also its size in bytes."""
        entry = path.client.cache.lookup(path._store_key())
        freshness = path._as_listed() if self._recursive else None
        stored = path._open_stored(freshness, None, None, require_store=True)
        os.close(stored.descriptor)
        was_held = entry is not None and stored.entry is not None and stored.entry.same_content(entry)
        return PrefetchedObject(path, stored.entry, was_held), stored.size
