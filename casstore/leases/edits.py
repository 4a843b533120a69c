"""Local edits, and files that tools leave, become pending writes: bytes that had a name outside the store's control.

Such bytes are taken from a private copy alone, hashed from the copy, of a file that was the same before and after. The
record is on the disk first; then the lease's list says that this state of that file is settled, so that nobody makes
another of it: not this process, nor its exit, nor whoever reaps its lease, not even after somebody dealt with the
record; last goes the record of an older state of the same file. Two who record one state at once (a blob that is edited
trips every reader) find each other's records afterwards, and both leave the older one.
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
from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import Staging
from casstore.errors import CasstoreError, StillBeingWrittenError
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout
from casstore.format.records import Validator
from casstore.leases.scan import UnrecordedFile
from casstore.leases.views import DraftPath, FileState, PathKind, Reconciled, View, append_line, path_in_lease
from casstore.pending.records import Condition, PendingState, PendingWrite
from casstore.pending.store import Pending

REASON_EDITED: Final = "its local copy was changed outside the API"
REASON_LEFT: Final = "a file was put at its local path and never uploaded"
_UNFINISHED: Final = "an edit was never finished"

_TICK_NS: Final = 20_000_000
"""How coarsely kernels tell mtimes (1 to 10 ms), doubled: two writes that are closer may leave the same one."""

_REPLACEABLE: Final = frozenset((PendingState.EDIT, PendingState.INCOMPLETE))
"""States of records that a newer one of the same file replaces. In others, somebody is dealing with it."""


@contextlib.contextmanager
def stable_read(path: str) -> Iterator[tuple[int, FileState]]:
    """The file at *path*, open for reading, and its state; at the end of the block it must be the same.

    Raises StillBeingWrittenError there, OSError for what is no regular file.
    """
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "this is no regular file, and cannot be kept", path)
        state = FileState.of(status)
        age = time.time_ns() - state.mtime_ns
        if 0 <= age < _TICK_NS:
            # A write of the same size that is about to come would leave no trace in the mtime.
            time.sleep((_TICK_NS - age) / 1e9)
        yield descriptor, state
        with contextlib.suppress(FileNotFoundError):
            if FileState.of(os.stat(path, follow_symlinks=False)) == state:
                return
        raise StillBeingWrittenError(errno.EBUSY, "this file is still being written: try again when that is done", path)
    finally:
        os.close(descriptor)


def copy_privately(path: str, stage: Callable[[], Staging]) -> Staging:
    """A staging file with the bytes of *path*, hashed from it; the caller's. Raises what `stable_read` does."""
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
    """How a file is *settled* now, and the record that was made of it, if one was."""

    reconciled: Reconciled
    write: PendingWrite | None


class EditRecorder:
    """Makes the records, in the name of the lease *owner*: of whoever is at work, or of the dead that is reaped."""

    __slots__ = ("_owner", "_pending", "_stage")

    def __init__(self, pending: Pending, stage: Callable[[], Staging], owner: str) -> None:
        self._pending = pending
        self._stage = stage
        self._owner = owner

    @classmethod
    def of_lease(cls, layout: Layout, blobs: BlobStore, name: str) -> EditRecorder:
        """For whoever holds the lock of the lease *name*, in its name."""
        staging = LeaseLayout(layout.lease(name)).staging
        return cls(Pending(layout), lambda: blobs.stage(lambda: staging), name)

    def record(self, lease: LeaseLayout, files: Iterable[UnrecordedFile]) -> tuple[PendingWrite, ...]:
        """Records of those *files* that were handed out; what cannot be recorded now stays as it is."""
        writes = []
        for found in files:
            with contextlib.suppress(OSError, CasstoreError):
                looked = self.record_file(lease, found)
                if looked is not None and looked.write is not None:
                    writes.append(looked.write)
        return tuple(writes)

    def record_file(self, lease: LeaseLayout, found: UnrecordedFile) -> RecordResult | None:
        """See whether what lies at a path handed out has to be recorded, and do it; None for what nobody handed out.

        Raises what `stable_read` and `Pending.record` do, FileNotFoundError where nothing is there.
        """
        handed, settled = found.handed_out, found.reconciled
        if handed is None:
            return None
        name = path_in_lease(lease, found.path)
        source = f"/leases/{os.path.basename(lease.path)}/{name}"
        before = [write for write in self._pending.of(handed.key) if (write.source or "").endswith(source)]
        write, staging = None, None
        try:
            with stable_read(found.path) as (descriptor, state):
                if settled is not None and settled.state == state:
                    return RecordResult(settled, None)
                digest = _known_digest(descriptor, state.size, found)
                if digest is None:
                    staging = self._stage()
                    staging.copy_from(descriptor)
                    digest = staging.rehash()
            if staging is not None and not any(older.digest == digest for older in before):
                write = self._deduplicate(self._add(found.path, handed.key, staging, _classify(handed)))
        finally:
            if staging is not None:
                staging.close()
        settled = Reconciled(found.path, state, digest)
        with contextlib.suppress(OSError):  # a second record, told by its bytes, is the worst that follows
            append_line(lease, settled.line())
        if staging is not None:
            self._discard_older(handed.key, before, digest)
        return RecordResult(settled, write)

    def record_bytes(self, key: Key, base: Validator | None, descriptor: int) -> None:
        """An edit of *key* that nobody can tell the path of: the bytes of an open file that has no other name left."""
        staging = self._stage()
        try:
            before = FileState.of(os.fstat(descriptor))
            staging.copy_from(descriptor)
            digest = staging.rehash()
            if FileState.of(os.fstat(descriptor)) != before:
                raise StillBeingWrittenError(errno.EBUSY, f"the bytes held of {key.uri} are still being written")
            alike = (write for write in self._pending.of(key) if write.source is None and write.digest == digest)
            if not any(write.state is PendingState.EDIT for write in alike):
                self._deduplicate(self._add(None, key, staging, (PendingState.EDIT, base, REASON_EDITED)))
        finally:
            staging.close()

    def _add(
        self, source: str | None, key: Key, staging: Staging, fate: tuple[PendingState, Validator | None, str]
    ) -> PendingWrite:
        state, base, why = fate
        # Of a base that nobody knows no version was seen, so that none may be overwritten.
        condition = Condition.ABSENT if base is None else Condition.MATCH
        return self._pending.record(key, staging, state, condition, base, lease=self._owner, why=why, source=source)

    def _deduplicate(self, write: PendingWrite) -> PendingWrite:
        """The oldest of the records of one state of one file; the others go. Whoever recorded last sees all of them."""
        same = [
            other
            for other in self._pending.of(write.key)
            if (other.source, other.digest, other.state) == (write.source, write.digest, write.state)
        ]
        for other in same[1:]:
            self._pending.discard(other)
        return same[0] if same else write

    def _discard_older(self, key: Key, before: list[PendingWrite], digest: Digest) -> None:
        """Only what was recorded before these bytes were read: what came since may be newer than they are."""
        names = {write.name for write in before if write.digest != digest}
        for write in self._pending.of(key):
            if write.name in names and write.state in _REPLACEABLE:
                self._pending.discard(write)


def _known_digest(descriptor: int, size: int, found: UnrecordedFile) -> Digest | None:
    """The digest of an open file of *size* bytes where it has bytes that need no record; None where it has others."""
    digests = []
    if isinstance(found.handed_out, View) and found.handed_out.size == size:
        digests.append(found.handed_out.digest)
    if found.reconciled is not None and found.reconciled.digest is not None and found.reconciled.state.size == size:
        digests.append(found.reconciled.digest)
    for digest in digests:
        with contextlib.suppress(CasstoreError):
            if hash_descriptor(descriptor, digest.algorithm) == digest:
                return digest
    return None


def _classify(handed: View | DraftPath) -> tuple[PendingState, Validator | None, str]:
    if handed.kind is PathKind.VIEW:
        return PendingState.EDIT, handed.validator, REASON_EDITED
    return PendingState.INCOMPLETE, handed.validator, REASON_LEFT if handed.kind is PathKind.OUTBOX else _UNFINISHED
