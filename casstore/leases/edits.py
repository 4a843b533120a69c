"""Turn local edits, and files that tools left, into pending writes.

The bytes are copied and hashed from the copy, and the file must be the same before and after. The record is synced
first. Then the lease's list marks this state of the file as reconciled, so that no process records it again: not this
one, at its exit neither, nor one that reaps its lease, even after the record was pushed or dropped. The record of an
older state of the same file is deleted last. If two processes record one state at once (every reader notices an edited
blob), both find the other's record afterwards and keep the older one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from casstore.blobs.blob_store import OPEN_FLAGS, BlobStore
from casstore.blobs.staging import Staging
from casstore.errors import CasstoreError, StillBeingWrittenError
from casstore.format.digest import Digest, strong_digest
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout
from casstore.format.records import Validator
from casstore.fs import files
from casstore.leases.proof import has_bytes
from casstore.leases.scan import UnrecordedFile
from casstore.leases.views import (
    DraftPath,
    FileState,
    PathKind,
    Reconciled,
    View,
    append_line,
    path_in_lease,
    recorded_digests,
)
from casstore.pending.records import Condition, PendingState, PendingWrite
from casstore.pending.store import Pending

REASON_EDITED: Final = "its local copy was changed outside the API"
REASON_LEFT: Final = "a file was put at its local path and never uploaded"
_UNFINISHED: Final = "an edit was never finished"
_TICK_NS: Final = 20_000_000
"""Resolution of kernels' mtimes (1 to 10 ms), doubled: two closer writes may leave the same mtime."""
_REPLACEABLE: Final = frozenset((PendingState.EDIT, PendingState.INCOMPLETE))
"""States of records that a newer record of the same file replaces. In other states, a process is handling it."""


@contextlib.contextmanager
def stable_read(path: str) -> Iterator[tuple[int, FileState]]:
    """Open the file at *path* for reading and yield its state, which must be the same at the end of the block.

    Raises: StillBeingWrittenError if it is not, OSError if it is not a regular file.
    """
    with files.opened(path, OPEN_FLAGS) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file: it cannot be recorded", path)
        state = FileState.of(status)
        age = time.time_ns() - state.mtime_ns
        if 0 <= age < _TICK_NS:
            # A write of the same size in this tick would not change the mtime.
            time.sleep((_TICK_NS - age) / 1e9)
        yield descriptor, state
        with contextlib.suppress(FileNotFoundError):
            if FileState.of(os.stat(path, follow_symlinks=False)) == state:
                return
        raise StillBeingWrittenError(errno.EBUSY, "the file is still being written: try again later", path)


def copy_privately(path: str, stage: Callable[[], Staging]) -> Staging:
    """Copy *path* to a staging file and hash it. The caller closes it. Raises: as `stable_read`."""
    with contextlib.ExitStack() as undo:
        staging = stage()
        undo.callback(staging.close)
        with stable_read(path) as (descriptor, _):
            staging.copy_from(descriptor)
            staging.rehash()
        undo.pop_all()
    return staging


@dataclass(frozen=True, slots=True)
class RecordResult:
    """A file's state, now *reconciled*, and the record that was made of it, if any."""

    reconciled: Reconciled
    write: PendingWrite | None


@dataclass(frozen=True, slots=True)
class EditRecorder:
    """Records edits for the lease *_owner*: this process's, or a dead one's that is being reaped."""

    _pending: Pending
    _stage: Callable[[], Staging]
    _owner: str

    @classmethod
    def of_lease(cls, layout: Layout, blobs: BlobStore, name: str) -> EditRecorder:
        """For a process that has locked the lease *name*."""
        staging = LeaseLayout(layout.lease(name)).staging
        return cls(Pending(layout), lambda: blobs.stage(lambda: staging), name)

    def record(self, lease: LeaseLayout, unrecorded: Iterable[UnrecordedFile]) -> tuple[PendingWrite, ...]:
        """Record those files that were given out; skip those that cannot be recorded now."""
        writes = []
        for found in unrecorded:
            with contextlib.suppress(OSError, CasstoreError):
                result = self.record_file(lease, found)
                if result is not None and result.write is not None:
                    writes.append(result.write)
        return tuple(writes)

    def record_file(self, lease: LeaseLayout, found: UnrecordedFile) -> RecordResult | None:
        """Record a file if necessary; return None if its path was not given out.

        Raises: as `stable_read` and `Pending.record`; FileNotFoundError if the file is missing.
        """
        handed, reconciled = found.handed_out, found.reconciled
        if handed is None:
            return None
        name = path_in_lease(lease, found.path)
        source = f"/leases/{os.path.basename(lease.path)}/{name}"
        before = [write for write in self._pending.of(handed.key) if (write.source or "").endswith(source)]
        write, staging = None, None
        older: list[PendingWrite] = []
        try:
            with stable_read(found.path) as (descriptor, state):
                if reconciled is not None and reconciled.state == state:
                    return RecordResult(reconciled, None)
                digest = _known_digest(lease, descriptor, state.size, found)
                if digest is None:
                    staging = self._stage()
                    staging.copy_from(descriptor)
                    staging.rehash()
            if staging is not None:
                older = [other for other in before if not self._pending.has_bytes(other, staging.descriptor)]
                if len(older) == len(before):
                    write = self._add(found.path, handed.key, staging, _classify(handed))
                digest = strong_digest(staging.descriptor)
        finally:
            if staging is not None:
                staging.close()
        reconciled = Reconciled(found.path, state, digest)
        with contextlib.suppress(OSError):  # at worst, a second record is made, and found by its bytes
            append_line(lease, reconciled)
        self._discard_older(handed.key, older)
        return RecordResult(reconciled, write)

    def record_bytes(self, key: Key, base: Validator | None, descriptor: int) -> None:
        """Record an edit of *key* whose path is unknown: the bytes of an open file without other names."""
        staging = self._stage()
        try:
            before = FileState.of(os.fstat(descriptor))
            staging.copy_from(descriptor)
            staging.rehash()
            if FileState.of(os.fstat(descriptor)) != before:
                raise StillBeingWrittenError(errno.EBUSY, f"{key.uri}: its local copy is still being written")
            edits = (write for write in self._pending.of(key) if write.source is None)
            alike = (write for write in edits if write.state is PendingState.EDIT)
            if not any(self._pending.has_bytes(write, staging.descriptor) for write in alike):
                self._add(None, key, staging, (PendingState.EDIT, base, REASON_EDITED))
        finally:
            staging.close()

    def _add(
        self, source: str | None, key: Key, staging: Staging, classified: tuple[PendingState, Validator | None, str]
    ) -> PendingWrite:
        state, base, why = classified
        # The base is unknown, so no version may be overwritten.
        condition = Condition.ABSENT if base is None else Condition.MATCH
        write = self._pending.record(
            key,
            staging,
            state,
            condition,
            base,
            lease=self._owner,
            why=why,
            source=source,
            outcome_unknown=why == _UNFINISHED,  # its process may have died after the upload
        )
        # The last recorder of this state of the file sees all records of it; the oldest one stays.
        same = [
            other
            for other in self._pending.of(key)
            if (other.source, other.state) == (write.source, write.state)
            and self._pending.have_same_bytes(other, write)
        ]
        for other in same[1:]:
            self._pending.discard(other)
        return same[0] if same else write

    def _discard_older(self, key: Key, older: list[PendingWrite]) -> None:
        """Discard only records made before these bytes were read: later ones may be newer than they are."""
        names = {write.name for write in older}
        for write in self._pending.of(key) if names else ():
            if write.name in names and write.state in _REPLACEABLE:
                self._pending.discard(write)


def _known_digest(lease: LeaseLayout, descriptor: int, size: int, found: UnrecordedFile) -> Digest | None:
    """Return the digest of an open file of *size* bytes if its bytes need no record, else None."""
    digests = recorded_digests(size, (found.handed_out,), found.reconciled)
    return next((digest for digest in digests if has_bytes(lease.store, descriptor, digest)), None)


def _classify(handed: View | DraftPath) -> tuple[PendingState, Validator | None, str]:
    if handed.kind is PathKind.VIEW:
        return PendingState.EDIT, handed.validator, REASON_EDITED
    return PendingState.INCOMPLETE, handed.validator, REASON_LEFT if handed.kind is PathKind.OUTBOX else _UNFINISHED
