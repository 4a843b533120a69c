"""Stores in a known state for what collects, and their trees to be compared."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from casstore import Cache, Digest, Entry
from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import AddedBlob, Inode
from casstore.index.entries import put_entry

HOUR = 480_000
"""An hour of last use long ago."""


def used_at(cache: Cache, entry: Entry, hour: int) -> Entry:
    """Make the index say that *entry* was last used in that hour."""
    aged = replace(entry, last_used_hour=hour)
    cache.index.write(lambda txn: put_entry(txn, aged, entry, None))
    return aged


def add_orphan(cache: Cache, data: bytes) -> Digest:
    """A blob without a row, as a process leaves it that is killed before its commit."""
    staging = cache.stage()
    staging.write(data)
    digest = staging.digest()
    cache.blobs.add(staging, digest)
    staging.close()
    pass_tick(cache.layout.blob(digest.value))
    return digest


def pass_tick(path: str, unit_ns: int = 1_000_000) -> None:
    """Wait until a change made now gets a later time than *path* has, in units of so many ns. Clocks of file systems go
    by some 4 ms.
    """
    changed = os.lstat(path).st_ctime_ns // unit_ns
    probe = f"{path}.probe"
    with open(probe, "w") as file:
        while os.fstat(file.fileno()).st_ctime_ns // unit_ns <= changed:
            os.fchmod(file.fileno(), 0o600)
    os.unlink(probe)


def tree_of(root: str) -> dict[str, tuple[int, int, int]]:
    """Every file below *root* but for what LMDB itself touches: inode, size, time of change."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            if name != "lock.mdb":
                status = os.lstat(f"{directory}/{name}")
                found[f"{directory}/{name}"] = (status.st_ino, status.st_size, status.st_ctime_ns)
    return found


def stored(cache: Cache) -> int:
    """Bytes of the files under ``blobs/``."""
    size = 0
    for directory, _, names in os.walk(cache.layout.blobs):
        size += sum(os.lstat(f"{directory}/{name}").st_size for name in names)
    return size


def dangling(cache: Cache) -> list[str]:
    """URIs of entries whose blob has no file."""
    return [entry.uri for entry in cache.entries() if not os.path.exists(cache.blob_path(entry))]


def open_inodes() -> set[Inode]:
    """The files that this process has open: none of them can lose its inode to another file."""
    found = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the directory's own descriptor
            found.add(Inode.of(os.fstat(int(name))))
    return found


class Trusting(BlobStore):
    """Says of every name that it is the file that was linked, without a look: for negative controls."""

    def __init__(self, added: AddedBlob) -> None:
        self._added = added

    def inode(self, digest: Digest) -> Inode:
        return self._added.inode
