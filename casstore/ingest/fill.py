"""A fill: the bytes of one object on their way from a response to the store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from casstore.blobs.blob_store import OPEN_FLAGS, CollisionError
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Entry, Moment, ProviderChecksum, Validator
from casstore.fs import files
from casstore.index.entries import IndexSnapshot
from casstore.index.updates import PublishEntry
from casstore.ingest.publisher import NO_ROOM, Publisher
from casstore.locks.single_flight import Flight, Flights
from casstore.reading.catalog import Stored

_PROGRESS_SECONDS = 1.0


class Fill:
    """One download: `Cache.begin` makes it **before** the request is sent; `publish`, `link` or `abandon` ends it.

    Belongs to one thread, except for `write_at`. As a context manager, used twice in one ``with``
    (`casstore.locks.mutex` says why), it is abandoned unless it was finished.
    """

    def __init__(self, publisher: Publisher, noted: IndexSnapshot, flights: Flights | Iterable[Flight] = ()) -> None:
        self._publisher = publisher
        self._flights = flights if isinstance(flights, Flights) else Flights(flights)
        self._staging: Staging | None = None
        self._reported = time.monotonic()
        self._has_progress = False
        self.noted = noted
        self.received = 0
        self.expected = 0

    @property
    def key(self) -> Key:
        return self.noted.key

    @property
    def staging(self) -> Staging:
        """The file that the bytes are written to. Raises StoreFullError."""
        if self._staging is None:
            self._publisher.fills.add(self)
            try:
                self._staging = self._publisher.leases.stage()
            except OSError as error:
                with self._room_after(error, 1):
                    self._staging = self._publisher.leases.stage()
        return self._staging

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises StoreFullError."""
        staging = self.staging
        try:
            staging.write(data)
        except OSError as error:
            with self._room_after(error, len(data)):
                # A part may have been written before the disk was full.
                os.lseek(staging.descriptor, staging.size, os.SEEK_SET)
                staging.write(data)

    def expect(self, size: int) -> None:
        """Set the number of bytes to come, for progress bars."""
        self.expected = size

    def resize(self, size: int) -> None:
        """Extend the file to *size* bytes, which `write_at` writes in any order. Raises StoreFullError."""
        with files.full_disk(self._publisher.layout.root):
            os.ftruncate(self.staging.descriptor, size)

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write at *offset*; from any thread, as long as the ranges differ. Raises StoreFullError.

        Raises ValueError if the fill has ended meanwhile: a thread may notice that later.
        """
        staging = self._open_staging()
        try:
            staging.write_at(data, offset)
        except OSError as error:
            with self._room_after(error, len(data)):
                staging.write_at(data, offset)

    def _open_staging(self) -> Staging:
        staging = self._staging
        if staging is None:
            raise ValueError("the fill has ended")
        return staging

    @contextlib.contextmanager
    def _room_after(self, error: OSError, needed: int) -> Iterator[None]:
        """Evict, once, after *error* of a write of *needed* bytes, for the block; raise it unless there is room now."""
        with files.full_disk(self._publisher.layout.root):
            needed = max(needed, self.expected - self.received)
            if error.errno not in NO_ROOM or not self._publisher.background.make_room(needed):
                raise error
            yield

    def report(self, count: int) -> None:
        """Report that *count* bytes were received, so that other processes go on waiting; cheap if called often."""
        self.received = count
        now = time.monotonic()
        if self._flights.requests and now - self._reported > _PROGRESS_SECONDS:
            self._reported = now
            self._has_progress = True
            with contextlib.suppress(OSError):
                for flight in self._flights.requests:
                    self._publisher.leases.get().report_progress(flight.progress_name, count)

    def publish(self, validator: Validator, stated: Sequence[ProviderChecksum] = (), *, reading: bool = True) -> Stored:
        """The bytes are complete and checked: link them, queue the entry, and open the blob.

        Without *reading*, for a caller who has the bytes in memory, nothing is opened: the descriptor is -1. *stated*
        are the provider's checksums of these bytes. Raises StoreFullError.
        """
        publisher, staging, counters = self._publisher, self.staging, self._publisher.counters
        digest = staging.digest()
        size = staging.size
        try:
            added = publisher.add_blob(staging, digest)
        except CollisionError:
            counters.increment("collisions")
            added = None
        counters.increment("misses")
        counters.increment("cloud_bytes", size)
        if added is None:
            descriptor = files.reopen(staging.descriptor) if reading else -1
            self.abandon()
            return Stored(descriptor, size, None, validator)
        descriptor = _open_added(publisher.layout, added, staging) if reading else -1
        try:
            entry = publisher.entry(self.key, digest, validator, self.noted.moment)
            self._enqueue(PublishEntry(self.noted, entry, added, staging, stated))
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        if added.is_new:
            publisher.background.record_fill(size)
        else:
            counters.increment("shared")
            counters.increment("shared_bytes", size)
        return Stored(descriptor, size, entry)

    def link(self, digest: Digest, descriptor: int, validator: Validator, moment: Moment | None = None) -> Entry:
        """Link the entry to a cached blob that has the object's bytes; nothing was received.

        *descriptor* is that blob, open; it stays the caller's. *moment* is when the server was asked, if not by this
        fill.
        """
        publication = self._publisher.link(self.noted, digest, descriptor, validator, moment or self.noted.moment)
        self._publisher.counters.increment("linked")
        self._publisher.counters.increment("linked_bytes", publication.added.size)
        self._enqueue(publication)
        return publication.entry

    def _enqueue(self, publication: PublishEntry) -> None:
        publisher, flights = self._publisher, self._flights.requests
        publication.locks = tuple(flights)
        publication.on_done = publisher.recent.forget
        publisher.counters.flush_if_due()
        try:
            self._flights.are_committers = lambda: publication.is_queued
            publisher.recent.remember(publication.entry, publication.added.inode)
            for flight in flights:
                flight.publish_result()
            publisher.committer.submit(publication)
        except BaseException:
            if not publication.is_queued:
                publication.discard()
            raise
        self.abandon()

    def join(self, flight: Flight) -> Flight:
        """Own a request for a flight, made after the request was sent, from before it is granted."""
        return self._flights.add(flight)

    def abandon(self) -> None:
        """Give up the staging file and the flights, unless they are the committer's by now. May be called twice."""
        self._publisher.fills.discard(self)
        if self._has_progress:
            for flight in self._flights.requests:
                self._publisher.leases.get().end_progress(flight.progress_name)
        self._flights.release()
        if self._staging is not None and not self._flights.are_committers():
            self._staging.close()
        self._staging = None

    def after_fork_in_child(self) -> None:
        """Close the inherited descriptor: the download is the parent's, and fails here."""
        if self._staging is not None:
            self._staging.close_in_child()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abandon()


def _open_added(layout: Layout, added: AddedBlob, staging: Staging) -> int:
    """Open the blob for reading; if its name is another file's by now, the bytes that were received."""
    with contextlib.suppress(OSError):
        descriptor = os.open(layout.blob(added.digest.value), OPEN_FLAGS)
        status = os.fstat(descriptor)
        if Inode.of(status) == added.inode and status.st_uid == os.geteuid():
            return descriptor
        os.close(descriptor)
    return files.reopen(staging.descriptor)
