"""Clear a store: remove everything that can be downloaded again. Pins, pending writes and local edits stay.

    what dead processes left    first, by the reaper: edits become pending writes
    entries                     in batches: rows are dropped in a write transaction, then their blobs are swept
    other blobs                 those that no entry uses, with or without a row; except a publication in flight
    quarantine/                 damaged blobs and the reasons; edits were saved before anything was moved here

The last two only without a prefix. Pins and pending writes are looked for inside the transaction that drops an entry.
An entry with a pending write stays: `drop` returns to it.

A local path is a link or a copy of its own, so it keeps its bytes; the result says which files still take space.
A clearing that is killed leaves blobs without users, never an entry without its blob; the next one finds them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from casstore.blobs.staging import Inode
from casstore.eviction.inventory import IN_FLIGHT_SECONDS
from casstore.eviction.local_copies import InUse, LocalInventory, files_in_use
from casstore.eviction.pins import Pins, is_pinned, pinned_names
from casstore.eviction.removal import Removal, RemovedBlob, Selection, Swept
from casstore.eviction.victims import Reason
from casstore.format.keys import BLOB, blob_row, entry_prefix, is_at_or_below, row_name, user_prefix
from casstore.format.layout import PATHS_NAME, Layout
from casstore.format.records import Entry, unpack_entry
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.entries import User, current_entry, users_of
from casstore.index.transactions import Txn
from casstore.pending.store import Pending

if TYPE_CHECKING:
    from casstore.eviction.pins import Pin
    from casstore.eviction.reaper import ReapResult
    from casstore.pending.records import PendingWrite

_PAGE: Final = 500
"""Entries, or blobs, that are looked at together."""

_HASH: Final = re.compile(r"[0-9a-f]{32}")
_BAD: Final = re.compile(r"[0-9a-f]{32,64}-[0-9a-f]{8}")
"""The name of a blob in quarantine. Other files there are not the store's, or had a blob's name."""


@dataclass(frozen=True, slots=True)
class ClearResult:
    """What a clearing removed, or would remove: *entries* rows, *blobs* files, which freed *bytes*, and *bad* files of
    *bad_bytes* from quarantine. *reaped* is what dead processes had left; None of a dry run.

    What stays: *pins*, cached or not, with their entries; *pending* writes and local edits, and *bases*, the entries of
    those; files *in_use*; *unreadable* paths of pins and pending writes, which protect although their URI is unknown;
    and *young* blobs of *young_bytes* without a row, which may belong to running downloads.
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
        """Whether there was nothing to remove."""
        return not (self.entries or self.blobs or self.bad)


class Clearing(Removal[bytes]):
    """One pass over entries, blobs and quarantine, and what it adds up to; of all, or at or below *prefix*."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        prefix: str,
        grace: float,
        on_removed: Callable[[RemovedBlob], object] | None = None,
    ) -> None:
        super().__init__(index, layout)
        self._prefix, self._grace, self._on_removed = prefix, grace, on_removed
        self._entries = self._blobs = self._bytes = 0
        self._bad = self._bad_bytes = 0
        self._young: dict[bytes, int] = {}
        self._linked: dict[Inode, InUse] = {}
        self._links: Mapping[Inode, int] = {}
        """How many names of a blob, local paths, would be removed before it."""
        self._have_rows: bool | None = None
        """Whether the blobs that are removed now have rows; None while entries are."""

    def clear(self, reaped: ReapResult | None) -> ClearResult:
        """Clear, after the reaper; *reaped* goes into the result.

        Raises StoreFullError if the disk is so full that not even one row can be dropped.
        """
        prefix = self._prefix
        rows = (row for row, _ in self.index.scan(entry_prefix(prefix)))
        for batch in _batches(rows):
            self._remove(batch)
        if not prefix:
            # By their rows, and then the files without one: an index that was replaced does not know them.
            for batch in _batches(row[1:] for row, _ in self.index.scan(BLOB)):
                self._remove_unused(batch, have_rows=True)
            for batch in _batches(_blobs_by_name(self.layout)):
                self._remove_unused(batch, have_rows=False)
            for path, status in _bad_files(self.layout):
                self._remove_bad(path)
                self._bad += 1
                self._bad_bytes += status.st_size if status.st_nlink == 1 else 0
        pins, pending = Pins(self.layout, self.index), Pending(self.layout)
        writes = tuple(write for write in pending.all() if is_at_or_below(write.uri, prefix))
        keys = dict.fromkeys(write.key for write in writes)
        bases = self.index.read(lambda txn: [current_entry(txn, key) for key in keys])
        return ClearResult(
            self._entries,
            self._blobs,
            self._bytes,
            self._bad,
            self._bad_bytes,
            tuple(pin for pin in pins.all(prefix) if is_at_or_below(pin.uri, prefix)),
            writes,
            tuple(entry for entry in bases if entry is not None),
            files_in_use(self.layout, prefix, self._grace, self._linked),
            (*pins.unreadable(), *pending.unreadable()),
            len(self._young),
            sum(self._young.values()),
            reaped,
        )

    def _remove_unused(self, digests: Sequence[bytes], *, have_rows: bool) -> None:
        self._have_rows = have_rows
        # Selected in a read transaction first: most have users, and a write transaction makes writers wait.
        self._remove(list(self.index.read(lambda txn: self.select(txn, digests)).uris))

    def _remove(self, items: Sequence[bytes]) -> None:
        for _, selected, swept in self.run(items):
            for digest, uris in selected.items():
                self._count(digest, uris, swept.get(digest))

    def select(self, txn: Txn, batch: Sequence[bytes]) -> Selection:
        return self._select_entries(txn, batch) if self._have_rows is None else self._select_unused(txn, batch)

    def may_sweep(self, digest: bytes, status: os.stat_result) -> bool:
        # A file without a row may be about to get one. Removing it would be safe, and cost a copy.
        is_young = self._have_rows is False and 0 <= time.time() - status.st_ctime <= IN_FLIGHT_SECONDS
        if is_young:
            self._young[digest] = status.st_size
        return not is_young

    def _is_retained(self, name: bytes) -> bool:
        """Whether the URI of this hash is pinned, or has a pending write, readable or not.

        Raises OSError if neither can be ruled out: nothing is removed then.
        """
        return is_pinned(self.layout, name) or _is_pending(self.layout, name.hex())

    def _releases(self, user: User) -> bool:
        """Whether this user of a blob is removed. Damaged rows of users are removed with everything else."""
        return not self._is_retained(user.name) and self._is_meant(user.entry)

    def _is_meant(self, entry: Entry | None) -> bool:
        return not self._prefix if entry is None else is_at_or_below(entry.uri, self._prefix)

    def _select_entries(self, txn: Txn, rows: Sequence[bytes]) -> Selection:
        """Return those of these entries that may be removed; damaged rows too, if everything is cleared."""
        txn.prefetch(rows)
        selection = Selection()
        for row in rows:
            record = txn.get(row)
            entry = None if record is None else unpack_entry(row, record)
            if record is None or not self._is_meant(entry) or self._is_retained(row_name(row)):
                continue
            if entry is None:
                selection.rows.append(row)  # a miss, and its URI is unknown: its blob is found by its own row
            else:
                selection.add(entry)
        return selection

    def _select_unused(self, txn: Txn, digests: Sequence[bytes]) -> Selection:
        """Return those of these blobs that no entry uses, and damaged rows of users, which would keep one forever."""
        selection = Selection()
        for digest in digests:
            users = users_of(txn, digest)
            if all(user.entry is None and self._releases(user) for user in users):
                selection.rows += (user.row for user in users)
                if (txn.get(blob_row(digest)) is not None) == self._have_rows:
                    selection.uris[digest] = []
        return selection

    def _remove_bad(self, path: str) -> None:
        # The reason last: without its blob it is debris, which the reaper knows.
        files.unlink_quietly(path)
        files.unlink_quietly(f"{path}.txt")

    def _count(self, digest: bytes, uris: Sequence[str], status: os.stat_result | None) -> None:
        """Count, and report, one blob whose entries of *uris* are removed; with *status* its file is, too."""
        size = 0
        if status is not None:
            self._blobs += 1
            if status.st_nlink - self._links.get(Inode.of(status), 0) == 1:
                size = status.st_size
            else:
                self._linked[Inode.of(status)] = InUse(tuple(uris), None, status.st_size)
        self._entries += len(uris)
        self._bytes += size
        if self._on_removed is not None and (uris or size):
            self._on_removed(RemovedBlob(digest, tuple(uris), size, Reason.CLEARED))


class Preview(Clearing):
    """The dry run: the same pass, which looks where the other one drops and sweeps."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        prefix: str,
        grace: float,
        on_removed: Callable[[RemovedBlob], object] | None,
    ) -> None:
        super().__init__(index, layout, prefix, grace, on_removed)
        local = LocalInventory(layout, grace, prefix)
        self._links, self._bytes = local.links, sum(copy.size for copy in local.copies if copy.may_go)
        self._unused: set[bytes] = set()
        self._shared: set[bytes] = set()
        # Read once: nothing is removed by it, and two looks for each of a million entries take half of the time.
        pending = (name for name in files.list_names(layout.pending_directory) if _is_pending(layout, name))
        self._retained = pinned_names(layout).union(bytes.fromhex(name) for name in pending if _HASH.fullmatch(name))

    def _is_retained(self, name: bytes) -> bool:
        return name in self._retained

    def _select_unused(self, txn: Txn, digests: Sequence[bytes]) -> Selection:
        # Most blobs have entries still, and were counted with them: one look at each, not one at each of its users.
        unused = [digest for digest in digests if not txn.has(user_prefix(digest))]
        return super()._select_unused(txn, unused)

    def drop(self, batch: Sequence[bytes]) -> dict[bytes, list[str]]:
        def look(txn: Txn) -> dict[bytes, list[str]]:
            uris = self.select(txn, batch).uris
            self._unused = {digest for digest in uris if self._would_be_unused(txn, digest)}
            return uris

        return self.index.read(look)

    def _would_be_unused(self, txn: Txn, digest: bytes) -> bool:
        """Whether all users of a blob are removed; once only of a blob that has several."""
        prefix = user_prefix(digest)
        if len(txn.scan(prefix, prefix, 2)) < 2:
            return True
        if digest in self._shared:
            return False
        self._shared.add(digest)
        return all(map(self._releases, users_of(txn, digest)))

    def sweep(self, digests: Sequence[bytes]) -> Swept:
        found = ((digest, files.lstat_regular(self.layout.blob(digest))) for digest in self._unused)
        return {digest: status for digest, status in found if status is not None and self.may_sweep(digest, status)}

    def _remove_bad(self, path: str) -> None:
        pass


def _batches(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _PAGE)):
        yield batch


def _is_pending(layout: Layout, name: str) -> bool:
    return any(file != PATHS_NAME for file in files.list_names(layout.pending(name)))


def _blobs_by_name(layout: Layout) -> Iterator[bytes]:
    """Yield the digests that name the files in ``blobs/``."""
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
