"""Fill the store ahead of use: listings first, then only what they show to be missing, in parallel."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from casstore import Entry
from pathapi.metadata.head import head
from pathapi.metadata.listing import as_listed, list_objects
from pathapi.parallel.progress import Progress
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.path.cloud_path import CloudPath
from pathapi.writing.opening import ReadOptions, open_stored

THREADS = 16
"""Objects in progress at a time; large ones share the threads that read parts."""


@dataclass(frozen=True, slots=True)
class PrefetchedObject:
    """An object that is cached now; *was_held*: this version was before. *entry*: None if no bytes could be stored."""

    path: CloudPath
    entry: Entry | None
    was_held: bool


@dataclass(frozen=True, slots=True)
class Prefetched:
    """What a prefetch did: *files* objects of *bytes* are cached, *held* of them were before; each (URI, error)."""

    files: int
    bytes: int
    held: int
    errors: list[tuple[str, Exception]] = field(default_factory=list)


@dataclass(slots=True)
class _Item:
    """One object, and its size as far as it is known."""

    path: CloudPath
    size: int = 0


def prefetch(
    paths: str | CloudPath | Iterable[str | CloudPath],
    *,
    client: Any = None,
    threads: int = THREADS,
    progress: Callable[[Progress], object] | None = None,
    recursive: bool = True,
    on_object: Callable[[PrefetchedObject], object] | None = None,
) -> Prefetched:
    """Download every object of *paths*, and below those that are prefixes, into the store.

    Without *recursive* all *paths* are objects: one request each and no listing, by the freshness of their client.

    An object that the listing shows to be cached costs nothing more; one with a checksum of a cached blob is linked
    without a request; each other one costs a GET. *on_object* gets each object once it is cached, in any order;
    *progress* is called some ten times a second and at the end; both from the calling thread. The result names the
    objects that failed; an error in listing is raised. Ctrl-C cancels the downloads in progress and keeps those done.
    """
    given = [paths] if isinstance(paths, str | CloudPath) else list(paths)
    roots = [path if isinstance(path, CloudPath) else CloudPath(path, client=client) for path in given]
    job = _Prefetch(roots, progress, recursive, on_object)
    pool = WorkerPool(job.fetch, lambda item: item.size, job.report, threads=max(1, threads))
    done = pool.run(job.items() if recursive else map(_Item, roots))
    for cache in {id(root.client.cache): root.client.cache for root in roots}.values():
        cache.flush()
    files, size = done.files - len(job.failed_sizes), done.bytes - sum(job.failed_sizes)
    return Prefetched(files, size, done.held, job.errors)


@dataclass(frozen=True, slots=True)
class _Prefetch:
    """One call of `prefetch`; many threads append to its lists."""

    roots: list[CloudPath]
    on_progress: Callable[[Progress], object] | None
    recursive: bool
    on_object: Callable[[PrefetchedObject], object] | None
    arrived: deque[PrefetchedObject] = field(default_factory=deque)
    errors: list[tuple[str, Exception]] = field(default_factory=list)
    failed_sizes: list[int] = field(default_factory=list)

    def items(self) -> Iterator[_Item]:
        """Find every object: those below a prefix, else the path itself."""
        for root in self.roots:
            location, found = root.location, False
            if not str(root).endswith("/") and root.key:
                info = head(location)
                if info is not None:
                    yield _Item(root, info.size)
                    found = True
            for item, listed in list_objects(location):
                # An empty object of a directory's name only marks it.
                if item.size or not item.key.endswith("/"):
                    found = True
                    yield _Item(root.child(item.key, listed), item.size)
            if not found:
                hint = ": * and ? are part of the name" if {"*", "?"} & set(root.key) else ""
                error = FileNotFoundError(f"there is nothing at or below {root.uri.shown}{hint}")
                self.errors.append((root.uri.canonical, error))

    def fetch(self, item: _Item) -> bool:
        """Download one object, unless it is cached; return whether it was."""
        path = item.path
        try:
            location = path.location
            entry = location.client.cache.lookup(location.store_key)
            freshness = as_listed(location) if self.recursive else None
            stored = open_stored(location, ReadOptions(freshness, require_store=True))
        except Exception as error:  # noqa: BLE001 (the result names it; the other objects go on)
            self.errors.append((path.uri.canonical, error))
            self.failed_sizes.append(item.size)
            return False
        os.close(stored.descriptor)
        item.size = stored.size
        was_held = entry is not None and stored.entry is not None and stored.entry.same_content(entry)
        self.arrived.append(PrefetchedObject(path, stored.entry, was_held))
        return was_held

    def report(self, progress: Progress) -> None:
        """Report what has arrived, then *progress*."""
        while self.arrived:
            arrived = self.arrived.popleft()
            if self.on_object is not None:
                self.on_object(arrived)
        if self.on_progress is not None:
            if self.roots:
                underway = self.roots[0].client.cache.underway()
                progress.underway = underway.received
                if not self.recursive:
                    progress.total_bytes = progress.bytes + underway.expected
            self.on_progress(progress)
