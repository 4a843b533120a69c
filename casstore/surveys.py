"""What a plan goes by: every blob with its size, last use, users and rule, seen in one pass over rows and names.

Side by side in arrays, those with rows sorted by digest: a million blobs are some 150 MB. Files without a row follow.
"""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from casstore.index import Index
from casstore.layout import Layout
from casstore.pins import pinned_names
from casstore.records import BLOB, ENTRY, Held, peek_row, row_checksum, row_name, unpack_blob
from casstore.rules import Matcher, Rule

NEVER: Final = (1 << 64) - 1
"""When something goes by its age that does not."""

MIXED: Final = 255
"""The rule of a blob whose users are under different ones: none holds for its size."""

IN_FLIGHT_SECONDS: Final = 60
"""How long a file without a row counts as just used. Taking one that is in flight is safe, and costs a copy."""

_HOUR: Final = 3600
_MILLISECOND_BITS: Final = 42
"""Of the 64 of a `use_tag`: enough until 2109, and the rest for hours until 2446."""

FIRST_USE: Final = 1 << _MILLISECOND_BITS
"""The lowest `use_tag` of a known hour: what is below was never used, or nobody knows."""


def use_tag(hour: int, validated_ms: int) -> int:
    """A number that orders by last use: by the hour, and within it by the last validation in milliseconds."""
    return min(hour, (1 << 22) - 1) << _MILLISECOND_BITS | max(0, min(validated_ms, (1 << _MILLISECOND_BITS) - 1))


def hour_of(tag: int) -> int:
    """The hour of last use in a `use_tag`, since the epoch; 0 where it is not known."""
    return tag >> _MILLISECOND_BITS


class Survey:
    """Blobs by number. *stored* bytes lie in *blobs* files; *gone* are rows without a file and without users.

    Of each: *digests*, *sizes*, *uses* (`use_tag`), *users* (a checksum over the entries that use it), *rules* (counted
    from 1; 0 for none, `MIXED`), and, where anything has a limit by age, *due*: seconds after the epoch at which all
    its users have passed theirs.
    """

    def __init__(self, index: Index, layout: Layout, max_age: int | None, rules: Sequence[Rule]) -> None:
        self._layout = layout
        self._matcher = Matcher(rules)
        self._ages = [max_age, *(rule.max_age if rule.has_age else max_age for rule in rules)]
        self._has_ages = any(age is not None for age in self._ages)
        self._has_rules = bool(rules)
        self.generation = index.read(lambda _: index.generation)
        self.stored = self.blobs = 0
        self.digests: list[bytes] = []
        self.sizes = array("Q")
        for row, record in index.scan(BLOB):
            known = unpack_blob(row, record)
            if known is not None:  # else its file is one without a row
                self.digests.append(row[1:])
                self.sizes.append(known.size)
        self._rows = len(self.digests)
        self.uses = array("Q", bytes(8 * self._rows))
        self.users = array("Q", bytes(8 * self._rows))
        self.due = array("Q", bytes(8 * self._rows if self._has_ages else 0))
        self.rules = bytearray(self._rows)
        self._has_users = bytearray(self._rows)
        self._is_there = bytearray(self._rows)
        self._pins = pinned_names(layout)
        self._pinned: set[bytes] = set()
        self._unknown: dict[bytes, list[tuple[Held, int, int, int]]] = {}
        self._add_users(index)
        self._add_files()
        unused = (number for number in range(self._rows) if not self._has_users[number])
        self.gone = [number for number in unused if not self._is_there[number]]

    def is_pinned(self, number: int) -> bool:
        """Whether one of a blob's users is."""
        return self.digests[number] in self._pinned

    def numbers(self) -> list[int]:
        """The blobs that there are, with something in them: of rows in the order of their digests, then the others."""
        rows = (number for number in range(self._rows) if self._is_there[number] and self.sizes[number])
        strays = (number for number in range(self._rows, len(self.digests)) if self.sizes[number])
        return [*rows, *strays]

    def _add_users(self, index: Index) -> None:
        """Uses by entry; those of blobs without a row (a damaged one) are kept apart until their file is seen."""
        for row, record in index.scan(ENTRY):
            entry = peek_row(row, record)
            if entry is None:
                continue
            if self._pins and row_name(row) in self._pins:
                self._pinned.add(entry.digest)
            rule = self._matcher.number(row) if self._has_rules else 0
            age = self._ages[rule]
            # It was used until the end of that hour, for all one knows.
            due = NEVER if age is None else (entry.used_hour + 1) * _HOUR + age
            number = self._number(entry.digest)
            if number < 0:
                self._unknown.setdefault(entry.digest, []).append((entry, row_checksum(record), due, rule))
            else:
                self._add_user(number, entry, row_checksum(record), due, rule)

    def _add_user(self, number: int, entry: Held, checksum: int, due: int, rule: int) -> None:
        used = use_tag(entry.used_hour, entry.validated_ns // 1_000_000)
        self.uses[number] = max(self.uses[number], used)
        self.users[number] ^= checksum
        if self._has_ages:
            self.due[number] = max(self.due[number], due)
        if self._has_users[number] and rule != self.rules[number]:
            rule = MIXED
        self.rules[number] = rule
        self._has_users[number] = 1

    def _number(self, digest: bytes) -> int:
        number = bisect_left(self.digests, digest, hi=self._rows)
        return number if number < self._rows and self.digests[number] == digest else -1

    def _add_files(self) -> None:
        now = time.time()
        for digest, file in _files_in(self._layout):
            number = self._number(digest)
            if number >= 0:
                self._is_there[number] = 1
                self.stored += self.sizes[number]
                self.blobs += 1
                continue
            with contextlib.suppress(FileNotFoundError):
                self._add_stray(digest, file.stat(follow_symlinks=False), now)

    def _add_stray(self, digest: bytes, status: os.stat_result, now: float) -> None:
        self.stored += status.st_size
        self.blobs += 1
        number = len(self.digests)
        self.digests.append(digest)
        self.sizes.append(status.st_size)
        self.uses.append(0)
        self.users.append(0)
        self.rules.append(0)
        self._has_users.append(0)
        if self._has_ages:
            self.due.append(0)
        users = self._unknown.get(digest, ())
        for user in users:
            self._add_user(number, *user)
        if users:
            return
        # Orphans in the order in which they got their names; what may be in flight, among the just used.
        hour = 0 if now - status.st_ctime > IN_FLIGHT_SECONDS else int(now) // _HOUR
        self.uses[number] = use_tag(hour, status.st_ctime_ns // 1_000_000)
        if self._has_ages:
            self.due[number] = NEVER if self._ages[0] is None else int(status.st_ctime) + self._ages[0]


def _files_in(layout: Layout) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    with os.scandir(layout.blobs) as shards:
        names = [shard.name for shard in shards]
    for name in names:
        try:
            with os.scandir(f"{layout.blobs}/{name}") as files:
                for file in files:
                    digest = layout.digest_at(name, file.name)
                    # What has no blob's name, or is no file, is not ours to take.
                    if digest is not None and file.is_file(follow_symlinks=False):
                        yield digest, file
        except (FileNotFoundError, NotADirectoryError):
            continue


def blob_files(layout: Layout) -> Iterator[bytes]:
    """The digests that the files in ``blobs/`` are named by."""
    return (digest for digest, _ in _files_in(layout))
