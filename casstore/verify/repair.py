"""Repair what a verification found: correct or drop rows, and quarantine damaged blobs.

Between a look and its repair anything may have happened: a reader found the same damage and downloaded the object
again, a collector evicted the blob. So each repair looks again inside the write transaction that acts: a row must have
the record that was seen, a name must be that of the file (device and inode) that was hashed.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.blobs.staging import Inode
from casstore.errors import CasstoreError
from casstore.format.digest import Digest, name_hash
from casstore.format.keys import BLOB, ENTRY, USER, Key, blob_row, user_prefix, user_row
from casstore.format.records import BlobRecord, Entry, unpack_blob, unpack_entry
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.entries import current_blob, delete_entry, drop_users, put_blob, uris_of
from casstore.index.transactions import Txn
from casstore.reading.blob_checker import BlobChecker
from casstore.root import Root
from casstore.verify.report import Repair

Value = TypeVar("Value")
Row = tuple[bytes, bytes]
"""A key and its record."""

GONE: Final = Repair("another process has repaired it")

_NO_BYTES: Final = "its bytes are not those of its name"
_NO_FILE: Final = "what had its name is not a readable file"
_BATCH: Final = 64
"""Rows in one write transaction."""
_UNDECODABLE: Final = (struct.error, LookupError, ValueError)


class StoreRepairer:
    """Repairs one store. Each method looks again, inside a transaction, before it changes anything."""

    def __init__(self, root: Root, index: Index, blobs: BlobStore, checker: BlobChecker) -> None:
        self._layout, self._algorithm, self._boot_mount = root.layout, root.algorithm, root.boot_mount
        self._index, self._blobs, self._checker = index, blobs, checker

    # --- rows ---------------------------------------------------------------------------------------------------------

    def repair_rows(self, rows: Sequence[Row]) -> list[Repair]:
        """Correct, or drop, rows that were seen with these records."""
        done: list[Repair] = []
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
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
        key = None
        try:
            if row[:1] == ENTRY:
                entry = entry_in(self._algorithm, row, record)
                if entry is not None:
                    return self._repair_entry(txn, entry)
                key = key_in(row)
            elif row[:1] == BLOB and len(row) > 1:
                return self._repair_blob_row(txn, row, record)
            elif row[:1] == USER and (key := user_in(row, record)) is not None:
                found = txn.get(key.row_key)
                entry = None if found is None else entry_in(self._algorithm, key.row_key, found)
                if entry is not None and entry.key == key and user_row(entry.digest.value, key) == row:
                    return GONE
        except OSError as error:
            return _failed(error)
        txn.delete(row)
        return Repair("the row was dropped", () if key is None else (key.uri,))

    def _repair_entry(self, txn: Txn, entry: Entry) -> Repair:
        """Keep an entry, and make its blob's row anew, if a file of its size exists and has a row of this user.

        Without that second row, either of the two may be outdated; a miss is always right.
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
        """Correct the size in the row; then the row also says that the file may not be synced."""
        known = current_blob(txn, digest)
        if known is None or known.size != status.st_size:
            put_blob(txn, digest, BlobRecord(status.st_size, self._boot_mount))

    def _look(self, digest: bytes) -> os.stat_result | None:
        try:
            return os.lstat(self._layout.blob(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None

    # --- blobs --------------------------------------------------------------------------------------------------------

    def repair_blob(self, digest: Digest) -> Repair:
        """Look at the file with that blob's name, and repair or remove it."""
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
            return GONE if inode is None else self._remove(digest, inode, _NO_FILE)
        try:
            status = os.fstat(descriptor)
            # It is open until the end, so that no other file can have its inode.
            inode = Inode.of(status)
            if not stat.S_ISREG(status.st_mode):
                return self._remove(digest, inode, _NO_FILE)
            if not self._blobs.verify(descriptor, digest):
                return self._remove(digest, inode, _NO_BYTES)
            is_touched = status.st_mtime_ns != digest.mtime * 1_000_000_000 or stat.S_IMODE(status.st_mode) != 0o444
            is_touched = is_touched or status.st_uid != os.geteuid()
            if is_touched and not self._checker.replace_with_copy(digest, descriptor):
                return self._remove(digest, inode, _NO_BYTES)
            return self._repair_size(digest, is_touched=is_touched)
        finally:
            os.close(descriptor)

    def _repair_size(self, digest: Digest, *, is_touched: bool) -> Repair:
        """Correct the size in the row of a blob whose bytes are right."""

        def correct(txn: Txn) -> bool:
            row = blob_row(digest.value)
            before, status = txn.get(row), self._look(digest.value)
            if before is not None and status is not None and stat.S_ISREG(status.st_mode):
                self._put_blob_row(txn, digest.value, status)
            return txn.get(row) != before

        is_corrected = self._index.write(correct)
        if not is_corrected and not is_touched:
            return GONE
        action = "its row was corrected" if is_corrected else "an untouched copy has taken its place"
        return Repair(action, uris_of(self._index, digest.value))

    def _remove(self, digest: Digest, inode: Inode, why: str) -> Repair:
        """Drop the entries of a damaged blob, and commit; then move the file. Edits made through a view are saved."""
        is_edit = self._checker.save_local_edits(digest)

        def drop_entries(txn: Txn) -> list[str]:
            if not _is_same(self._blobs.inode(digest), inode):
                return []
            # Without this row, the name is not taken for that of checked bytes.
            txn.delete(blob_row(digest.value))
            return drop_users(txn, digest.value)

        uris = tuple(dict.fromkeys(self._index.write(drop_entries)))
        target = self._checker.remove(digest, inode, None if is_edit else why)
        if target is None:
            return Repair(GONE.action, uris)
        if is_edit:
            return Repair("its bytes are a local edit now", uris)
        return Repair("the blob was quarantined", uris, target)

    def adopt(self, digest: Digest, size: int) -> bool:
        """Give a blob with right bytes and no row a row, so that it is counted; whether it has one now.

        It may be a publication in flight, which finds the row and writes its own.
        """

        def put(txn: Txn) -> bool:
            status = files.lstat_regular(self._layout.blob(digest.value))
            as_made = (size, digest.mtime * 1_000_000_000)
            if status is None or (status.st_size, status.st_mtime_ns) != as_made:
                return False
            self._put_blob_row(txn, digest.value, status)
            return True

        try:
            return self._index.write(put)
        except (CasstoreError, OSError):
            return False

    # --- the index ----------------------------------------------------------------------------------------------------

    def replace_index(self) -> Repair:
        """Begin a new index after one that is damaged or gone, and correct the file that names it."""
        try:
            number = self._index.replace_damaged()
        except (CasstoreError, OSError) as error:
            return _failed(error)
        return Repair(f"generation {number} serves now; every blob is kept")


def _is_as_seen(txn: Txn, row: bytes, record: bytes) -> bool:
    """Whether a row still has the record that was seen."""
    return txn.get(row) == record


def _is_same(found: Inode | None, inode: Inode) -> bool:
    """Whether a name is still that of the file that was looked at."""
    return found == inode


def _failed(error: Exception) -> Repair:
    return Repair(f"not repaired: {reason(error)}", is_done=False)


def reason(error: BaseException) -> str:
    """Return the text of *error* without the path, which the problem contains."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def entry_in(algorithm: str, row: bytes, record: bytes | None) -> Entry | None:
    """Return the entry in a row; None if it is missing, damaged, or of another row or algorithm."""
    entry = decoded(lambda: unpack_entry(row, record))
    return entry if entry is not None and entry.key.row_key == row and entry.digest.algorithm == algorithm else None


def key_in(row: bytes) -> Key | None:
    """Return the key of an entry's row; None if the row was truncated."""
    key = decoded(lambda: Key.parse(row[1:]))
    return key if key is not None and key.row_key == row else None


def user_in(row: bytes, record: bytes) -> Key | None:
    """Return the entry that a user's row names; None if it does not decode."""
    key = decoded(lambda: Key.parse(record))
    return key if key is not None and row[-16:] == name_hash(record) else None


def decoded(decode: Callable[[], Value]) -> Value | None:
    """Return what *decode* returns; None if the bytes do not decode, although their checksum may be right."""
    try:
        return decode()
    except _UNDECODABLE:
        return None
