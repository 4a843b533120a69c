"""Remove entries and blobs safely while other processes read and fill: select, drop, commit, sweep.

Rows are dropped, and that is committed, before a file is moved: a crash between the two leaves blobs without users,
never an entry without its blob. The sweep then removes, inside write transactions, the blobs that no entry uses.
"""

from __future__ import annotations

import abc
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from casstore.errors import IndexDamagedError, IndexUnavailableError, StoreFullError
from casstore.eviction.victims import Reason
from casstore.format.keys import blob_row, user_prefix, user_row
from casstore.format.layout import Layout
from casstore.format.records import Entry
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.transactions import Txn

FIRST_BATCH: Final = 64
LEAST_BATCH: Final = 32
MOST_BATCH: Final = 256
"""Blobs in one write transaction: at first, and at least and at most whatever the clock says."""

_BATCH_SECONDS: Final = 0.020
"""How long the work in one transaction takes; another writer waits for it, and for the commit."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Swept: TypeAlias = dict[bytes, os.stat_result | None]
"""The removed files by digest; None for a row that had no file."""


@dataclass(frozen=True, slots=True)
class RemovedBlob:
    """One blob that was removed, and the URIs that used it. *bytes* is 0 if it came back into use after its entries
    were dropped, or if other entries or links use its bytes.
    """

    digest: bytes
    uris: tuple[str, ...]
    bytes: int
    reason: Reason = Reason.SIZE


class BatchSizer:
    """Chooses the size of the next write transaction by how long the work in the last one took.

    A commit takes its time however little it writes, so few large ones are faster; but writers wait for each.
    """

    def __init__(self) -> None:
        self.count = FIRST_BATCH
        self.lacks_room = False
        """Whether a commit failed for lack of disk space."""

    @contextlib.contextmanager
    def timed(self, count: int) -> Iterator[None]:
        """Time the block, which works on *count* blobs."""
        start = time.monotonic()
        yield
        seconds = max(time.monotonic() - start, 1e-6)
        fitting = int(count * _BATCH_SECONDS / seconds)
        # A batch that something else delayed says little, and so does the short one at the end.
        fitting = min(max(fitting, self.count // 2), self.count * 2)
        self.count = min(max(fitting, LEAST_BATCH), MOST_BATCH)

    def run_in_batches(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Call *work*, a write transaction, for `count` of the *items* at a time; yield each batch and its result.

        Raises StoreFullError if the disk has not even room for a commit about one.
        """
        start, step = 0, self.count
        while start < len(items):
            batch = items[start : start + step]
            try:
                result = work(batch)
            except (StoreFullError, IndexUnavailableError):
                # On a full disk a commit finds no pages (LMDB may not say why it failed). The fewer rows it touches,
                # the fewer pages it takes, and what the first blobs free serves the rest.
                if step == 1:
                    raise
                step, self.lacks_room = 1, True
                continue
            start, step = start + len(batch), min(2 * step, self.count)
            yield batch, result


@dataclass(slots=True)
class Selection:
    """What one transaction removes: *rows* to delete; by blob to sweep afterwards, the *uris* whose entries go."""

    rows: list[bytes] = field(default_factory=list)
    uris: dict[bytes, list[str]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Select an entry, and its blob."""
        self.rows += (entry.key.row_key, user_row(entry.digest.value, entry.key))
        self.uris.setdefault(entry.digest.value, []).append(entry.uri)


class Removal(abc.ABC, Generic[Item]):
    """Removes entries and their blobs in batches; a subclass selects them."""

    def __init__(self, index: Index, layout: Layout) -> None:
        self.index, self.layout = index, layout
        self.dropping, self.sweeping = BatchSizer(), BatchSizer()

    @abc.abstractmethod
    def select(self, txn: Txn, batch: Sequence[Item]) -> Selection:
        """Return what to remove of *batch*. Called inside the write transaction that drops the rows, so that whatever
        must not be removed (pins, pending writes, what has changed) is looked for there.
        """

    def may_sweep(self, digest: bytes, status: os.stat_result) -> bool:
        """Whether to remove the file of an unused blob; called inside the sweep's transaction."""
        return True

    def run(self, items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], dict[bytes, list[str]], Swept]]:
        """Remove *items*; yield each batch, the selected URIs by blob, and what `sweep` returned for these blobs.

        Raises StoreFullError if the disk is so full that not even one row can be dropped.
        """
        for batch, uris in self.dropping.run_in_batches(items, self.drop):
            yield batch, uris, self.sweep(list(uris))

    def drop(self, batch: Sequence[Item]) -> dict[bytes, list[str]]:
        """Drop the selected rows of *batch*, and commit; the URIs of the entries by blob."""

        def drop(txn: Txn) -> dict[bytes, list[str]]:
            with self.dropping.timed(len(batch)):
                selection = self.select(txn, batch)
                for row in selection.rows:
                    txn.delete(row)
            return selection.uris

        return self.index.write(drop)

    def sweep(self, digests: Sequence[bytes]) -> Swept:
        """Remove those blobs that no entry uses, if `may_sweep` of their file; what came back into use stays."""
        removed: Swept = {}
        for _, swept in self.sweeping.run_in_batches(digests, self.sweep_batch):
            removed |= swept
        return removed

    def sweep_batch(self, digests: Sequence[bytes]) -> Swept:
        """Sweep in one transaction."""
        trash: dict[str, str] = {}

        def move(txn: Txn) -> Swept:
            with self.sweeping.timed(len(digests)):
                return self._move_unused(txn, digests, trash)

        # A writer publishes inside its own write transaction and checks there that its blob is the one it linked. This
        # one checks use again and moves the file inside its transaction. One of the two runs first; either order is
        # right.
        try:
            removed = self.index.write_once(move)
        except BaseException as error:
            # Nothing of the transaction counts. If the index was replaced meanwhile, a writer to the new one may have
            # found the names taken and relied on them.
            for target, path in trash.items():
                with contextlib.suppress(FileExistsError, FileNotFoundError):  # taken meanwhile; the trash was emptied
                    files.link(target, path)
                files.unlink_quietly(target)
            if isinstance(error, IndexDamagedError):
                return {}
            raise
        for target in trash:
            files.unlink_quietly(target)
        return removed

    def _move_unused(self, txn: Txn, digests: Sequence[bytes], trash: dict[str, str]) -> Swept:
        removed: Swept = {}
        for digest in digests:
            if _is_in_use(txn, digest):
                continue
            path = self.layout.blob(digest)
            status = files.lstat_regular(path)  # only a regular file is a blob
            if status is None or self.may_sweep(digest, status):
                if status is not None:
                    target = self.layout.trashed(os.urandom(8).hex())
                    files.rename(path, target)
                    trash[target] = path
                txn.delete(blob_row(digest))
                removed[digest] = status
        return removed


def _is_in_use(txn: Txn, digest: bytes) -> bool:
    return txn.has(user_prefix(digest))
