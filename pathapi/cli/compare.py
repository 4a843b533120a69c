"""Comparison of cached entries with the server: one request for each, and no change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Final

from casstore import Entry, TaskThreads, new_mutex
from pathapi.backend import head_or_none
from pathapi.exceptions import CloudPathException, CloudUnavailableError
from pathapi.path import CloudPath

THREADS: Final = 16
"""Concurrent HEAD requests."""


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
    mutex = new_mutex()

    def compare_one(entry: Entry) -> ComparedEntry:
        try:
            with mutex:  # *path_of* may create a client
                location = path_of(entry.uri).location
            if location.client.origin != entry.key.origin:
                raise CloudUnavailableError(
                    f"it was downloaded from {entry.key.origin}, not from {location.client.origin}"
                )
            info = head_or_none(location.backend, location.key)
            if info is None:
                return ComparedEntry(entry, RemoteState.GONE)
            is_same = info.validator.same_version(entry.validator)
            return ComparedEntry(entry, RemoteState.SAME if is_same else RemoteState.STALE)
        except (CloudPathException, OSError) as error:
            return ComparedEntry(entry, RemoteState.UNREACHABLE, error)

    remaining, threads = iter(entries), TaskThreads(THREADS)
    try:
        ahead = deque(threads.submit(partial(compare_one, entry)) for entry in islice(remaining, 4 * THREADS))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(threads.submit(partial(compare_one, entry)) for entry in islice(remaining, 1))
    finally:
        threads.close(0.0)
