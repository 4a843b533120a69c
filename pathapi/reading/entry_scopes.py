"""Entries that go when the client, the path or the file goes that filled them: `pathapi.enums.FileCacheMode`.

A claim is held by whatever the mode names. When the last holder of one has gone, its entry is dropped; but only if it
still is the one that was filled. A claim may end in the middle of anything (garbage collection), where no lock may be
taken: it only puts its entry on a queue, and a thread drops it. What is left at exit is dropped then.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import Final

from casstore import Cache, CasstoreError, Entry, Key, at_exit

_PATIENCE: Final = 5.0
"""Seconds that the thread of a client that has gone waits for its last claims."""


class EntryHold:
    """As long as it lives, so does the entry."""

    __slots__ = ("__weakref__", "_claims", "_key")

    def __init__(self, claims: EntryScope, key: Key) -> None:
        self._claims = claims
        self._key = key

    def __del__(self) -> None:
        self._claims.end(self._key)


class EntryScope:
    """The entries that one client filled in this process and that are to go again."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._begin_process()

    def _begin_process(self) -> None:
        self._pid = os.getpid()
        self._filled: dict[Key, Entry] = {}
        self._held: weakref.WeakValueDictionary[Key, EntryHold] = weakref.WeakValueDictionary()
        self._ended: SimpleQueue[Entry | None] = SimpleQueue()
        self._mutex = threading.Lock()
        self._dropper: threading.Thread | None = None

    def filled(self, entry: Entry, is_new: bool) -> None:
        """This client has just brought *entry* into the store; unless it *is_new*, somebody else may have before."""
        if self._pid != os.getpid():
            self._begin_process()  # what the parent filled is the parent's to drop
        with self._mutex:
            if not is_new and entry.key not in self._filled:
                return
            self._filled[entry.key] = entry
            if self._dropper is None:
                self._dropper = threading.Thread(target=self._drop, name="casstore-claims", daemon=True)
                self._dropper.start()
                at_exit(self.close)

    def claim(self, key: Key) -> EntryHold | None:
        """Hold *key*'s entry; None where it is not this client's to drop."""
        if self._pid != os.getpid() or key not in self._filled:
            return None
        with self._mutex:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = EntryHold(self, key)
            return held

    def end(self, key: Key) -> None:
        """The last holder has gone. Takes no lock."""
        if self._pid == os.getpid():
            entry = self._filled.pop(key, None)
            if entry is not None:
                self._ended.put(entry)

    def close(self) -> None:
        """Drop everything that is still claimed."""
        if self._pid == os.getpid():
            while self._filled:
                with contextlib.suppress(KeyError):
                    self._ended.put(self._filled.popitem()[1])
            while not self._ended.empty():
                with contextlib.suppress(Empty):
                    entry = self._ended.get_nowait()
                    if entry is not None:
                        self._drop_one(entry)

    def finish(self) -> None:
        """The client has gone: what is still to end ends soon. Takes no lock."""
        self._ended.put(None)

    def _drop(self) -> None:
        patience = None
        while True:
            try:
                entry = self._ended.get(timeout=patience)
            except Empty:
                return
            if entry is None:
                patience = _PATIENCE
            else:
                self._drop_one(entry)

    def _drop_one(self, entry: Entry) -> None:
        # What cannot be dropped now is an entry like any other.
        with contextlib.suppress(CasstoreError, OSError):
            self._cache.evict(lambda found: found.key == entry.key and found.same_content(entry), entry.uri)


class ClaimedFile(io.FileIO):
    """An open blob that holds a claim until it is closed."""

    def __init__(self, descriptor: int, claim: EntryHold | None) -> None:
        super().__init__(descriptor, "rb")
        self._claim = claim

    def close(self) -> None:
        """Close; the last one lets the entry go."""
        super().close()
        self._claim = None
