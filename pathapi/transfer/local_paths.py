"""Local paths for tools that read and write files by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Final
from weakref import ref

from casstore import (
    Cache,
    CasstoreError,
    Content,
    Entry,
    LocalUse,
    Place,
    Stored,
    cached_directory,
    exact_directory,
    strong_digest,
)
from pathapi.backend import ObjectInfo
from pathapi.exceptions import (
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudUnavailableError,
    OverwriteNewerLocalError,
)
from pathapi.metadata.head import has_children, names_directory
from pathapi.metadata.listing import as_listed, list_below, list_objects
from pathapi.metadata.location import Location
from pathapi.parallel.progress import progress_bar
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.reading.listing_cache import SECONDS
from pathapi.writing.opening import ReadOptions, open_blob, open_stored

_THREADS: Final = 16
"""Objects of a directory in progress at a time."""


def shown_path(location: Location) -> tuple[str, LocalUse | None]:
    """Return the local path of an object; of a "directory", the local tree as far as it is cached, without a request.

    Until the use is dropped, the path does not give way to anything else.
    """
    if names_directory(location) or _is_shown_directory(location):
        return _cached_directory(location)
    return _local_path(location, _cached_directory)


def tool_path(location: Location) -> tuple[str, LocalUse | None]:
    """Return the local path of an object, of a whole "directory", or of an object to be created by a tool."""
    return _remembered(location) or _local_path(location, _whole_directory)


def _local_path(
    location: Location, of_directory: Callable[[Location], tuple[str, LocalUse | None]]
) -> tuple[str, LocalUse | None]:
    client = location.client
    if not names_directory(location):
        try:
            return _path_of(location, open_blob(location, ReadOptions()))
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise
        except OverwriteNewerLocalError:
            # A tool that asks again while it saves: it goes on with its own change, until it is pushed or dropped.
            changed = client.cache.local.changed_path(location.store_key)
            if changed is None or any(write.source != changed for write in client.cache.pending.of(location.store_key)):
                raise
            return changed, client.cache.local.use(location.store_key)
    if has_children(location):
        return of_directory(location)
    local, name = client.cache.local, location.key.rstrip("/")
    if not name:  # an empty bucket
        return _cached_directory(location)
    # What a tool makes at a name with a final slash is a directory, and its files are those of its name.
    return local.path_to_create(location.at(name).place), local.use(location.store_key)


def _is_shown_directory(location: Location) -> bool:
    cache, below = location.client.cache, location.prefix_uri
    with suppress(OSError):  # the store is unusable: the request below goes on without it
        return next(iter(cache.entries(below)), None) is not None and cache.lookup(location.store_key) is None
    return False


def _path_of(location: Location, stored: Stored, *, briefly: bool = False) -> tuple[str, LocalUse | None]:
    try:
        return location.client.local_path(_content_of(stored), stored, location.place, briefly=briefly)
    finally:
        os.close(stored.descriptor)


def _content_of(stored: Stored) -> Content:
    if stored.entry is not None:
        return Content.of_entry(stored.entry)
    # Streamed: by a hash without known collisions, since the usual one may be why it could not be stored.
    known = None if stored.streamed is None else stored.streamed.mtime_ns
    return Content(strong_digest(stored.descriptor), stored.size, stored.streamed, known or time.time_ns())


def _cached_directory(location: Location) -> tuple[str, LocalUse | None]:
    client, cache = location.client, location.client.cache
    use = cache.local.use(location.store_key, is_directory=True)
    entries = (entry for entry in cache.entries(location.prefix_uri) if entry.key.origin == client.origin)
    found = [(location.at(location.key_of(entry.uri)).place, entry) for entry in entries]
    contents = [(place, Content.of_entry(entry), partial(_open_cached, cache, entry)) for place, entry in found]
    with suppress(CloudUnavailableError):  # evicted meanwhile
        if cache.unavailable is None:
            return exact_directory(cache.local, location.place, contents, client.views, is_whole=False), use
    return cached_directory(cache.local, location.place), use


def _remembered(location: Location) -> tuple[str, LocalUse | None] | None:
    """Return what `_whole_directory` returned a moment ago, if nothing below has given way since."""
    client = location.client
    known = client.directories.get(location.prefix_uri)
    if known is None:
        return None
    path, since, known_use = known
    cache, use, age = client.cache, known_use(), (client.now().boot_ns - since.boot_ns) / 1e9
    limit = min(SECONDS, cache.settings.local_path_grace / 2)  # the files were handed out then, not now
    if age >= limit or not os.path.isdir(path):
        return None
    if use is None:
        use = cache.local.use(location.store_key, is_directory=True)
        client.directories[location.prefix_uri] = path, since, ref(use)
    return path, use


def _whole_directory(location: Location) -> tuple[str, LocalUse | None]:
    """Download all of a directory, and return its path. Raises CloudPathIsADirectoryError if it is too large."""
    client, limit = location.client, location.client.cache.settings.local_directory_limit
    listed = ((location.at(info.key, fact), info) for info, fact in list_objects(location))
    found = [(at, info) for at, info in listed if info.size or not info.key.endswith("/")]
    size = sum(info.size for at, info in found if not _is_cached(at, info))
    if size > limit:
        raise CloudPathIsADirectoryError(
            f"{location.shown}: a local directory of it takes {size:,} bytes more, and local_directory_limit is "
            f"{limit:,}: call prefetch() first, or download_to(), or pass the files one by one"
        )
    # First: what is made below must not give way before all of it is.
    use = client.cache.local.use(location.store_key, is_directory=True)
    contents: list[tuple[Place, Content, Callable[[], int]]] = []

    def fetch(item: tuple[Location, ObjectInfo]) -> bool:
        at, info = item
        was_cached = _is_cached(at, info)
        stored = open_stored(at, ReadOptions(as_listed(at), require_store=True))
        os.close(stored.descriptor)
        if stored.entry is None:
            raise CloudPathIsADirectoryError(
                f"{at}: it cannot be stored, so the directory would lack it: download_to()"
            )
        opener = partial(_open_cached, client.cache, stored.entry)
        contents.append((at.place, Content.of_entry(stored.entry), opener))
        return was_cached

    with progress_bar(location.shown) as progress:
        WorkerPool(fetch, lambda item: item[1].size, progress, threads=_THREADS, downloads=client.cache.underway).run(
            found
        )
    path = exact_directory(client.cache.local, location.place, contents, client.views)
    client.directories[location.prefix_uri] = path, client.now(), ref(use)
    return path, use


def _open_cached(cache: Cache, entry: Entry) -> int:
    descriptor = cache.open_entry(entry)
    if descriptor is None:
        raise CloudUnavailableError(
            f"{entry.uri}: it was evicted while its directory was made: make room, or try again"
        )
    return descriptor


def _is_cached(location: Location, info: ObjectInfo) -> bool:
    entry = location.client.cache.lookup(location.store_key)
    return entry is not None and entry.validator.same_version(info.validator)


@contextmanager
def local_copy(location: Location, siblings: bool | str) -> Iterator[str]:
    """Return a local path that is released at the end of the block; with *siblings*, beside its siblings' paths."""
    cache = location.client.cache
    local = cache.local
    if not siblings and cache.unavailable is None:
        path, use = _path_of(location, open_stored(location, ReadOptions()), briefly=True)
        yield path
        del use
        return
    tree, process = local.new_private_tree(), os.getpid()
    made: list[str] = []
    try:
        for sibling in (location, *(_siblings(location, siblings) if siblings else ())):
            stored = open_stored(sibling, ReadOptions())
            try:
                made.append(local.private_path(sibling.place, stored.validator, stored.descriptor, tree))
            finally:
                os.close(stored.descriptor)
        yield made[0]
    finally:
        if os.getpid() == process:  # and not a forked child: the tree is its parent's
            with suppress(OSError, CasstoreError):  # what cannot be recorded stays until the process ends
                cache.changes.remove_private(tree)


def _siblings(location: Location, pattern: bool | str) -> Sequence[Location]:
    """Return the other objects of the same "directory": with the same stem, or whose names match *pattern*."""
    parent, _, name = location.key.rpartition("/")
    stem = name.partition(".")[0]
    glob = f"{stem}.*" if pattern is True else str(pattern)
    above = location.at(parent)
    items = (item for item, _ in list_below(above, delimited=True) if isinstance(item, ObjectInfo))
    names = [item.key for item in items if fnmatchcase(item.key.rpartition("/")[2], glob)]
    return [location.at(key) for key in names if key != location.key]
