"""Deleting a tree: a listing, and a request for every thousand objects, each only in the version that was listed.

No write lock is taken: a thousand would be a thousand open files. A writer of this machine is to this like one of
another: what it has written since the listing stays, and what it is about to write finds out that its base has gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

from casstore import Validator
from pathapi.backend import ObjectInfo, head_or_none
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
from pathapi.location import Location
from pathapi.parallel.progress import ProgressCallback
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.transfer.dispatch import MovingPath
from pathapi.transfer.objects import delete, locked
from pathapi.writing import unclosed as strays
from pathapi.writing.conditional_put import warn_of_conditions
from pathapi.writing.pending import acquire_write_lock

BATCH: Final = 1_000
"""Objects that are deleted together: what one request of S3 takes."""

THREADS: Final = 4
"""Batches under way at a time, while the listing goes on."""

_NAMED: Final = 5
"""URIs that an error names of many."""


def remove_tree(root: MovingPath, on_progress: ProgressCallback | None, *, ignore_errors: bool) -> None:
    """Delete everything below *root*: `pathapi.trees.TreePath.rmtree`."""
    if not root.uri.bucket and not root.uri.key:
        raise CloudPathNotImplementedError(f"{root.uri.shown} is all there is; rmtree() wants something below it")
    waiting = _pending_below(root)
    if waiting and not ignore_errors:
        raise _refusal(root, waiting)
    removal = _Removal(root, set(waiting), ignore_errors=ignore_errors)
    try:
        done = WorkerPool(
            removal.delete,
            lambda batch: sum(info.size for info in batch),
            on_progress,
            threads=THREADS,
            count_of=len,
        ).run(removal.batches())
        if not done.total_files and not waiting:
            _require_no_file(root)
    except (CloudPathException, OSError):
        if not ignore_errors:
            raise
    if removal.left and not ignore_errors:
        raise OverwriteNewerCloudError(
            f"{_some(removal.left)} changed by somebody else since the listing; not deleted, unlike the rest of "
            f"{root.uri.shown}"
        )


def remove_empty(root: MovingPath) -> None:
    """Nothing where there is nothing below *root*, but for an object that marks it: `pathapi.trees.TreePath.rmdir`."""
    prefix = root._listing_prefix
    found = list(root.client.backend(root.uri.bucket).list(prefix, limit=2))
    markers = [item for item in found if isinstance(item, ObjectInfo) and item.key == prefix and not item.size]
    if len(found) > len(markers):
        raise DirectoryNotEmptyError(f"{root.uri.shown} is not empty; rmtree() deletes what is below, too")
    for marker in markers:
        at = root._at_key(marker.key)._target()
        with locked(at):
            try:
                delete(at, marker.validator)
            except VersionMismatchError as error:
                raise OverwriteNewerCloudError(f"{at} was changed by somebody else; it was not deleted") from error
    if not found:
        _require_no_file(root)


def _require_no_file(root: MovingPath) -> None:
    key = root.uri.key
    if key and not key.endswith("/") and head_or_none(root.client.backend(root.uri.bucket), key) is not None:
        raise CloudPathNotADirectoryError(f"{root.uri.shown} is an object, not a directory; unlink() deletes those")


class _Removal:
    def __init__(self, root: MovingPath, kept: set[str], *, ignore_errors: bool) -> None:
        self._root = root
        self._client, self._bucket = root.client, root.uri.bucket
        self._kept = kept
        self._ignore_errors = ignore_errors
        self._mutex = threading.Lock()
        self.left: list[str] = []

    def batches(self) -> Iterator[list[ObjectInfo]]:
        batch: list[ObjectInfo] = []
        for item in self._client.backend(self._bucket).list(self._root._listing_prefix):
            if isinstance(item, ObjectInfo) and item.key not in self._kept:
                batch.append(item)
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def delete(self, batch: Sequence[ObjectInfo]) -> bool:
        try:
            self._delete(batch)
        except (CloudPathException, OSError):
            if not self._ignore_errors:
                raise
        finally:
            targets = [self._target(info.key) for info in batch]
            for target in targets:
                target.forget_listed()
            self._client.cache.record_delete(*(target.key for target in targets))
        return False

    def _delete(self, batch: Sequence[ObjectInfo]) -> None:
        backend, keys = self._client.backend(self._bucket), [info.key for info in batch]
        if self._client.conditional_writes == "off":
            backend.delete(keys)
            return
        try:
            backend.delete(keys, versions=self._versions(batch))
        except VersionMismatchError as error:
            with self._mutex:
                self.left += [self._target(key).uri for key in error.keys or keys]
        except CloudPathNotImplementedError:
            if self._client.conditional_writes == "require":
                raise
            warn_of_conditions(self._target(keys[0]))
            backend.delete(keys)

    def _versions(self, batch: Sequence[ObjectInfo]) -> dict[str, Validator]:
        versions = {info.key: info.validator for info in batch if not info.is_named_only}
        for named in (info for info in batch if info.is_named_only):
            seen = head_or_none(self._client.backend(self._bucket), named.key)
            if seen is not None:
                versions[named.key] = seen.validator
        return versions

    def _target(self, key: str) -> Location:
        return self._root._at_key(key)._target()


def _pending_below(root: MovingPath) -> dict[str, Exception]:
    """Keys below *root* of which this machine has what the cloud has not, and why they cannot be deleted."""
    client, uri = root.client, root.uri
    cache, base = client.cache, f"{uri.provider}://{uri.filed.bucket}/"
    below = base + root._listing_prefix
    strays.process_queue()
    for entry in cache.entries(below):
        if entry.key.origin == client.origin:
            cache.record_changes(entry.key)
    found: dict[str, Exception] = {}
    for write in cache.pending.all():
        if write.key.origin != client.origin or not write.uri.startswith(below):
            continue
        key = write.uri[len(base) :]
        if key not in found:
            try:
                # One that is being uploaded is waited for; one whose process has died may have arrived.
                acquire_write_lock(Location(client, write.key, uri.bucket, key)).release()
            except (PendingWriteError, OverwriteNewerLocalError) as error:
                found[key] = error
    return found


def _refusal(root: MovingPath, waiting: dict[str, Exception]) -> PendingWriteError:
    first = next(iter(waiting.values()))
    uris = _some([root._at_key(key).uri.canonical for key in waiting])
    error = PendingWriteError(f"{uris} not what the cloud has; nothing below {root.uri.shown} was deleted. {first}")
    error.__cause__ = first
    return error


def _some(uris: Sequence[str]) -> str:
    named = ", ".join(uris[:_NAMED])
    more = f" and {len(uris) - _NAMED:,} more" if len(uris) > _NAMED else ""
    return f"{named}{more} {'is' if len(uris) == 1 else 'are'}"
