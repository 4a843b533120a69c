"""One transaction of the index: the LMDB calls that the rest of the package uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import lmdb


class Txn:
    """A transaction: get, put, delete, scan.

    LMDB calls release the interpreter's lock, and get it back late beside busy threads. So `prefetch` reads rows in one
    call, and `flush` writes all puts in one at the end.
    """

    __slots__ = ("_cursor", "_puts", "_records", "_txn")

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn
        self._records: dict[bytes, bytes | None] = {}
        self._puts: dict[bytes, bytes] = {}
        self._cursor: lmdb.Cursor | None = None

    def get(self, row: bytes) -> bytes | None:
        if row in self._records:
            return self._records[row]
        return cast("bytes | None", self._txn.get(row))  # no buffers=True: never a memoryview

    def prefetch(self, rows: Sequence[bytes]) -> None:
        """Read all *rows* for later `get` calls."""
        self._records.update(dict.fromkeys(rows))
        self._records.update(cast("list[tuple[bytes, bytes]]", self._open_cursor().getmulti(rows)))

    def put(self, row: bytes, record: bytes) -> None:
        """Set the record: for `get` at once, in LMDB at `flush`."""
        self._records[row] = self._puts[row] = record

    def delete(self, row: bytes) -> None:
        self._puts.pop(row, None)
        self._records[row] = None
        self._txn.delete(row)

    def flush(self) -> None:
        """Write all puts. Called before the commit, and before a scan."""
        if self._puts:
            puts, self._puts = self._puts, {}
            self._open_cursor().putmulti(list(puts.items()))

    def has(self, prefix: bytes) -> bool:
        """Return whether a row with *prefix* existed at the last `flush`."""
        cursor = self._open_cursor()
        return cursor.set_range(prefix) and cast("bytes", cursor.key()).startswith(prefix)

    def _open_cursor(self) -> lmdb.Cursor:
        if self._cursor is None:
            self._cursor = self._txn.cursor()
        return self._cursor

    def scan(self, prefix: bytes, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to *limit* rows with *prefix* from *start*, in order."""
        self.flush()
        rows: list[tuple[bytes, bytes]] = []
        cursor = self._txn.cursor()
        if cursor.set_range(start):
            for pair in islice(cast("Iterator[tuple[bytes, bytes]]", cursor), limit):
                if not pair[0].startswith(prefix):
                    break
                rows.append(pair)
        if rows and rows[-1][0] < start:
            # A caller that continues after the last row would never end.
            raise lmdb.CorruptedError("rows are out of order")
        return rows

    def count(self) -> int:
        return int(self._txn.stat()["entries"])
