"""A location seen as a directory: children, patterns, walks. One listing request returns a thousand keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pathapi.backend import ObjectInfo, Prefix
from pathapi.exceptions import CloudPathException
from pathapi.freshness import Freshness
from pathapi.metadata.globbing import Pattern, Visit, walk_levels, walk_tree
from pathapi.metadata.head import has_children
from pathapi.metadata.location import Location
from pathapi.reading.listing_cache import SECONDS, ListedFact

Item = TypeVar("Item", ObjectInfo, ObjectInfo | Prefix)


def list_below(
    location: Location, prefix: str | None = None, *, delimited: bool = False
) -> Iterator[tuple[ObjectInfo | Prefix, ListedFact]]:
    """List the keys that start with *prefix* (default: what is below); offline, those of the store's entries."""
    client = location.client
    if prefix is None:
        prefix = location.prefix
    if not location.policy.may_request:
        now = client.now()
        held = _entries_below(location, prefix, delimited=delimited)
        return ((item, ListedFact(item if isinstance(item, ObjectInfo) else None, now)) for item in held)
    items = location.backend.list(prefix, delimited=delimited)
    return client.listings.remember(location.uri.bucket, prefix, client.now(), items)


def list_objects(location: Location, prefix: str | None = None) -> Iterator[tuple[ObjectInfo, ListedFact]]:
    """List all objects whose keys start with *prefix* (default: those below)."""
    for item, listed in list_below(location, prefix):
        if isinstance(item, ObjectInfo):
            yield item, listed


def _entries_below(location: Location, prefix: str, *, delimited: bool) -> Iterator[ObjectInfo | Prefix]:
    """What a listing would give if there were nothing else than the store's entries."""
    origin, folded = location.client.origin, ""
    for entry in location.client.cache.entries(location.uri_of(prefix)):
        if entry.key.origin != origin:
            continue
        key = location.key_of(entry.uri)
        end = key.find("/", len(prefix)) + 1
        if not delimited or not end:
            yield ObjectInfo(key, entry.validator)
        elif key[:end] != folded:
            folded = key[:end]
            yield Prefix(folded)


def as_listed(location: Location) -> Freshness:
    """The policy that accepts what the listing said, although that may be minutes old when its last objects are read;
    the location's own policy if the listing said no more than a name.
    """
    listed = location.listed
    if listed is not None and listed.info is not None and listed.info.is_named_only:
        return location.policy
    age = 0 if listed is None else location.client.now().wall_ns - listed.moment.wall_ns
    return Freshness(max(int(SECONDS * 1e9), age + 10**9))


def children(location: Location) -> Iterator[tuple[str, ListedFact]]:
    """List the children's keys, which of "directories" end with ``/``, and what the listing said of them."""
    prefix, is_empty = location.prefix, True
    for item, listed in list_below(location, prefix, delimited=True):
        is_empty = False
        if item.key != prefix:  # an object of the directory's own name only marks it
            yield item.key, listed
    if is_empty and location.policy.may_request:
        location.client.require_directory(location.uri)


def select(location: Location, pattern: Pattern) -> Iterator[tuple[str, ListedFact | None]]:
    """List what is below and matches *pattern*."""
    last: list[tuple[str, ListedFact]] = []

    def remember(items: Iterator[tuple[Item, ListedFact]]) -> Iterator[Item]:
        for item, listed in items:
            last[:] = [(item.key, listed)]
            yield item

    found = pattern.select(
        location.prefix,
        lambda prefix: remember(list_objects(location, prefix)),
        lambda prefix: remember(list_below(location, prefix, delimited=True)),
        prefers_flat=location.client.lists_flat,
    )
    for match in found:
        listed = next((listed for key, listed in last if key == match.key), None)
        if last and (match.info is None or listed is None):  # a directory, though an object may mark it
            listed = ListedFact(None, last[0][1].moment)
        yield match.key, listed


def walk(
    location: Location, *, top_down: bool, on_error: Callable[[Exception], object] | None, lazy: bool
) -> Iterator[Visit]:
    """Walk the directories by one recursive listing; with *lazy*, by one listing for each.

    *on_error* gets the error of a listing, and the walk goes on without that directory: without *lazy*, it ends.
    """
    try:
        if (lazy or not location.client.lists_flat) and not location.is_account:
            visits = walk_levels(
                lambda prefix: (item for item, _ in list_below(location, prefix, delimited=True)),
                location.prefix,
                top_down=top_down,
                on_error=on_error,
            )
            for visit in visits:
                # Nothing is walked as in pathlib: without an error, and without a directory.
                if visit.dirnames or visit.files or visit.key != location.prefix or has_children(location):
                    yield visit
        else:
            yield from walk_tree((info for info, _ in list_objects(location)), location.prefix, top_down=top_down)
    except (OSError, CloudPathException) as error:
        if on_error is None:
            raise
        on_error(error)
