"""Repair what a verification found: correct or drop rows, and quarantine damaged blobs.

Between a look and its repair anything may have happened: a reader found the same damage and downloaded the object
again, a collector evicted the blob. So each repair looks again inside the write transaction that acts: a row must have
the record that was seen, a name must be that of the file (device and inode) that was hashed. A damaged blob is removed
like any other, by `Removal`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import partial
from typing import Final

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.blobs.staging import Inode
from casstore.errors import CasstoreError
from casstore.eviction.removal import FIRST_BATCH, Removal, Selection
from casstore.format.digest import Digest
from casstore.format.keys import BLOB, ENTRY, USER, blob_row, user_prefix, user_row
from casstore.format.layout import Layout
from casstore.format.records import BlobRecord, Entry, pack_blob, unpack_blob
from casstore.fs import files
from casstore.index.blob_users import uris_of, users_of
from casstore.index.database import Index
from casstore.index.entries import current_blob, delete_entry
from casstore.index.transactions import Txn
from casstore.reading.blob_checker import BlobChecker
from casstore.root import Root
from casstore.verify.index_checks import Row, entry_in, key_in, reason, user_in
from casstore.verify.report import Repair

GONE: Final = Repair("another process has repaired it")

_NO_BYTES: Final = "its bytes are not those of its name"
_NO_FILE: Final = "what had its name is not a readable file"
_TRIES: Final = 3


class StoreRepairer:
    """Repairs one store; a `casstore.verify.report.Repairer`."""

    def __init__(self, root: Root, index: Index, blobs: BlobStore, checker: BlobChecker) -> None:
        self._layout, self._algorithm, self._boot_mount = root.layout, root.algorithm, root.boot_mount
        self._index, self._blobs, self._checker = index, blobs, checker

    # --- rows ---------------------------------------------------------------------------------------------------------

    def repair_rows(self, rows: Sequence[Row]) -> list[Repair]:
        """Correct, or drop, rows that were seen with these records."""
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
            row = blob_row(digest)
            txn.put(row, pack_blob(row, BlobRecord(status.st_size, self._boot_mount)))

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
        target = None
        if not self._checker.save_local_edits(digest):
            target = self._layout.quarantined(f"{digest.value.hex()}-{os.urandom(4).hex()}")
            files.create_synced(target + ".txt", f"{digest}: {why}\n".encode())
        removal = _DamagedBlob(self._index, self._layout, self._blobs, digest, inode, target)
        dropped: list[str] = []
        for _ in range(_TRIES):
            # A reader that found the name before its entries were dropped may have made another since: then once more.
            for _, uris, swept in removal.run([digest]):
                dropped += uris[digest.value]
                if swept:
                    action = "the blob was quarantined" if target else "its bytes are a local edit now"
                    return Repair(action, tuple(dict.fromkeys(dropped)), target)
            if self._blobs.inode(digest) != inode:
                break
        if target is not None:
            files.unlink_quietly(target + ".txt")
        is_gone = self._blobs.inode(digest) != inode
        action = GONE.action if is_gone else f"not repaired: still in use after {_TRIES} attempts"
        return Repair(action, tuple(dict.fromkeys(dropped)), is_done=is_gone)

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


class _DamagedBlob(Removal[Digest]):
    """Removes one file, and the entries that use it."""

    def __init__(
        self, index: Index, layout: Layout, blobs: BlobStore, digest: Digest, inode: Inode, target: str | None
    ) -> None:
        super().__init__(index, layout, target)
        self._blobs, self._digest, self._inode = blobs, digest, inode

    def select(self, txn: Txn, batch: Sequence[Digest]) -> Selection:
        value = self._digest.value
        selection = Selection(uris={value: []})
        if _is_same(self._blobs.inode(self._digest), self._inode):
            for user in users_of(txn, value):
                selection.rows.append(user.row)
                if user.key is not None:
                    selection.rows.append(user.key.row_key)
                    selection.uris[value].append(user.key.uri)
            # Without this row, the name is not taken for that of checked bytes.
            selection.rows.append(blob_row(value))
        return selection

    def may_sweep(self, digest: bytes, status: os.stat_result) -> bool:
        return _is_same(Inode.of(status), self._inode)


def _is_as_seen(txn: Txn, row: bytes, record: bytes) -> bool:
    """Whether a row still has the record that was seen."""
    return txn.get(row) == record


def _is_same(found: Inode | None, inode: Inode) -> bool:
    """Whether a name is still that of the file that was looked at."""
    return found == inode


def _failed(error: Exception) -> Repair:
    return Repair(f"not repaired: {reason(error)}", is_done=False)
