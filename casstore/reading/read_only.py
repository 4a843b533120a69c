"""What a store holds, for a user who may only read it: nothing is locked, written or repaired there."""

from __future__ import annotations

import os
import stat

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.format.digest import ALGORITHMS
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Entry, unpack_entry
from casstore.index.unlocked import UnlockedIndex
from casstore.reading.catalog import Catalog


class ReadOnlyStore:
    """The entries and blobs of one store; thread-safe. Other processes may change the store meanwhile.

    The bytes of a blob are hashed once in a process, unless its row says that they are on the disk, and its size and
    mtime are right.
    """

    def __init__(self, layout: Layout) -> None:
        self._index = UnlockedIndex(layout)
        self._blobs = BlobStore(layout, ALGORITHMS[0])
        self._hashed: set[tuple[int, int, int]] = set()
        self.catalog = Catalog(self._index)

    def lookup(self, key: Key) -> Entry | None:
        """Return the entry of *key*; None without one."""
        record = self._index.get(key.row_key)
        return None if record is None else unpack_entry(key.row_key, record, key)

    def open(self, entry: Entry, *, verify: bool) -> int | None:
        """Return a descriptor of the entry's blob with right bytes, the caller's; None makes it a miss."""
        try:
            descriptor = self._blobs.open_any(entry.digest.value)
        except (FileNotFoundError, PermissionError, BlobModifiedError):
            return None
        try:
            if self._is_right(entry, descriptor, verify):
                # The blob may have been evicted since the lookup, and its name given to other bytes of the digest.
                current = self.lookup(entry.key)
                if current is not None and current.digest == entry.digest:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _is_right(self, entry: Entry, descriptor: int, verify: bool) -> bool:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        state = status.st_dev, status.st_ino, status.st_ctime_ns
        is_known = not entry.written_on and status.st_mtime_ns == entry.digest.mtime * 1_000_000_000
        if not verify and (is_known or state in self._hashed):
            return True
        if not self._blobs.verify(descriptor, entry.digest):
            return False
        self._hashed.add(state)
        return True
