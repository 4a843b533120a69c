"""The public face of a store: `open` gives a `Cache`, which looks things up, fills, and tells what it holds."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from casstore.blobs.blob_store import OPEN_FLAGS, BlobStore
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.clock import _HOUR_NS
from casstore.config.settings import Settings
from casstore.counters import Counters
from casstore.errors import IndexUnavailableError, StoreReadOnlyError
from casstore.eviction.background import BackgroundEvictor
from casstore.eviction.evictor import Evicting
from casstore.exit_hooks import at_exit
from casstore.format.digest import Digest, digest_mtime
from casstore.format.keys import Key, count_row
from casstore.format.layout import Layout
from casstore.format.records import Entry, Moment, peek_entry, unpack_entry
from casstore.fs import mounts as machine
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import IndexSnapshot, snapshot
from casstore.index.updates import PublishEntry, TouchEntry
from casstore.ingest.fill import Fill
from casstore.ingest.publisher import Recording, add_blob
from casstore.leases.lease import Lease
from casstore.leases.local_files import LocalFiles
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.collector_lock import CollectorLock
from casstore.locks.single_flight import Flight, SingleFlight
from casstore.locks.write_locks import WriteLocks
from casstore.reading.blob_checker import BlobChecker
from casstore.reading.catalog import Inspecting
from casstore.reading.dedup import ChecksumDedup
from casstore.root import Root, open_root

if TYPE_CHECKING:
    from casstore.pending.store import Pending

EXIT_SECONDS: Final = 10.0
"""How long the exit of a process may wait for its last commits."""

_TALLY_SECONDS: Final = 1.0
"""How long it may wait for others who add their counts to those of the store."""

_NEW_NS: Final = 2 * 10**9
"""How long after a file was linked the warm path takes it for one that may have had its name for less than the look at
the row took; far more than clocks of a file system lag behind.
"""
_OF_THE_PROCESS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes of the downloads that this process has begun and not finished: *received* of *expected*."""

    received: int
    expected: int


class Cache(LocalFiles, Recording, Inspecting, Evicting):
    """One store in this process; thread-safe, survives forks. Get one from `casstore.open`."""

    unavailable: OSError | None = None
    """Why nothing is held and kept; None for a store (`casstore.uncached`)."""

    def __init__(self, root: Root) -> None:
        self.layout: Layout = root.layout
        self.settings: Settings = root.settings
        self.algorithm = root.algorithm
        self.store_id = root.store_id
        self.place = root.boot_mount
        self._boot = root.boot
        self._locks = ByteLocks(root.layout)
        self.index = Index(root.layout, self._locks, self._say, self.recreate)
        self.blobs = BlobStore(root.layout, root.algorithm)
        self._turns = CollectorLock(root.layout)
        self._pending: Pending | None = None
        self._begin_process()

    def _begin_process(self) -> None:
        """What a process has for itself; made anew in a forked child."""
        self.flights = SingleFlight(self.layout, self._locks, self.settings.lock_timeout)
        self.write_locks = WriteLocks(self.layout, self.settings.lock_timeout, self._locks)
        self.committer = Committer(self.index, self.blobs, self._register_exit)
        self.statements = ChecksumDedup(self.index, self.blobs, self.committer, self.place)
        self.checks = BlobChecker(
            self.layout,
            self.index,
            self.blobs,
            self.committer,
            self.place,
            self.stage,
            self.count,
            lambda: self.lease.name,
        )
        self._lease: Lease | None = None
        self._mutex = threading.Lock()
        self._recent_mutex = threading.Lock()
        self._written: dict[bytes, int] = {}
        self._recent: dict[Key, Entry] = {}
        self._recent_inodes: dict[Key, Inode] = {}
        self.tally = Counters(self.layout, lambda: self.flights.waits)
        self._exits = False
        self.fills: set[Fill] = set()
        self.trims = BackgroundEvictor(self, self._turns)

    @property
    def root(self) -> str:
        """The store's directory."""
        return self.layout.root

    @property
    def lease(self) -> Lease:
        """This process's lease, taken on first use."""
        with self._mutex:
            if self._lease is not None and not self._lease.exists():
                self._lease.abandon()
                self._lease = None
            if self._lease is None:
                self._lease = self._take_lease()
                self._register_exit()
            return self._lease

    def _take_lease(self) -> Lease:
        try:
            return Lease(self.layout, self.settings.views, self.blobs)
        except FileNotFoundError:
            self.recreate()
            return Lease(self.layout, self.settings.views, self.blobs)

    # --- counting ----------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """What this process counted: hits, misses, collisions, damaged blobs, waits for other downloads."""
        return self.tally.counts()

    def underway(self) -> DownloadProgress:
        """How far this process's downloads are, for whoever shows progress; large ones only."""
        fills = list(self.fills)  # in one step, while others come and go
        return DownloadProgress(sum(fill.received for fill in fills), sum(fill.expected for fill in fills))

    def count(self, what: str) -> None:
        """Count one."""
        self.tally.increment(what)

    def count_hit(self, size: int) -> None:
        """Count an object of *size* bytes that was served from the store, by another way than `open_fresh`."""
        self.tally.hits += 1
        self.tally.disk_bytes += size
        if not self._exits:
            self._register_exit()

    # --- reading -----------------------------------------------------------------------------------------------------

    def now(self) -> Moment:
        """This moment, by both clocks."""
        return Moment(time.time_ns(), machine.boot_clock_ns(), self._boot)

    @staticmethod
    def current_hour() -> int:
        """Hours since the epoch: how coarsely last use is kept."""
        return time.time_ns() // _HOUR_NS

    def open_fresh(self, key: Key, max_age_ns: int | None) -> int | None:
        """The warm path: a descriptor of the blob, if the entry was validated within *max_age_ns* (None: ever).

        One read transaction, one open, one fstat; no lock, no write. None for anything out of the ordinary, which
        `held` and `open_entry` then sort out. The descriptor is the caller's.
        """
        if self.settings.verify == "always" or self.has_local_changes(key):
            return None
        now = time.time_ns()
        try:
            record = self.index.get(key.row_key)
        except (IndexUnavailableError, StoreReadOnlyError):
            return None  # `held` says it again, to whoever can do without the index
        if record is None:
            return None
        held = peek_entry(key, record)
        if held is None or (held.written_on and held.written_on != self.place):
            return None
        # A validation in the future says that a clock was set; it proves nothing.
        if max_age_ns is not None and not 0 <= now - held.validated_ns <= max_age_ns:
            return None
        try:
            descriptor = os.open(self.layout.blob(held.digest), OPEN_FLAGS)
        except OSError as error:
            if error.errno in _OF_THE_PROCESS:
                raise
            return None
        status = os.fstat(descriptor)
        if status.st_size != held.size or status.st_mtime_ns != digest_mtime(held.digest) * 1_000_000_000:
            os.close(descriptor)
            return None
        # Between the two looks the blob may have been evicted, and its name given to other bytes of the same digest.
        if status.st_ctime_ns > now - _NEW_NS and self.index.get(key.row_key) != record:
            os.close(descriptor)
            return None
        if now // _HOUR_NS != held.last_used_hour:
            self._used(key, record, now)
        tally = self.tally
        tally.hits += 1
        tally.disk_bytes += held.size
        if not self._exits:
            self._register_exit()
        return descriptor

    def _used(self, key: Key, record: bytes, now: int) -> None:
        entry = unpack_entry(key.row_key, record, key)
        if entry is not None:
            self.committer.submit(TouchEntry(entry, used_hour=now // _HOUR_NS))
            self.tally.flush_if_due()

    def lookup(self, key: Key) -> Entry | None:
        """The entry of *key* as this process knows it: what it has just filled and not yet committed included."""
        recent = self._recent.get(key)
        if recent is not None:
            return recent
        record = self.index.get(key.row_key)
        if record is None:
            return None
        entry = unpack_entry(key.row_key, record, key)
        if entry is None:
            self.count("damaged_rows")
        return entry

    def open_entry(self, entry: Entry, *, verify: bool | None = None) -> int | None:
        """A descriptor of the entry's blob, its bytes checked where there is any doubt; None makes it a miss.

        In doubt are blobs whose size or mtime is not as it was made, and those that a power cut may have damaged:
        written before this boot or mount and never synced. With *verify*, or the setting ``verify = "always"``, all
        are.
        """
        descriptor = self.checks.open(entry, verify=self.settings.verify == "always" if verify is None else verify)
        if descriptor is None or entry.digest.is_cryptographic or self._is_blob_of(entry, descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _is_blob_of(self, entry: Entry, descriptor: int) -> bool:
        """Whether the name that was opened is this entry's still: else the blob may have been evicted since *entry* was
        looked up, and its name given to other bytes of the same digest.
        """
        with self._recent_mutex:
            inode = self._recent_inodes[entry.key] if self._recent.get(entry.key) is entry else None
        if inode is not None:
            return Inode.of(os.fstat(descriptor)) == inode
        record = self.index.get(entry.key.row_key)
        current = None if record is None else unpack_entry(entry.key.row_key, record, entry.key)
        return current is not None and current.digest == entry.digest

    def quarantine(self, digest: Digest, reason: str, open_fd: int | None = None) -> None:
        """Take a blob whose bytes are wrong out of the store; its entries become misses and are filled again. *met* is
        the file that was found wrong, open; where another has its name by now, that stays.
        """
        self.checks.quarantine(digest, reason, open_fd)

    def refresh(self, entry: Entry, validated: Moment) -> None:
        """The cloud said at *validated* that *entry* is still right; queued, never waited for."""
        self.count("revalidated")
        recent = self._recent.get(entry.key)
        if recent is None:
            self.committer.submit(TouchEntry(entry, validated=validated, used_hour=self.current_hour()))

    # --- filling -----------------------------------------------------------------------------------------------------

    def stage(self) -> Staging:
        """A private file on the store's file system, to become a blob or to be closed."""
        try:
            return self.blobs.stage(self._staging_directory)
        except FileNotFoundError:
            self.recreate()
            return self.blobs.stage(self._staging_directory)

    def _staging_directory(self) -> str:
        return self.lease.paths.staging

    def snapshot(self, key: Key) -> IndexSnapshot:
        """What the index says of *key* now, or will once this process's own results are committed; to be asked before
        the request whose result shall apply.
        """
        recent = self._recent.get(key)  # first: what is committed meanwhile is found in the index
        noted = snapshot(self.index, key, self.now())
        return noted if recent is None else replace(noted, entry=recent)

    def begin(self, key: Key, flights: Sequence[Flight] = (), snapshot: IndexSnapshot | None = None) -> Fill:
        """A fill, to be made just before its request is sent; *flights* are released when it ends.

        *noted* is what `snapshot` said of the key a moment ago, if it was asked.
        """
        return Fill(self, snapshot or self.snapshot(key), flights)

    def lookup_or_snapshot(self, key: Key) -> tuple[Entry | None, IndexSnapshot]:
        """`held` and `snapshot` in one look at the index."""
        noted = self.snapshot(key)
        return noted.entry, noted

    def remember_recent(self, entry: Entry, inode: Inode) -> None:
        """Filled and not yet committed: this process sees it already. *inode* is its blob."""
        self.tally.flush_if_due()
        with self._recent_mutex:
            # A result of a request from before a local write: the index will refuse it, and so does this.
            if self._written.get(count_row(entry.key), -1) < entry.validated.boot_ns:
                self._recent[entry.key] = entry
                self._recent_inodes[entry.key] = inode

    def forget_recent(self, publication: PublishEntry) -> None:
        """Committed or dropped: the index knows better now."""
        with self._recent_mutex:
            if self._recent.get(publication.entry.key) is publication.entry:
                del self._recent[publication.entry.key]
                del self._recent_inodes[publication.entry.key]

    def _add_blob(self, staging: Staging, digest: Digest) -> AddedBlob:
        return add_blob(self, staging, digest)

    def _forget_older(self, key: Key) -> None:
        """Nothing that was asked before now is to be seen of *key* any more."""
        with self._recent_mutex:
            self._written[count_row(key)] = machine.boot_clock_ns()
            self._recent.pop(key, None)
            self._recent_inodes.pop(key, None)

    # --- the process -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until what this process has filled is committed."""
        self.committer.flush()

    def close(self) -> None:
        """Commit what is queued, give up the lease and the environment; the next use takes them again."""
        self.committer.close(EXIT_SECONDS)
        self.trims.close(EXIT_SECONDS)
        with self._mutex:
            lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()
        self.tally.flush(_TALLY_SECONDS)
        self.index.close()

    def recreate(self) -> None:
        """Somebody removed the store's directory while it is in use: make it anew, empty, and go on with it.

        Raises what `casstore.open` raises where that is not possible, and StoreFormatError where a store with another
        digest lies there now.
        """
        root = open_root(self.root, self.algorithm, os.environ)
        self.store_id = root.store_id

    def _register_exit(self) -> None:
        """Drain at exit; registered on first need, since the children of multiprocessing forget what came before."""
        if self._exits:
            return
        self._exits = True
        at_exit(self.close)

    def _say(self, message: str) -> None:
        import warnings

        warnings.warn(f"{self.root}: {message}", stacklevel=3)

    def before_fork(self) -> None:
        """Close the index's environment, which no child may inherit."""
        self.index.before_fork()

    def after_fork(self, *, in_child: bool) -> None:
        """Both sides open the index again on next use; a child begins with nothing of its parent's but the store."""
        if in_child:
            try:
                self.committer.after_fork_in_child()
                for fill in list(self.fills):
                    fill.after_fork_in_child()
                self._locks.after_fork_in_child()
                self._turns.after_fork_in_child()
            finally:
                self._begin_process()
                self.index.after_fork(in_child=True)
        else:
            self.index.after_fork(in_child=False)
