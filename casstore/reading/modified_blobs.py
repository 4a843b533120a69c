"""Save the bytes of a blob that were edited through a view that is a link to it.

First the records, each with a copy of its own; the caller removes the blob's name last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from casstore.blobs.blob_store import OPEN_FLAGS
from casstore.blobs.staging import Inode
from casstore.format.digest import Digest
from casstore.format.layout import Layout, LeaseLayout
from casstore.index.database import Index
from casstore.index.entries import users_of
from casstore.leases.edits import EditRecorder
from casstore.leases.holder import LeaseHolder
from casstore.leases.scan import UnrecordedFile
from casstore.leases.views import View, read_manifest
from casstore.pending.store import Pending


def save_local_edits(layout: Layout, index: Index, leases: LeaseHolder, digest: Digest) -> bool:
    """Make pending writes of a blob's bytes, known to be wrong, if they are an edit: the file has other links, and its
    mtime was changed. False if they are damage.

    The writes are of the URIs that have views of it, or of all that use it if no view is known; none is made for a
    state that is recorded already. Raises StillBeingWrittenError, StoreFullError.
    """
    try:
        descriptor = os.open(layout.blob(digest.value), OPEN_FLAGS)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        is_made = status.st_mtime_ns == digest.mtime * 1_000_000_000
        if not stat.S_ISREG(status.st_mode) or status.st_nlink < 2 or is_made:
            return False
        recorder = EditRecorder(Pending(layout), leases.stage, leases.get().name)
        if not _record_views(layout, recorder, Inode.of(status)):
            for user in index.read(lambda txn: users_of(txn, digest.value)):
                entry = user.entry
                if entry is not None:
                    recorder.record_bytes(entry.key, entry.validator, descriptor)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False  # the disk cannot read them
    finally:
        os.close(descriptor)
    return True


def _record_views(layout: Layout, recorder: EditRecorder, inode: Inode) -> bool:
    """Record the edit for each view, in any lease, that is this very file; whether there was one."""
    is_known = False
    for lease in [LeaseLayout(layout.lease(name)) for name in os.listdir(layout.leases)]:
        try:
            manifest = read_manifest(lease)
        except NotADirectoryError:
            continue
        for name, (*_, view) in manifest.handed_out.items():
            path = f"{lease.path}/{name}"
            if isinstance(view, View) and view.state.inode == inode and Inode.at(path) == inode:
                with contextlib.suppress(FileNotFoundError):  # released meanwhile
                    recorder.record_file(lease, UnrecordedFile(path, view, manifest.reconciled.get(name)))
                    is_known = True
    return is_known
