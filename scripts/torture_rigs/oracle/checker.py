"""An independent checker of a store: it reads files, hashes and the ledgers, and uses none of the store's code.

All processes that use the store must be dead or idle during a check.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import xxhash

from torture_rigs.oracle.index_reader import EntryRow, Rows, read_rows
from torture_rigs.oracle.pending_reader import all_waiting
from torture_rigs.oracle.recording_bucket import Ledger

_PLACES: Final = re.compile(
    r"CACHEDIR\.TAG|store\.json|config\.toml|statistics\.json|[0-9a-f]{16}"
    r"|index-v1(/CURRENT|/[0-9a-f]{16}|/\d+(/(data\.mdb|lock\.mdb|NEXT|[0-9a-f]{16}))?)?"
    r"|blobs(/[0-9a-f]{2}(/[0-9a-f]{30})?)?"
    r"|leases(/(\.new-)?[0-9a-f]{16}(/.*)?)?"
    r"|locks(/fill|/write(/[0-9a-f]{32})?|/collector|/statistics|/[0-9a-f]{16})?"
    r"|pending(/[0-9a-f]{32}(/paths\.json|/[0-9a-f]{16}(-[0-9a-f]{16}\.(data|json))?)?)?"
    r"|local(/.*)?"
    r"|pins(/[0-9a-f]{32}|/[0-9a-f]{16})?|trash(/[0-9a-f]{16}(/.*)?)?"
    r"|quarantine(/[0-9a-f]{32}-[0-9a-f]{8}(\.txt)?|/[0-9a-f]{16})?"
)
"""The documented names below the root; names of 16 digits are temporary files."""

_DIGEST: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class Checked:
    """The counts and violations of a check."""

    violations: list[str] = field(default_factory=list)
    entries: int = 0
    blobs: int = 0
    views: int = 0
    damaged_blobs: int = 0
    missing_blobs: int = 0
    leases: int = 0
    pending: int = 0


class Checker:
    """Checks one store against *ledgers*, by origin; caches hashes of versions, which never change."""

    def __init__(
        self,
        root: str,
        ledgers: Mapping[str, Ledger],
        scratch: str,
        *,
        after_power_cut: bool = False,
        after_failures: bool = False,
    ) -> None:
        """*after_power_cut*: blobs that their rows call unsynced may be missing or damaged. *after_failures*: sound
        ones may be in quarantine, since they could not be read.
        """
        self._root, self._ledgers, self._scratch = root, ledgers, scratch
        self._is_after_power_cut, self._is_after_failures = after_power_cut, after_failures
        self._quarantined: set[bytes] = set()
        self._digests: dict[tuple[str, str, int], tuple[bytes, int] | None] = {}
        self._histories: dict[tuple[str, str], int] = {}
        self._statements: dict[bytes, bytes] = {}

    def check(self) -> Checked:
        """Check everything."""
        found = Checked()
        if not os.path.isdir(self._root):
            return found
        rows = read_rows(self._root, self._scratch)
        found.violations += rows.damaged
        found.violations += self._strangers()
        names = os.listdir(f"{self._root}/quarantine") if os.path.isdir(f"{self._root}/quarantine") else []
        self._quarantined = {bytes.fromhex(name[:32]) for name in names if len(name) > 32}
        good = self._check_blobs(found)
        self._check_entries(rows, good, found)
        self._check_users(rows, found)
        self._check_stated(rows, found)
        self._check_views(found)
        # A record is synced before it is reported: neither power cuts nor failing calls excuse a bad one.
        found.pending = len(all_waiting(self._root, found.violations))
        if not self._is_after_power_cut and not self._is_after_failures:
            found.violations += [f"nothing damaged a blob, and yet quarantine/{name}" for name in names]
        return found

    def _strangers(self) -> Iterator[str]:
        for directory, directories, names in os.walk(self._root):
            for name in (*directories, *names):
                path = os.path.relpath(f"{directory}/{name}", self._root)
                if not _PLACES.fullmatch(path):
                    yield f"{path} is none of the store's names"

    def _check_blobs(self, found: Checked) -> dict[bytes, int]:
        """Return the sizes of the blobs with right bytes, by digest."""
        good: dict[bytes, int] = {}
        for directory, _, names in os.walk(f"{self._root}/blobs"):
            for name in names:
                path, text = f"{directory}/{name}", os.path.basename(directory) + name
                if not _DIGEST.fullmatch(text):
                    continue  # a stranger
                digest = bytes.fromhex(text)
                found.blobs += 1
                with open(path, "rb") as file:
                    data = file.read()
                status = os.stat(path)
                if _hash(data) != digest:
                    found.damaged_blobs += 1
                    if not self._is_after_power_cut:
                        found.violations.append(f"blob {digest.hex()} does not hold the bytes of its name")
                    continue
                good[digest] = len(data)
                if not self._is_after_power_cut and (
                    stat.S_IMODE(status.st_mode) != 0o444 or status.st_mtime != _mtime(digest)
                ):
                    found.violations.append(f"blob {digest.hex()} has mode {status.st_mode:o}, mtime {status.st_mtime}")
        return good

    def _check_entries(self, rows: Rows, good: Mapping[bytes, int], found: Checked) -> None:
        for entry in rows.entries:
            found.entries += 1
            what = f"the entry of {entry.uri} at {entry.origin}"
            found.violations += self._false_claims(entry, what)
            if entry.digest not in good:
                exists = os.path.exists(self._blob(entry.digest))
                found.missing_blobs += not exists
                state = "is damaged" if exists else "is missing"
                if not (self._may_be_lost(entry) or (not exists and self._may_be_quarantined(entry))):
                    found.violations.append(f"{what}: its blob {entry.digest.hex()} {state} (place {entry.place:x})")
            elif good[entry.digest] != entry.size:
                found.violations.append(f"{what}: size {entry.size} of a blob of {good[entry.digest]}")
            if rows.users.get(_user_row(entry)) != entry.whole:
                found.violations.append(f"{what} is not among the users of its blob")
            blob = rows.blobs.get(entry.digest)
            may_lack_row = self._is_after_power_cut or self._may_be_quarantined(entry)
            if blob is None and (entry.digest in good or not may_lack_row):
                found.violations.append(f"{what}: its blob has no row")
            elif blob is not None and blob.size != entry.size:
                found.violations.append(f"{what}: size {entry.size}, and the blob's row says {blob.size}")

    def _may_be_lost(self, entry: EntryRow) -> bool:
        return self._is_after_power_cut and entry.place != 0

    def _may_be_quarantined(self, entry: EntryRow) -> bool:
        return (self._is_after_failures or self._is_after_power_cut) and entry.digest in self._quarantined

    def _false_claims(self, entry: EntryRow, what: str) -> Iterator[str]:
        ledger = self._ledgers.get(entry.origin)
        if ledger is None:
            yield f"{what}: there is no such origin"
            return
        key = entry.uri.split("/", 3)[3]
        number = int(entry.etag) if entry.etag is not None and entry.etag.isdecimal() else 0
        version = self.version(entry.origin, key, number)
        if version is None:
            yield f"{what}: the bucket never held version {entry.etag}"
        elif version != (entry.digest, entry.size):
            yield f"{what}: its bytes are not those of version {number}"

    def version(self, origin: str, key: str, number: int) -> tuple[bytes, int] | None:
        """Return hash and size of a version; None if the object did not exist."""
        name = (origin, key, number)
        if name not in self._digests:
            try:
                data = self._ledgers[origin].content(key, number)
            except FileNotFoundError:
                return None
            self._digests[name] = None if data is None else (_hash(data), len(data))
        return self._digests[name]

    def _check_users(self, rows: Rows, found: Checked) -> None:
        wanted = {_user_row(entry) for entry in rows.entries}
        for row in rows.users.keys() - wanted:
            found.violations.append(f"a user row without its entry: {row.hex()}")

    def _check_stated(self, rows: Rows, found: Checked) -> None:
        """A remembered checksum must lead to the blob of the bytes that have it."""
        if not rows.stated:
            return
        for origin, ledger in self._ledgers.items():
            for key in ledger.keys():  # noqa: SIM118 (no mapping)
                done = self._histories.get((origin, key), 0)
                self._histories[origin, key] = latest = ledger.latest(key)
                for number in range(done + 1, latest + 1):
                    data = ledger.content(key, number)
                    if data is not None:
                        text = f"{origin}\0sha256\0{hashlib.sha256(data).hexdigest()}\0{len(data)}"
                        self._statements[b"C" + xxhash.xxh3_128_digest(text.encode())] = _hash(data)
        for row, digest in rows.stated.items():
            if self._statements.get(row) != digest:
                found.violations.append(f"what a provider stated leads to the wrong blob: {row.hex()} {digest.hex()}")

    def _check_views(self, found: Checked) -> None:
        """Check that every local file which nobody has changed has its bytes, even if its process was killed."""
        leases = f"{self._root}/leases"
        found.leases = len(os.listdir(leases)) if os.path.isdir(leases) else 0
        for name in glob.glob(f"{self._root}/pending/*/paths.json"):
            try:
                files = json.loads(Path(name).read_bytes())["files"]
            except ValueError:
                if not self._is_after_power_cut:
                    found.violations.append(f"{name} is no record")
                continue
            # Noted before it is made: one that is not there yet was not handed out.
            for file in (file for file in files if file["kind"] == "object"):
                path = f"{self._root}/local/{file['name']}"
                if not os.path.isfile(path) or os.stat(path).st_mtime_ns != file["mtime_ns"]:
                    continue  # gave way, or edited
                found.views += 1
                if not file["digest"].endswith(":" + _hash(Path(path).read_bytes()).hex()) and not (
                    self._is_after_power_cut
                ):
                    found.violations.append(f"the local file {path} no longer has its bytes")

    def _blob(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._root}/blobs/{name[:2]}/{name[2:]}"


def _hash(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def _mtime(digest: bytes) -> int:
    return 10**9 + int.from_bytes(digest[-4:], "big") % 2**29


def _user_row(entry: EntryRow) -> bytes:
    return b"U" + entry.digest + xxhash.xxh3_128_digest(entry.whole)
