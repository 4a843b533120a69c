"""The state that the processes of a run share: directories, buckets, violations, counts."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torture_rigs.oracle.recording_bucket import Ledger

ORIGINS: Final = ("one", "two")
"""Two endpoints with equal URIs: an object of one must never be served for the other."""

COUNTED: Final = (
    "reads",
    "writes",
    "appends",
    "deletes",
    "conflicts",
    "evictions",
    "collections",
    "views",
    "forks",
    "changes",
    "pending",
    "refusals",
    "absences",
    "creations",
    "forced",
    "pushes",
    "drops",
    "saves",
    "left open",
    "edits",
)
_SLOTS: Final = 64


class Tally:
    """Counters in shared memory, which survive the kill of a process; a row for each worker slot."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * len(COUNTED) * 8)

    def add(self, slot: int, what: str, count: int = 1) -> None:
        """Add to a counter; exact if one process at a time uses the slot."""
        at = (slot % _SLOTS * len(COUNTED) + COUNTED.index(what)) * 8
        (before,) = struct.unpack_from("<Q", self._memory, at)
        struct.pack_into("<Q", self._memory, at, before + count)

    def totals(self) -> Counter[str]:
        """Return the sums over all slots."""
        numbers = struct.unpack(f"<{_SLOTS * len(COUNTED)}Q", self._memory)
        return Counter({name: sum(numbers[at :: len(COUNTED)]) for at, name in enumerate(COUNTED)})


@dataclass(slots=True)
class Run:
    """One run. Everything else is outside the store, so that damage to the store cannot reach it."""

    directory: Path
    store: str
    ledgers: dict[str, Ledger] = field(init=False)
    is_healthy: bool = True
    """Whether this run does not damage the store, so that the store must not report damage."""
    tally: Tally = field(default_factory=Tally)
    slot: int = 0

    def __post_init__(self) -> None:
        (self.directory / "scratch").mkdir(parents=True, exist_ok=True)
        self.ledgers = {f"ledger@{name}": Ledger(str(self.directory / "ledgers" / name)) for name in ORIGINS}

    @classmethod
    def start(cls, parent: str | None) -> Run:
        """Create a run in a new directory below *parent* (default: the temporary directory)."""
        directory = Path(tempfile.mkdtemp(prefix="casstore-torture-", dir=parent))
        return cls(directory, str(directory / "store"))

    @property
    def scratch(self) -> str:
        """The directory for the checker's copies."""
        return str(self.directory / "scratch")

    def violate(self, message: str) -> None:
        """Record a violation; a later kill does not remove it."""
        self._append("violations", message)

    def fail(self, doing: str) -> None:
        """Record an exception that must not happen."""
        self.violate(f"{doing}: {traceback.format_exc()}")

    def violations(self) -> list[str]:
        """Return the recorded violations."""
        return [str(line) for line in self._lines("violations")]

    # Events of writes, in one list and in order; a later kill does not remove them.

    def acknowledge(self, origin: str, key: str, token: str) -> None:
        """Record a successful write: *token* is in the object from now on, or was."""
        self._append("said", ["done", origin, key, token])

    def promise(self, origin: str, key: str, token: str, name: str) -> None:
        """Record a failed write whose error names the pending write *name*: *token* is there, or in the object."""
        self._append("said", ["pending", origin, key, token, name])

    def dropping(self, name: str) -> None:
        """Record that a user is about to discard the pending write."""
        self._append("said", ["dropping", name])

    def dropped(self, name: str) -> None:
        """Record that it was discarded: it must never appear again."""
        self._append("said", ["dropped", name])

    def saving(self, name: str) -> None:
        """Record that the pending write is about to be moved to `saved`."""
        self._append("said", ["saving", name])

    def deciding(self, origin: str, key: str, digest: str) -> None:
        """Record that a user is about to push, discard or move the pending write with *digest*."""
        self._append("decided", [origin, key, digest])

    def is_decided(self, origin: str, key: str, digest: str) -> bool:
        """Return whether a user was about to."""
        return [origin, key, digest] in self._lines("decided")

    def note_edit(self, local: str) -> None:
        """Record that the file at *local*, which is the same for all workers, was replaced."""
        self._append("edits", local)

    def edits_of(self, local: str) -> int:
        """Return how often it was."""
        return self._lines("edits").count(local)

    def said(self) -> list[list[str]]:
        """Return all events so far."""
        return [line for line in self._lines("said") if isinstance(line, list)]

    def saved(self, name: str) -> str:
        """Return the target of a moved pending write: beside the store, on the disk that loses its power."""
        return f"{os.path.dirname(self.store)}/saved/{name}"

    @property
    def made(self) -> str:
        """The path where this process creates a file to rename into the store. It is outside the store: a file that a
        kill leaves beside a local copy would be a user's file, and keep its lease forever.
        """
        return f"{os.path.dirname(self.store)}/made-{os.getpid()}"

    def keep(self) -> str:
        """Copy the store for debugging; return the path of the copy."""
        target = str(self.directory / "kept")
        if os.path.isdir(self.store) and not os.path.exists(target):
            shutil.copytree(self.store, target, symlinks=True)
        return target

    def remove(self) -> None:
        """Remove the directory, after a run without violations."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _append(self, name: str, what: object) -> None:
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps(what).encode() + b"\n")
        finally:
            os.close(descriptor)

    def _lines(self, name: str) -> list[object]:
        found: list[object] = []
        path = self.directory / name
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue  # truncated by a kill during the write
        return found
