"""What several commands report: an entry, a pending write, a pin, a reaping as JSON; and usage by directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.eviction.pins import Pin
    from casstore.eviction.reaper import ReapResult
    from casstore.format.records import Entry
    from casstore.pending.records import PendingWrite
    from casstore.reading.catalog import Usage

INTERRUPTED: Final = "interrupted: it may have reached the server; `casstore push` checks"
"""Why a write is pending after its process died during the upload."""


def entry_facts(cache: Cache, entry: Entry) -> dict[str, Any]:
    """Return the facts of *entry*. Times are ISO 8601 in UTC; *last_used* has a resolution of one hour.

    *path* is the blob, until it is evicted. Never write to it.
    """
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


def pending_facts(cache: Cache, write: PendingWrite) -> dict[str, Any]:
    """Return the facts of *write*. *path* is the file with its bytes; never write to it.

    *interrupted*: its process died during the upload. *blocks*: this machine refuses to read or write the URI until the
    write is pushed or dropped. *source* is the local path of an edit or of a tool's file.
    """
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
        "digest": None if write.state.value == "unreadable" else str(write.digest),
        "path": cache.pending.path(write),
        "source": write.source,
        "blocks": write.blocks,
    }


def pin_facts(cache: Cache, pin: Pin) -> dict[str, Any]:
    """Return the facts of *pin*. *size* is the entry's, None if the object is not cached."""
    entry = cache.lookup(pin.key)
    return {
        "uri": pin.uri,
        "origin": pin.key.origin,
        "since": _iso(pin.since_ns / 1e9),
        "is_held": entry is not None,
        "size": None if entry is None else entry.size,
    }


def reaped_facts(reaped: ReapResult | None) -> dict[str, Any] | None:
    """Return the facts of what dead processes left behind."""
    if reaped is None:
        return None
    recorded = [
        {"uri": write.uri, "name": write.name, "state": write.state.value, "bytes": write.size, "why": write.why}
        for write in reaped.recorded
    ]
    return {**dataclasses.asdict(dataclasses.replace(reaped, recorded=())), "recorded": recorded}


def reaped_lines(reaped: ReapResult | None) -> Iterator[str]:
    """Yield the same as text: a line for what was removed, and one for each thing that was kept."""
    if reaped is None:
        return
    if reaped.leases or reaped.bytes or reaped.generations:
        yield (
            f"freed {format_size(reaped.bytes)} left by dead processes ({reaped.leases:,} leases, "
            f"{reaped.generations:,} generations of the index)"
        )
    for write in reaped.recorded:
        yield f"pending  {format_size(write.size):>9}        {write.uri}: {write.why}"
    for kept in reaped.kept:
        if not kept.is_alive or not reaped.locks_exclude:
            edited = f": {', '.join(kept.edited)}" if kept.edited else ""
            yield f"kept     lease {kept.name}: {kept.reason}{edited}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def usage_facts(usage: Usage) -> dict[str, Any]:
    return {**dataclasses.asdict(usage), "ratio": round(usage.ratio, 4)}


def usage_by_child(cache: Cache, prefix: str = "") -> dict[str, Usage]:
    """Return the usage below *prefix* (a string, not a path), by the path component that follows it, in URI order.

    A directory's name ends with a slash; the empty name is the total. A blob that two children share counts in both, so
    the children may add up to more than the total.
    """
    from casstore.reading.catalog import Usage

    sizes: dict[str, list[int]] = {"": []}
    blobs: dict[str, dict[bytes, int]] = {"": {}}
    for entry in cache.entries(prefix):
        for name in ("", _child(entry.uri, prefix)):
            sizes.setdefault(name, []).append(entry.size)
            blobs.setdefault(name, {})[entry.digest.value] = entry.size
    return {
        name: Usage(len(sizes[name]), sum(sizes[name]), len(stored), sum(stored.values()))
        for name, stored in blobs.items()
    }


def _child(uri: str, prefix: str) -> str:
    after_scheme = uri.find("://") + 3
    # The children of "s3://b/data" are those of "s3://b/data/", and others with that prefix, such as "s3://b/data2/".
    start = len(prefix) + (not prefix.endswith("/"))
    end = uri.find("/", max(start, after_scheme))
    return uri if end < 0 else uri[: end + 1]
