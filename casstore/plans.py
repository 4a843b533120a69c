"""Plans of a collection: what is to go so that the store keeps its budget, and what holds the rest. Reads only.

What counts is what is really freed: a blob goes when all its users go, and one with other links (a view handed out as
a link) frees nothing and stays. Blobs without users go first, the rest by their newest use. A file that got its name a
moment ago and has no row may be a publication in flight: it counts as just used.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from casstore.index import Index, Txn
from casstore.layout import Layout, LeaseLayout
from casstore.pins import pinned_names
from casstore.records import (
    BLOB,
    ENTRY,
    Entry,
    Key,
    peek_row,
    row_checksum,
    row_name,
    unpack_blob,
    unpack_entry,
    user_name,
    user_prefix,
    user_row,
)
from casstore.settings import Settings

_SLACK: Final = 100
"""A hundredth more goes than has to, so that the next fill does not ask again."""

_IN_FLIGHT_SECONDS: Final = 60
"""How long a file without a row counts as just used. Taking one that is in flight is safe, and costs a copy."""

_HOUR: Final = 3600
_MILLISECOND_BITS: Final = 42
"""Of the 64 of a `use_tag`: enough until 2109, and the rest for hours until 2446."""
_ALL_USERS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Budget:
    """What the store may take: *max_size* bytes of blobs at most (None: any), *min_free* bytes of disk left free."""

    max_size: int | None
    min_free: int


@dataclass(frozen=True, slots=True)
class Doomed:
    """A blob that is to go, as it was seen.

    *size* in bytes is what that frees; 0 where only a row without a file goes. *used* orders by last use, see
    `use_tag`. *users* is a checksum over the entries that use it, which changes
    with any of them. *inode* and *ctime_ns* are those of the file: a link made since changes the second.
    """

    digest: bytes
    size: int
    used: int
    users: int
    inode: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Held:
    """A blob whose turn it was and that stays: it is pinned, or has other links and would free nothing.

    *holders* names those links; of a pin there are none.
    """

    digest: bytes
    size: int
    holders: tuple[str, ...]
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection will do. *stored* bytes lie in *blobs* files, the disk has *free* bytes left, *asked* bytes are
    to go for the *budget*, and *at_least* so many whatever it says; *doomed* are the blobs that do go, in this order,
    *held* those that cannot.
    """

    budget: Budget
    generation: int
    stored: int
    blobs: int
    free: int
    asked: int
    doomed: Sequence[Doomed]
    held: Sequence[Held]
    at_least: int = 0

    @property
    def frees(self) -> int:
        """Bytes that it frees if nothing comes back into use."""
        return sum(blob.size for blob in self.doomed)

    def short(self, freed: int, beside: int = 0) -> int:
        """Bytes that still have to go once blobs of *freed* bytes have, and *beside* bytes that were no blobs."""
        over = 0 if self.budget.max_size is None else self.stored - freed - self.budget.max_size
        lack = max(self.budget.min_free - self.free, self.at_least) - freed - beside
        return max(0, over, lack)


def budget_of(settings: Settings, root: str, max_size: int | None = None, min_free: int | None = None) -> Budget:
    """The budget as asked for, else as the store is set."""
    return Budget(
        settings.max_size if max_size is None else max_size,
        settings.keep_free(os.statvfs(root)) if min_free is None else min_free,
    )


def use_tag(hour: int, validated_ms: int) -> int:
    """A number that orders by last use: by the hour, and within it by the last validation in milliseconds."""
    return min(hour, (1 << 22) - 1) << _MILLISECOND_BITS | max(0, min(validated_ms, (1 << _MILLISECOND_BITS) - 1))


def hour_of(tag: int) -> int:
    """The hour of last use in a `use_tag`, since the epoch; 0 where it is not known."""
    return tag >> _MILLISECOND_BITS


def free_bytes(root: str) -> int:
    """What this user may still write to the disk."""
    space = os.statvfs(root)
    return space.f_bavail * space.f_frsize


def _wanted_bytes(limit: int, over: int, reserve: int, lack: int) -> int:
    """How much goes: a hundredth more than has to, and enough for a hundredth less than the budget."""
    return max(
        over + max(over, limit) // _SLACK if over > 0 else 0,
        lack + max(lack, reserve) // _SLACK if lack > 0 else 0,
    )


def make_plan(index: Index, layout: Layout, budget: Budget, at_least: int = 0) -> Plan:
    """See what there is and choose what goes. One reads-only pass over the rows and the names in ``blobs/``."""
    survey = _Survey(index, layout)
    free = free_bytes(layout.root)
    over = 0 if budget.max_size is None else survey.stored - budget.max_size
    lack = max(budget.min_free - free, at_least)
    wanted = _wanted_bytes(budget.max_size or 0, over, budget.min_free, lack)
    doomed: list[Doomed] = []
    linked: list[tuple[Doomed, os.stat_result]] = []
    pinned: list[Held] = []
    for blob in survey.in_order():
        if wanted <= 0 and blob.size:
            break
        if not blob.size:
            doomed.append(blob)  # a row without a file and without users: nothing to lose
            continue
        if survey.is_pinned(blob.digest):
            pinned.append(Held(blob.digest, blob.size, (), is_pinned=True))
            continue
        try:
            status = os.lstat(layout.blob(blob.digest))
        except FileNotFoundError:
            continue  # taken by another collector
        seen = Doomed(blob.digest, status.st_size, blob.used, blob.users, status.st_ino, status.st_ctime_ns)
        if status.st_nlink > 1:
            linked.append((seen, status))
        elif status.st_size:
            doomed.append(seen)
            wanted -= status.st_size
    held = (*_name_holders(layout, linked), *pinned)
    asked = max(0, over, lack)
    return Plan(budget, survey.generation, survey.stored, survey.blobs, free, asked, tuple(doomed), held, at_least)


class _Survey:
    """Rows and names, side by side in arrays sorted by digest: a million blobs are some 150 MB."""

    def __init__(self, index: Index, layout: Layout) -> None:
        self._layout = layout
        self.generation = index.read(lambda _: index.generation)
        self.stored = self.blobs = 0
        self._digests: list[bytes] = []
        self._sizes = array("Q")
        for row, record in index.scan(BLOB):
            known = unpack_blob(row, record)
            if known is not None:  # else its file is one without a row
                self._digests.append(row[1:])
                self._sizes.append(known.size)
        self._uses = array("Q", bytes(8 * len(self._digests)))
        self._users = array("Q", bytes(8 * len(self._digests)))
        self._has_users = bytearray(len(self._digests))
        self._is_there = bytearray(len(self._digests))
        self._strays: list[Doomed] = []
        self._pins = pinned_names(layout)
        self._pinned: set[bytes] = set()
        unknown = self._add_users(index)
        self._add_files(unknown)

    def _add_users(self, index: Index) -> dict[bytes, list[int]]:
        """Uses by entry; those of blobs without a row (a damaged one) come back apart."""
        unknown: dict[bytes, list[int]] = {}
        for row, record in index.scan(ENTRY):
            entry = peek_row(row, record)
            if entry is None:
                continue
            if self._pins and row_name(row) in self._pins:
                self._pinned.add(entry.digest)
            used = use_tag(entry.used_hour, entry.validated_ns // 1_000_000)
            number = self._number(entry.digest)
            if number < 0:
                found = unknown.setdefault(entry.digest, [0, 0])
                found[0], found[1] = max(found[0], used), found[1] ^ row_checksum(record)
            else:
                self._uses[number] = max(self._uses[number], used)
                self._users[number] ^= row_checksum(record)
                self._has_users[number] = 1
        return unknown

    def is_pinned(self, digest: bytes) -> bool:
        """Whether one of a blob's users is."""
        return digest in self._pinned

    def _number(self, digest: bytes) -> int:
        number = bisect_left(self._digests, digest)
        return number if number < len(self._digests) and self._digests[number] == digest else -1

    def _add_files(self, unknown: dict[bytes, list[int]]) -> None:
        now = time.time()
        for digest, file in _files_in(self._layout.blobs):
            number = self._number(digest)
            if number >= 0:
                self._is_there[number] = 1
                self.stored += self._sizes[number]
                self.blobs += 1
                continue
            with contextlib.suppress(FileNotFoundError):
                status = file.stat(follow_symlinks=False)
                self.stored += status.st_size
                self.blobs += 1
                # Orphans in the order in which they got their names; what may be in flight, among the just used.
                age = now - status.st_ctime
                hour = 0 if age > _IN_FLIGHT_SECONDS else int(now) // _HOUR
                used = use_tag(hour, status.st_ctime_ns // 1_000_000)
                use, users = unknown.get(digest, (used, 0))
                self._strays.append(Doomed(digest, status.st_size, use, users, status.st_ino, status.st_ctime_ns))

    def in_order(self) -> Iterator[Doomed]:
        """All blobs, those to go first first; rows without a file and without users before them, with size 0."""
        numbers = range(len(self._digests))
        for number in numbers:
            if not self._is_there[number] and not self._has_users[number]:
                yield Doomed(self._digests[number], 0, 0, 0, 0, 0)
        uses = self._uses
        rows = iter(sorted((n for n in numbers if self._is_there[n] and self._sizes[n]), key=uses.__getitem__))
        strays = iter(sorted((stray for stray in self._strays if stray.size), key=lambda stray: stray.used))
        row, stray = next(rows, None), next(strays, None)
        while row is not None or stray is not None:
            if row is not None and (stray is None or uses[row] <= stray.used):
                yield Doomed(self._digests[row], self._sizes[row], uses[row], self._users[row], 0, 0)
                row = next(rows, None)
            elif stray is not None:
                yield stray
                stray = next(strays, None)


def _files_in(blobs: str) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    with os.scandir(blobs) as shards:
        names = [shard.name for shard in shards]
    for name in names:
        try:
            with os.scandir(f"{blobs}/{name}") as files:
                for file in files:
                    # What has no blob's name is not ours to take.
                    with contextlib.suppress(ValueError):
                        yield bytes.fromhex(name + file.name), file
        except (FileNotFoundError, NotADirectoryError):
            continue


def stored_bytes(index: Index) -> int:
    """What the rows say that the blobs take. Cheaper than a plan, and blind to files without a row."""
    size = 0
    for row, record in index.scan(BLOB):
        known = unpack_blob(row, record)
        size += 0 if known is None else known.size
    return size


def _name_holders(layout: Layout, linked: Sequence[tuple[Doomed, os.stat_result]]) -> tuple[Held, ...]:
    if not linked:
        return ()
    names: dict[tuple[int, int], list[str]] = {(status.st_dev, status.st_ino): [] for _, status in linked}
    for device, inode, path in _views(layout):
        found = names.get((device, inode))
        if found is not None and path not in found and _is_file(path, device, inode):
            found.append(path)
    return tuple(
        Held(blob.digest, blob.size, tuple(names[status.st_dev, status.st_ino]) or ("links outside of the store",))
        for blob, status in linked
    )


def _views(layout: Layout) -> Iterator[tuple[int, int, str]]:
    """Device, inode and path of every view that any lease has in its list."""
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.leases) as leases:
        for lease in leases:
            with contextlib.suppress(OSError), open(LeaseLayout(lease.path).views_list, "rb") as lines:
                for line in lines:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        view = json.loads(line)
                        yield view["device"], view["inode"], view["path"]


def _is_file(path: str, device: int, inode: int) -> bool:
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


@dataclass(frozen=True, slots=True)
class User:
    """One row that says that an entry uses a blob.

    *entry* is None where that entry is gone, damaged or uses another; *checksum* is that of its record, else 0.
    """

    row: bytes
    entry: Entry | None
    checksum: int

    @property
    def name(self) -> bytes:
        """The bytes of the `Key.name` of that entry."""
        return user_name(self.row)


def users_of(txn: Txn, digest: bytes) -> list[User]:
    """Who uses a blob, as this transaction sees it."""
    prefix = user_prefix(digest)
    return [_user(txn, digest, row, whole) for row, whole in txn.scan(prefix, prefix, _ALL_USERS)]


def _user(txn: Txn, digest: bytes, row: bytes, whole: bytes) -> User:
    # A user's row has no checksum of its own, but its key has a hash of what it says.
    with contextlib.suppress(ValueError):
        key = Key.parse(whole)
        record = txn.get(key.row) if user_row(digest, key) == row else None
        entry = None if record is None else unpack_entry(key.row, record, key)
        if record is not None and entry is not None and entry.digest.value == digest:
            return User(row, entry, row_checksum(record))
    return User(row, None, 0)


def fold(users: Iterable[User]) -> int:
    """The checksum over *users* that `Doomed.users` is."""
    folded = 0
    for user in users:
        folded ^= user.checksum
    return folded


def uris_of(index: Index, digest: bytes) -> tuple[str, ...]:
    """The URIs that use a blob now."""
    users = index.read(lambda txn: users_of(txn, digest))
    return tuple(user.entry.uri for user in users if user.entry is not None)
