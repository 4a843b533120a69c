"""Reading where no store can serve: a `Cache` that holds nothing and keeps nothing.

What is read goes through a private file without a name, or through memory where no file can be written, with the same
checks as on the way into a store. Local paths lie in a private temporary directory that goes at exit. Whatever needs a
store, and is not overridden here, raises the error that says why there is none.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NoReturn

from casstore.blobs.staging import Staging
from casstore.cache import Cache
from casstore.config.settings import Settings, load_settings
from casstore.counters import Counters
from casstore.errors import IndexUnavailableError, StoreFullError, StoreUnavailableError
from casstore.eviction.collector import CollectResult, RemovedBlob
from casstore.format.checksums import ProviderChecksum
from casstore.format.digest import ALGORITHMS, Digest
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Entry, Moment, Validator
from casstore.fs import copying, files
from casstore.index.entries import IndexSnapshot
from casstore.ingest.fill import Fill
from casstore.leases.lease import Lease
from casstore.locks.single_flight import Flight, SingleFlight
from casstore.locks.write_locks import WriteLocks
from casstore.pending.records import PendingWrite
from casstore.pending.store import Pending
from casstore.reading.open_blob import Stored
from casstore.root import Root

MOST_IN_MEMORY: Final = 256 << 20
"""Bytes of an object that is kept in memory where no disk has room for it; a larger one is an error."""

_NOWHERE: Final = "/proc/self/casstore"
"""A path where nothing is, and where nothing can be made."""

_UNFIT: Final = files.NO_SPACE | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}

_warned: Final[set[str]] = set()


def should_bypass(error: OSError) -> bool:
    """Whether *error* says of the store that it cannot take, or give, what a read needs: then the read can do without.

    Not so for what says something of the process (too many open files, a fork that ran no hooks) or of the store's
    format: those are errors wherever they come up.
    """
    if isinstance(error, IndexUnavailableError):
        return error.errno != errno.ECHILD
    return isinstance(error, StoreUnavailableError | StoreFullError) or error.errno in _UNFIT


class PassThroughCache(Cache):
    """What stands in for the store at *directory*, which *unfit* keeps from serving; thread-safe, survives forks."""

    unavailable: OSError

    def __init__(self, directory: str, unfit: OSError) -> None:
        self.unavailable = unfit
        self._directory = directory
        self._private: list[str] = []
        super().__init__(Root(Layout(_NOWHERE), ALGORITHMS[0], "", 1, 1, _settings(directory)))
        # What waits there for a decision stands in the way all the same.
        self._pending = ReadOnlyPending(Layout(directory or _NOWHERE), unfit)

    def warn(self) -> None:
        """Say, once per directory and process, that reads keep nothing, why, and what to do."""
        if self._directory not in _warned:
            _warned.add(self._directory)
            import warnings

            warnings.warn(f"reads go by without being stored: {self.unavailable}", stacklevel=4)

    def _begin_process(self) -> None:
        super()._begin_process()
        self.flights = SingleFlight(self.layout, None, self.settings.lock_timeout)
        self.write_locks = WriteLocks(None, self.settings.lock_timeout)
        self.tally = Counters(None, lambda: 0)

    @property
    def root(self) -> str:
        """The directory that cannot serve."""
        return self._directory

    @property
    def lease(self) -> Lease:
        """A lease on a private temporary directory, for views."""
        with self._mutex:
            if self._lease is None or not self._lease.exists():
                self._lease = Lease(self._make_private(), "copy")
                self._register_exit()
            return self._lease

    def _make_private(self) -> Layout:
        temporary = files.temporary_directory()
        with files.full_disk(temporary):
            layout = Layout(f"{temporary}/casstore-{os.urandom(8).hex()}")
            for directory in layout.directories():
                os.mkdir(directory, 0o700)
        self._private.append(layout.root)
        return layout

    def recreate(self) -> NoReturn:
        """There is no store to be made anew: says why."""
        raise StoreUnavailableError(
            self.unavailable.errno, self.unavailable.strerror, self._directory
        ) from self.unavailable

    # --- holds nothing -----------------------------------------------------------------------------------------------

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """None."""
        return iter(())

    def stat(self, uri: str, origin: str | None = None) -> Entry | None:
        """Nothing is held."""
        return None

    def entries_of(self, uri: str) -> Iterator[Entry]:
        """None."""
        return iter(())

    def open_fresh(self, key: Key, max_age_ns: int | None) -> int | None:
        """Nothing is held."""
        return None

    def lookup(self, key: Key) -> Entry | None:
        """Nothing is held."""
        return None

    def open_entry(self, entry: Entry, *, verify: bool | None = None) -> int | None:
        """Nothing is held."""
        return None

    def find_by_checksum(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        """Nothing is held."""
        return None

    def may_have_checksum(self, stated: Iterable[ProviderChecksum]) -> bool:
        """Nothing is held."""
        return False

    def refresh(self, entry: Entry, validated: Moment) -> None:
        """Nothing is held."""

    def quarantine(self, digest: Digest, reason: str, open_fd: int | None = None) -> None:
        """Nothing is held."""

    def pin(self, *names: str) -> NoReturn:
        """Raises the error that says why there is no store."""
        raise self.unavailable

    def unpin(self, *names: str) -> NoReturn:
        """Raises the error that says why there is no store."""
        raise self.unavailable

    def clear(
        self, prefix: str = "", on_removed: Callable[[RemovedBlob], object] | None = None, *, dry_run: bool = False
    ) -> NoReturn:
        """Raises the error that says why there is no store."""
        raise self.unavailable

    def evict(self, choose: Callable[[Entry], bool], prefix: str = "") -> CollectResult:
        """Nothing is held."""
        return CollectResult(0, 0, 0)

    # --- keeps nothing -----------------------------------------------------------------------------------------------

    def snapshot(self, key: Key) -> IndexSnapshot:
        """That nothing is held."""
        return IndexSnapshot(key, None, 0, 0, self.now())

    def stage(self) -> Staging:
        """A private file without a name, in the temporary directory or else in memory."""
        return Staging(_open_private(), None, self.algorithm)

    def begin(self, key: Key, flights: Sequence[Flight] = (), snapshot: IndexSnapshot | None = None) -> Fill:
        """A fill whose bytes go to its reader alone."""
        return PassThroughFill(self, snapshot or self.snapshot(key), flights)

    def record_write(
        self,
        noted: IndexSnapshot,
        staging: Staging,
        validator: Validator,
        moment: Moment,
        stated: Sequence[ProviderChecksum] = (),
    ) -> Entry | None:
        """The cloud has them; nothing else is to be kept."""
        staging.close()
        return None

    def record_copy(
        self, noted: IndexSnapshot, digest: Digest, descriptor: int, validator: Validator, moment: Moment
    ) -> Entry | None:
        """Nothing is to be kept."""
        return None

    def record_delete(self, *keys: Key) -> None:
        """Nothing is held."""

    def view(self, entry: Entry, descriptor: int, bucket: str, object_key: str, mode: str | None = None) -> str:
        """A private copy with the object's name, for this process's life."""
        return self.lease.view(entry.key, entry.digest, entry.size, descriptor, bucket, object_key, "copy")

    def has_local_changes(self, key: Key) -> bool:
        """Whether something of *key* waits in the store that cannot serve."""
        return self.pending.has(key)

    def is_changed_locally(self, key: Key) -> bool:
        """Nothing is recorded: what was edited stays where it is, and is said at exit."""
        return False

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Nothing is recorded."""
        return []

    def has_view(self, path: str) -> bool:
        """Whether *path* is one of those copies."""
        return any(path.startswith(private + "/") for private in self._private)

    def close(self) -> None:
        """Remove the local paths that were handed out, but for edited ones, which stay and are said."""
        super().close()
        private, self._private = self._private, []
        for path in private:
            with contextlib.suppress(FileNotFoundError):
                if not os.listdir(Layout(path).leases):
                    import shutil  # a third of what importing this package would take

                    shutil.rmtree(path, ignore_errors=True)


def _settings(directory: str) -> Settings:
    with contextlib.suppress(OSError):
        return load_settings(Layout(directory), os.environ)
    # It cannot be read: what the environment says still counts.
    return load_settings(Layout(_NOWHERE), os.environ)


def _open_private() -> int:
    try:
        return files.open_private()
    except OSError as error:
        if error.errno not in _UNFIT and not isinstance(error, FileNotFoundError):
            raise
        return files.open_memory()


class ReadOnlyPending(Pending):
    """What is pending where no store can serve: to be looked at, nothing more."""

    __slots__ = ("_unfit",)

    def __init__(self, layout: Layout, unfit: OSError) -> None:
        super().__init__(layout)
        self._unfit = unfit

    def record(self, *_: object, **__: object) -> NoReturn:
        """Raises the error that says why."""
        raise self._unfit

    def mark(self, *_: object, **__: object) -> NoReturn:
        """Raises the error that says why."""
        raise self._unfit

    def discard(self, write: PendingWrite) -> NoReturn:
        """Raises the error that says why."""
        raise self._unfit


class PassThroughFill(Fill):
    """A download that its reader gets and nobody keeps; to memory where the temporary directory is full."""

    @property
    def staging(self) -> Staging:
        if self._staging is None:
            self._staging = self._cache.stage()
        return self._staging

    def expect(self, size: int) -> None:
        self.expected = size  # no room is made in a store

    def write(self, data: bytes | bytearray | memoryview) -> None:
        staging = self.staging
        try:
            staging.write(data)
        except OSError as error:
            if error.errno not in files.NO_SPACE:
                raise
            self._move_to_memory(staging.size + len(data), error)
            with self._no_room():
                staging.write(data)

    def resize(self, size: int) -> None:
        # With room for all of it: many threads write then, and none could move the file.
        try:
            files.reserve(self.staging.descriptor, size)
        except OSError as error:
            if error.errno not in files.NO_SPACE:
                raise
            self._move_to_memory(size, error)
            with self._no_room():
                files.reserve(self.staging.descriptor, size)

    def write_at(self, data: memoryview, offset: int) -> None:
        with self._no_room():
            self.staging.write_at(data, offset)

    def _move_to_memory(self, needed: int, error: OSError) -> None:
        staging = self.staging
        if max(needed, self.expected) > MOST_IN_MEMORY:
            raise self._too_large(error) from error
        with self._no_room():
            memory = files.open_memory()
            try:
                copying.copy_bytes(staging.descriptor, memory)
                # A write that failed may have left a part, which comes again.
                os.lseek(memory, staging.size, os.SEEK_SET)
                os.dup2(memory, staging.descriptor, inheritable=False)
            finally:
                os.close(memory)

    @contextlib.contextmanager
    def _no_room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (*files.NO_SPACE, errno.EOPNOTSUPP, errno.ENOMEM):
                raise self._too_large(error) from error
            raise

    def _too_large(self, error: OSError) -> StoreFullError:
        return StoreFullError(
            error.errno,
            f"neither the store nor the temporary directory has room for {self.key.uri}, and memory serves up to "
            f"{MOST_IN_MEMORY >> 20} MiB ({os.strerror(error.errno or 0)}): free some space, or name other directories "
            "(CASSTORE_DIR, TMPDIR)",
            self._cache.root,
        )

    def publish(self, validator: Validator, stated: Sequence[ProviderChecksum] = (), *, reading: bool = True) -> Stored:
        staging, descriptor = self.staging, -1
        self._cache.count("uncached")
        if reading:
            descriptor, staging.descriptor = staging.descriptor, -1
            os.lseek(descriptor, 0, os.SEEK_SET)
        self.abandon()
        return Stored(descriptor, validator.size, None, validator)
