"""What people and scripts are told about a store's content: an entry as plain facts, usage by directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypedDict

from casstore.cache import Cache, Usage
from casstore.records import Entry


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
        "last_used": _iso(entry.used_hour * 3600),
        "path": cache.blob_path(entry),
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
