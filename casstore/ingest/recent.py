"""Entries as this process sees them: those of the index, and those that it has filled and not yet committed."""

from __future__ import annotations

import os

from casstore.blobs.staging import Inode
from casstore.counters import Counters
from casstore.format.keys import Key, count_row
from casstore.format.records import Entry, Moment, unpack_entry
from casstore.fs import mounts
from casstore.index import entries
from casstore.index.database import Index
from casstore.index.entries import IndexSnapshot
from casstore.index.updates import PublishEntry
from casstore.locks.mutex import new_mutex


class RecentEntries:
    """The uncommitted entries of one process, over its index; thread-safe. A forked child begins with none."""

    def __init__(self, index: Index, counters: Counters) -> None:
        self._index = index
        self._counters = counters
        self._mutex = new_mutex()
        self._entries: dict[Key, tuple[Entry, Inode]] = {}
        self._written: dict[bytes, int] = {}

    def has(self, key: Key) -> bool:
        """Whether *key* has an uncommitted entry."""
        return key in self._entries

    def lookup(self, key: Key) -> Entry | None:
        """Return the entry of *key*, committed or not; None without one."""
        recent = self._entries.get(key)
        if recent is not None:
            return recent[0]
        record = self._index.get(key.row_key)
        if record is None:
            return None
        entry = unpack_entry(key.row_key, record, key)
        if entry is None:
            self._counters.increment("damaged_rows")
        return entry

    def snapshot(self, key: Key, moment: Moment) -> IndexSnapshot:
        """Return what the index says of *key*, or will say once this process's results are committed."""
        recent = self._entries.get(key)  # first: what is committed meanwhile is found in the index
        found = entries.snapshot(self._index, key, moment)
        return found if recent is None else found._replace(entry=recent[0])

    def is_blob_of(self, entry: Entry, descriptor: int) -> bool:
        """Whether the opened name is still this entry's: else the blob may have been evicted since *entry* was looked
        up, and its name given to other bytes of the same digest.
        """
        recent = self._entries.get(entry.key)
        if recent is not None and recent[0] is entry:
            return Inode.of(os.fstat(descriptor)) == recent[1]
        current = entries.current_entry(self._index, entry.key)
        return current is not None and current.digest == entry.digest

    def remember(self, entry: Entry, inode: Inode) -> None:
        """Show *entry*, whose blob is *inode*, to this process."""
        with self._mutex:
            # The index will refuse the result of a request from before a local write, and so does this.
            if self._written.get(count_row(entry.key), -1) < entry.validated.boot_ns:
                self._entries[entry.key] = entry, inode

    def forget(self, publication: PublishEntry) -> None:
        """Forget an entry that is committed, or dropped: the index knows better now."""
        with self._mutex:
            recent = self._entries.get(publication.entry.key)
            if recent is not None and recent[0] is publication.entry:
                del self._entries[publication.entry.key]

    def forget_older(self, key: Key) -> None:
        """Forget, and refuse from now on, what was requested of *key* before this moment."""
        with self._mutex:
            self._written[count_row(key)] = mounts.boot_clock_ns()
            self._entries.pop(key, None)
