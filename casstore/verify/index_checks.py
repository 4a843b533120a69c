"""The rows of an index, held against each other and against the blobs they name.

Changes nothing, but for what a `Repairer` does about the problems found.

Rows are compared with rows inside one transaction, so that no commit comes between. A row and a file cannot be seen at
one moment: what looks wrong between them is looked at again, in an order that no live store passes for damage.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from casstore.errors import CasstoreError, IndexDamagedError
from casstore.format.checksums import unpack_checksum
from casstore.format.digest import Digest, name_hash
from casstore.format.keys import BLOB, CHECKSUM, COUNT, ENTRY, POLICY, USER, Key, blob_row, user_prefix, user_row
from casstore.format.layout import Layout
from casstore.format.records import BlobRecord, Entry, strip_checksum, unpack_blob, unpack_count, unpack_entry
from casstore.index import page_check as pages
from casstore.index.database import PAGE_ROWS, Index
from casstore.index.environment import RESERVE_ROW
from casstore.index.transactions import Txn
from casstore.verify.report import Findings, Problem, ProblemKind, ProgressCallback, Repairer

OURS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECHILD, errno.EBUSY))
"""Errors that say something of this process or machine and nothing of the store."""

_ROUNDS: Final = 20
_UNDECODABLE: Final = (struct.error, LookupError, ValueError)

Value = TypeVar("Value")


def reason(error: BaseException) -> str:
    """What *error* says, without the path that the problem names anyway."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


Row = tuple[bytes, bytes]
"""A key and the record that was seen there."""


@dataclass(slots=True)
class _CheckedRow:
    """An entry as one transaction saw it, and whether its blob had a row."""

    row: bytes
    record: bytes
    entry: Entry
    has_blob_row: bool = True


@dataclass(slots=True)
class _Page:
    """What one transaction saw of a page of rows; *faults* are contradictions inside it, which need no second look."""

    last: bytes = b""
    rows: int = 0
    blobs: list[BlobRecord] = field(default_factory=list)
    unused: list[tuple[Row, BlobRecord]] = field(default_factory=list)
    entries: list[_CheckedRow] = field(default_factory=list)
    faults: list[tuple[Problem, Row]] = field(default_factory=list)
    widows: list[Row] = field(default_factory=list)
    """Of entries that do not decode: no problems of their own, and to go with them."""


class IndexChecks:
    """One look at all rows, a page at a time; used by one thread. The counts are of what was seen so far."""

    def __init__(
        self, layout: Layout, index: Index, algorithm: str, findings: Findings, repairer: Repairer | None = None
    ) -> None:
        self._layout = layout
        self._index = index
        self._algorithm = algorithm
        self._findings = findings
        self._mender = repairer
        self.generation = 0
        self.is_absent = False
        self.is_readable = False
        self.rows = self.entries = 0
        self.blobs = self.bytes = 0
        self.unused = self.unused_bytes = self.stale = self.dropped = 0

    def check(self, on_progress: ProgressCallback) -> None:
        """Look at every row. A damaged index is one problem, and stays as it is."""
        self.is_absent = not self.find()
        if self.is_readable:
            self._check_hint()
        start: bytes | None = b""
        while self.is_readable and start is not None:
            with self._reporting():
                start = self._check_page(start)
            on_progress()

    def find(self) -> bool:
        """Whether there is an index, be it damaged."""
        with self._reporting():
            self.generation = self._index.generations.newest()
            try:
                status = os.stat(self._layout.index_file(self.generation), follow_symlinks=False)
            except FileNotFoundError:
                return False
            # A process that is killed while it makes an index leaves an empty file.
            if status.st_size == 0:
                return False
            # Also where it is open and mapped already: it may have been cut since.
            pages.check(self._layout.index_file(self.generation), whole=True)
            self.is_readable = True
        return True

    def _check_hint(self) -> None:
        hint = b""
        hints: set[bytes] = set()
        for _ in range(2):  # the hint, and what it named, may change between two looks
            try:
                with open(self._layout.current, "rb") as file:
                    hint = file.read(64)
                if os.path.isdir(self._layout.generation(int(hint))):
                    return
            except FileNotFoundError:
                return  # made a moment after the first generation, and a hint only
            except OSError as error:
                self._findings.add(Problem(ProblemKind.UNREADABLE, self._layout.current, reason(error)))
                return
            except ValueError:
                pass
            hints.add(hint)
        if len(hints) == 1:
            detail = f"it names no generation of the index; generation {self.generation} serves"
            self._findings.add(Problem(ProblemKind.DAMAGED_INDEX, self._layout.current, detail))

    def records(self, digests: Sequence[bytes]) -> dict[bytes, bytes | None] | None:
        """The blob records of these, as they are now; None where the index does not say."""
        rows = [blob_row(digest) for digest in digests]

        def look(txn: Txn) -> dict[bytes, bytes | None]:
            txn.prefetch(rows)
            return {row[1:]: txn.get(row) for row in rows}

        if self.is_readable:
            with self._reporting():
                return self._index.inspect(look)
        return None

    def user_of(self, digest: bytes) -> tuple[Key | None, int]:
        """One of the entries that use a blob, and how many do, at most a page of them."""
        prefix = user_prefix(digest)
        users: list[tuple[bytes, bytes]] = []
        if self.is_readable:
            with self._reporting():
                users = self._index.inspect(lambda txn: txn.scan(prefix, prefix, PAGE_ROWS))
        key = _decoded(lambda: Key.parse(users[0][1])) if users else None
        return key, len(users)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Make what the index fails with a problem; it is not asked any more then."""
        try:
            yield
        except (CasstoreError, OSError, pages.UnsoundError) as error:
            if isinstance(error, OSError) and error.errno in OURS:
                raise
            self.is_readable = False
            is_damage = isinstance(error, IndexDamagedError | pages.UnsoundError)
            kind = ProblemKind.DAMAGED_INDEX if is_damage else ProblemKind.UNREADABLE
            self._findings.add(Problem(kind, self._layout.index_file(self.generation), reason(error)))

    # --- a page ------------------------------------------------------------------------------------------------------

    def _check_page(self, start: bytes) -> bytes | None:
        """Check a page of rows from *start* on; where the next begins, None after the last."""
        page = self._index.inspect(lambda txn: self._look(txn, start))
        self.rows += page.rows
        self.entries += len(page.entries)
        self.blobs += len(page.blobs)
        self.bytes += sum(blob.size for blob in page.blobs)
        # First, since looking for files may find the index damaged.
        self._settle(page.faults)
        if self._mender is not None:
            self._mender.repair_rows(page.widows)
        missing = [fault for seen in page.entries if (fault := self._check_file(seen)) is not None]
        stale: list[Row] = []
        for row, blob in page.unused:
            if os.path.lexists(self._layout.blob(row[0][1:])):
                self.unused += 1
                self.unused_bytes += blob.size
            else:
                stale.append(row)  # between the two steps of a sweep, or killed there
        self._settle(missing, stale)
        return page.last + b"\0" if page.rows == PAGE_ROWS else None

    def _settle(self, faults: Sequence[tuple[Problem, Row]], stale: Sequence[Row] = ()) -> None:
        """Report a page's problems, mended where that was asked for; one problem of a row is enough to mend it."""
        if self._mender is None:
            self.stale += len(stale)
            for problem, _ in faults:
                self._findings.add(problem)
            return
        rows = dict(row for _, row in faults)
        repairs = dict(zip(rows, self._mender.repair_rows(list(rows.items())), strict=True))
        for problem, (row, _) in faults:
            self._findings.add(replace(problem, repair=repairs[row]))
        done = sum(repair.is_done for repair in self._mender.repair_rows(stale))
        self.dropped += done
        self.stale += len(stale) - done

    def _look(self, txn: Txn, start: bytes) -> _Page:
        """What one transaction says of the rows from *start* on, and of those that go with them."""
        rows = txn.scan(b"", start, PAGE_ROWS)
        page = _Page(rows[-1][0] if rows else b"", len(rows))
        for row, record in rows:
            kind = row[:1]
            if kind == ENTRY:
                self._look_at_entry(row, record, page)
            elif kind == BLOB:
                self._look_at_blob(txn, row, record, page)
            elif kind == USER:
                self._look_at_user(txn, row, record, page)
            elif kind == CHECKSUM:
                if _decoded(partial(unpack_checksum, row, record)) is None:
                    page.faults.append((self._bad(row, "what a provider stated"), (row, record)))
            elif kind == POLICY:
                if strip_checksum(row, record) is None:
                    page.faults.append((self._bad(row, "what was evicted, and how that did"), (row, record)))
            elif row != RESERVE_ROW and (kind != COUNT or not unpack_count(row, record)):
                what = "a count of local writes" if kind == COUNT else "of no known kind"
                page.faults.append((self._bad(row, what), (row, record)))
        self._compare(txn, page)
        return page

    def _look_at_entry(self, row: bytes, record: bytes, page: _Page) -> None:
        entry = entry_in(self._algorithm, row, record)
        if entry is not None:
            page.entries.append(_CheckedRow(row, record, entry))
            return
        fault = self._bad(row, "an entry")
        key = key_in(row)
        if key is not None:
            fault = replace(fault, uri=key.uri, origin=key.origin)
        page.faults.append((fault, (row, record)))

    def _look_at_blob(self, txn: Txn, row: bytes, record: bytes, page: _Page) -> None:
        blob = _decoded(lambda: unpack_blob(row, record))
        digest = self._digest(row[1:])
        if blob is None or digest is None:
            page.faults.append((self._bad(row, "a blob"), (row, record)))
            return
        page.blobs.append(blob)
        if not txn.has(user_prefix(digest.value)):
            page.unused.append(((row, record), blob))

    def _look_at_user(self, txn: Txn, row: bytes, record: bytes, page: _Page) -> None:
        key = user_in(row, record)
        digest = self._digest(row[1:-16])
        if key is None or digest is None:
            page.faults.append((self._bad(row, "a user of a blob"), (row, record)))
            return
        found = txn.get(key.row_key)
        entry = None if found is None else entry_in(self._algorithm, key.row_key, found)
        if found is not None and entry is None:
            page.widows.append((row, record))
        if found is None or (entry is not None and (entry.key != key or entry.digest != digest)):
            detail = "it counts as in use by an entry that does not name it"
            page.faults.append((self._disagreement(digest, key, detail), (row, record)))

    def _compare(self, txn: Txn, page: _Page) -> None:
        """Hold a page's entries against the rows of their blobs and of their use."""
        rows: dict[bytes, None] = {}
        for seen in page.entries:
            rows[blob_row(seen.entry.digest.value)] = None
            rows[user_row(seen.entry.digest.value, seen.entry.key)] = None
        txn.prefetch(list(rows))
        for seen in page.entries:
            entry = seen.entry
            if txn.get(user_row(entry.digest.value, entry.key)) != entry.key.encoded:
                detail = "no row says that this entry uses its blob: a collection would take it away"
                page.faults.append((self._disagreement(entry.digest, entry.key, detail), (seen.row, seen.record)))
            row = blob_row(entry.digest.value)
            record = txn.get(row)
            seen.has_blob_row = record is not None
            blob = None if record is None else _decoded(partial(unpack_blob, row, record))
            if blob is not None and blob.size != entry.size:
                detail = f"the entry says {entry.size:,} bytes, the row of its blob {blob.size:,}"
                page.faults.append((self._disagreement(entry.digest, entry.key, detail), (seen.row, seen.record)))

    # --- rows and files ----------------------------------------------------------------------------------------------

    def _check_file(self, seen: _CheckedRow) -> tuple[Problem, Row] | None:
        """Whether an entry's blob is there, and has a row.

        A file that is missing is damage only if the entry was the same before and after it was looked for. A sweep
        takes away what no entry names, in a transaction, and a row that was dropped and made again has another moment
        of validation in it: the same record twice says that the entry was there all the time.
        """
        for _ in range(_ROUNDS):
            path = self._layout.blob(seen.entry.digest.value)
            try:
                is_there = self._is_there(path)
            except OSError as error:
                return self._fault(ProblemKind.UNREADABLE, path, reason(error), seen)
            if is_there and seen.has_blob_row:
                return None
            now = self._index.inspect(partial(self._look_again, seen=seen))
            if now is None:
                return None
            if now.record == seen.record and now.has_blob_row == seen.has_blob_row:
                if is_there:
                    detail = "its blob has no row: it is not counted, and never collected"
                    return self._fault(ProblemKind.ROWS_DISAGREE, path, detail, seen)
                return self._fault(ProblemKind.MISSING_BLOB, path, "reading it is a miss", seen)
            seen = now
        return None

    @staticmethod
    def _is_there(path: str) -> bool:
        try:
            os.stat(path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _look_again(self, txn: Txn, seen: _CheckedRow) -> _CheckedRow | None:
        record = txn.get(seen.row)
        entry = None if record is None else entry_in(self._algorithm, seen.row, record)
        if record is None or entry is None:
            return None
        return _CheckedRow(seen.row, record, entry, txn.get(blob_row(entry.digest.value)) is not None)

    # --- problems ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _fault(kind: ProblemKind, path: str, detail: str, seen: _CheckedRow) -> tuple[Problem, Row]:
        entry = seen.entry
        return Problem(kind, path, detail, entry.digest, entry.uri, entry.key.origin), (seen.row, seen.record)

    def _bad(self, row: bytes, what: str) -> Problem:
        detail = f"the row {row[:24].hex()}{'...' if len(row) > 24 else ''} ({what}) does not decode"
        return Problem(ProblemKind.BAD_RECORD, self._layout.index_file(self.generation), detail)

    def _disagreement(self, digest: Digest, key: Key, detail: str) -> Problem:
        return Problem(ProblemKind.ROWS_DISAGREE, self._layout.blob(digest.value), detail, digest, key.uri, key.origin)

    def _digest(self, value: bytes) -> Digest | None:
        return _decoded(lambda: Digest(self._algorithm, value))


def entry_in(algorithm: str, row: bytes, record: bytes) -> Entry | None:
    """The entry in a row, if it is one of this row and of a store with that algorithm."""
    entry = _decoded(lambda: unpack_entry(row, record))
    return entry if entry is not None and entry.key.row_key == row and entry.digest.algorithm == algorithm else None


def key_in(row: bytes) -> Key | None:
    """Whose entry a row is, whatever its record says; None where the row was cut."""
    key = _decoded(lambda: Key.parse(row[1:]))
    return key if key is not None and key.row_key == row else None


def user_in(row: bytes, record: bytes) -> Key | None:
    """The entry that a user's row means; None where it does not decode."""
    key = _decoded(lambda: Key.parse(record))
    return key if key is not None and row[-16:] == name_hash(record) else None


def _decoded(decode: Callable[[], Value]) -> Value | None:
    """What *decode* gives; None where the bytes cannot be that, whatever their checksum says."""
    try:
        return decode()
    except _UNDECODABLE:
        return None
