"""Clearing: all goes that can be fetched again. What cannot stays: pins, pending writes and local edits.

    what dead processes left    first, by the reaper: edits become pending writes
    entries                     in batches: rows are dropped in a write transaction, then their blobs are swept
    other blobs                 what no entry uses, whether or not it has a row; not what may be a publication in flight
    quarantine/                 blobs that were found bad, and the reasons; edits were kept before anything came here

The last two only where everything is cleared, and no prefix is named. Pins and pending writes are looked for inside the
transaction that drops an entry. An entry of whose URI something is pending stays: it is what a `drop` goes back to.

A local path is a link or a copy of its own, so it keeps its bytes whatever goes; it is told what holds room for that.
Killed at any point, a clearing leaves blobs without users, never an entry without its blob; the next one finds them.
"""

from __future__ import annotations

import abc
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import Inode
from casstore.eviction.collector import BatchSizer, RemovedBlob, sweep
from casstore.eviction.inventory import IN_FLIGHT_SECONDS
from casstore.eviction.pins import Pins, is_pinned, pinned_names
from casstore.eviction.victims import Reason
from casstore.format.keys import BLOB, Key, blob_row, entry_prefix, row_name, user_prefix
from casstore.format.layout import Layout
from casstore.format.records import Entry, unpack_entry
from casstore.fs import files
from casstore.index.blob_users import User, users_of
from casstore.index.database import Index
from casstore.index.entries import current_entry, delete_entry
from casstore.index.transactions import Txn
from casstore.leases.in_use import InUse, files_in_use
from casstore.pending.store import Pending

if TYPE_CHECKING:
    from casstore.eviction.pins import Pin
    from casstore.leases.reaper import ReapResult
    from casstore.pending.records import PendingWrite

_PAGE: Final = 500
"""Entries, or blobs, that are looked at together."""

_HASH: Final = re.compile(r"[0-9a-f]{32}")
_BAD: Final = re.compile(r"[0-9a-f]{32,64}-[0-9a-f]{8}")
"""What a blob is called in quarantine. Anything else there is somebody's who put it there, or in a blob's place."""


@dataclass(frozen=True, slots=True)
class ClearResult:
    """What a clearing took away, or would if it is a dry run: *entries* rows, *blobs* files, which gave *bytes* back,
    and *bad* files of *bad_bytes* from quarantine. *reaped* is what dead processes had left; None of a dry run.

    What stays: *pins*, held or not, with their entries; *pending* writes and local edits, and *bases*, the entries of
    those; files *in_use*; *unreadable* paths of pins and pending writes, which hold although nobody can tell of what;
    and *young* blobs of *young_bytes* without a row, which may be downloads that are just now becoming entries.
    """

    entries: int
    blobs: int
    bytes: int
    bad: int
    bad_bytes: int
    pins: tuple[Pin, ...]
    pending: tuple[PendingWrite, ...]
    bases: tuple[Entry, ...]
    in_use: tuple[InUse, ...]
    unreadable: tuple[str, ...]
    young: int
    young_bytes: int
    reaped: ReapResult | None

    @property
    def is_nothing(self) -> bool:
        """Whether there was nothing that could go."""
        return not (self.entries or self.blobs or self.bad)


def clear(
    index: Index,
    layout: Layout,
    blobs: BlobStore,
    prefix: str,
    on_removed: Callable[[RemovedBlob], object] | None,
    *,
    own_lease: str | None,
) -> ClearResult:
    """Clear what is below *prefix* (a string, "" for everything); *own* is the name of this process's lease.

    Raises StoreFullError where the disk is so full that not even one row can be dropped.
    """
    from casstore.leases.reaper import reap  # it loads shutil, and a dry run reaps nothing

    reaped = reap(layout, index, blobs, own_lease=own_lease)
    index.check_readers()
    return _ClearRun(index, layout, prefix, on_removed).run(reaped)


def look(index: Index, layout: Layout, prefix: str, on_removed: Callable[[RemovedBlob], object] | None) -> ClearResult:
    """What `clear` would do now. Reads only."""
    return _ClearPreview(index, layout, prefix, on_removed).run(None)


class _Clearing(abc.ABC):
    """One pass over entries, blobs and quarantine, and what it adds up to."""

    def __init__(
        self, index: Index, layout: Layout, prefix: str, on_removed: Callable[[RemovedBlob], object] | None
    ) -> None:
        self._index, self._layout, self._prefix = index, layout, prefix
        self._on_removed = on_removed
        self._entries = self._blobs = self._bytes = 0
        self._bad = self._bad_bytes = 0
        self._young: dict[bytes, int] = {}
        self._linked: dict[Inode, InUse] = {}

    def run(self, reaped: ReapResult | None) -> ClearResult:
        rows = (row for row, _ in self._index.scan(entry_prefix(self._prefix)))
        for batch in _batches(rows):
            self._take_entries(batch)
        if not self._prefix:
            self._take_blobs()
            for path, status in _bad_files(self._layout):
                self._take_bad(path)
                self._bad += 1
                self._bad_bytes += status.st_size if status.st_nlink == 1 else 0
        pins, pending = Pins(self._layout, self._index), Pending(self._layout)
        writes = tuple(write for write in pending.all() if write.uri.startswith(self._prefix))
        return ClearResult(
            self._entries,
            self._blobs,
            self._bytes,
            self._bad,
            self._bad_bytes,
            tuple(pins.all(self._prefix)),
            writes,
            self._index.read(partial(_entries_of, keys=list(dict.fromkeys(write.key for write in writes)))),
            files_in_use(self._layout, self._prefix, self._linked),
            (*pins.unreadable(), *pending.unreadable()),
            len(self._young),
            sum(self._young.values()),
            reaped,
        )

    @abc.abstractmethod
    def _is_kept(self, name: bytes) -> bool:
        """Whether the URI of this hash is pinned, or something is pending of it, readable or not."""

    @abc.abstractmethod
    def _take_entries(self, rows: Sequence[bytes]) -> None:
        """Those of these entries that can go, and their blobs."""

    @abc.abstractmethod
    def _take_unused(self, digests: Sequence[bytes], *, have_rows: bool) -> None:
        """Those of these blobs that no entry uses."""

    @abc.abstractmethod
    def _take_bad(self, path: str) -> None:
        """A file in quarantine, and its reason."""

    def _take_blobs(self) -> None:
        """By their rows, and then the files without one: an index that was replaced does not know them."""
        for batch in _batches(row[1:] for row, _ in self._index.scan(BLOB)):
            self._take_unused(batch, have_rows=True)
        for batch in _batches(_blobs_by_name(self._layout)):
            self._take_unused(batch, have_rows=False)

    def _going(self, txn: Txn, row: bytes) -> Entry | None:
        """The entry of this row, if it can go."""
        record = txn.get(row)
        entry = None if record is None else unpack_entry(row, record)
        if entry is None or not entry.uri.startswith(self._prefix) or self._is_kept(row_name(row)):
            return None
        return entry

    def _goes(self, user: User) -> bool:
        """Whether this user of a blob does not keep it. Rows of users that say nothing go with everything else."""
        if self._is_kept(user.name):
            return False
        return not self._prefix if user.entry is None else user.entry.uri.startswith(self._prefix)

    def _note(self, digest: bytes, uris: Sequence[str], status: os.stat_result | None) -> None:
        """Count, and tell of, one blob whose entries of *uris* go; with *status* its file goes, too."""
        size = 0
        if status is not None:
            self._blobs += 1
            if status.st_nlink == 1:
                size = status.st_size
            else:
                self._linked[Inode.of(status)] = InUse(tuple(uris), None, status.st_size)
        self._entries += len(uris)
        self._bytes += size
        if self._on_removed is not None and (uris or size):
            self._on_removed(RemovedBlob(digest, tuple(uris), size, Reason.CLEARED))

    def _is_young(self, digest: bytes, status: os.stat_result) -> bool:
        """Whether a file without a row may be one that is about to get it. Taking it is safe, and costs a copy."""
        if not 0 <= time.time() - status.st_ctime <= IN_FLIGHT_SECONDS:
            return False
        self._young[digest] = status.st_size
        return True


class _ClearRun(_Clearing):
    """The pass that takes away."""

    def __init__(
        self, index: Index, layout: Layout, prefix: str, on_removed: Callable[[RemovedBlob], object] | None
    ) -> None:
        super().__init__(index, layout, prefix, on_removed)
        self._dropping, self._sweeping = BatchSizer(), BatchSizer()
        self._statuses: dict[bytes, os.stat_result] = {}

    def _is_kept(self, name: bytes) -> bool:
        # Asked inside the transaction that drops the entry, like `is_pinned`. An error says that it cannot be told, and
        # then nothing goes.
        return is_pinned(self._layout, name) or _is_pending(self._layout, name.hex())

    def _take_entries(self, rows: Sequence[bytes]) -> None:
        for _, dropped in self._dropping.run_in_batches(rows, self._drop):
            self._sweep(dropped, self._take)

    def _drop(self, rows: Sequence[bytes]) -> dict[bytes, list[str]]:
        """Drop those of these entries that can go; their URIs by digest."""

        def drop(txn: Txn) -> dict[bytes, list[str]]:
            dropped: dict[bytes, list[str]] = {}
            with self._dropping.timed(len(rows)):
                txn.prefetch(rows)
                for row in rows:
                    entry = self._going(txn, row)
                    if entry is not None:
                        delete_entry(txn, entry)
                        dropped.setdefault(entry.digest.value, []).append(entry.uri)
                    elif not self._prefix and self._is_damaged(txn, row):
                        txn.delete(row)  # a miss, and nobody can tell of what: its blob is found by its own row
            return dropped

        return self._index.write(drop)

    def _is_damaged(self, txn: Txn, row: bytes) -> bool:
        record = txn.get(row)
        return record is not None and unpack_entry(row, record) is None and not self._is_kept(row_name(row))

    def _take(self, digest: bytes, status: os.stat_result) -> bool:
        self._statuses[digest] = status
        return True

    def _take_if_old(self, digest: bytes, status: os.stat_result) -> bool:
        return not self._is_young(digest, status) and self._take(digest, status)

    def _sweep(self, uris: dict[bytes, list[str]], predicate: Callable[[bytes, os.stat_result], bool]) -> None:
        swept = sweep(self._index, self._layout, list(uris), predicate, pace=self._sweeping)
        for digest, those in uris.items():
            self._note(digest, those, self._statuses.get(digest) if swept.get(digest) is not None else None)
        self._statuses.clear()

    def _take_unused(self, digests: Sequence[bytes], *, have_rows: bool) -> None:
        unused = self._index.read(lambda txn: [digest for digest in digests if self._is_unused(txn, digest)])
        if not unused:
            return
        takes = self._take if have_rows else self._take_if_old
        for batch, rowless in self._dropping.run_in_batches(unused, self._drop_users):
            chosen = [digest for digest in batch if (digest not in rowless) == have_rows]
            self._sweep({digest: [] for digest in chosen}, takes)

    def _is_unused(self, txn: Txn, digest: bytes) -> bool:
        return all(user.entry is None and self._goes(user) for user in users_of(txn, digest))

    def _drop_users(self, digests: Sequence[bytes]) -> set[bytes]:
        """Drop the rows of users that are none, which would hold a blob for ever; which blobs have no row."""

        def drop(txn: Txn) -> set[bytes]:
            with self._dropping.timed(len(digests)):
                for digest in digests:
                    if txn.has(user_prefix(digest)) and self._is_unused(txn, digest):
                        for user in users_of(txn, digest):
                            txn.delete(user.row)
                return {digest for digest in digests if txn.get(blob_row(digest)) is None}

        return self._index.write(drop)

    def _take_bad(self, path: str) -> None:
        # The reason last: without its blob it is debris, which the reaper knows.
        files.unlink_quietly(path)
        files.unlink_quietly(f"{path}.txt")


class _ClearPreview(_Clearing):
    """The dry run."""

    def __init__(
        self, index: Index, layout: Layout, prefix: str, on_removed: Callable[[RemovedBlob], object] | None
    ) -> None:
        super().__init__(index, layout, prefix, on_removed)
        self._shared: set[bytes] = set()
        # At once: nothing goes by it, and two looks for each of a million entries take half of the time.
        pending = (name for name in files.list_names(layout.pending_directory) if _is_pending(layout, name))
        self._kept = pinned_names(layout).union(bytes.fromhex(name) for name in pending if _HASH.fullmatch(name))

    def _is_kept(self, name: bytes) -> bool:
        return name in self._kept

    def _take_entries(self, rows: Sequence[bytes]) -> None:
        uris, freed = self._index.read(partial(self._look, rows=rows))
        for digest, those in uris.items():
            self._note(digest, those, self._status(digest) if digest in freed else None)

    def _look(self, txn: Txn, rows: Sequence[bytes]) -> tuple[dict[bytes, list[str]], set[bytes]]:
        """The URIs that go, by digest; and the blobs that go with these."""
        txn.prefetch(rows)
        uris: dict[bytes, list[str]] = {}
        for row in rows:
            entry = self._going(txn, row)
            if entry is not None:
                uris.setdefault(entry.digest.value, []).append(entry.uri)
        return uris, {digest for digest in uris if self._is_free(txn, digest)}

    def _is_free(self, txn: Txn, digest: bytes) -> bool:
        """Whether all users of a blob go, if it is asked for the first time of one that has several."""
        prefix = user_prefix(digest)
        if len(txn.scan(prefix, prefix, 2)) < 2:
            return True
        if digest in self._shared:
            return False
        self._shared.add(digest)
        return all(self._goes(user) for user in users_of(txn, digest))

    def _take_unused(self, digests: Sequence[bytes], *, have_rows: bool) -> None:
        def unused(txn: Txn) -> list[bytes]:
            free = (digest for digest in digests if not txn.has(user_prefix(digest)))
            return [digest for digest in free if (txn.get(blob_row(digest)) is not None) == have_rows]

        for digest in self._index.read(unused):
            status = self._status(digest)
            if status is not None and (have_rows or not self._is_young(digest, status)):
                self._note(digest, (), status)

    def _status(self, digest: bytes) -> os.stat_result | None:
        return files.lstat_regular(self._layout.blob(digest))

    def _take_bad(self, path: str) -> None:
        """It would go."""


def _entries_of(txn: Txn, keys: Sequence[Key]) -> tuple[Entry, ...]:
    found = (current_entry(txn, key) for key in keys)
    return tuple(entry for entry in found if entry is not None)


def _batches(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _PAGE)):
        yield batch


def _is_pending(layout: Layout, name: str) -> bool:
    return bool(files.list_names(layout.pending(name)))


def _blobs_by_name(layout: Layout) -> Iterator[bytes]:
    """The digests that the files in ``blobs/`` are named by."""
    for shard in files.list_names(layout.blobs):
        for name in files.list_names(f"{layout.blobs}/{shard}"):
            digest = layout.digest_at(shard, name)
            if digest is not None:
                yield digest


def _bad_files(layout: Layout) -> Iterator[tuple[str, os.stat_result]]:
    for name in sorted(files.list_names(layout.quarantine)):
        path = layout.quarantined(name)
        status = files.lstat_regular(path) if _BAD.fullmatch(name) else None
        if status is not None:
            yield path, status
