"""Repairs of what a verification found: rows are put right or dropped, blobs that are wrong go to quarantine.

Between a look and its repair anything may have happened: a reader found the same damage and fetched the object again, a
collector took the blob away. So each repair looks again inside the write transaction that acts: a row must have the
record that was seen, a name must mean the file (device and inode) that was hashed. Rows are dropped, and that is
committed, before a file is moved, and the collector's own sweep moves it: whoever is killed in between leaves a blob
that nobody uses, never an entry without its blob.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.blobs.staging import Inode
from casstore.errors import CasstoreError
from casstore.eviction.collector import FIRST_BATCH, sweep
from casstore.format.digest import Digest
from casstore.format.keys import BLOB, ENTRY, USER, blob_row, user_prefix, user_row
from casstore.format.layout import Layout
from casstore.format.records import BlobRecord, Entry, pack_blob, unpack_blob
from casstore.fs import files
from casstore.index.blob_users import users_of
from casstore.index.database import Index
from casstore.index.entries import delete_entry
from casstore.index.transactions import Txn
from casstore.reading.blob_checker import BlobChecker
from casstore.verify.index_checks import Row, entry_in, key_in, reason, user_in
from casstore.verify.report import Repair

GONE: Final = Repair("somebody else has dealt with it")

_NO_BYTES: Final = "its bytes are not those of its name"
_NO_FILE: Final = "what had its name was no file to read"
_TRIES: Final = 3


class StoreRepairer:
    """The repairing side of one store in this process; a `casstore.findings.Mender`."""

    def __init__(
        self, layout: Layout, index: Index, blobs: BlobStore, checks: BlobChecker, algorithm: str, place: int
    ) -> None:
        self._layout = layout
        self._index = index
        self._blobs = blobs
        self._checks = checks
        self._algorithm = algorithm
        self._place = place

    # --- rows ---------------------------------------------------------------------------------------------------------

    def repair_rows(self, rows: Sequence[Row]) -> list[Repair]:
        """Put right, or drop, rows that were seen with these records."""
        done: list[Repair] = []
        for start in range(0, len(rows), FIRST_BATCH):
            batch = rows[start : start + FIRST_BATCH]
            try:
                done += self._index.write(partial(self._repair_batch, batch=batch))
            except (CasstoreError, OSError) as error:
                done += [_failed(error)] * len(batch)
        return done

    def _repair_batch(self, txn: Txn, batch: Sequence[Row]) -> list[Repair]:
        return [self._repair_row(txn, *row) for row in batch]

    def _repair_row(self, txn: Txn, row: bytes, record: bytes) -> Repair:
        if not _is_as_seen(txn, row, record):
            return GONE
        try:
            if row[:1] == ENTRY and (entry := entry_in(self._algorithm, row, record)) is not None:
                return self._repair_entry(txn, entry)
            if row[:1] == BLOB and len(row) > 1:
                return self._repair_blob_row(txn, row, record)
            if row[:1] == USER and (key := user_in(row, record)) is not None:
                found = txn.get(key.row_key)
                entry = None if found is None else entry_in(self._algorithm, key.row_key, found)
                if entry is not None and entry.key == key and user_row(entry.digest.value, key) == row:
                    return GONE
                txn.delete(row)
                return Repair("the row was dropped", (key.uri,))
        except OSError as error:
            return _failed(error)
        key = key_in(row) if row[:1] == ENTRY else None
        txn.delete(row)
        return Repair("the row was dropped", () if key is None else (key.uri,))

    def _repair_entry(self, txn: Txn, entry: Entry) -> Repair:
        """An entry stays, and its blob's row is made anew, if a file of its size is there and counts it as its user.

        Without that second row, nobody knows which of the two is of another time; a miss is always right.
        """
        digest = entry.digest.value
        status = self._look(digest)
        is_used = txn.get(user_row(digest, entry.key)) == entry.key.encoded
        if status is None or status.st_size != entry.size or not stat.S_ISREG(status.st_mode) or not is_used:
            delete_entry(txn, entry)
            if status is None and not txn.has(user_prefix(digest)):
                txn.delete(blob_row(digest))
            return Repair("the entry was dropped", (entry.uri,))
        self._put_blob_row(txn, digest, status)
        return Repair("the row of its blob was made anew", (entry.uri,))

    def _repair_blob_row(self, txn: Txn, row: bytes, record: bytes) -> Repair:
        digest = row[1:]
        status = self._look(digest)
        if status is not None and stat.S_ISREG(status.st_mode):
            self._put_blob_row(txn, digest, status)
            return Repair("the row was made anew")
        if txn.has(user_prefix(digest)) and unpack_blob(row, record) is not None:
            return GONE
        txn.delete(row)
        return Repair("the row was dropped")

    def _put_blob_row(self, txn: Txn, digest: bytes, status: os.stat_result) -> None:
        """Make the row say the file's size, if it does not; then also that nobody knows whether the disk has it."""
        row = blob_row(digest)
        record = txn.get(row)
        known = None if record is None else unpack_blob(row, record)
        if known is None or known.size != status.st_size:
            txn.put(row, pack_blob(row, BlobRecord(status.st_size, self._place)))

    def _look(self, digest: bytes) -> os.stat_result | None:
        try:
            return os.lstat(self._layout.blob(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None

    # --- blobs --------------------------------------------------------------------------------------------------------

    def repair_blob(self, digest: Digest) -> Repair:
        """Look at whatever has that blob's name, and put it right or take it away."""
        try:
            return self._repair_blob(digest)
        except (CasstoreError, OSError) as error:
            return _failed(error)

    def _repair_blob(self, digest: Digest) -> Repair:
        inode = self._blobs.inode(digest)
        try:
            descriptor = self._blobs.open_any(digest.value)
        except FileNotFoundError:
            return GONE
        except BlobModifiedError:
            return GONE if inode is None else self._take_away(digest, inode, _NO_FILE)
        try:
            status = os.fstat(descriptor)
            # It is open until the end, so that no other file can have its inode.
            inode = Inode.of(status)
            if not stat.S_ISREG(status.st_mode):
                return self._take_away(digest, inode, _NO_FILE)
            if not self._blobs.verify(descriptor, digest):
                return self._take_away(digest, inode, _NO_BYTES)
            is_touched = status.st_mtime_ns != digest.mtime * 1_000_000_000 or stat.S_IMODE(status.st_mode) != 0o444
            if is_touched and not self._checks.replace_with_copy(digest, descriptor):
                return self._take_away(digest, inode, _NO_BYTES)
            return self._repair_size(digest, is_touched=is_touched)
        finally:
            os.close(descriptor)

    def _repair_size(self, digest: Digest, *, is_touched: bool) -> Repair:
        """Its bytes are right; the row may say another size."""

        def put_right(txn: Txn) -> bool:
            row = blob_row(digest.value)
            before, status = txn.get(row), self._look(digest.value)
            if before is not None and status is not None and stat.S_ISREG(status.st_mode):
                self._put_blob_row(txn, digest.value, status)
            return txn.get(row) != before

        if self._index.write(put_right):
            return Repair("its row was put right", self._uris(digest))
        return Repair("an untouched copy has taken its place", self._uris(digest)) if is_touched else GONE

    def _uris(self, digest: Digest) -> tuple[str, ...]:
        users = self._index.read(lambda txn: users_of(txn, digest.value))
        return tuple(user.key.uri for user in users if user.key is not None)

    def _take_away(self, digest: Digest, inode: Inode, why: str) -> Repair:
        """Drop the entries of a damaged blob, and commit; then move the file. Edits made through a view are kept."""
        is_edit = self._checks.save_local_edits(digest)
        target = None
        if not is_edit:
            target = self._layout.quarantined(f"{digest.value.hex()}-{os.urandom(4).hex()}")
            files.create_synced(target + ".txt", f"{digest}: {why}\n".encode())
        uris: list[str] = []
        for _ in range(_TRIES):
            uris += self._index.write(self._dropping(digest, inode))
            # Whoever met the name before its entries went may have made another since: then once more.
            swept = sweep(
                self._index, self._layout, [digest.value], lambda _, status: _is_same(Inode.of(status), inode), target
            )
            if swept:
                action = "the blob was quarantined" if target else "its bytes are a local edit now"
                return Repair(action, tuple(dict.fromkeys(uris)), target)
            if self._blobs.inode(digest) != inode:
                break
        if target is not None:
            files.unlink_quietly(target + ".txt")
        if self._blobs.inode(digest) != inode:
            return Repair(GONE.action, tuple(dict.fromkeys(uris)))
        return Repair("not mended: it comes back into use again and again", tuple(dict.fromkeys(uris)), is_done=False)

    def _dropping(self, digest: Digest, inode: Inode) -> Callable[[Txn], list[str]]:
        def drop(txn: Txn) -> list[str]:
            if not _is_same(self._blobs.inode(digest), inode):
                return []
            uris = []
            for user in users_of(txn, digest.value):
                txn.delete(user.row)
                if user.key is not None:
                    txn.delete(user.key.row_key)
                    uris.append(user.key.uri)
            # Without it nobody takes the name for that of bytes that were checked.
            txn.delete(blob_row(digest.value))
            return uris

        return drop

    def adopt(self, digest: Digest, size: int) -> bool:
        """Give a blob with right bytes and no row a row, so that it is counted; whether it has one now.

        It may be a publication in flight, which finds the row and puts its own.
        """

        def put(txn: Txn) -> bool:
            status = self._look(digest.value)
            is_as_made = (
                status is not None
                and stat.S_ISREG(status.st_mode)
                and (status.st_size, status.st_mtime_ns) == (size, digest.mtime * 1_000_000_000)
            )
            if status is None or not is_as_made:
                return False
            self._put_blob_row(txn, digest.value, status)
            return True

        try:
            return self._index.write(put)
        except (CasstoreError, OSError):
            return False

    # --- the index ----------------------------------------------------------------------------------------------------

    def replace_index(self) -> Repair:
        """Begin a new index after one that is damaged or gone, and mend the hint at it."""
        try:
            number = self._index.replace_damaged()
        except (CasstoreError, OSError) as error:
            return _failed(error)
        return Repair(f"generation {number} serves now; every blob is kept")


def _is_as_seen(txn: Txn, row: bytes, record: bytes) -> bool:
    """Whether a row still says what it was judged by."""
    return txn.get(row) == record


def _is_same(found: Inode | None, inode: Inode) -> bool:
    """Whether a name still means the file that was looked at."""
    return found == inode


def _failed(error: Exception) -> Repair:
    return Repair(f"not mended: {reason(error)}", is_done=False)
