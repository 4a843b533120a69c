"""Local paths give way: what no process uses is removed when room is needed, the oldest first.

What stays: the path of a `CloudPath` that is alive, of a pinned object, a file with an unsaved change, a file that a
program has open for writing, and what was handed out a moment ago (``local_path_grace``). A file that is open for
reading loses its name, and can be read on. Hard links cost nothing to make again, so they go first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from casstore.blobs.staging import Inode
from casstore.eviction.pins import pinned_names
from casstore.format.keys import Key, is_at_or_below
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.fs.stable import OPEN_FLAGS, may_be_written
from casstore.local.names import key_of, uses_of
from casstore.local.paths import LocalPaths
from casstore.local.record import Kind, LocalFile, records
from casstore.local.uses import UsesOfAll

RECORD_SECONDS: Final = 30 * 24 * 3600
"""How long the number of a version is remembered after its last use, once it has no file."""
EMPTY_SECONDS: Final = 3600
"""How long a directory without files stays: a tool may be about to make one."""


class LocalCopy(NamedTuple):
    """A file at a local path that was last handed out at *used* (seconds since the epoch); *size* bytes of the disk,
    0 for a link. *may_go* by what was seen of it.
    """

    used: float
    key: Key
    file: LocalFile
    size: int
    inode: Inode
    may_go: bool
    is_changed: bool


class LocalInventory:
    """The files at all local paths of a store, and what they take."""

    def __init__(self, layout: Layout, grace: float, prefix: str = "") -> None:
        self.copies: list[LocalCopy] = []
        pins, uses = pinned_names(layout), UsesOfAll(layout)
        # Without a process that has ever used one, no program has the text of a path.
        grace = grace if uses.has_processes else 0.0
        for used, record in records(layout):
            if not is_at_or_below(record.key.uri, prefix):
                continue
            # The time is that after the look: what is handed out now is not of the future.
            is_idle = not 0 <= time.time() - used < grace and bytes.fromhex(record.key.name) not in pins
            may_go = is_idle and not uses.include(uses_of(record.key))
            for file in record.files:
                with contextlib.suppress(OSError):
                    status = os.lstat(layout.local_path(file.name))
                    is_changed = not file.is_as_left(status)
                    may_this = may_go and file.kind in (Kind.OBJECT, Kind.SAVED) and not is_changed
                    size = status.st_size if status.st_nlink == 1 else 0
                    inode = Inode.of(status)
                    self.copies.append(LocalCopy(used, record.key, file, size, inode, may_this, is_changed))
        self.bytes = sum(copy.size for copy in self.copies if copy.may_go)
        """What counts in the budget: what is in use is beside it, so that it does not evict blobs in its place."""
        self.links = Counter(copy.inode for copy in self.copies if not copy.size and copy.may_go)
        """How many names each blob would lose."""

    def chosen(self, wanted: int) -> list[LocalCopy]:
        """Return what to remove for *wanted* bytes: all links, and the oldest copies."""
        found: list[LocalCopy] = []
        for copy in sorted((copy for copy in self.copies if copy.may_go), key=lambda copy: (copy.size > 0, copy.used)):
            if copy.size and wanted <= 0:
                break
            found.append(copy)
            wanted -= copy.size
        return found


@dataclass(frozen=True, slots=True)
class InUse:
    """A file of *size* bytes that is not deleted with its entry: *path* was given out for an object of *uris*.

    If *path* is None, a blob that they used has links outside of the store. With *is_changed*, the bytes are a user's:
    an edit, or a file made by a tool. It becomes a pending write when the path is next used or looked at.
    """

    uris: tuple[str, ...]
    path: str | None
    size: int
    is_changed: bool = False


def files_in_use(layout: Layout, prefix: str, grace: float, linked: Mapping[Inode, InUse]) -> tuple[InUse, ...]:
    """Return the local files of URIs at or below *prefix* that stay, and the *linked* blobs that none of them links.

    *linked* are blobs that had other links when they were evicted.
    """
    inventory = LocalInventory(layout, grace, prefix)
    # Once its blob is gone, a link takes its bytes.
    sizes = {inode: file.size for inode, file in linked.items()}
    found = (
        InUse((copy.key.uri,), layout.local_path(copy.file.name), sizes.get(copy.inode, copy.size), copy.is_changed)
        for copy in inventory.copies
        if not copy.may_go
    )
    known = {copy.inode for copy in inventory.copies}
    return (*found, *(file for inode, file in linked.items() if inode not in known))


def remove_copies(paths: LocalPaths, copies: Sequence[LocalCopy]) -> tuple[int, int]:
    """Remove those that are still unused; return how many were used again, and the bytes that the others free."""
    if not copies:
        return 0, 0
    uses, tree = UsesOfAll(paths.layout), paths.new_private_tree()
    try:
        removed = [copy for copy in copies if _remove(paths, copy, uses, tree)]
    finally:
        if not any(paths.files_below(paths.layout.local_path(tree))):
            files.remove(paths.layout.local_path(tree))
    return len(copies) - len(removed), sum(copy.size for copy in removed)


def _remove(paths: LocalPaths, copy: LocalCopy, uses: UsesOfAll, tree: str) -> bool:
    layout = paths.layout
    path, record_path = layout.local_path(copy.file.name), layout.path_record(copy.key.name)
    owner = paths.locked(copy.key, 0)
    with contextlib.suppress(OSError), owner, owner as record:
        # Handed out since: with the lock, no process can hand it out now.
        used = os.stat(record_path).st_mtime
        is_idle = used == copy.used and not uses.include(uses_of(copy.key))
        is_same = record.at(copy.file.name) == copy.file and copy.file.is_as_left(os.lstat(path))
        if not is_idle or not is_same:
            return False
        # Without its name first: no program can open it for writing. If this process is killed before it has
        # looked, the reaper finds it in a private tree.
        target = layout.local_path(f"{tree}/{copy.file.name.partition('/')[2]}")
        paths.make_parent(target)
        files.rename(path, target)
        with files.opened(target, OPEN_FLAGS) as descriptor:
            status = os.fstat(descriptor)
            is_same = replace(copy.file, ctime_ns=0).is_as_left(status)  # the rename changed the ctime
            if not is_same or may_be_written(descriptor, unknown=status.st_nlink == 1):
                with contextlib.suppress(FileExistsError):
                    files.link(target, path)
                    files.unlink_quietly(target)
                return False
        files.unlink_quietly(target)
        if copy.file.kind is Kind.SAVED:
            record.drop(copy.file)
            record.write(layout)
            with contextlib.suppress(FileNotFoundError):
                os.utime(record_path, (used, used))
        return True
    return False


def forget_old(paths: LocalPaths) -> None:
    """Remove records without files that were unused for `RECORD_SECONDS`, and old empty directories."""
    layout = paths.layout
    awaited: set[str] = set()
    for _, record in records(layout):
        created = (file.name for file in record.files if file.kind in (Kind.ABSENT, Kind.PRIVATE))
        awaited |= {layout.local_path(os.path.dirname(name)) for name in created}
        status = files.lstat_or_none(layout.path_record(record.key.name))
        # By its ctime: a brief use sets the mtime back.
        is_old = status is not None and time.time() - status.st_ctime > RECORD_SECONDS
        if is_old and not any(file.exists(layout) for file in record.files):
            owner = paths.locked(record.key, 0)
            with contextlib.suppress(OSError), owner, owner as current:
                if not any(file.exists(layout) for file in current.files):
                    current.files = []
                    current.write(layout)
    uses, begins = UsesOfAll(layout), len(layout.local) + 1
    found = [(parent, files.lstat_or_none(parent)) for parent, _, _ in os.walk(layout.local)]
    for parent, status in reversed(found[1:]):
        key = key_of(parent[begins:].partition("/")[2] + "/")
        is_used = parent in awaited or (key is not None and uses.include(uses_of(key)))
        if status is not None and not is_used and time.time() - status.st_mtime > EMPTY_SECONDS:
            with contextlib.suppress(OSError):
                os.rmdir(parent)
