"""Drafts: local paths for bytes that are not uploaded yet, created by tools (outbox) or in a block (edit)."""

from __future__ import annotations

import contextlib
import os
import time

from casstore.errors import StillBeingWrittenError
from casstore.format.digest import Digest, hash_descriptor
from casstore.format.keys import Key
from casstore.format.layout import LeaseLayout, component_name, view_path
from casstore.format.records import Validator
from casstore.fs import files
from casstore.leases.changes import ChangeTracker
from casstore.leases.edits import stable_read
from casstore.leases.views import DraftPath, FileState, PathKind, Reconciled, append_line

_BEFORE_NS = 10**9  # how far a copy is dated back, so that any later write changes its mtime


class DraftPaths:
    """The drafts of one lease; its methods are called under the lease's lock."""

    def __init__(self, lease: LeaseLayout, changes: ChangeTracker) -> None:
        self._lease = lease
        self._changes = changes
        self._drafts: dict[str, DraftPath] = {}

    def outbox(self, key: Key, bucket: str, object_key: str) -> str:
        known = next((d for d in self._drafts.values() if d.key == key and d.kind is PathKind.OUTBOX), None)
        if known is None:
            known = DraftPath(key, self._free_path(key, bucket, object_key), PathKind.OUTBOX)
            append_line(self._lease, known)
            self._drafts[known.path] = known
            self._changes.add(known)
        else:
            os.makedirs(os.path.dirname(known.path), 0o700, exist_ok=True)
        return known.path

    def _free_path(self, key: Key, bucket: str, object_key: str) -> str:
        number = 0
        while True:
            tree = self._lease.outbox(number)
            path = view_path(tree, key.origin, bucket, object_key)
            number += 1
            # Nothing may exist there, and the path of a file must not become a directory meanwhile.
            if any(taken in self._drafts for taken in (path, *_parents(tree, path))) or os.path.lexists(path):
                continue
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                return path

    def edit(self, key: Key, object_key: str, validator: Validator | None, copy: str | None) -> str:
        """See `Lease.edit`; takes over *copy*, the path of a private file of this lease."""
        directory = self._lease.edit(os.urandom(8).hex())
        draft = DraftPath(key, f"{directory}/{component_name(object_key.rpartition('/')[2])}", PathKind.EDIT, validator)
        try:
            os.makedirs(directory, 0o700)
            append_line(self._lease, draft)
            if copy is not None:
                # Its state is listed before it has its name: an incomplete or untouched copy is no edit.
                made = time.time_ns() - _BEFORE_NS
                os.utime(copy, ns=(made, made))
                append_line(self._lease, Reconciled(draft.path, FileState.of(os.stat(copy))))
                files.link(copy, draft.path)
        finally:
            if copy is not None:
                files.unlink_quietly(copy)
        self._drafts[draft.path] = draft
        return draft.path

    def release(self, path: str, digest: Digest | None) -> bool:
        draft = self._drafts.get(path)
        if draft is None or (digest is not None and not _has_bytes(path, digest)):
            return False
        files.unlink_quietly(path)
        del self._drafts[path]
        if draft.kind is PathKind.OUTBOX:
            self._changes.drop(path)
        needed = {parent for other in self._drafts for parent in _parents(self._lease.path, other)}
        with contextlib.suppress(OSError):  # it has other files of the user
            for parent in _parents(self._lease.path, path):
                if parent in needed:
                    break
                os.rmdir(parent)
        return True


def _parents(top: str, path: str) -> list[str]:
    """Return the directories above *path* and below *top*, the deepest first."""
    found = []
    path = os.path.dirname(path)
    while len(path) > len(top):
        found.append(path)
        path = os.path.dirname(path)
    return found


def _has_bytes(path: str, digest: Digest) -> bool:
    """Return whether *path* is missing or has those bytes."""
    try:
        with stable_read(path) as (descriptor, _):
            return hash_descriptor(descriptor, digest.algorithm) == digest
    except FileNotFoundError:
        return True
    except StillBeingWrittenError:
        return False
