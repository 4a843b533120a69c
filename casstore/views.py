"""Views: local paths with the objects' real names, what a lease's list says of them, and what became of them."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casstore.blobs import Inode, hash_descriptor
from casstore.digest import ALGORITHMS, MTIME_EPOCH, Digest
from casstore.errors import CasstoreError
from casstore.layout import LeaseLayout
from casstore.records import Key


@dataclass(frozen=True, slots=True)
class View:
    """A path handed out: *path* holds the bytes of *digest*, as the file that *inode*, *size* and *mtime_ns*
    describe.
    """

    key: Key
    path: str
    digest: Digest
    size: int
    inode: Inode
    mtime_ns: int

    def is_untouched(self) -> bool:
        """Whether that very file is still there with its size and mtime."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return self.is_of(status)

    def is_of(self, status: os.stat_result) -> bool:
        """Whether *status* is of that very file, with its size and mtime."""
        return Inode.of(status) == self.inode and status.st_size == self.size and status.st_mtime_ns == self.mtime_ns

    def has_its_bytes(self) -> bool:
        """Whether the path still holds the bytes of *digest*, whatever its mtime says."""
        return _digest_of(self.path, self.digest.algorithm) == self.digest

    def line(self) -> str:
        """As the lease's list has it."""
        record = {
            "path": self.path,
            "uri": self.key.uri,
            "origin": self.key.origin,
            "digest": str(self.digest),
            "size": self.size,
            "device": self.inode.device,
            "inode": self.inode.number,
            "mtime_ns": self.mtime_ns,
        }
        return json.dumps(record) + "\n"

    @classmethod
    def parse(cls, line: str) -> View | None:
        """The inverse of `line`; None for one that was torn by a crash."""
        try:
            record = json.loads(line)
            inode = Inode(int(record["device"]), int(record["inode"]))
            key = Key(str(record["uri"]), str(record["origin"]))
            size, mtime_ns = int(record["size"]), int(record["mtime_ns"])
            return cls(key, str(record["path"]), Digest.parse(record["digest"]), size, inode, mtime_ns)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def listed(lease: LeaseLayout) -> Iterator[View]:
    """What a lease's list says was handed out, oldest first."""
    with contextlib.suppress(FileNotFoundError), open(lease.views_list, encoding="utf-8", errors="replace") as file:
        for line in file:
            view = View.parse(line)
            if view is not None:
                yield view


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a lease's trees: *edited* are the paths of files whose bytes the store may have nowhere else.

    *seen* tells every file as it was; a second survey that sees the same found nothing changed in between.
    """

    edited: tuple[str, ...]
    seen: frozenset[tuple[str, int, int, int]]


_NOT_A_USERS: Final = frozenset(("lock", "staging", "progress", "views.list"))
"""What this package keeps in a lease for itself. Whatever else is there is taken for a user's."""


def survey(lease: LeaseLayout) -> Survey:
    """Look at every file of a lease; one that is no view any more, or never was, is edited.

    A view is told by its inode, size and mtime, else by its bytes: a mere touch is no edit. Raises FileNotFoundError
    where there is no such lease.
    """
    views: dict[str, list[View]] = {}
    inside = f"/leases/{os.path.basename(lease.path)}/"
    for view in listed(lease):
        # The list has whole paths, and the store may have been moved since.
        views.setdefault(view.path.partition(inside)[2], []).append(view)
    edited: list[str] = []
    seen: set[tuple[str, int, int, int]] = set()
    for path, status in _files_of(lease):
        name = path[len(lease.path) + 1 :]
        seen.add((name, status.st_ino, status.st_size, status.st_mtime_ns))
        if not _is_view(path, status, views.get(name, ())):
            edited.append(path)
    return Survey(tuple(sorted(edited)), frozenset(seen))


def _files_of(lease: LeaseLayout) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(lease.path) as entries:
        found = [entry for entry in entries if entry.name not in _NOT_A_USERS]
    while found:
        entry = found.pop()
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as entries:
                    found.extend(entries)
            else:
                yield entry.path, entry.stat(follow_symlinks=False)


def _is_view(path: str, status: os.stat_result, views: list[View] | tuple[()]) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    if any(view.is_of(status) for view in views):
        return True
    if any(view.size == status.st_size and view.digest == _digest_of(path, view.digest.algorithm) for view in views):
        return True
    # The list is not synced, and a power cut may have taken its end. But what the store makes carries an mtime that
    # follows from its bytes, in whole seconds, and no edit does.
    seconds, rest = divmod(status.st_mtime_ns, 1_000_000_000)
    if rest or seconds < MTIME_EPOCH:
        return False
    digests = (_digest_of(path, algorithm) for algorithm in ALGORITHMS)
    return any(digest is not None and digest.mtime == seconds for digest in digests)


def _digest_of(path: str, algorithm: str) -> Digest | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return hash_descriptor(descriptor, algorithm)
    except (OSError, CasstoreError):
        return None  # unreadable, or by an algorithm whose package is not installed
    finally:
        os.close(descriptor)
