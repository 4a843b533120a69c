"""Scan a lease's directory: compare its files with the lease's list."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from casstore.format.digest import ALGORITHMS, MTIME_EPOCH
from casstore.format.layout import Layout, LeaseLayout
from casstore.leases.proof import path_has_bytes
from casstore.leases.views import (
    OWN_NAMES,
    DraftPath,
    FileState,
    Reconciled,
    View,
    digest_of,
    read_manifest,
    recorded_digests,
)


@dataclass(frozen=True, slots=True)
class UnrecordedFile:
    """A file whose bytes may exist nowhere else in the store; what was *handed_out* there, and its last known state."""

    path: str
    handed_out: View | DraftPath | None
    reconciled: Reconciled | None


@dataclass(frozen=True, slots=True)
class LeaseScan:
    """The files of a lease: *unrecorded* ones have bytes that may exist nowhere else in the store.

    *states* describes every file: equal states of two scans mean that nothing changed in between.
    """

    unrecorded: tuple[UnrecordedFile, ...]
    states: frozenset[tuple[str, int, int, int]]

    @property
    def edited(self) -> tuple[str, ...]:
        return tuple(found.path for found in self.unrecorded)


def scan_lease(lease: LeaseLayout) -> LeaseScan:
    """Scan all files of a lease. Raises: FileNotFoundError if there is no such lease.

    A file is recorded if it is reconciled, or a view with its inode, size and mtime, or its bytes: a touch is no edit.
    """
    manifest = read_manifest(lease)
    found: list[UnrecordedFile] = []
    seen: set[tuple[str, int, int, int]] = set()
    for path, status in _files_of(lease):
        name = path[len(lease.path) + 1 :]
        seen.add((name, status.st_ino, status.st_size, status.st_mtime_ns))
        handed, reconciled = manifest.handed_out.get(name, []), manifest.reconciled.get(name)
        if not stat.S_ISREG(status.st_mode) or not _is_known(lease.store, path, status, handed, reconciled):
            found.append(UnrecordedFile(path, handed[-1] if handed else None, reconciled))
    return LeaseScan(tuple(sorted(found, key=lambda file: file.path)), frozenset(seen))


def _files_of(lease: LeaseLayout) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(lease.path) as entries:
        found = [entry for entry in entries if entry.name not in OWN_NAMES]
    while found:
        entry = found.pop()
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as entries:
                    found.extend(entries)
            else:
                yield entry.path, entry.stat(follow_symlinks=False)


def _is_known(
    layout: Layout,
    path: str,
    status: os.stat_result,
    handed: list[View | DraftPath],
    reconciled: Reconciled | None,
) -> bool:
    state = FileState.of(status)
    if reconciled is not None and reconciled.state == state:
        return True
    views = [view for view in handed if isinstance(view, View)]
    if any(view.state == state for view in views):
        return True
    if any(path_has_bytes(layout, path, digest) for digest in recorded_digests(state.size, views, reconciled)):
        return True
    # The list is not synced, and a power cut may have truncated it. But what the store makes has an mtime that follows
    # from its bytes, in whole seconds; edits do not.
    seconds, rest = divmod(status.st_mtime_ns, 1_000_000_000)
    if rest or seconds < MTIME_EPOCH:
        return False
    found = (digest_of(path, algorithm) for algorithm in ALGORITHMS)
    return any(digest is not None and digest.mtime == seconds for digest in found)
