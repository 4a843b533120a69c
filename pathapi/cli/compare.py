"""Entries held against the cloud: which are of the version that is there now. One request for each, nothing changed."""

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
"""Requests at a time: each waits for its answer and brings no bytes."""

_AHEAD: Final = 4 * THREADS


class State(StrEnum):
    """What the cloud says of an entry. The values are words for people and scripts."""

    SAME = "same"
    """The entry is of the version that is there."""
    STALE = "stale"
    """Another version is there; a read that asks gets that."""
    GONE = "gone"
    """There is no such object, or no such bucket."""
    UNREACHABLE = "unreachable"
    """Nobody could ask: an error, or the entry is of another server than the client's."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One entry and its *state*; *error* is why it is unreachable."""

    entry: Entry
    state: State
    error: Exception | None = None


def compare(entries: Iterable[Entry], path_of: Callable[[str], CloudPath]) -> Iterator[Compared]:
    """What the cloud says of each of *entries*, in their order; *path_of* gives a path with the client to ask."""
    mutex = threading.Lock()

    def one(entry: Entry) -> Compared:
        try:
            with mutex:  # clients are made on the way
                path = path_of(entry.uri)
            return Compared(entry, _ask(entry, path))
        except (CloudPathException, OSError) as error:
            return Compared(entry, State.UNREACHABLE, error)

    left = iter(entries)
    with ThreadPoolExecutor(THREADS, "pathapi-compare") as pool:
        try:
            ahead: deque[Future[Compared]] = deque(pool.submit(one, entry) for entry in islice(left, _AHEAD))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(one, entry) for entry in islice(left, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ask(entry: Entry, path: CloudPath) -> State:
    client = path.client
    if client.origin != entry.key.origin:
        raise CloudUnavailableError(f"it was read from {entry.key.origin}, and this asks {client.origin}")
    try:
        info = client.backend(path.uri.bucket).head(path.uri.key)
    except CloudPathFileNotFoundError:
        return State.GONE
    return State.SAME if info.validator.same_version(entry.validator) else State.STALE
