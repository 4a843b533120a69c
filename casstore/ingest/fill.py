"""A fill: the bytes of one object on their way from a response into the store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from casstore.blobs.blob_store import OPEN_FLAGS, CollisionError
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.format.checksums import ProviderChecksum
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.records import Entry, Moment, Validator
from casstore.fs import files
from casstore.index.entries import IndexSnapshot
from casstore.index.updates import PublishEntry
from casstore.ingest.publisher import _NO_ROOM, add_blob
from casstore.locks.single_flight import Flight
from casstore.reading.open_blob import Stored

if TYPE_CHECKING:
    from casstore.cache import Cache

_PROGRESS_SECONDS = 1.0


class Fill:
    """One download: `Cache.begin` makes it **before** the request is sent, one of the two ends finishes it.

    Belongs to one thread, but for `Staging.write_at`. Use as a context manager: leaving it unfinished abandons it.
    """

    def __init__(self, cache: Cache, noted: IndexSnapshot, flights: Sequence[Flight] = ()) -> None:
        self._cache = cache
        self._flights = list(flights)
        self._staging: Staging | None = None
        self._reported = time.monotonic()
        self._has_progress = False
        self.noted = noted
        self.received = 0
        self.expected = 0
        cache.fills.add(self)

    @property
    def key(self) -> Key:
        """Whose bytes these are."""
        return self.noted.key

    @property
    def staging(self) -> Staging:
        """Where the bytes go. Raises StoreFullError where there is no room for a new file."""
        if self._staging is None:
            try:
                self._staging = self._cache.stage()
            except OSError as error:
                self._make_room(error, 1)
                self._staging = self._cache.stage()
        return self._staging

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises StoreFullError."""
        staging = self.staging
        try:
            staging.write(data)
        except OSError as error:
            self._make_room(error, len(data))
            with files.full_disk(self._cache.root):
                # A part may have been written before the disk was full.
                os.lseek(staging.descriptor, staging.size, os.SEEK_SET)
                staging.write(data)

    def expect(self, size: int) -> None:
        """Say how many bytes will come, for whoever shows progress."""
        self.expected = size

    def resize(self, size: int) -> None:
        """Make room for *size* bytes that `write_at` brings, in any order. Raises StoreFullError."""
        with files.full_disk(self._cache.root):
            os.ftruncate(self.staging.descriptor, size)

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write anywhere; from any thread, as long as the ranges differ. Raises StoreFullError."""
        try:
            self.staging.write_at(data, offset)
        except OSError as error:
            self._make_room(error, len(data))
            with files.full_disk(self._cache.root):
                self.staging.write_at(data, offset)

    def _make_room(self, error: OSError, needed: int) -> None:
        """Trim the store, once, after *error* of a write of *needed* bytes; raises it unless there is room now."""
        with files.full_disk(self._cache.root):
            needed = max(needed, self.expected - self.received)
            if error.errno not in _NO_ROOM or not self._cache.trims.make_room(needed):
                raise error

    def report(self, count: int) -> None:
        """Say that *count* bytes have come, so that waiters in other processes stay patient; cheap when called
        often.
        """
        self.received = count
        now = time.monotonic()
        if self._flights and now - self._reported > _PROGRESS_SECONDS:
            self._reported = now
            self._has_progress = True
            with contextlib.suppress(OSError):
                for flight in self._flights:
                    self._cache.lease.report_progress(flight.progress_name, count)

    def publish(self, validator: Validator, stated: Sequence[ProviderChecksum] = (), *, reading: bool = True) -> Stored:
        """The bytes are complete and checked: link them, queue the entry, and open the blob for reading.

        Without *reading* nothing is opened, for a caller who has the bytes in hand: the descriptor is -1.

        *stated* is what the provider said of these bytes, to be remembered. Raises StoreFullError.
        """
        cache, staging = self._cache, self.staging
        digest = staging.digest()
        size = staging.size
        try:
            added = add_blob(cache, staging, digest) if cache.trims.admits(size) else None
        except CollisionError:
            cache.count("collisions")
            added = None
        cache.count("misses")
        cache.tally.increment("cloud_bytes", size)
        if added is None:
            descriptor = files.reopen(staging.descriptor) if reading else -1
            self.abandon()
            return Stored(descriptor, size, None, validator)
        descriptor = _open_added(cache, added, staging) if reading else -1
        entry = Entry(self.key, digest, validator, self.noted.moment, cache.place, cache.current_hour())
        self._staging = None
        self._enqueue(entry, added, staging, stated)
        if added.is_new:
            cache.trims.record_fill(size)
        else:
            cache.count("shared")
            cache.tally.increment("shared_bytes", size)
        return Stored(descriptor, size, entry)

    def link(self, digest: Digest, descriptor: int, validator: Validator, moment: Moment | None = None) -> Entry:
        """The object has the bytes of a blob that is held: link the entry to it; nothing was received.

        *descriptor* is that blob, open; it stays the caller's. *moment* is when the cloud was asked, if not by this
        fill.
        """
        status = os.fstat(descriptor)
        added = AddedBlob(digest, status.st_size, Inode.of(status), is_new=False)
        entry = Entry(
            self.key, digest, validator, moment or self.noted.moment, self._cache.place, self._cache.current_hour()
        )
        self._cache.count("linked")
        self._cache.tally.increment("linked_bytes", status.st_size)
        # Whoever lent it may close it before the commit, and its inode's number could be another file's then.
        self._enqueue(entry, added, None, (), os.dup(descriptor))
        return entry

    def _enqueue(
        self,
        entry: Entry,
        added: AddedBlob,
        staging: Staging | None,
        stated: Sequence[ProviderChecksum],
        held: int = -1,
    ) -> None:
        cache, flights = self._cache, self._flights
        self._flights = []
        cache.fills.discard(self)
        self._end_progress(flights)
        publication = PublishEntry(
            self.noted,
            entry,
            added,
            staging,
            [(item, False) for item in stated],
            flights,
            on_done=cache.forget_recent,
            open_blob=held,
        )
        cache.remember_recent(entry, added.inode)
        for flight in flights:
            flight.publish_result()
        cache.committer.submit(publication)

    def join(self, flight: Flight) -> None:
        """Take over a flight that was won after the request was sent."""
        self._flights.append(flight)

    def abandon(self) -> None:
        """Nothing came of it: give up staging file and flights. Safe to call twice, and after the end."""
        if self._staging is not None:
            self._staging.close()
            self._staging = None
        self._cache.fills.discard(self)
        flights, self._flights = self._flights, []
        self._end_progress(flights)
        for flight in flights:
            flight.release()

    def after_fork_in_child(self) -> None:
        """In a forked child: give up the inherited descriptor; the download is the parent's, and here it fails."""
        if self._staging is not None:
            self._staging.close_in_child()

    def _end_progress(self, flights: Sequence[Flight]) -> None:
        if self._has_progress:
            for flight in flights:
                self._cache.lease.end_progress(flight.progress_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abandon()


def _open_added(cache: Cache, added: AddedBlob, staging: Staging) -> int:
    """The blob for reading; where another file has its name by now, the bytes that were received."""
    with contextlib.suppress(OSError):
        descriptor = os.open(cache.layout.blob(added.digest.value), OPEN_FLAGS)
        if Inode.of(os.fstat(descriptor)) == added.inode:
            return descriptor
        os.close(descriptor)
    return files.reopen(staging.descriptor)
