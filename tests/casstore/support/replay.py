"""Stores in which a scene is played thousands of times, and protections that are taken away to see that they matter."""

from __future__ import annotations

from functools import partial
from typing import Any

import lmdb
import pytest

from casstore.eviction import clear as clearing
from casstore.eviction import collector, removal
from casstore.format import digest as digests
from casstore.fs import files
from casstore.index import updates as items
from casstore.index.committer import Committer
from casstore.ingest.publisher import RecentEntries
from tests.casstore.support.stores import Trusting


class WeakHasher:
    """All bytes have one digest."""

    def update(self, data: object, /) -> None:
        pass

    def digest(self) -> bytes:
        return b"0123456789abcdef"


def weaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores made from now on have a digest that collides at will."""
    known = digests._ALGORITHMS["xxh3-128"]
    monkeypatch.setitem(digests._ALGORITHMS, "xxh3-128", known._replace(new=WeakHasher))


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of commits, no power cut, and no thread but those that play."""
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(files, "sync", lambda descriptor: None)
    monkeypatch.setattr(files, "sync_directory", lambda path: None)

    def commit_at_once(self: Committer, item: Any) -> None:
        self._commit([item])

    monkeypatch.setattr(Committer, "submit", commit_at_once)


def skip_inode_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publication takes its blob's name for its blob."""
    apply = items.PublishEntry.apply

    def apply_without(self: items.PublishEntry, txn: Any, blobs: Any, generation: int) -> bool:
        return apply(self, txn, Trusting(self.added), generation)

    monkeypatch.setattr(items.PublishEntry, "apply", apply_without)


def skip_check_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep does not look again whether a blob is used."""
    monkeypatch.setattr(removal, "_is_in_use", lambda txn, digest: False)


def skip_look_at_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is evicted or cleared goes by the pins that there were before."""
    for module in (collector, clearing):
        monkeypatch.setattr(module, "is_pinned", lambda layout, name: False)


def skip_look_at_what_was_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader takes the file that he opened by its name for the one that his entry means."""
    monkeypatch.setattr(RecentEntries, "is_blob_of", lambda self, entry, descriptor: True)
