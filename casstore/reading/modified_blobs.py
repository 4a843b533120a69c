"""A blob whose bytes somebody changed through a view that is a link of it: the bytes are his work, and are kept.

First the records, each with a copy of its own; whoever calls takes the blob's name away last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from casstore.blobs.blob_store import OPEN_FLAGS
from casstore.blobs.staging import Inode, Staging
from casstore.format.digest import Digest
from casstore.format.layout import Layout, LeaseLayout
from casstore.index.blob_users import users_of
from casstore.index.database import Index
from casstore.leases.edits import EditRecorder
from casstore.leases.scan import UnrecordedFile
from casstore.leases.views import View, read_manifest
from casstore.pending.store import Pending


class ModifiedBlobs:
    """Tells edits from damage. *owner* is the name of this process's lease, *stage* makes a staging file."""

    __slots__ = ("_index", "_layout", "_owner", "_stage")

    def __init__(self, layout: Layout, index: Index, stage: Callable[[], Staging], owner: Callable[[], str]) -> None:
        self._layout = layout
        self._index = index
        self._stage = stage
        self._owner = owner

    def save_local_edits(self, digest: Digest) -> bool:
        """Make pending writes of a blob's bytes, known to be wrong, where they are an edit: the file has other links,
        and its mtime is not as it was made. False where they are mere damage.

        Of the URIs that have views of it, or of all that use it where nobody knows of any; not where this very state is
        settled. Raises StillBeingWrittenError, StoreFullError.
        """
        try:
            descriptor = os.open(self._layout.blob(digest.value), OPEN_FLAGS)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
            is_made = status.st_mtime_ns == digest.mtime * 1_000_000_000
            if not stat.S_ISREG(status.st_mode) or status.st_nlink < 2 or is_made:
                return False
            self._keep(digest, descriptor, Inode.of(status))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # the disk cannot read them any more
        finally:
            os.close(descriptor)
        return True

    def _keep(self, digest: Digest, descriptor: int, inode: Inode) -> None:
        recorder = EditRecorder(Pending(self._layout), self._stage, self._owner())
        is_known = False
        for lease, found in self._views_of(inode):
            with contextlib.suppress(FileNotFoundError):  # released meanwhile
                recorder.record_file(lease, found)
                is_known = True
        if is_known:
            return
        for user in self._index.read(lambda txn: users_of(txn, digest.value)):
            entry = user.entry
            if entry is not None:
                recorder.record_bytes(entry.key, entry.validator, descriptor)

    def _views_of(self, inode: Inode) -> Iterator[tuple[LeaseLayout, UnrecordedFile]]:
        """The views, of any lease, that are that very file."""
        with os.scandir(self._layout.leases) as entries:
            leases = [LeaseLayout(entry.path) for entry in entries]
        for lease in leases:
            with contextlib.suppress(NotADirectoryError):
                said = read_manifest(lease)
                for name, handed in said.handed_out.items():
                    path = f"{lease.path}/{name}"
                    if isinstance(handed[-1], View) and handed[-1].inode == inode and Inode.at(path) == inode:
                        yield lease, UnrecordedFile(path, handed[-1], said.reconciled.get(name))
