"""Blobs in doubt: opened only after their bytes were checked; replaced by an untouched copy, or taken away.

In doubt are blobs whose size or mtime is not as it was made, those that a power cut may have damaged, and, for whoever
wants that, all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.blobs.staging import Inode, Staging
from casstore.errors import StillBeingWrittenError
from casstore.format.digest import Digest
from casstore.format.keys import blob_row
from casstore.format.layout import Layout
from casstore.format.records import Entry
from casstore.fs import copying, files
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.updates import TouchEntry


class BlobChecker:
    """The checking side of one store in this process; thread-safe. *stage* makes a staging file, *count* counts,
    *owner* tells the name of this process's lease.
    """

    __slots__ = ("_blobs", "_committer", "_count", "_index", "_layout", "_owner", "_place", "_stage")

    def __init__(
        self,
        layout: Layout,
        index: Index,
        blobs: BlobStore,
        committer: Committer,
        place: int,
        stage: Callable[[], Staging],
        count: Callable[[str], None],
        owner: Callable[[], str],
    ) -> None:
        self._layout = layout
        self._index = index
        self._blobs = blobs
        self._committer = committer
        self._place = place
        self._stage = stage
        self._count = count
        self._owner = owner

    def open(self, entry: Entry, *, verify: bool) -> int | None:
        """A descriptor of the entry's blob with right bytes, the caller's; None makes it a miss."""
        try:
            descriptor = self._blobs.open(entry.digest.value, entry.size)
        except FileNotFoundError:
            return None
        except BlobModifiedError:
            return self._recheck(entry)
        is_unsure = entry.written_on not in (0, self._place)
        if not verify and not is_unsure:
            return descriptor
        try:
            if not self._blobs.verify(descriptor, entry.digest):
                self.quarantine(entry.digest, "its bytes are not those of its name", descriptor)
                os.close(descriptor)
                return None
            if is_unsure:
                self._sync(entry, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _sync(self, entry: Entry, descriptor: int) -> None:
        # Checked bytes, then synced: only the two together say that the disk has them.
        try:
            files.sync(descriptor)
        except OSError:
            self._count("failed_syncs")
        else:
            self._committer.submit(TouchEntry(entry, synced_inode=Inode.of(os.fstat(descriptor))))

    def _recheck(self, entry: Entry) -> int | None:
        """A blob tripped the wire: if its bytes are right, put an untouched copy in its place, else take it away."""
        path = self._layout.blob(entry.digest.value)
        try:
            descriptor = self._blobs.open_any(entry.digest.value)
        except FileNotFoundError:
            return None
        except BlobModifiedError:
            self.quarantine(entry.digest, "what had its name was no file to read")
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            try:
                self.quarantine(entry.digest, "what had its name was no file", descriptor)
            finally:
                os.close(descriptor)
            return None
        try:
            staging = self._stage()
        except BaseException:
            os.close(descriptor)
            raise
        try:
            inode = Inode.of(os.fstat(descriptor))
            if not self._copy(descriptor, staging, entry.digest):
                # While somebody writes to it, its name stays, and readers do without the store.
                with contextlib.suppress(StillBeingWrittenError):
                    self.quarantine(entry.digest, "its size or mtime was changed, and its bytes are wrong", descriptor)
                return None
            if staging.size != entry.size:
                return None  # the entry is wrong, not the blob
            self._replace(path, inode, staging, entry.digest)
            return files.reopen(staging.descriptor)
        finally:
            os.close(descriptor)
            staging.close()

    @staticmethod
    def _copy(source: int, staging: Staging, digest: Digest) -> bool:
        try:
            copying.copy_bytes(source, staging.descriptor)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return staging.rehash() == digest

    def replace_with_copy(self, digest: Digest, descriptor: int) -> bool:
        """Put an untouched copy in the place of an open blob that was touched; False where its bytes are wrong."""
        staging = self._stage()
        try:
            if not self._copy(descriptor, staging, digest):
                return False
            self._replace(self._layout.blob(digest.value), Inode.of(os.fstat(descriptor)), staging, digest)
            return True
        finally:
            staging.close()

    def _replace(self, path: str, inode: Inode, staging: Staging, digest: Digest) -> None:
        # The mtime of an inode that somebody may hold open is never set: the copy takes its place. It is synced, since
        # rows may say so of the file that it replaces.
        staging.finalize(digest)
        files.sync(staging.descriptor)
        temporary = self._layout.trashed(os.urandom(8).hex())
        staging.link(temporary)
        try:
            # Inside a write transaction, like whoever publishes or sweeps it.
            with self._index.writing():
                if self._blobs.inode(digest) == inode:
                    files.rename(temporary, path)
        except FileNotFoundError:
            pass  # somebody emptied the trash: whoever opens the blob next tries again
        finally:
            files.unlink_quietly(temporary)

    def quarantine_if_wrong(self, digest: Digest, reason: str) -> None:
        """`quarantine` for whoever has closed what he met: another file may have the name by now."""
        try:
            descriptor = self._blobs.open_any(digest.value)
        except FileNotFoundError:
            return
        except BlobModifiedError:
            self.quarantine(digest, reason)
            return
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if not is_file or not self._blobs.verify(descriptor, digest):
                self.quarantine(digest, reason, descriptor)
        finally:
            os.close(descriptor)

    def quarantine(self, digest: Digest, reason: str, open_fd: int | None = None) -> None:
        """Take a blob whose bytes are wrong out of the store; its entries become misses and are filled again.

        *met* is the file that was found wrong, open, so that no other has its inode; nothing happens where the name
        means another file by now. Where somebody wrote the bytes through a view, they become local edits first. Raises
        StillBeingWrittenError where he is at it, StoreFullError.
        """
        inode = self._blobs.inode(digest)
        if open_fd is not None and inode != Inode.of(os.fstat(open_fd)):
            return
        if inode is not None and self.save_local_edits(digest):
            self._count("edited_blobs")
            self._remove(digest, inode)
            return
        self._count("damaged_blobs")
        if inode is None:
            return
        target = self._layout.quarantined(f"{digest.value.hex()}-{os.urandom(4).hex()}")
        files.create_synced(target + ".txt", f"{digest}: {reason}\n".encode())
        with self._index.writing() as txn:
            # Between the look and this transaction a good blob may have taken the name.
            if self._blobs.inode(digest) == inode:
                txn.delete(blob_row(digest.value))
                files.rename(self._layout.blob(digest.value), target)

    def save_local_edits(self, digest: Digest) -> bool:
        """Make local edits of a blob's wrong bytes, where somebody wrote them through a view:
        `ModifiedBlobs.save_local_edits`.
        """
        from casstore.reading.modified_blobs import ModifiedBlobs  # few processes ever need it

        return ModifiedBlobs(self._layout, self._index, self._stage, self._owner).save_local_edits(digest)

    def _remove(self, digest: Digest, inode: Inode) -> None:
        """Take the name away from a blob whose bytes are kept as edits."""
        target = self._layout.trashed(os.urandom(8).hex())
        with self._index.writing() as txn:
            if self._blobs.inode(digest) == inode:
                txn.delete(blob_row(digest.value))
                files.rename(self._layout.blob(digest.value), target)
        files.unlink_quietly(target)
