"""Pins: a user's lasting claims on URIs, whose entries are never evicted.

    pins/<uri hash>     mode 0600; URI, origin and since when, as JSON

The file is all there is of a pin, for the index is derived and may be lost. It gets its name, and loses it, inside a
write transaction of the index: the one that finds the entry there. Whoever evicts looks for the name inside the
transaction that drops the entry. LMDB lets one of the two go first: either the pin is seen, or the entry is gone and
there is nothing to pin.

A pin is of a URI, not of bytes: what is there now, and whatever takes its place. So a new version moves nothing here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from casstore.errors import NotHeldError
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.entries import current_entry
from casstore.index.transactions import Txn

BATCH: Final = 64
"""Pins that one write transaction names: writers wait a few milliseconds for it."""

_FORMAT: Final = 1
_NAME: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Pin:
    """A claim on *key*, made *since_ns* after the epoch."""

    key: Key
    since_ns: int

    @property
    def uri(self) -> str:
        """What is pinned."""
        return self.key.uri

    def encode(self) -> bytes:
        """As its file has it."""
        record = {"format": _FORMAT, "uri": self.key.uri, "origin": self.key.origin, "since_ns": self.since_ns}
        return json.dumps(record, indent=1).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Pin:
        """The inverse. Raises ValueError."""
        try:
            record: dict[str, Any] = json.loads(data)
            if record["format"] != _FORMAT:
                raise ValueError(f"a pin of format {record['format']}")
            return cls(Key(str(record["uri"]), str(record["origin"])), int(record["since_ns"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no pin: {error!r}") from error


def is_pinned(layout: Layout, name: bytes) -> bool:
    """Whether the URI of this hash is pinned, readable or not; asked inside the transaction that would drop its entry.

    Raises OSError where that cannot be told: nothing goes then.
    """
    try:
        os.lstat(layout.pin(name.hex()))
    except FileNotFoundError:
        return False
    return True


def pinned_names(layout: Layout) -> frozenset[bytes]:
    """The hashes of all pinned URIs."""
    try:
        names = os.listdir(layout.pins)
    except FileNotFoundError:
        return frozenset()
    return frozenset(bytes.fromhex(name) for name in names if _NAME.fullmatch(name))


class Pins:
    """The pins of one store; thread-safe, holds nothing open."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index

    def all(self, prefix: str = "") -> Iterator[Pin]:
        """Those of URIs that *prefix* begins, in URI order."""
        found = [pin for pin, _ in self._read() if pin is not None and pin.uri.startswith(prefix)]
        yield from sorted(found, key=lambda pin: (pin.uri, pin.key.origin))

    def unreadable(self) -> list[str]:
        """Paths of pins that hold, though nobody can tell of what: a newer format, or damage."""
        return sorted(path for pin, path in self._read() if pin is None)

    def _read(self) -> Iterator[tuple[Pin | None, str]]:
        for name in pinned_names(self._layout):
            path = self._layout.pin(name.hex())
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except FileNotFoundError:
                continue  # unpinned meanwhile
            pin = None
            with contextlib.suppress(ValueError):
                pin = Pin.parse(data)
            yield pin if pin is not None and pin.key.name == name.hex() else None, path

    def add(self, keys: Sequence[Key]) -> list[Pin]:
        """Pin those of *keys* that have an entry: a pin for each, on the disk; one that was there is as good."""
        pins: list[Pin] = []
        for start in range(0, len(keys), BATCH):
            pins += self._add_batch(keys[start : start + BATCH])
        return pins

    def _add_batch(self, keys: Sequence[Key]) -> list[Pin]:
        drafts: dict[Pin, str] = {}
        made: set[str] = set()
        with files.full_disk(self._layout.root):
            try:
                for key in keys:
                    pin = Pin(key, time.time_ns())
                    drafts[pin] = self._draft(pin)
                pins = self._index.write(lambda txn: self._name(txn, drafts, made))
            finally:
                for draft in drafts.values():
                    files.unlink_quietly(draft)
            files.sync_directory(self._layout.pins)
        return pins

    def _draft(self, pin: Pin) -> str:
        """Its file, on the disk under a name that is no pin's."""
        descriptor, path = files.open_named(self._layout.pins)
        try:
            files.write_all(descriptor, pin.encode())
            files.sync(descriptor)
        except BaseException:
            files.unlink_quietly(path)
            raise
        finally:
            os.close(descriptor)
        return path

    def _name(self, txn: Txn, drafts: dict[Pin, str], made: set[str]) -> list[Pin]:
        pins = []
        for pin, draft in drafts.items():
            path = self._layout.pin(pin.key.name)
            if current_entry(txn, pin.key) is None:
                if path in made:
                    # Named in a transaction that was lost with its index: the new one does not have the entry.
                    files.unlink_quietly(path)
                continue
            with contextlib.suppress(FileExistsError):
                files.link(draft, path)
                made.add(path)
            pins.append(pin)
        return pins

    def remove(self, pins: Sequence[Pin]) -> None:
        """Give these claims up; gone from the disk on return. One that is not there is no error."""
        for start in range(0, len(pins), BATCH):
            paths = [self._layout.pin(pin.key.name) for pin in pins[start : start + BATCH]]
            with files.full_disk(self._layout.root):
                self._index.write(partial(_unlink, paths=paths))
        if pins:
            files.sync_directory(self._layout.pins)


def _unlink(_: Txn, paths: Sequence[str]) -> None:
    for path in paths:
        files.unlink_quietly(path)


def is_prefix(name: str) -> bool:
    """Whether *name* stands for all that is below it: it ends in a slash."""
    return name.endswith("/")


def not_held(name: str) -> NotHeldError:
    """The error for a name that no entry answers to."""
    if is_prefix(name):
        why = f"nothing is held below it: `casstore prefetch {name}` has it in the store, and then it can be pinned"
    else:
        why = (
            f"it is not held: `casstore get {name}` has it in the store, and then it can be pinned (what ends in a "
            "slash stands for all that is held below)"
        )
    return NotHeldError(errno.ENOENT, why, name)


def not_pinned(name: str) -> NotHeldError:
    """The error for a name that no pin answers to."""
    return NotHeldError(errno.ENOENT, "nothing is pinned by this name: `casstore pin` lists what is", name)
