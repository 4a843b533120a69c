"""``casstore verify --remote``: compare the cached entries with the server, by one request each, and change nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, Final

import click

from casstore import Entry, TaskThreads, new_mutex
from pathapi.backend import head_or_none
from pathapi.cli.cloud_options import Clients, Shell, cloud_command, describe, progress_bar
from pathapi.exceptions import CloudPathException, CloudUnavailableError
from pathapi.parallel.progress import Progress
from pathapi.path.cloud_path import CloudPath

THREADS: Final = 16
"""Concurrent HEAD requests."""

_MAX_LISTED: Final = 10_000
"""Differences in a report; further ones are only counted."""


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


class _RemoteReport:
    """The result of the comparison."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._counts: Counter[RemoteState] = Counter()
        self._listed: list[dict[str, Any]] = []

    def add(self, found: ComparedEntry) -> None:
        """Count an entry, and list it if it differs."""
        self._counts[found.state] += 1
        if found.state is not RemoteState.SAME and len(self._listed) < _MAX_LISTED:
            detail = None if found.error is None else describe(self._shell, found.error)
            entry = found.entry
            listed = {"state": found.state.value, "uri": entry.uri, "origin": entry.key.origin, "detail": detail}
            self._listed.append(listed)

    @property
    def is_wrong(self) -> bool:
        """Whether an entry differs, or could not be compared."""
        return self._counts.total() > self._counts[RemoteState.SAME]

    @property
    def facts(self) -> Mapping[str, Any]:
        """The result for JSON."""
        counts = {state.value: self._counts[state] for state in RemoteState}
        return {"remote": {"asked": self._counts.total(), **counts, "differences": self._listed}}

    def show(self, shell: Shell) -> None:
        """Print the result as text."""
        for found in self._listed:
            uri, detail = shell.shown(found["uri"]), shell.shown(found["detail"] or "")
            named = detail if detail.startswith(uri) else f"{uri}: {detail}" if detail else uri
            shell.line(f"{found['state']:<11}  {named}")
        counts = ", ".join(f"{self._counts[state]:,} {state}" for state in RemoteState if self._counts[state])
        shell.line(f"{self._counts.total():,} entries compared with the server: {counts or 'none'}")


@click.command("verify")
@click.option("--remote", is_flag=True, help="Compare each entry with its server too: one request each.")
@click.option("--prefix", metavar="PREFIX", default="", help="With --remote: only the URIs that start with this.")
@cloud_command
def verify_extension(shell: Shell, /, remote: bool, prefix: str, **options: Any) -> _RemoteReport | None:
    """Find entries that are stale, deleted on the server, or cannot be compared."""
    if not remote:
        given = [name for name, value in {"prefix": prefix, **options}.items() if value]
        if given:
            raise click.UsageError(f"--{given[0].removesuffix('_name').replace('_', '-')} needs --remote")
        return None
    cache = shell.open_cache()
    clients = Clients(shell, options, cache.root)
    found = _RemoteReport(shell)
    with progress_bar(shell, "Comparing") as progress:
        for number, compared in enumerate(compare(cache.entries(prefix), clients.path), 1):
            found.add(compared)
            if progress is not None:
                progress(Progress(number, number, 0, 0, is_listing=True))
    return found
