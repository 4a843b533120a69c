"""Pins: URIs whose entries are never evicted, until they are unpinned.

    pins/<uri hash>     mode 0600; URI, origin and since when, as JSON

A pin is its file alone, since the index is derived and may be lost. The file gets its name, and loses it, inside a
write transaction of the index: the one that finds the entry there. An eviction looks for the name inside the
transaction that drops the entry. One of the two runs first: either the pin is seen, or there is no entry to pin.

A pin is of a URI, not of bytes: a new version of the object is pinned without a change here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
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
"""Pins in one write transaction: other writers wait a few milliseconds for it."""

_FORMAT: Final = 1
_NAME: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin of *key*, made *since_ns* after the epoch."""

    key: Key
    since_ns: int

    @property
    def uri(self) -> str:
        return self.key.uri

    def encode(self) -> bytes:
        """Return the contents of its file."""
        record = {"format": _FORMAT, "uri": self.key.uri, "origin": self.key.origin, "since_ns": self.since_ns}
        return json.dumps(record, indent=1).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Pin:
        """Parse the contents of a file. Raises ValueError."""
        try:
            record: dict[str, Any] = json.loads(data)
            if record["format"] != _FORMAT:
                raise ValueError(f"a pin of format {record['format']}")
            return cls(Key(str(record["uri"]), str(record["origin"])), int(record["since_ns"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a pin: {error!r}") from error


def is_pinned(layout: Layout, name: bytes) -> bool:
    """Whether the URI of this hash is pinned, readable or not; called inside the transaction that would drop its entry.

    Raises OSError if the file system does not answer: nothing is removed then.
    """
    return files.lstat_or_none(layout.pin(name.hex())) is not None


def pinned_names(layout: Layout) -> frozenset[bytes]:
    """Return the hashes of all pinned URIs."""
    try:
        names = os.listdir(layout.pins)
    except FileNotFoundError:
        return frozenset()
    return frozenset(bytes.fromhex(name) for name in names if _NAME.fullmatch(name))


class Pins:
    """The pins of one store; thread-safe, keeps nothing open."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index

    def all(self, prefix: str = "") -> Iterator[Pin]:
        """Yield the pins whose URI starts with *prefix* (a string, not a path), in URI order, cached or not."""
        found = [pin for pin, _ in self._read() if pin is not None and pin.uri.startswith(prefix)]
        yield from sorted(found, key=lambda pin: (pin.uri, pin.key.origin))

    def unreadable(self) -> list[str]:
        """Return paths of pins that count although their URI is unknown: damage, or a newer format."""
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

    def pin(self, keys_by_name: Mapping[str, Sequence[Key]]) -> list[Pin]:
        """Pin the cached *keys_by_name* of URIs and prefixes: see `Cache.pin`."""
        for name, keys in keys_by_name.items():
            if not keys:
                raise _not_cached(name)
        pins = self.add(list(dict.fromkeys(key for keys in keys_by_name.values() for key in keys)))
        pinned = {pin.key for pin in pins}
        for name, keys in keys_by_name.items():
            if pinned.isdisjoint(keys):
                raise _not_cached(name)  # it was evicted in this very moment; the other names are pinned
        return pins

    def unpin(self, *names: str) -> list[Pin]:
        """Remove the pins of these URIs, and of those below these prefixes, cached or not; return them.

        Raises NotHeldError for a name without pins; nothing is unpinned then.
        """
        known = list(self.all())
        found: dict[Pin, None] = {}
        for name in names:
            named = [pin for pin in known if pin.uri == name or (name.endswith("/") and pin.uri.startswith(name))]
            if not named:
                message = "no pin has this name or prefix: `casstore pin` lists the pins"
                raise NotHeldError(errno.ENOENT, message, name)
            found.update(dict.fromkeys(named))
        pins = list(found)
        for start in range(0, len(pins), BATCH):
            with files.full_disk(self._layout.root):
                self._index.write(partial(self._unlink, pins=pins[start : start + BATCH]))
        if pins:
            files.sync_directory(self._layout.pins)
        return pins

    def _unlink(self, _: Txn, pins: Sequence[Pin]) -> None:
        for pin in pins:
            files.unlink_quietly(self._layout.pin(pin.key.name))

    def add(self, keys: Sequence[Key]) -> list[Pin]:
        """Pin those of *keys* that have an entry, and return the pins, on the disk; an existing one is as good."""
        pins: list[Pin] = []
        for start in range(0, len(keys), BATCH):
            drafts: dict[Pin, str] = {}
            with files.full_disk(self._layout.root):
                try:
                    for key in keys[start : start + BATCH]:
                        self._draft(Pin(key, time.time_ns()), drafts)
                    pins += self._index.write(partial(self._name, drafts=drafts, made=set()))
                finally:
                    for draft in drafts.values():
                        files.unlink_quietly(draft)
                files.sync_directory(self._layout.pins)
        return pins

    def _draft(self, pin: Pin, drafts: dict[Pin, str]) -> None:
        """Write its file, under a name that is not a pin's, and add that name to *drafts*."""
        descriptor, drafts[pin] = files.open_named(self._layout.pins)
        try:
            files.write_all(descriptor, pin.encode())
            files.sync(descriptor)
        finally:
            os.close(descriptor)

    def _name(self, txn: Txn, drafts: dict[Pin, str], made: set[str]) -> list[Pin]:
        pins = []
        for pin, draft in drafts.items():
            path = self._layout.pin(pin.key.name)
            if current_entry(txn, pin.key) is None:
                if path in made:
                    # Named in a transaction that was lost with its index; the new one does not have the entry.
                    files.unlink_quietly(path)
                continue
            with contextlib.suppress(FileExistsError):
                files.link(draft, path)
                made.add(path)
            pins.append(pin)
        return pins


def _not_cached(name: str) -> NotHeldError:
    if name.endswith("/"):
        message = f"nothing below this prefix is cached: run `casstore prefetch {name}` first"
    else:
        message = f"not cached: run `casstore get {name}` first (a prefix of several objects ends with a slash)"
    return NotHeldError(errno.ENOENT, message, name)
