"""Check the bytes of blobs in doubt before they are opened; replace such a blob by an untouched copy, or remove it.

In doubt are blobs whose size or mtime was changed, those that a power cut may have damaged, and all on request. A
provider's checksum finds a blob once it was computed from that blob.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from casstore.blobs.blob_store import BlobModifiedError, BlobStore
from casstore.blobs.staging import Inode, Staging
from casstore.counters import Counters
from casstore.errors import StillBeingWrittenError
from casstore.format.digest import Digest, raw_hash
from casstore.format.keys import blob_row
from casstore.format.records import ChecksumRecord, Entry, ProviderChecksum, unpack_checksum
from casstore.fs import copying, files
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import current_blob, users_of
from casstore.index.transactions import Txn
from casstore.index.updates import ChecksumVerdict, TouchEntry
from casstore.leases.holder import LeaseHolder
from casstore.root import Root

if TYPE_CHECKING:
    from casstore.local.changes import ChangeRecorder

PROVABLE: Final = {"md5": "md5", "etag-md5": "md5", "sha1": "sha1", "sha256": "sha256"}
"""Kinds of checksums that can be computed from a blob, and how; others never link."""

_COLLISION_FREE: Final = frozenset(("sha256",))


class BlobChecker:
    """Finds, checks and quarantines the blobs of one store; thread-safe."""

    def __init__(
        self,
        root: Root,
        index: Index,
        blobs: BlobStore,
        committer: Committer,
        leases: LeaseHolder,
        changes: Callable[[], ChangeRecorder],
        counters: Counters,
    ) -> None:
        self._layout, self._settings, self._boot_mount = root.layout, root.settings, root.boot_mount
        self._index, self._blobs, self._committer = index, blobs, committer
        self._leases, self._changes, self._counters = leases, changes, counters

    def open(self, entry: Entry, *, verify: bool) -> int | None:
        """Return a descriptor of the entry's blob with right bytes, the caller's; None makes it a miss."""
        try:
            descriptor = self._blobs.open(entry.digest.value, entry.size)
        except FileNotFoundError:
            return None
        except BlobModifiedError:
            return self._recheck(entry)
        is_unsure = entry.written_on not in (0, self._boot_mount)
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
            self._counters.increment("failed_syncs")
        else:
            self._committer.submit(TouchEntry(entry, synced_inode=Inode.of(os.fstat(descriptor))))

    def _recheck(self, entry: Entry) -> int | None:
        """Replace a blob whose size or mtime changed by an untouched copy, if its bytes are right; else remove it."""
        with self._suspect(entry.digest, "what had its name is not a file") as descriptor:
            if descriptor is None:
                return None
            with contextlib.closing(self._leases.stage()) as staging:
                if not self._copy(descriptor, staging, entry.digest):
                    # While another process writes to it, its name stays, and readers bypass the store.
                    with contextlib.suppress(StillBeingWrittenError):
                        reason = "its size or mtime was changed, and its bytes are wrong"
                        self.quarantine(entry.digest, reason, descriptor)
                    return None
                if staging.size != entry.size:
                    return None  # the entry is wrong, not the blob
                self._replace(entry.digest, descriptor, staging)
                return files.reopen(staging.descriptor)

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
        """Replace an open blob that was touched by an untouched copy; False if its bytes are wrong."""
        with contextlib.closing(self._leases.stage()) as staging:
            is_right = self._copy(descriptor, staging, digest)
            if is_right:
                self._replace(digest, descriptor, staging)
            return is_right

    def _replace(self, digest: Digest, descriptor: int, staging: Staging) -> None:
        # Never set the mtime of an inode that another process may have open: a copy replaces it. The copy is synced,
        # since rows may say so of the file that it replaces.
        staging.finalize(digest)
        files.sync(staging.descriptor)
        temporary = self._layout.trashed(os.urandom(8).hex())
        staging.link(temporary)

        def rename(_: Txn) -> None:
            if self._blobs.inode(digest) == Inode.of(os.fstat(descriptor)):
                files.rename(temporary, self._layout.blob(digest.value))

        try:
            # Inside a write transaction, as publishing and sweeping are.
            self._index.write_once(rename)
        except FileNotFoundError:
            pass  # another process emptied the trash: the next open tries again
        finally:
            files.unlink_quietly(temporary)

    def quarantine_if_wrong(self, digest: Digest, reason: str) -> None:
        """Quarantine a blob that was closed since, if its bytes are wrong: another file may have its name by now."""
        with self._suspect(digest, reason) as descriptor:
            if descriptor is not None and not self._blobs.verify(descriptor, digest):
                self.quarantine(digest, reason, descriptor)

    @contextlib.contextmanager
    def _suspect(self, digest: Digest, reason: str) -> Iterator[int | None]:
        """Open the file with the name of a blob for the block, or None; quarantine anything else with that name."""
        descriptor = None
        try:
            descriptor = self._blobs.open_any(digest.value)
        except FileNotFoundError:
            pass
        except BlobModifiedError:
            self.quarantine(digest, reason)
        if descriptor is None:
            yield None
            return
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if not is_file:
                self.quarantine(digest, reason, descriptor)
            yield descriptor if is_file else None
        finally:
            os.close(descriptor)

    def quarantine(self, digest: Digest, reason: str, open_fd: int | None = None) -> None:
        """Remove a blob whose bytes are wrong; its entries become misses and are downloaded again.

        *open_fd* is the file that was found wrong, open, so that no other has its inode; nothing happens if the name
        is another file's by now. Bytes that were written through a view become local edits first. Raises
        StillBeingWrittenError while they are being written, StoreFullError.
        """
        inode = self._blobs.inode(digest)
        if open_fd is not None and inode != Inode.of(os.fstat(open_fd)):
            return
        is_edit = inode is not None and self.save_local_edits(digest)
        self._counters.increment("edited_blobs" if is_edit else "damaged_blobs")
        if inode is not None:
            self.remove(digest, inode, None if is_edit else reason)

    def remove(self, digest: Digest, inode: Inode, reason: str | None) -> str | None:
        """Move the file *inode* of a blob to the quarantine, with the *reason*; delete it if there is none.

        Return its path there; None if the name is another file's by now.
        """
        if reason is None:
            target = self._layout.trashed(os.urandom(8).hex())
        else:
            target = self._layout.quarantined(f"{digest.value.hex()}-{os.urandom(4).hex()}")
            files.create_synced(target + ".txt", f"{digest}: {reason}\n".encode())

        def move(txn: Txn) -> bool:
            # Between the look and this transaction a good blob may have taken the name.
            if self._blobs.inode(digest) != inode:
                return False
            txn.delete(blob_row(digest.value))
            files.rename(self._layout.blob(digest.value), target)
            return True

        is_moved = self._index.write_once(move)
        if reason is None:
            files.unlink_quietly(target)
        elif not is_moved:
            files.unlink_quietly(target + ".txt")
        return target if is_moved else None

    def save_local_edits(self, digest: Digest) -> bool:
        """Make pending writes of a blob's wrong bytes, if they were written through a view; False if they were not."""
        keys = [user.key for user in self._index.read(lambda txn: users_of(txn, digest.value)) if user.key is not None]
        try:
            return self._changes().record_linked(self._layout.blob(digest.value), keys)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # the disk cannot read them

    # --- by the checksums that providers state -----------------------------------------------------------------------

    def may_find_blob(self, stated: Iterable[ProviderChecksum]) -> bool:
        """Whether `find_blob` may find something: reads the index, opens and hashes nothing."""
        return any(item.kind in PROVABLE and self._index.get(item.row_key) is not None for item in stated)

    def find_blob(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        """Return a blob with the bytes that a provider states, and its descriptor, the caller's; None without one.

        Before the first link by a checksum, the blob is hashed by the provider's algorithm and must give that checksum.
        A blob that a power cut may have damaged proves nothing and is skipped.
        """
        found = self._find_proved(stated)
        if found is None or self._settings.verify != "always" or self._blobs.verify(found[1], found[0]):
            return found
        try:
            self.quarantine(found[0], "its bytes are not those of its name", found[1])
        finally:
            os.close(found[1])
        return None

    def _find_proved(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        for item in stated:
            record = self._index.get(item.row_key) if item.kind in PROVABLE else None
            found = None if record is None else unpack_checksum(item.row_key, record)
            if found is None:
                continue
            descriptor = self._open_known(found.digest, item.size)
            if descriptor is None:
                continue
            # An earlier proof is remembered by the digest, and another blob may have an equal one by now.
            is_proved = found.verified and (found.digest.is_cryptographic or item.kind not in _COLLISION_FREE)
            if is_proved or self._prove(item, found.digest, descriptor):
                return found.digest, descriptor
            os.close(descriptor)
        return None

    def _open_known(self, digest: Digest, size: int) -> int | None:
        known = current_blob(self._index, digest.value)
        if known is None or known.size != size or known.written_on not in (0, self._boot_mount):
            return None
        try:
            return self._blobs.open(digest.value, known.size)
        except (FileNotFoundError, BlobModifiedError):
            return None

    def _prove(self, stated: ProviderChecksum, digest: Digest, descriptor: int) -> bool:
        try:
            is_proved = raw_hash(descriptor, PROVABLE[stated.kind]).hex() == stated.value
        except BaseException:
            os.close(descriptor)
            raise
        self._committer.submit(ChecksumVerdict(stated, ChecksumRecord(digest, True) if is_proved else None))
        return is_proved
