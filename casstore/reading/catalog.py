"""What a store has: its entries, what they add up to, and one that is open for reading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from casstore.format.keys import entry_prefix
from casstore.format.records import Entry, Validator, in_uri_order, unpack_entry
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.unlocked import UnlockedIndex


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of a read: an open blob, and the entry it belongs to.

    The caller closes *descriptor*. *entry* is None if the bytes could not be stored (a digest collision, no store that
    can serve) and were only streamed; *streamed* is then their version. *size* in bytes. *content* is the whole body if
    the reader asked for it and has just received it; *descriptor* is -1 then.
    """

    descriptor: int
    size: int
    entry: Entry | None
    streamed: Validator | None = None
    content: bytes | None = None

    @property
    def validator(self) -> Validator | None:
        """The version of the bytes."""
        return self.streamed if self.entry is None else self.entry.validator


@dataclass(frozen=True, slots=True)
class Usage:
    """What entries add up to: *entries* rows of *logical_bytes*, stored as *blobs* files of *stored_bytes*."""

    entries: int
    logical_bytes: int
    blobs: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """Stored over logical bytes; 1.0 without any."""
        return self.stored_bytes / self.logical_bytes if self.logical_bytes else 1.0


class Catalog:
    """The entries of a store, with what this process has not committed yet; thread-safe."""

    def __init__(self, index: Index | UnlockedIndex, committer: Committer | None = None) -> None:
        self._index = index
        self._flush = (lambda: None) if committer is None else committer.flush

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the entries whose URI starts with *prefix* (a string, not a path), in URI order; not one snapshot."""
        self._flush()
        rows = self._index.scan(entry_prefix(prefix))
        entries = (entry for row, record in rows if (entry := unpack_entry(row, record)) is not None)
        yield from in_uri_order(entry for entry in entries if entry.uri.startswith(prefix))

    def entries_of(self, uri: str) -> Iterator[Entry]:
        """Yield the entries of exactly this URI: one for each origin."""
        self._flush()
        # Only the rows of this URI, however many begin with it; a long one's are cut, and are compared.
        for row, record in self._index.scan(entry_prefix(uri + "\0")):
            entry = unpack_entry(row, record)
            if entry is not None and entry.uri == uri:
                yield entry

    def named(self, name: str) -> Iterator[Entry]:
        """Yield the entries below *name*, if it ends in a slash; else those of this URI."""
        return self.entries(name) if name.endswith("/") else self.entries_of(name)

    def stat(self, uri: str, origin: str | None = None) -> Entry | None:
        """Return the entry of *uri*, and of *origin* if several endpoints have one; None if it is not cached."""
        return next((entry for entry in self.entries_of(uri) if origin in (None, entry.key.origin)), None)

    def usage(self, prefix: str = "") -> Usage:
        """Add up the entries below *prefix*, before and after deduplication."""
        entries = logical = 0
        blobs: dict[bytes, int] = {}
        for entry in self.entries(prefix):
            entries += 1
            logical += entry.size
            blobs[entry.digest.value] = entry.size
        return Usage(entries, logical, len(blobs), sum(blobs.values()))
