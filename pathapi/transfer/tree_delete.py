"""Deleting a tree: a listing, and a request for every thousand objects, each only in the version that was listed.

No write lock is acquired: a thousand would be a thousand open files. So a writer on this machine is treated like one
elsewhere: what it wrote since the listing stays, and its next write finds that its base was deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Final

from pathapi.backend import ObjectInfo, head_or_none, marker_of
from pathapi.exceptions import (
    CloudPathException,
    CloudPathNotADirectoryError,
    CloudPathNotImplementedError,
    DirectoryNotEmptyError,
    OverwriteNewerCloudError,
    OverwriteNewerLocalError,
    PendingWriteError,
    VersionMismatchError,
)
from pathapi.metadata.location import Location
from pathapi.parallel.progress import ProgressCallback
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.transfer.objects import Locked, delete
from pathapi.writing import unclosed
from pathapi.writing.conditional_put import warn_of_conditions
from pathapi.writing.pending import acquire_write_lock, conflict_error, write_lock

BATCH: Final = 1_000
"""Objects that are deleted together: what one request of S3 takes."""

THREADS: Final = 4
"""Batches in progress at a time, while the listing goes on."""

_NAMED: Final = 5
"""URIs that an error names of many."""


def remove_tree(root: Location, on_progress: ProgressCallback | None, *, ignore_errors: bool) -> None:
    """Delete everything below *root*. Raises as `CloudPath.rmtree` does."""
    if not root.uri.bucket and not root.key:
        raise CloudPathNotImplementedError(f"{root.shown} has no bucket: name one, or a directory")
    pending = _pending_below(root)
    if pending and not ignore_errors:
        first = next(iter(pending.values()))
        uris = _some([root.at(key).canonical for key in pending])
        raise PendingWriteError(
            f"{uris} not what the cloud has; nothing below {root.shown} was deleted. {first}"
        ) from first
    removal = _Removal(root, set(pending), ignore_errors)
    try:
        pool = WorkerPool(removal.delete, _size_of, on_progress, threads=THREADS, count_of=len)
        done = pool.run(removal.batches())
        removal.delete_markers()
        if not done.total_files and not removal.markers and not pending:
            _require_no_object(root)
    except (CloudPathException, OSError):
        if not ignore_errors:
            raise
    if removal.changed and not ignore_errors:
        raise OverwriteNewerCloudError(
            f"{_some(removal.changed)} changed by another writer since the listing; not deleted, unlike the rest of "
            f"{root.shown}"
        )


def remove_empty(root: Location) -> None:
    """Delete an object that only marks the "directory" *root*. Raises as `CloudPath.rmdir` does."""
    prefix, own = root.prefix, marker_of(root.backend, root.prefix)
    found = [*([own] if own is not None else ()), *root.backend.list(prefix, limit=2)]
    markers = [item for item in found if isinstance(item, ObjectInfo) and item.key == prefix and not item.size]
    if len(found) > len(markers):
        raise DirectoryNotEmptyError(f"{root.shown} is not empty; rmtree() deletes what is below, too")
    for marker in markers:
        at = root.at(marker.key)
        with Locked(at) as locks, locks:
            delete(at, marker.validator)
    if not found:
        _require_no_object(root)


def _require_no_object(root: Location) -> None:
    key = root.key
    if key and not key.endswith("/") and head_or_none(root.backend, key) is not None:
        raise CloudPathNotADirectoryError(f"{root.shown} is an object, not a directory; unlink() deletes those")


@dataclass(frozen=True, slots=True)
class _Removal:
    """Deletes batch after batch, by several threads, except the keys *kept*.

    *changed* names the objects that changed since the listing, and stay; many threads append to it.
    """

    root: Location
    kept: set[str]
    ignore_errors: bool
    changed: list[str] = field(default_factory=list)
    markers: list[ObjectInfo] = field(default_factory=list)
    """Empty objects that mark directories: a server may refuse to delete one before what is below."""

    def batches(self) -> Iterator[list[ObjectInfo]]:
        objects = self._objects()
        while batch := list(islice(objects, BATCH)):
            yield batch

    def _objects(self) -> Iterator[ObjectInfo]:
        if (marker := marker_of(self.root.backend, self.root.prefix)) is not None:
            self.markers.append(marker)
        for item in self.root.backend.list(self.root.prefix):
            if not isinstance(item, ObjectInfo) or item.key in self.kept:
                continue
            if item.key.endswith("/") and not item.size and not item.is_named_only:
                self.markers.append(item)
            else:
                yield item

    def delete_markers(self) -> None:
        """Delete the markers, the deepest first."""
        for _, level in groupby(sorted(self.markers, key=_depth, reverse=True), _depth):
            while batch := list(islice(level, BATCH)):
                self.delete(batch)

    def delete(self, batch: Sequence[ObjectInfo]) -> bool:
        try:
            self._delete(batch)
        except (CloudPathException, OSError):
            if not self.ignore_errors:
                raise
        finally:
            objects = [self.root.at(info.key) for info in batch]
            for at in objects:
                at.forget_listed()
            self.root.client.cache.record_delete(*(at.store_key for at in objects))
        return False

    def _delete(self, batch: Sequence[ObjectInfo]) -> None:
        conditions, backend = self.root.client.conditional_writes, self.root.backend
        keys = [info.key for info in batch]
        if conditions == "off":
            backend.delete(keys)
            return
        try:
            seen = {info.key: head_or_none(backend, info.key) if info.is_named_only else info for info in batch}
            backend.delete(keys, versions={key: info.validator for key, info in seen.items() if info is not None})
        except VersionMismatchError as error:
            self.changed.extend([self.root.at(key).canonical for key in error.keys or keys])
        except CloudPathNotImplementedError:
            if conditions == "require":
                raise
            warn_of_conditions(self.root)
            backend.delete(keys)


def _depth(marker: ObjectInfo) -> int:
    return marker.key.count("/")


def _size_of(batch: Sequence[ObjectInfo]) -> int:
    return sum(info.size for info in batch)


def _pending_below(root: Location) -> dict[str, Exception]:
    """Return the keys below *root* with pending writes on this machine, and why they cannot be deleted."""
    client, cache = root.client, root.client.cache
    unclosed.process_queue()
    cache.record_local()
    found: dict[str, Exception] = {}
    for write in cache.pending.all():
        key = root.key_of(write.uri)
        if write.key.origin == client.origin and write.uri.startswith(root.prefix_uri) and key not in found:
            try:
                # An upload in progress is waited for; one whose process has died may have completed.
                with write_lock(root.at(key)) as lock, lock:
                    acquire_write_lock(root.at(key), lock)
            except (PendingWriteError, OverwriteNewerLocalError) as error:
                found[key] = error
    unidentified = {write.key.name: write for write in cache.pending.unidentified()}
    for item in root.backend.list(root.prefix) if unidentified else ():
        at = root.at(item.key)
        if at.store_key.name in unidentified:
            found[item.key] = conflict_error(at, unidentified[at.store_key.name])
    return found


def _some(uris: Sequence[str]) -> str:
    named = ", ".join(uris[:_NAMED])
    more = f" and {len(uris) - _NAMED:,} more" if len(uris) > _NAMED else ""
    return f"{named}{more} {'is' if len(uris) == 1 else 'are'}"
