"""Entries that are evicted when the client, the path or the file that filled them ends: `pathapi.enums.FileCacheMode`.

An `EntryHold` belongs to whatever the mode names. The end of the last one evicts its entry, if that still is the one
that was filled. Garbage collection may end it in the middle of anything: a `FinalizerQueue` evicts the entry. Exit
evicts the rest.
"""

from __future__ import annotations

import contextlib
import io
import os
import weakref
from typing import Final

from casstore import Cache, CasstoreError, Entry, Key, at_exit, new_mutex
from pathapi.parallel.finalizer_queue import FinalizerQueue


def _evict(item: tuple[Cache, Entry], _: bool) -> bool:
    cache, entry = item
    # An entry that cannot be evicted now is an entry like any other.
    with contextlib.suppress(CasstoreError, OSError):
        cache.evict(lambda found: found.key == entry.key and found.same_content(entry), entry.uri)
    return True


_queue: Final = FinalizerQueue(_evict)


class EntryHold:
    """As long as it lives, so does the entry."""

    __slots__ = ("__weakref__", "_key", "_scope")

    def __init__(self, scope: EntryScope, key: Key) -> None:
        self._scope = scope
        self._key = key

    def __del__(self) -> None:
        self._scope.end(self._key)


class EntryScope:
    """The entries that one client filled in this process and that are to be evicted again; thread-safe."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._begin_process()

    def _begin_process(self) -> None:
        self._pid = os.getpid()
        self._filled: dict[Key, Entry] = {}
        self._holds: weakref.WeakValueDictionary[Key, EntryHold] = weakref.WeakValueDictionary()
        self._mutex = new_mutex()
        self._is_registered = False

    def filled(self, entry: Entry, is_new: bool) -> None:
        """Record that this client has filled *entry*; unless it *is_new*, another client may have filled it before."""
        if self._pid != os.getpid():
            self._begin_process()  # the parent evicts what the parent filled
        with self._mutex:
            if not is_new and entry.key not in self._filled:
                return
            self._filled[entry.key] = entry
            if not self._is_registered:
                self._is_registered = True
                _queue.start()
                at_exit(self.close)

    def hold(self, key: Key) -> EntryHold | None:
        """Hold *key*'s entry; None if this client did not fill it."""
        if self._pid != os.getpid() or key not in self._filled:
            return None
        with self._mutex:
            hold = self._holds.get(key)
            if hold is None:
                hold = self._holds[key] = EntryHold(self, key)
            return hold

    def end(self, key: Key) -> None:
        """Evict *key*'s entry soon: its last hold has ended. Takes no lock."""
        if self._pid == os.getpid():
            entry = self._filled.pop(key, None)
            if entry is not None:
                _queue.put((self._cache, entry))

    def close(self) -> None:
        """Evict every entry that is left, now."""
        for key in list(self._filled):
            self.end(key)
        _queue.drain(is_last=True)


class HoldingFile(io.FileIO):
    """An open blob that holds its entry until it is closed."""

    def __init__(self, descriptor: int, hold: EntryHold | None) -> None:
        super().__init__(descriptor, "rb")
        self._hold = hold

    def close(self) -> None:
        """Close, and end the hold."""
        super().close()
        self._hold = None
