"""The public face of a store: `casstore.open` returns a `Cache`, composed of the packages below."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from casstore import clock
from casstore.blobs.blob_store import OPEN_FLAGS, BlobStore
from casstore.config.settings import Settings
from casstore.counters import Counters
from casstore.errors import IndexUnavailableError, StoreReadOnlyError, printable
from casstore.eviction.background import BackgroundEvictor
from casstore.eviction.evictor import Evictor
from casstore.eviction.pins import Pin, Pins
from casstore.exit_hooks import ExitHook
from casstore.format.digest import digest_mtime
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Entry, Moment, peek_entry, unpack_entry
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import IndexSnapshot, uris_of
from casstore.index.updates import TouchEntry
from casstore.ingest.fill import Fill
from casstore.ingest.publisher import Publisher, RecentEntries
from casstore.leases.holder import LeaseHolder
from casstore.leases.lease import Lease
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.single_flight import Flight, Flights, SingleFlight
from casstore.locks.write_locks import WriteLocks
from casstore.reading.blob_checker import BlobChecker
from casstore.reading.catalog import Catalog
from casstore.root import Root

if TYPE_CHECKING:
    # Imported when they are used: few processes evict, pin, verify or meet a pending write.
    from datetime import timedelta

    from casstore.eviction.collector import CollectResult
    from casstore.local.changes import ChangeRecorder
    from casstore.local.names import Place
    from casstore.local.paths import LocalPaths
    from casstore.local.uses import LocalUses
    from casstore.pending.records import PendingWrite
    from casstore.pending.store import Pending
    from casstore.verify.report import VerifyProgress, VerifyReport

P = ParamSpec("P")
Result = TypeVar("Result")

EXIT_SECONDS: Final = 10.0
"""How long the exit of a process may wait for its last commits."""

_COUNTERS_SECONDS: Final = 1.0
"""How long it may wait for other processes that add their counts to the store's."""

_NEW_NS: Final = 2 * 10**9
"""The age of a link up to which the warm path looks at the row again, since the blob may have got its name between the
two looks; far more than the clocks of file systems lag behind.
"""
_OF_THE_PROCESS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


_in_use: Final[set[Cache]] = set()
"""Caches with an open environment, which must not be garbage-collected.

Else the directory's next cache could open another environment first, and LMDB allows one in a process.
"""


def method_of(part: str, method: Callable[Concatenate[Any, P], Result]) -> Callable[Concatenate[Any, P], Result]:
    """Return a method that calls *method* of the attribute *part*."""
    name = method.__name__

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        result: Result = getattr(getattr(self, part), name)(*args, **kwargs)
        return result

    functools.update_wrapper(call, method)
    return call


class Cache:
    """One store in this process; thread-safe, survives forks. `casstore.open` returns one.

    It is made of parts, and offers their calls as its own: `counters`, `leases`, `catalog`, `checker`, `publisher`,
    `recent`, `evictor`, `background`, `pending`, `flights` and `write_locks`.
    """

    unavailable: OSError | None = None
    """Why nothing can be stored; None for a store, and set by `casstore.pass_through.PassThroughCache`."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._uid = os.geteuid()
        self.layout: Layout = root.layout
        self.root = root.layout.root
        self.settings: Settings = root.settings
        self.algorithm = root.algorithm
        self.boot_mount = root.boot_mount
        self._locks = ByteLocks(root.layout)
        self.index = Index(root.layout, self._locks, self._warn, root.recreate, self.settings.lock_timeout, self._keep)
        self.blobs = BlobStore(root.layout, root.algorithm)
        self._pins = Pins(root.layout, self.index)
        self._pending: Pending | None = None
        self._uses: LocalUses | None = None
        self._start_process()

    def _start_process(self) -> None:
        """Make what each process has for itself; again in a forked child."""
        root, index, blobs = self._root, self.index, self.blobs
        self.exit = ExitHook(self.close)
        self.leases = LeaseHolder(root, blobs, self.exit)
        self.committer = Committer(index, blobs, self.exit.ensure)
        self.flights = SingleFlight(self.layout, self._locks, self.settings.lock_timeout)
        self.write_locks = WriteLocks(self.layout, self.settings.lock_timeout, self._locks)
        self.counters = Counters(self.layout, self.flights)
        self.catalog = Catalog(index, self.committer)
        self._changes: ChangeRecorder | None = None
        self.checker = BlobChecker(root, index, blobs, self.committer, self.leases, lambda: self.changes, self.counters)
        self.evictor = Evictor(
            root, index, self.committer, self.leases, blobs, lambda: self.changes, self.counters, self.exit
        )
        self.background = BackgroundEvictor(self.evictor)
        self.publisher = Publisher(
            root, index, blobs, self.committer, self.checker, self.leases, self.background, self.counters
        )
        self.recent = self.publisher.recent

    # --- calls of the parts ------------------------------------------------------------------------------------------

    count = method_of("counters", Counters.increment)
    counts = method_of("counters", Counters.counts)
    stats = method_of("counters", Counters.statistics)
    lookup = method_of("recent", RecentEntries.lookup)
    quarantine = method_of("checker", BlobChecker.quarantine)
    find_by_checksum = method_of("checker", BlobChecker.find_blob)
    may_have_checksum = method_of("checker", BlobChecker.may_find_blob)

    stage = method_of("leases", LeaseHolder.stage)
    snapshot = method_of("publisher", Publisher.snapshot)
    record_write = method_of("publisher", Publisher.record_write)
    record_copy = method_of("publisher", Publisher.record_copy)
    record_delete = method_of("publisher", Publisher.record_delete)
    underway = method_of("publisher", Publisher.progress)

    entries = method_of("catalog", Catalog.entries)
    entries_of = method_of("catalog", Catalog.entries_of)
    stat = method_of("catalog", Catalog.stat)
    usage = method_of("catalog", Catalog.usage)

    plan = method_of("evictor", Evictor.plan)
    execute = method_of("evictor", Evictor.execute)
    collect = method_of("evictor", Evictor.collect)
    clear = method_of("evictor", Evictor.clear)
    mark_synced = method_of("evictor", Evictor.mark_synced)

    unpin = method_of("_pins", Pins.unpin)
    pins = method_of("_pins", Pins.all)
    unreadable_pins = method_of("_pins", Pins.unreadable)

    recreate = method_of("_root", Root.recreate)
    before_fork = method_of("index", Index.before_fork)

    @property
    def store_id(self) -> str:
        """The random id of the store; another one after it was recreated."""
        return self._root.store_id

    @property
    def lease(self) -> Lease:
        """This process's lease, taken on first use."""
        return self.leases.get()

    @property
    def changes(self) -> ChangeRecorder:
        """Makes pending writes of what is changed or made at local paths."""
        if self._changes is None:
            from casstore.local.changes import ChangeRecorder  # few processes use a local path
            from casstore.local.paths import LocalPaths

            given = self.layout, self._locks, self.leases, self.settings, self.boot_mount
            paths = LocalPaths(*given, self.background.record_fill, self._uses)
            self._uses = paths.uses
            self._changes = ChangeRecorder(paths, self.pending, self.lookup)
        return self._changes

    @property
    def local(self) -> LocalPaths:
        """The local paths of objects, for tools that take file names."""
        return self.changes.paths

    @property
    def pending(self) -> Pending:
        """The pending writes: what was written to this store and not uploaded."""
        if self._pending is None:
            from casstore.pending.store import Pending  # readers need none

            self._pending = Pending(self.layout)
        return self._pending

    # --- reading -----------------------------------------------------------------------------------------------------

    def now(self) -> Moment:
        """Return this moment, by both clocks."""
        return clock.now(self._root.boot)

    def open_fresh(self, key: Key, max_age_ns: int | None) -> int | None:
        """The warm path: return a descriptor of the blob if its entry was validated within *max_age_ns* (None: ever).

        One read transaction, one open, one fstat; no lock, no write. None for anything unusual: call `lookup` and
        `open_entry` then. The caller closes the descriptor.
        """
        if self.settings.verify == "always" or self.has_local_changes(key):
            return None
        now = time.time_ns()
        try:
            record = self.index.get(key.row_key)
        except (IndexUnavailableError, StoreReadOnlyError):
            return None  # `lookup` raises it again, to a caller that can bypass the index
        if record is None:
            return None
        entry = peek_entry(key, record)
        if entry is None or (entry.written_on and entry.written_on != self.boot_mount):
            return None
        # A validation in the future says that a clock was set; it proves nothing.
        if max_age_ns is not None and not 0 <= now - entry.validated_ns <= max_age_ns:
            return None
        try:
            descriptor = os.open(self.layout.blob(entry.digest), OPEN_FLAGS)
        except OSError as error:
            if error.errno in _OF_THE_PROCESS:
                raise
            return None
        try:
            status = os.fstat(descriptor)
            is_right = (
                status.st_size == entry.size
                and status.st_uid == self._uid
                and status.st_mtime_ns == digest_mtime(entry.digest) * 1_000_000_000
                # Since the first look the blob may have been evicted, and its name given to other bytes of its digest.
                and (status.st_ctime_ns <= now - _NEW_NS or self.index.get(key.row_key) == record)
            )
            if is_right:
                if now // clock.HOUR_NS != entry.last_used_hour:
                    self._record_use(key, record, now)
                counters = self.counters
                counters.hits += 1
                counters.disk_bytes += entry.size
                if not self.exit.is_registered:
                    self.exit.ensure()
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _record_use(self, key: Key, record: bytes, now: int) -> None:
        entry = unpack_entry(key.row_key, record, key)
        if entry is not None:
            self.committer.submit(TouchEntry(entry, last_used_hour=now // clock.HOUR_NS))
            self.counters.flush_if_due()

    def open_entry(self, entry: Entry, *, verify: bool | None = None) -> int | None:
        """Return a descriptor of the entry's blob, whose bytes are checked if there is any doubt; None makes it a miss.

        In doubt are blobs whose size or mtime was changed, and those that a power cut may have damaged: written before
        this boot or mount and never synced. With *verify*, or the setting ``verify = "always"``, all are.
        """
        descriptor = self.checker.open(entry, verify=self.settings.verify == "always" if verify is None else verify)
        if descriptor is None:
            return None
        try:
            if entry.digest.is_cryptographic or self.recent.is_blob_of(entry, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def count_hit(self, size: int) -> None:
        """Count an object of *size* bytes that the store served, except by `open_fresh`."""
        self.counters.hits += 1
        self.counters.disk_bytes += size
        self.exit.ensure()

    def refresh(self, entry: Entry, validated: Moment) -> None:
        """Record that the server confirmed *entry* at *validated*; queued, without waiting."""
        self.count("revalidated")
        if not self.recent.has(entry.key):
            self.committer.submit(TouchEntry(entry, validated=validated, last_used_hour=clock.current_hour()))

    def has_local_changes(self, key: Key) -> bool:
        """Whether *key* may have bytes that were not uploaded: a pending write, or a changed local path."""
        # Both are in one directory, which few objects have.
        return os.access(self.layout.pending(key.name), os.F_OK) and self.local.may_have_unsaved(key)

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Make pending writes of the changes at local paths of *key* since the last look; return the new ones.

        Raises: as `ChangeRecorder.record_changes`.
        """
        return self.changes.record_changes(key) if os.access(self.layout.pending(key.name), os.F_OK) else []

    def record_local(self) -> list[PendingWrite]:
        """Make pending writes of all that was changed or made at local paths; return the new ones."""
        return self.changes.record_everything() if os.path.isdir(self.layout.local) else []

    def record_made(self, place: Place) -> list[PendingWrite]:
        """Make pending writes of what tools made at, beside and below local paths of *place*; return the new ones."""
        return self.changes.record_made_of(place) if os.path.isdir(self.layout.local) else []

    # --- filling -----------------------------------------------------------------------------------------------------

    def begin(self, key: Key, flights: Flights | Iterable[Flight] = (), snapshot: IndexSnapshot | None = None) -> Fill:
        """Begin a fill, just before its request is sent; *flights* are released when it ends.

        *snapshot* is that of the key, if it was just taken.
        """
        return Fill(self.publisher, snapshot or self.snapshot(key), flights)

    def discard_pending(self, write: PendingWrite, save_to: str | None = None) -> bool:
        """Discard a pending write for good, or move its bytes to the local file *save_to*, replaced as a whole.

        False if it is pending no longer. Raises LockTimeoutError while the URI is being written, and what
        `Pending.save` raises; the write stays pending then.
        """
        with self.write_locks.request(write.key) as lock, lock:
            lock.acquire()
            current = next((found for found in self.pending.of(write.key) if found.name == write.name), None)
            if current is None:
                return False
            with self.changes.releasing_source(current):
                if save_to is None:
                    self.pending.discard(current)
                else:
                    self.pending.save(current, save_to)
            return True

    # --- for people and scripts ------------------------------------------------------------------------------------

    def evict(self, choose: Callable[[Entry], bool], prefix: str = "") -> CollectResult:
        """Drop the entries below *prefix* that *choose* picks and no pin keeps, and then unused blobs."""
        return self.evictor.evict([entry for entry in self.entries(prefix) if choose(entry)])

    def pin(self, *names: str) -> list[Pin]:
        """Never evict the entries of these URIs, nor those below these prefixes (which end in a slash).

        A pin is of the URI: it covers newer versions, until `unpin`. On the disk on return. Raises NotHeldError for a
        name without cached entries; nothing is pinned then.
        """
        return self._pins.pin({name: [entry.key for entry in self.catalog.named(name)] for name in names})

    def uris_of(self, digest: bytes) -> tuple[str, ...]:
        """Return the URIs whose entries use the blob of *digest* (the bare hash) now."""
        return uris_of(self.index, digest)

    def blob_path(self, entry: Entry) -> str:
        """Return the path of an entry's blob. Eviction may remove it at any time: hand out a local path instead."""
        return self.layout.blob(entry.digest.value)

    def info(self) -> dict[str, object]:
        """Return facts about the store: where it is, how full, its settings, and what is kept for its users.

        None is no limit; sizes are in bytes, ages in seconds. *pinned_bytes* are those of cached blobs.
        """
        from casstore.info import store_facts

        return store_facts(self._root, self.index, self.usage(), self.pending, self.stats())

    def verify(
        self,
        progress: Callable[[VerifyProgress], None] | None = None,
        *,
        sample: float | None = None,
        newest: int | timedelta | None = None,
        repair: bool = False,
    ) -> VerifyReport:
        """Hash every blob, and compare every row with a file and every file with a row; changes nothing.

        With *sample*, between 0 and 1, only a random part of the blobs is hashed; with *newest*, only so many that were
        stored last, or those stored within that time. With *repair*, damage is repaired or removed, and what dead
        processes left is reaped; the report says what was done.

        It may take as long as reading the whole store, runs while other processes use the store, and does not look at
        what this process has not committed yet. *progress* is called often, in this thread. Damage is in the report;
        raises OSError only for errors of the process (too many open files, no memory).
        """
        from casstore.verify.blob_checks import Sample
        from casstore.verify.index_checks import IndexChecks
        from casstore.verify.verifier import Verifier

        chosen, repairer = Sample(sample, newest), None
        if repair:
            from casstore.verify.repair import StoreRepairer

            self.flush()
            repairer = StoreRepairer(self._root, self.index, self.blobs, self.checker)
        verifier = Verifier(IndexChecks(self.index, self.algorithm, repairer), chosen, progress)
        verifier.run(self.store_id)
        return verifier.result(self.evictor.reap() if repair else None)

    # --- the process -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until what this process has filled is committed."""
        self.committer.flush()

    def close(self) -> None:
        """Commit what is queued; give up the lease, the environment and all descriptors until the next use."""
        self.exit.cancel()  # first: what is taken from now on registers it again
        self.committer.close(EXIT_SECONDS)
        self.background.close(EXIT_SECONDS)
        # A warning may be an error. If the store is unusable now, the collector records the rest.
        with contextlib.closing(self.leases), contextlib.suppress(OSError):
            changes, self._changes = self._changes, None
            if changes is not None:
                changes.close()
            self.counters.flush(_COUNTERS_SECONDS)
            self.index.close()
            self._locks.close()
            _in_use.discard(self)
            if self.index.is_open:  # again, by another thread
                self._keep()

    def _keep(self) -> None:
        _in_use.add(self)

    def _warn(self, message: str) -> None:
        import warnings

        warnings.warn(printable(f"{self.root}: {message}"), stacklevel=3)

    def after_fork(self, *, in_child: bool) -> None:
        """Let both sides open the index again on next use; a child keeps nothing of its parent's except the store."""
        if in_child:
            try:
                # Descriptors that a child must not keep: of queued publications, of staging files, of locks. The
                # parent's lease is the exception: its lock stays until both have ended, which errs on the safe side.
                self.committer.after_fork_in_child()
                for fill in list(self.publisher.fills):
                    fill.after_fork_in_child()
                self._locks.after_fork_in_child()
                self.write_locks.after_fork_in_child()
                self.evictor.after_fork_in_child()
                if self._uses is not None:
                    self._uses.close()
            finally:
                self._start_process()
                self.index.after_fork(in_child=True)
        else:
            self.index.after_fork(in_child=False)
