"""Comparison of cached entries with the server: one request for each, and no change."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from casstore import Entry
from pathapi.exceptions import CloudPathException, CloudPathFileNotFoundError, CloudUnavailableError
from pathapi.path import CloudPath

THREADS: Final = 16
"""Concurrent HEAD requests."""

_AHEAD: Final = 4 * THREADS


class RemoteState(StrEnum):
    """An entry compared with the server. The values are part of the JSON output."""

    SAME = "same"
    """The server has the entry's version."""
    STALE = "stale"
    """The server has another version."""
    GONE = "gone"
    """The object or the bucket does not exist."""
    UNREACHABLE = "unreachable"
    """The request failed, or the entry belongs to another server than the client's."""


@dataclass(frozen=True, slots=True)
class ComparedEntry:
    """An entry, its state, and the error if it is unreachable."""

    entry: Entry
    state: RemoteState
    error: Exception | None = None


def compare(entries: Iterable[Entry], path_of: Callable[[str], CloudPath]) -> Iterator[ComparedEntry]:
    """Compare *entries* with the server, and yield them in their order; *path_of* returns a path for a URI."""
    mutex = threading.Lock()

    def compare_one(entry: Entry) -> ComparedEntry:
        try:
            with mutex:  # *path_of* may create a client
                path = path_of(entry.uri)
            return ComparedEntry(entry, _request_state(entry, path))
        except (CloudPathException, OSError) as error:
            return ComparedEntry(entry, RemoteState.UNREACHABLE, error)

    remaining = iter(entries)
    with ThreadPoolExecutor(THREADS, "pathapi-compare") as pool:
        try:
            ahead: deque[Future[ComparedEntry]] = deque(
                pool.submit(compare_one, entry) for entry in islice(remaining, _AHEAD)
            )
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(compare_one, entry) for entry in islice(remaining, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _request_state(entry: Entry, path: CloudPath) -> RemoteState:
    client = path.client
    if client.origin != entry.key.origin:
        raise CloudUnavailableError(f"it was downloaded from {entry.key.origin}, not from {client.origin}")
    try:
        info = client.backend(path.uri.bucket).head(path.uri.key)
    except CloudPathFileNotFoundError:
        return RemoteState.GONE
    return RemoteState.SAME if info.validator.same_version(entry.validator) else RemoteState.STALE
