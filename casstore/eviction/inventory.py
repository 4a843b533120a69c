"""The inventory that a plan needs: every blob with its size, last use, users and rule, from one pass.

In parallel arrays, sorted by digest, with the files without a row at the end: a million blobs take some 100 MB.

Entries are read in the order of their URIs, and random lookups in a table of a million cost several times those in a
small one. So entries are packed by the first byte of the digest, and then joined with rows and names byte by byte.
"""

from __future__ import annotations

import os
import struct
import time
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress
from typing import Final

from casstore.config.settings import Rule, RuleMatcher
from casstore.eviction.pins import pinned_names
from casstore.format.keys import BLOB, ENTRY, row_name
from casstore.format.layout import Layout
from casstore.format.records import peek_blob, scan_usage
from casstore.fs import files
from casstore.index.database import Index

NEVER: Final = (1 << 64) - 1
"""The due time of a blob without a limit of age."""

MIXED_RULES: Final = 255
"""The rule of a blob whose users have different ones: none applies to its size."""

IN_FLIGHT_SECONDS: Final = 60
"""How long a file without a row counts as just used. Evicting one in flight is safe, and costs a copy."""

_HOUR: Final = 3600
_CLOCK_AHEAD_HOURS: Final = 24
"""How far in the future a time may be. Beyond it, a clock was ahead, and when the blob was used is unknown."""
_MILLISECOND_BITS: Final = 42
"""Of the 64 of a `recency_key`: enough until 2109."""
_HOUR_BITS: Final = 64 - _MILLISECOND_BITS
"""Enough until 2448."""

FIRST_USE: Final = 1 << _MILLISECOND_BITS
"""The lowest `recency_key` of a known hour: below are blobs that were never used, or of unknown use."""

_USER: Final = struct.Struct("<33pQQQB")
"""An entry, packed: digest (with its length), `recency_key`, checksum, due, rule."""


def recency_key(hour: int, validated_ms: int) -> int:
    """Return a number that orders by the hour of last use, and within it by the last validation in milliseconds."""
    if hour >> _HOUR_BITS or validated_ms >> _MILLISECOND_BITS:  # too large, or a clock before 1970
        hour = min(hour, (1 << _HOUR_BITS) - 1)
        validated_ms = max(0, min(validated_ms, (1 << _MILLISECOND_BITS) - 1))
    return hour << _MILLISECOND_BITS | validated_ms


def hour_of(key: int) -> int:
    """Return the hour of last use in a `recency_key`, since the epoch; 0 if it is unknown."""
    return key >> _MILLISECOND_BITS


class Inventory:
    """Blobs by number. *stored* bytes are in *blobs* files; *stale_rows* have neither a file nor users.

    Of each: *digests*, *sizes*, *uses* (`recency_key`), *users* (a checksum over the entries that use it), *rules*
    (counted from 1; 0 for none, `MIXED_RULES`), and, if there are limits of age, *due*: the seconds since the epoch at
    which all its users exceed theirs.
    """

    def __init__(self, index: Index, layout: Layout, max_age: int | None, rules: Sequence[Rule]) -> None:
        self._layout, self._matcher = layout, RuleMatcher(rules)
        self._ages = [max_age, *(rule.max_age if rule.has_age else max_age for rule in rules)]
        self._has_ages = any(age is not None for age in self._ages)
        self._has_rules = bool(rules)
        self._now = time.time()
        self.generation = index.read(lambda _: index.generation)
        self.digests: list[bytes] = []
        self.sizes = array("Q")
        for row, record in index.scan(BLOB):
            size = peek_blob(row, record)
            if size is not None:  # else its file is one without a row
                self.digests.append(row[1:])
                self.sizes.append(size)
        rows = len(self.digests)
        self.uses, self.users = array("Q", bytes(8 * rows)), array("Q", bytes(8 * rows))
        self.due = array("Q", bytes(8 * rows if self._has_ages else 0))
        self.rules, self._has_users, self._is_there = bytearray(rows), bytearray(rows), bytearray(rows)
        self._pins = pinned_names(layout)
        self._pinned: set[bytes] = set()
        # Rows before entries before files: a fill meanwhile is seen as a file without a row.
        users = self._users_by_byte(index)
        shards = set(files.list_names(layout.blobs))
        ends = [bisect_left(self.digests, bytes([byte + 1]), hi=rows) for byte in range(255)] + [rows]
        for byte, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if start < end or f"{byte:02x}" in shards:
                self._add_files(byte, start, end, users[byte])
            users[byte].clear()
        self.blobs = sum(self._is_there)
        self.stored = sum(compress(self.sizes, self._is_there))
        is_gone = (not (used or there) for used, there in zip(self._has_users, self._is_there, strict=True))
        self.stale_rows = list(compress(range(len(self.digests)), is_gone))

    def is_pinned(self, number: int) -> bool:
        """Whether one of a blob's users is pinned."""
        return self.digests[number] in self._pinned

    def numbers(self) -> list[int]:
        """Return the blobs with a file that is not empty: those with a row by digest, then the others."""
        return [number for number in compress(range(len(self.digests)), self._is_there) if self.sizes[number]]

    def _users_by_byte(self, index: Index) -> list[bytearray]:
        """Every entry as a `_USER`, by the first byte of its digest."""
        by_byte = [bytearray() for _ in range(256)]
        is_plain = not (self._pins or self._has_rules or self._has_ages)
        due = rule = 0
        latest = int(self._now) // _HOUR + _CLOCK_AHEAD_HOURS
        for row, digest, validated_ns, used_hour, checksum in scan_usage(index.scan(ENTRY)):
            hour = used_hour if used_hour <= latest else 0
            if not is_plain:
                if self._pins and row_name(row) in self._pins:
                    self._pinned.add(digest)
                rule = self._matcher.number(row)
                age = self._ages[rule]
                # It may have been used until the end of that hour.
                due = NEVER if age is None else (hour + 1) * _HOUR + age
            by_byte[digest[0]] += _USER.pack(digest, recency_key(hour, validated_ns // 1_000_000), checksum, due, rule)
        return by_byte

    def _add_files(self, byte: int, start: int, end: int, users: bytearray) -> None:
        """Look for the files whose digest begins with *byte*, with rows *start* to *end* or none; add their *users*."""
        directory = self._layout.shard(bytes([byte]))
        known = [digest.hex()[2:] for digest in self.digests[start:end]]
        names = set(files.list_names(directory))
        self._is_there[start:end] = bytes(map(names.__contains__, known))
        numbers = dict(zip(self.digests[start:end], range(start, end), strict=True))
        unindexed = {}
        for name in names.difference(known):
            digest = self._layout.digest_at(f"{byte:02x}", name)
            status = None if digest is None else files.lstat_regular(f"{directory}/{name}")
            if digest is not None and status is not None:
                number = numbers[digest] = len(self.digests)
                unindexed[number] = status
                self.digests.append(digest)
                self.sizes.append(status.st_size)
                for column in (self.uses, self.users, self.rules, self._has_users):
                    column.append(0)
                self._is_there.append(1)
                if self._has_ages:
                    self.due.append(0)
        self._add_users(numbers, users)
        for number, status in unindexed.items():
            if not self._has_users[number]:
                self._date_unindexed(number, status)

    def _add_users(self, numbers: dict[bytes, int], packed: bytearray) -> None:
        newest, users, has_users, rules, dues = self.uses, self.users, self._has_users, self.rules, self.due
        for digest, used, checksum, due, rule in _USER.iter_unpack(packed):
            number = numbers.get(digest)
            if number is None:
                continue  # neither a row nor a file
            if used > newest[number]:
                newest[number] = used
            users[number] ^= checksum
            if dues and due > dues[number]:
                dues[number] = due
            if rule != rules[number]:
                rules[number] = MIXED_RULES if has_users[number] else rule
            has_users[number] = 1

    def _date_unindexed(self, number: int, status: os.stat_result) -> None:
        """Order unused files by the time of their names; one that may be in flight counts as just used."""
        is_ahead = status.st_ctime > self._now + _CLOCK_AHEAD_HOURS * _HOUR
        is_old = self._now - status.st_ctime > IN_FLIGHT_SECONDS or is_ahead
        hour = 0 if is_old else int(self._now) // _HOUR
        self.uses[number] = recency_key(hour, status.st_ctime_ns // 1_000_000)
        if self._has_ages:
            since = 0 if is_ahead else int(status.st_ctime)
            self.due[number] = NEVER if self._ages[0] is None else since + self._ages[0]
