"""What one run of torture shares between its processes: directories, buckets, what was seen and what was counted."""

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
"""Two endpoints with equal URIs: nothing of one may ever be served for the other."""

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
    """Counts that survive the kill of whoever counts: shared memory, one row per worker slot."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * len(COUNTED) * 8)

    def add(self, slot: int, what: str, count: int = 1) -> None:
        """Count; exact as long as one process at a time has the slot."""
        at = (slot % _SLOTS * len(COUNTED) + COUNTED.index(what)) * 8
        (before,) = struct.unpack_from("<Q", self._memory, at)
        struct.pack_into("<Q", self._memory, at, before + count)

    def totals(self) -> Counter[str]:
        """Over all slots."""
        numbers = struct.unpack(f"<{_SLOTS * len(COUNTED)}Q", self._memory)
        return Counter({name: sum(numbers[at :: len(COUNTED)]) for at, name in enumerate(COUNTED)})


@dataclass(slots=True)
class Run:
    """One run. Everything but the store lies outside of the store, so that nothing done to it reaches the truth."""

    directory: Path
    store: str
    ledgers: dict[str, Ledger] = field(init=False)
    is_healthy: bool = True
    """Whether nothing damages the store, so that it must not find any damage."""
    tally: Tally = field(default_factory=Tally)
    slot: int = 0

    def __post_init__(self) -> None:
        (self.directory / "scratch").mkdir(parents=True, exist_ok=True)
        self.ledgers = {f"ledger@{name}": Ledger(str(self.directory / "ledgers" / name)) for name in ORIGINS}

    @classmethod
    def start(cls, parent: str | None) -> Run:
        """In a new directory below *parent*, the system's temporary directory by default."""
        directory = Path(tempfile.mkdtemp(prefix="casstore-torture-", dir=parent))
        return cls(directory, str(directory / "store"))

    @property
    def scratch(self) -> str:
        """For the checker's copies."""
        return str(self.directory / "scratch")

    def violate(self, message: str) -> None:
        """Say, so that a kill cannot unsay it, what must not be."""
        self._append("violations", message)

    def fail(self, doing: str) -> None:
        """An exception that nobody may see."""
        self.violate(f"{doing}: {traceback.format_exc()}")

    def violations(self) -> list[str]:
        """What workers said so far."""
        return [str(line) for line in self._lines("violations")]

    # What a worker says of writes, in one list and in order; a kill cannot unsay it.

    def acknowledge(self, origin: str, key: str, token: str) -> None:
        """A write returned without an error: *token* must be in the object from now on, or must have been."""
        self._append("said", ["done", origin, key, token])

    def promise(self, origin: str, key: str, token: str, name: str) -> None:
        """A write raised and said that its bytes are pending as *name*: there, or in the object, must *token* be."""
        self._append("said", ["pending", origin, key, token, name])

    def dropping(self, name: str) -> None:
        """That pending write is about to be discarded, for a user wants it."""
        self._append("said", ["dropping", name])

    def dropped(self, name: str) -> None:
        """It was: it must never be seen again."""
        self._append("said", ["dropped", name])

    def saving(self, name: str) -> None:
        """That pending write is about to be moved to `saved`."""
        self._append("said", ["saving", name])

    def deciding(self, origin: str, key: str, digest: str) -> None:
        """A user is about to push, discard or move what is pending with the bytes of *digest*."""
        self._append("decided", [origin, key, digest])

    def is_decided(self, origin: str, key: str, digest: str) -> bool:
        """Whether some user was about to."""
        return [origin, key, digest] in self._lines("decided")

    def said(self) -> list[list[str]]:
        """All of it so far."""
        return [line for line in self._lines("said") if isinstance(line, list)]

    def saved(self, name: str) -> str:
        """Where that pending write is moved: beside the store, on the disk that loses its power."""
        return f"{os.path.dirname(self.store)}/saved/{name}"

    @property
    def made(self) -> str:
        """Where this process makes a file that is to be renamed into the store. Not there: what a kill leaves beside a
        local copy is a user's file, and keeps its lease for ever.
        """
        return f"{os.path.dirname(self.store)}/made-{os.getpid()}"

    def keep(self) -> str:
        """A copy of the store as it is now, for whoever looks for the reason; its path."""
        target = str(self.directory / "kept")
        if os.path.isdir(self.store) and not os.path.exists(target):
            shutil.copytree(self.store, target, symlinks=True)
        return target

    def remove(self) -> None:
        """The run went well."""
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
                    continue  # cut off by a kill in the middle of a write
        return found
