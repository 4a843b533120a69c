"""Checks of the index: rows are compared with each other, and with the blobs that they name.

Rows are compared inside one transaction. A row and a file cannot be read atomically: a difference is checked again, in
an order in which no change by another process looks like damage. Only a `StoreRepairer` changes anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from casstore.errors import CasstoreError, IndexDamagedError
from casstore.format import records
from casstore.format.digest import Digest
from casstore.format.keys import BLOB, CHECKSUM, COUNT, ENTRY, POLICY, USER, Key, blob_row, user_prefix, user_row
from casstore.format.records import BlobRecord, Entry
from casstore.index import page_check
from casstore.index.database import PAGE_ROWS, Index
from casstore.index.entries import User, users_of
from casstore.index.environment import RESERVE_ROW
from casstore.index.transactions import Txn
from casstore.verify.repair import Row, StoreRepairer, decoded, entry_in, key_in, reason, user_in
from casstore.verify.report import Findings, Problem, ProblemKind

PROCESS_ERRORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECHILD, errno.EBUSY))
"""Errors of this process or machine, not of the store."""

_MAX_CHECKS: Final = 20


Fault = tuple[Problem, Row]


@dataclass(slots=True)
class _CheckedEntry:
    """An entry in one transaction, and whether its blob had a row."""

    record: bytes
    entry: Entry
    has_blob_row: bool = True

    @property
    def row(self) -> Row:
        return self.entry.key.row_key, self.record


@dataclass(slots=True)
class _Page:
    """A page of rows in one transaction; *faults* are contradictions inside it, which need no second check."""

    rows: list[Row]
    blobs: list[BlobRecord] = field(default_factory=list)
    unused: list[tuple[Row, BlobRecord]] = field(default_factory=list)
    entries: list[_CheckedEntry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    orphaned_users: list[Row] = field(default_factory=list)
    """Users that are entries which do not decode: dropped with those, and not reported on their own."""


class IndexChecks:
    """One pass over all rows, a page at a time, by one thread, with counts of what was seen so far."""

    def __init__(self, index: Index, algorithm: str, repairer: StoreRepairer | None) -> None:
        """Without *repairer*, change nothing."""
        self.layout, self.algorithm, self.repairer = index.layout, algorithm, repairer
        self._index = index
        self.findings = Findings()
        self.generation = 0
        self.is_absent = False
        self.is_readable = False
        self.rows = self.entries = 0
        self.blobs = self.bytes = 0
        self.unused = self.unused_bytes = self.stale = self.dropped = 0

    def check(self, on_progress: Callable[[], None]) -> None:
        """Check every row. A damaged index is one problem, and is not changed."""
        self.is_absent = not self.find()
        if self.is_readable:
            self._check_hint()
        start: bytes | None = b""
        while self.is_readable and start is not None:
            with self._reporting():
                start = self._check_page(start)
            on_progress()

    def find(self) -> bool:
        """Return whether there is an index, even a damaged one."""
        with self._reporting():
            self.generation = self._index.generations.newest()
            try:
                status = os.stat(self.layout.index_file(self.generation), follow_symlinks=False)
            except FileNotFoundError:
                return False
            # A process that is killed while it creates an index leaves an empty file.
            if status.st_size == 0:
                return False
            # Checked even if the index is open and mapped: the file may have been truncated since.
            page_check.check(self.layout.index_file(self.generation), whole=True)
            self.is_readable = True
        return True

    def _check_hint(self) -> None:
        hint = b""
        hints: set[bytes] = set()
        for _ in range(2):  # another process may change the hint and the generation between two reads
            try:
                with open(self.layout.current, "rb") as file:
                    hint = file.read(64)
                if os.path.isdir(self.layout.generation(int(hint))):
                    return
            except FileNotFoundError:
                return  # created shortly after the first generation, and only a hint
            except OSError as error:
                self.findings.add(Problem(ProblemKind.UNREADABLE, self.layout.current, reason(error)))
                return
            except ValueError:
                pass
            hints.add(hint)
        if len(hints) == 1:
            detail = f"it names a generation that does not exist; generation {self.generation} is used"
            self.findings.add(Problem(ProblemKind.DAMAGED_INDEX, self.layout.current, detail))

    def records(self, digests: Sequence[bytes]) -> dict[bytes, bytes | None] | None:
        """Return the current blob records of *digests*; None if the index cannot be read."""
        rows = [blob_row(digest) for digest in digests]

        def read(txn: Txn) -> dict[bytes, bytes | None]:
            txn.prefetch(rows)
            return {row[1:]: txn.get(row) for row in rows}

        if self.is_readable:
            with self._reporting():
                return self._index.inspect(read)
        return None

    def user_of(self, digest: bytes) -> tuple[Key | None, int]:
        """Return one of the entries that use a blob, and their number, up to a page."""
        users: list[User] = []
        if self.is_readable:
            with self._reporting():
                users = self._index.inspect(lambda txn: users_of(txn, digest, PAGE_ROWS))
        return next((user.key for user in users), None), len(users)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report a failure of the index as a problem, and stop reading the index."""
        try:
            yield
        except (CasstoreError, OSError, page_check.UnsoundError) as error:
            if isinstance(error, OSError) and error.errno in PROCESS_ERRORS:
                raise
            self.is_readable = False
            is_damage = isinstance(error, IndexDamagedError | page_check.UnsoundError)
            kind = ProblemKind.DAMAGED_INDEX if is_damage else ProblemKind.UNREADABLE
            self.findings.add(Problem(kind, self.layout.index_file(self.generation), reason(error)))

    def _check_page(self, start: bytes) -> bytes | None:
        """Check a page of rows from *start* on; return where the next one begins, None after the last."""
        page = self._index.inspect(lambda txn: self._read_page(txn, start))
        self.rows += len(page.rows)
        self.entries += len(page.entries)
        self.blobs += len(page.blobs)
        self.bytes += sum(blob.size for blob in page.blobs)
        # First, since the checks of files may find the index damaged.
        self._report(page.faults)
        if self.repairer is not None:
            self.repairer.repair_rows(page.orphaned_users)
        missing = [fault for seen in page.entries if (fault := self._check_file(seen)) is not None]
        stale: list[Row] = []
        for row, blob in page.unused:
            if os.path.lexists(self.layout.blob(row[0][1:])):
                self.unused += 1
                self.unused_bytes += blob.size
            else:
                stale.append(row)  # a sweep is between its two steps, or was killed there
        self._report(missing, stale)
        return page.rows[-1][0] + b"\0" if len(page.rows) == PAGE_ROWS else None

    def _report(self, faults: Sequence[Fault], stale: Sequence[Row] = ()) -> None:
        """Report a page's problems, and repair each row once."""
        if self.repairer is None:
            self.stale += len(stale)
            for problem, _ in faults:
                self.findings.add(problem)
            return
        rows = dict(row for _, row in faults)
        repairs = dict(zip(rows, self.repairer.repair_rows(list(rows.items())), strict=True))
        for problem, (row, _) in faults:
            self.findings.add(replace(problem, repair=repairs[row]))
        done = sum(repair.is_done for repair in self.repairer.repair_rows(stale))
        self.dropped += done
        self.stale += len(stale) - done

    def _read_page(self, txn: Txn, start: bytes) -> _Page:
        """Read a page of rows from *start* on, and compare it with the rows that belong to it."""
        page = _Page(txn.scan(b"", start, PAGE_ROWS))
        for row, record in page.rows:
            kind = row[:1]
            if kind == ENTRY:
                self._check_entry(row, record, page)
            elif kind == BLOB:
                self._check_blob(txn, row, record, page)
            elif kind == USER:
                self._check_user(txn, row, record, page)
            elif kind == CHECKSUM:
                if decoded(partial(records.unpack_checksum, row, record)) is None:
                    page.faults.append(self._bad(row, record, "a provider's checksum"))
            elif kind == POLICY:
                if records.strip_checksum(row, record) is None:
                    page.faults.append(self._bad(row, record, "the eviction history"))
            elif row != RESERVE_ROW and (kind != COUNT or not records.unpack_count(row, record)):
                what = "a count of local writes" if kind == COUNT else "of no known kind"
                page.faults.append(self._bad(row, record, what))
        self._compare(txn, page)
        return page

    def _check_entry(self, row: bytes, record: bytes, page: _Page) -> None:
        entry = entry_in(self.algorithm, row, record)
        if entry is None:
            page.faults.append(self._bad(row, record, "an entry", key_in(row)))
        else:
            page.entries.append(_CheckedEntry(record, entry))

    def _check_blob(self, txn: Txn, row: bytes, record: bytes, page: _Page) -> None:
        blob = decoded(lambda: records.unpack_blob(row, record))
        digest = decoded(partial(Digest, self.algorithm, row[1:]))
        if blob is None or digest is None:
            page.faults.append(self._bad(row, record, "a blob"))
            return
        page.blobs.append(blob)
        if not txn.has(user_prefix(digest.value)):
            page.unused.append(((row, record), blob))

    def _check_user(self, txn: Txn, row: bytes, record: bytes, page: _Page) -> None:
        key = user_in(row, record)
        digest = decoded(partial(Digest, self.algorithm, row[1:-16]))
        if key is None or digest is None:
            page.faults.append(self._bad(row, record, "a user of a blob"))
            return
        found = txn.get(key.row_key)
        entry = entry_in(self.algorithm, key.row_key, found)
        if found is not None and entry is None:
            page.orphaned_users.append((row, record))
        if found is None or (entry is not None and (entry.key != key or entry.digest != digest)):
            detail = "it counts as used by an entry that names another blob or none"
            page.faults.append(self._fault(ProblemKind.ROWS_DISAGREE, digest, key, detail, (row, record)))

    def _compare(self, txn: Txn, page: _Page) -> None:
        """Compare a page's entries with the rows of their blobs and users."""
        rows: dict[bytes, None] = {}
        for seen in page.entries:
            rows[blob_row(seen.entry.digest.value)] = None
            rows[user_row(seen.entry.digest.value, seen.entry.key)] = None
        txn.prefetch(list(rows))
        for seen in page.entries:
            entry = seen.entry
            if txn.get(user_row(entry.digest.value, entry.key)) != entry.key.encoded:
                detail = "no row says that this entry uses its blob: a collection would delete the blob"
                page.faults.append(self._entry_fault(ProblemKind.ROWS_DISAGREE, detail, seen))
            row = blob_row(entry.digest.value)
            record = txn.get(row)
            seen.has_blob_row = record is not None
            blob = decoded(partial(records.unpack_blob, row, record))
            if blob is not None and blob.size != entry.size:
                detail = f"the entry has the size {entry.size:,}, the row of its blob {blob.size:,}"
                page.faults.append(self._entry_fault(ProblemKind.ROWS_DISAGREE, detail, seen))

    def _check_file(self, seen: _CheckedEntry) -> Fault | None:
        """Check that an entry's blob exists and has a row."""
        # A missing file is damage only if the entry had the same record before and after the check. A sweep deletes
        # only blobs without entries, inside a transaction. A new entry has a new time of validation: equal records
        # prove that the entry existed all the time.
        for _ in range(_MAX_CHECKS):
            try:
                is_there = self._is_there(self.layout.blob(seen.entry.digest.value))
            except OSError as error:
                return self._entry_fault(ProblemKind.UNREADABLE, reason(error), seen)
            if is_there and seen.has_blob_row:
                return None
            now = self._index.inspect(partial(self._read_again, seen=seen))
            if now is None:
                return None
            if now.record == seen.record and now.has_blob_row == seen.has_blob_row:
                if is_there:
                    detail = "its blob has no row: it is neither counted nor collected"
                    return self._entry_fault(ProblemKind.ROWS_DISAGREE, detail, seen)
                return self._entry_fault(ProblemKind.MISSING_BLOB, "a read downloads the object again", seen)
            seen = now
        return None

    @staticmethod
    def _is_there(path: str) -> bool:
        try:
            os.stat(path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _read_again(self, txn: Txn, seen: _CheckedEntry) -> _CheckedEntry | None:
        row = seen.entry.key.row_key
        record = txn.get(row)
        entry = entry_in(self.algorithm, row, record)
        if record is None or entry is None:
            return None
        return _CheckedEntry(record, entry, txn.get(blob_row(entry.digest.value)) is not None)

    def _entry_fault(self, kind: ProblemKind, detail: str, seen: _CheckedEntry) -> Fault:
        return self._fault(kind, seen.entry.digest, seen.entry.key, detail, seen.row)

    def _fault(self, kind: ProblemKind, digest: Digest, key: Key, detail: str, row: Row) -> Fault:
        return Problem(kind, self.layout.blob(digest.value), detail, digest, key.uri, key.origin), row

    def _bad(self, row: bytes, record: bytes, what: str, key: Key | None = None) -> Fault:
        detail = f"the row {row[:24].hex()}{'...' if len(row) > 24 else ''} ({what}) does not decode"
        uri, origin = (None, None) if key is None else (key.uri, key.origin)
        path = self.layout.index_file(self.generation)
        return Problem(ProblemKind.BAD_RECORD, path, detail, uri=uri, origin=origin), (row, record)
