"""What people and scripts are told about a store's content: an entry as plain facts, usage by directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypedDict

from casstore.cache import Cache
from casstore.eviction.pins import Pin
from casstore.format.records import Entry
from casstore.pending.records import PendingWrite
from casstore.reading.catalog import Usage

INTERRUPTED: Final = "interrupted: it is not known whether it arrived; push finds out"
"""Why a write is pending whose process died while it was being uploaded."""


class EntryFacts(TypedDict):
    """An entry in types that JSON has. Times are ISO 8601 in UTC; *last_used* is kept by the hour.

    *path* is where the bytes lie until somebody evicts them. Never write to it.
    """

    uri: str
    origin: str
    size: int
    digest: str
    etag: str | None
    version: str | None
    modified: str | None
    validated: str
    last_used: str
    path: str


def entry_facts(cache: Cache, entry: Entry) -> EntryFacts:
    """*entry* for a script."""
    validator = entry.validator
    return {
        "uri": entry.uri,
        "origin": entry.key.origin,
        "size": entry.size,
        "digest": str(entry.digest),
        "etag": validator.etag,
        "version": validator.version,
        "modified": None if validator.mtime_ns is None else _iso(validator.mtime_ns / 1e9),
        "validated": _iso(entry.validated.wall_ns / 1e9),
        "last_used": _iso(entry.last_used_hour * 3600),
        "path": cache.blob_path(entry),
    }


class PendingFacts(TypedDict):
    """A pending write in types that JSON has. *name* is its own, *path* where the bytes lie, never to be written to.

    *interrupted*: its process died while it was being uploaded. *blocks*: its URI is neither read nor written until
    somebody decides. *source* is the local path that the bytes came from, where they are an edit or a tool's file.
    """

    uri: str
    origin: str
    name: str
    state: str
    interrupted: bool
    size: int
    created: str
    why: str
    digest: str
    path: str
    source: str | None
    blocks: bool


def pending_facts(cache: Cache, write: PendingWrite) -> PendingFacts:
    """*write* for a script."""
    is_interrupted = cache.pending.is_interrupted(write)
    return {
        "uri": write.uri,
        "origin": write.key.origin,
        "name": write.name,
        "state": write.state.value,
        "interrupted": is_interrupted,
        "size": write.size,
        "created": _iso(write.created_ns / 1e9),
        "why": INTERRUPTED if is_interrupted else write.why,
        "digest": str(write.digest),
        "path": cache.pending.path(write),
        "source": write.source,
        "blocks": write.blocks,
    }


class PinFacts(TypedDict):
    """A pin in types that JSON has. *size* is that of the entry, None where nothing is held just now."""

    uri: str
    origin: str
    since: str
    is_held: bool
    size: int | None


def pin_facts(cache: Cache, pin: Pin) -> PinFacts:
    """*pin* for a script."""
    entry = cache.lookup(pin.key)
    return {
        "uri": pin.uri,
        "origin": pin.key.origin,
        "since": _iso(pin.since_ns / 1e9),
        "is_held": entry is not None,
        "size": None if entry is None else entry.size,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(slots=True)
class _Sum:
    entries: int = 0
    logical: int = 0
    blobs: dict[bytes, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        self.entries += 1
        self.logical += entry.size
        self.blobs[entry.digest.value] = entry.size

    def usage(self) -> Usage:
        return Usage(self.entries, self.logical, len(self.blobs), sum(self.blobs.values()))


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Usage below a prefix: in all, and of each child, in URI order; a directory's name ends with a slash.

    A blob that two children share counts in both, so that theirs may add up to more than the total.
    """

    total: Usage
    children: dict[str, Usage]


def usage_by_child(cache: Cache, prefix: str = "") -> UsageReport:
    """How much lies below *prefix* (a string, not a path), by the path component that follows it."""
    total = _Sum()
    children: dict[str, _Sum] = {}
    for entry in cache.entries(prefix):
        total.add(entry)
        children.setdefault(_child(entry.uri, prefix), _Sum()).add(entry)
    return UsageReport(total.usage(), {name: child.usage() for name, child in children.items()})


def _child(uri: str, prefix: str) -> str:
    after_scheme = uri.find("://") + 3
    # Of "s3://b/data" the children are those of "s3://b/data/", beside whatever else begins so, such as "s3://b/data2/".
    start = len(prefix) + (not prefix.endswith("/"))
    end = uri.find("/", max(start, after_scheme))
    return uri if end < 0 else uri[: end + 1]
