"""Read and write without a store: a stand-in for a `Cache` that keeps nothing.

What a read-only store holds is read from it. What is downloaded is written to a private file without a name, or to
memory if no file can be written, and checked as on the way into a store. Local paths are in a private temporary
directory that is removed at exit. Any other call raises the error that says why there is no store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from casstore import clock
from casstore.blobs.staging import Staging
from casstore.cache import method_of
from casstore.config.settings import Settings, load_settings
from casstore.counters import Counters
from casstore.errors import IndexUnavailableError, StoreFullError, StoreUnavailableError, printable
from casstore.eviction.background import BackgroundEvictor
from casstore.eviction.collector import CollectResult
from casstore.exit_hooks import ExitHook
from casstore.format.digest import ALGORITHMS
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout
from casstore.format.records import Entry, Moment, ProviderChecksum, Validator
from casstore.fs import copying, files
from casstore.index.entries import IndexSnapshot
from casstore.ingest.fill import Fill
from casstore.ingest.publisher import Publisher, RunningFill
from casstore.leases.holder import LeaseHolder
from casstore.leases.lease import Lease
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.lock_files import locks_are_exclusive, try_lock_existing
from casstore.locks.mutex import new_mutex
from casstore.locks.single_flight import Flight, Flights, SingleFlight
from casstore.locks.write_locks import WriteLocks
from casstore.pending.records import PendingWrite
from casstore.pending.store import Pending
from casstore.reading.catalog import Catalog, Stored
from casstore.reading.read_only import ReadOnlyStore

if TYPE_CHECKING:
    from casstore.cache import Cache as _Cache  # it stands in for one, and has the same signatures
    from casstore.local.changes import ChangeRecorder
    from casstore.local.paths import LocalPaths
else:
    _Cache = object

MOST_IN_MEMORY: Final = 256 << 20
"""Bytes of an object that is kept in memory if no disk has room for it; a larger one is an error."""

_NOWHERE: Final = "/proc/self/casstore"
"""A path that does not exist and cannot be created."""

_NO_STORE: Final = files.NO_SPACE | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}

_PRIVATE: Final = re.compile("casstore-[0-9a-f]{16}")

_warned: Final[set[str]] = set()


def should_bypass(error: OSError) -> bool:
    """Whether a read can bypass the store that failed with *error*.

    It cannot after errors of the process (too many open files, a fork that ran no hooks), nor of the store's format.
    """
    if isinstance(error, IndexUnavailableError):
        return error.errno != errno.ECHILD
    return isinstance(error, StoreUnavailableError | StoreFullError) or error.errno in _NO_STORE


class PassThroughCache(_Cache):
    """Stands in for the store at *directory*, which *error* makes unusable; thread-safe, survives forks."""

    unavailable: OSError
    leases: _PrivateLeases
    _pending: ReadOnlyPending

    def __init__(self, directory: str, error: OSError, *, reads: bool = False) -> None:
        """With *reads*, the directory is a store that may be read, and whose owner is trusted."""
        self.unavailable = error
        self._held = ReadOnlyStore(Layout(directory if reads else _NOWHERE))
        self.catalog = self._held.catalog
        self.root = directory
        self.settings = _settings(directory)
        self.algorithm = ALGORITHMS[0]
        # Pending writes of the unusable store still prevent reads and writes of their URIs.
        self._layout = Layout(directory or _NOWHERE)
        self._pending = ReadOnlyPending(self._layout, error)
        self._start_process()

    def _start_process(self) -> None:
        self.exit = ExitHook(self.close)
        self.leases = _PrivateLeases(self.algorithm, self.exit)
        self._changes: ChangeRecorder | None = None
        self.flights = SingleFlight(self._layout, None, self.settings.lock_timeout)
        self.write_locks = WriteLocks(None, self.settings.lock_timeout)
        self.counters = Counters(None)
        self.background = _NoEvictor()
        self.publisher = _NoPublisher(self._layout, self.leases, self.counters)

    lookup = method_of("_held", ReadOnlyStore.lookup)
    entries = method_of("catalog", Catalog.entries)
    entries_of = method_of("catalog", Catalog.entries_of)
    stat = method_of("catalog", Catalog.stat)
    usage = method_of("catalog", Catalog.usage)
    count = method_of("counters", Counters.increment)
    counts = method_of("counters", Counters.counts)
    stage = method_of("leases", LeaseHolder.stage)
    underway = method_of("publisher", Publisher.progress)

    @property
    def changes(self) -> ChangeRecorder:
        """Looks at what is changed or made at local paths, and can only warn of it."""
        if self._changes is None:
            from casstore.local.changes import ChangeRecorder
            from casstore.local.paths import LocalPaths

            layout = self.leases.private_layout()
            settings = replace(self.settings, views="copy")
            paths = LocalPaths(layout, ByteLocks(layout), self.leases, settings, 1)
            self._changes = ChangeRecorder(paths, ReadOnlyPending(layout, self.unavailable))
        return self._changes

    @property
    def local(self) -> LocalPaths:
        return self.changes.paths

    def __getattr__(self, name: str) -> NoReturn:
        """Raise the error that says why there is no store, for every call that needs one."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise self.unavailable

    def warn(self) -> None:
        """Warn, once per directory and process, that nothing more is cached, and why."""
        if self.root not in _warned:
            _warned.add(self.root)
            import warnings

            warnings.warn(printable(f"caching is disabled: {self.unavailable}"), stacklevel=4)

    @property
    def pending(self) -> Pending:
        return self._pending

    def now(self) -> Moment:
        return clock.now(1)

    def open_entry(self, entry: Entry, *, verify: bool | None = None) -> int | None:
        """Return a descriptor of the blob in a read-only store; None if its bytes are missing or wrong."""
        return self._held.open(entry, verify=self.settings.verify == "always" if verify is None else verify)

    # --- nothing is cached, nothing is kept --------------------------------------------------------------------------

    def _return_none(self, *_: object, **__: object) -> None:
        pass

    open_fresh = find_by_checksum = refresh = quarantine = count_hit = _return_none
    record_copy = record_delete = flush = before_fork = _return_none

    def _return_nothing(self, *_: object, **__: object) -> list[PendingWrite]:
        return []  # an edited file stays where it is, and the exit warns of it

    record_changes = record_made = record_local = _return_nothing

    def _return_false(self, *_: object, **__: object) -> bool:
        return False

    may_have_checksum = _return_false

    def evict(self, choose: Callable[[Entry], bool], prefix: str = "") -> CollectResult:
        return CollectResult(0, 0, 0)

    def has_local_changes(self, key: Key) -> bool:
        return self._pending.has(key)

    def snapshot(self, key: Key) -> IndexSnapshot:
        return IndexSnapshot(key, self.lookup(key), 0, 0, self.now())

    def begin(self, key: Key, flights: Flights | Iterable[Flight] = (), snapshot: IndexSnapshot | None = None) -> Fill:
        return PassThroughFill(self.publisher, snapshot or self.snapshot(key), flights)

    def record_write(self, noted: IndexSnapshot, staging: Staging, *_: object) -> None:
        staging.close()

    # --- the process -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove the local paths that were handed out, except edited ones: the exit warns of them."""
        changes, self._changes = self._changes, None
        failed = changes.close() if changes is not None else []
        self.leases.close()
        layout, self.leases.layout = self.leases.layout, None
        if layout is not None and not failed and not files.list_names(layout.leases):
            files.remove(layout.root)

    def after_fork(self, *, in_child: bool) -> None:
        """Give a child local paths of its own, and close the staging files of its parent's fills."""
        if in_child:
            try:
                for fill in list(self.publisher.fills):
                    fill.after_fork_in_child()
            finally:
                self._start_process()


def _settings(directory: str) -> Settings:
    with contextlib.suppress(OSError):
        return load_settings(Layout(directory), os.environ)
    # It cannot be read; the environment variables still count.
    return load_settings(Layout(_NOWHERE), os.environ)


class _PrivateLeases(LeaseHolder):
    """Takes a lease in a private temporary directory, for local paths, and makes staging files without a store."""

    def __init__(self, algorithm: str, exit_hook: ExitHook) -> None:
        self._algorithm, self._exit = algorithm, exit_hook
        self._mutex = new_mutex()
        self.taken = None
        self.layout: Layout | None = None

    def private_layout(self) -> Layout:
        """Return the private directory, made on first use. What killed processes left beside it is removed."""
        with self._mutex:
            if self.layout is None:
                temporary = files.temporary_directory()
                with files.full_disk(temporary):
                    _remove_dead(temporary)
                    layout = Layout(f"{temporary}/casstore-{os.urandom(8).hex()}")
                    for directory in layout.directories():
                        os.mkdir(directory, 0o700)
                self.layout = layout
            return self.layout

    def _take(self) -> Lease:
        return Lease(self.private_layout())

    def stage(self) -> Staging:
        """Return a private file without a name, in the temporary directory or else in memory."""
        try:
            descriptor = files.open_private()
        except OSError as error:
            if error.errno not in _NO_STORE and not isinstance(error, FileNotFoundError):
                raise
            descriptor = files.open_memory()
        return Staging(descriptor, None, self._algorithm)


def _remove_dead(temporary: str) -> None:
    """Remove the private directories of dead processes of this user, unless a file in one was changed."""
    for name in files.list_names(temporary):
        layout = Layout(f"{temporary}/{name}")
        status = files.lstat_or_none(layout.root) if _PRIVATE.fullmatch(name) else None
        if status is None or status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            continue
        with contextlib.suppress(OSError):
            names = os.listdir(layout.leases)
            locks = [try_lock_existing(LeaseLayout(layout.lease(lease)).lock) for lease in names]
            is_dead = bool(locks) and None not in locks and locks_are_exclusive(layout.locks)
            for lock in locks:
                if lock is not None:
                    lock.close()
            if is_dead and not _holds_changes(layout):
                files.remove(layout.root)


def _holds_changes(layout: Layout) -> bool:
    from casstore.local.record import records

    known = {file.name: file for _, record in records(layout) for file in record.files}
    for parent, _, names in os.walk(layout.local):
        for path in (f"{parent}/{name}" for name in names):
            file = known.get(path.removeprefix(f"{layout.local}/"))
            if file is None or not file.is_as_left(os.lstat(path)):
                return True
    return False


class _NoEvictor(BackgroundEvictor):
    """Makes no room in a store."""

    def __init__(self) -> None:
        pass

    def make_room(self, needed: int) -> bool:
        return False


class _NoPublisher(Publisher):
    """Knows the fills that are running, and publishes nothing."""

    def __init__(self, layout: Layout, leases: LeaseHolder, counters: Counters) -> None:
        self.layout, self.leases, self.counters = layout, leases, counters
        self.fills: set[RunningFill] = set()


class ReadOnlyPending(Pending):
    """The pending writes of an unusable store, to be looked at."""

    def __init__(self, layout: Layout, unavailable: OSError) -> None:
        super().__init__(layout)
        self._unavailable = unavailable

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise self._unavailable

    record = mark = discard = _refuse


class PassThroughFill(Fill):
    """A download for its reader alone; to memory if the temporary directory is full."""

    def resize(self, size: int) -> None:
        # With room for all of it: many threads write to it, and none can move it.
        try:
            files.reserve(self.staging.descriptor, size)
        except OSError as error:
            with self._room_after(error, size - self.staging.size):
                files.reserve(self.staging.descriptor, size)

    def write_at(self, data: memoryview, offset: int) -> None:
        with self._no_room():
            self._open_staging().write_at(data, offset)

    @contextlib.contextmanager
    def _room_after(self, error: OSError, needed: int) -> Iterator[None]:
        """Move the file to memory after *error*, for the block; raise it unless a full disk is the reason."""
        staging = self._staging
        if staging is None or error.errno not in files.NO_SPACE:
            raise error
        if max(staging.size + needed, self.expected) > MOST_IN_MEMORY:
            raise self._too_large(error) from error
        with self._no_room():
            memory = files.open_memory()
            try:
                copying.copy_bytes(staging.descriptor, memory)
                # A write that failed may have left a part, which is written again.
                os.lseek(memory, staging.size, os.SEEK_SET)
                os.dup2(memory, staging.descriptor, inheritable=False)
            finally:
                os.close(memory)
            yield

    @contextlib.contextmanager
    def _no_room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (*files.NO_SPACE, errno.EOPNOTSUPP, errno.ENOMEM):
                raise self._too_large(error) from error
            raise

    def _too_large(self, error: OSError) -> StoreFullError:
        message = (
            f"no room for {self.key.uri} in the store, in the temporary directory, or in {MOST_IN_MEMORY >> 20} MiB of "
            f"memory ({os.strerror(error.errno or 0)}): free some space, or name other directories (CASSTORE_DIR, "
            "TMPDIR)"
        )
        return StoreFullError(error.errno, message, self._publisher.layout.root)

    def publish(self, validator: Validator, stated: Sequence[ProviderChecksum] = (), *, reading: bool = True) -> Stored:
        staging, descriptor = self.staging, -1
        self._publisher.counters.increment("uncached")
        if reading:
            descriptor, staging.descriptor = staging.descriptor, -1
            os.lseek(descriptor, 0, os.SEEK_SET)
        self.abandon()
        return Stored(descriptor, validator.size, None, validator)
