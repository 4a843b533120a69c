"""What a store takes away, and what it must not: evicting, plans and pins, for people and programs."""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from casstore.blobs.blob_store import BlobStore
from casstore.config.settings import Settings
from casstore.counters import Counters
from casstore.errors import LockTimeoutError
from casstore.format.layout import Layout
from casstore.format.records import Entry
from casstore.fs import files
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.leases.lease import Lease
from casstore.locks.collector_lock import CollectorLock

if TYPE_CHECKING:
    from casstore.eviction.clear import ClearResult
    from casstore.eviction.collector import CollectResult, RemovedBlob
    from casstore.eviction.pins import Pin, Pins
    from casstore.eviction.plan import Plan


class Evicting(abc.ABC):
    """`casstore.cache.Cache` as far as taking away goes."""

    layout: Layout
    store_id: str
    settings: Settings
    index: Index
    blobs: BlobStore
    committer: Committer
    place: int
    tally: Counters
    _exits: bool
    _turns: CollectorLock
    _mutex: threading.Lock
    _lease: Lease | None

    @property
    @abc.abstractmethod
    def root(self) -> str:
        """The store's directory."""

    @abc.abstractmethod
    def _register_exit(self) -> None:
        """See to it that what is counted is written down when the process ends."""

    @abc.abstractmethod
    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """All entries whose URI starts with *prefix*."""

    @abc.abstractmethod
    def entries_of(self, uri: str) -> Iterator[Entry]:
        """The entries of this very URI."""

    # --- evicting ----------------------------------------------------------------------------------------------------

    def evict(self, choose: Callable[[Entry], bool], prefix: str = "") -> CollectResult:
        """Drop the entries below *prefix* that *choose* picks, and the blobs that nobody uses then.

        Views handed out keep their bytes.
        """
        from casstore.eviction.collector import evict  # most processes take nothing away

        with files.full_disk(self.root):
            freed = evict(self.index, self.layout, [entry for entry in self.entries(prefix) if choose(entry)])
        self._count_evicted(freed)
        return freed

    def _count_evicted(self, freed: CollectResult | ClearResult) -> None:
        for what, count in (("entries", freed.entries), ("blobs", freed.blobs), ("bytes", freed.bytes)):
            self.tally.increment(f"evicted_{what}", count)
        self.tally.flush_if_due()
        if not self._exits:
            self._register_exit()

    def plan(
        self,
        max_size: int | None = None,
        min_free: int | None = None,
        max_age: int | None = None,
        *,
        at_least: int = 0,
    ) -> Plan:
        """What has to go so that the blobs take *max_size* bytes at most, *min_free* bytes of the disk are free, and
        nothing is held that was not used for *max_age* seconds.

        Without a number, what the store is set to; its rules hold in any case, and *at_least* so many bytes go. Least
        recently used first. Reads only.
        """
        from casstore.eviction.budget import budget_of
        from casstore.eviction.plan import make_plan

        self.committer.flush()
        budget = budget_of(self.settings, self.root, max_size, min_free, max_age)
        return make_plan(self.index, self.layout, budget, at_least)

    def execute(self, plan: Plan, on_removed: Callable[[RemovedBlob], object] | None = None) -> CollectResult:
        """Carry out *plan*, and take away what dead processes left; what came back into use since the plan stays.

        *on_removed* is told of each blob. Views handed out keep their bytes. Waits for another collector; raises
        LockTimeoutError where that does not end.
        """
        with self._turn():
            return self.collect(plan, on_removed)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Be the one collector for the block."""
        with files.full_disk(self.root), self._turns.acquire(self.settings.lock_timeout) as is_ours:
            if not is_ours:
                waited = f"(waited {self.settings.lock_timeout:g} s)"
                raise LockTimeoutError(f"another process collects in {self.root} and does not end {waited}")
            yield

    def collect(
        self, plan: Plan, on_removed: Callable[[RemovedBlob], object] | None = None, *, reaps: bool = True
    ) -> CollectResult:
        """`execute` for whoever has the turn; without *reaps*, what dead processes left stays."""
        from casstore.eviction.collector import collect

        freed = collect(self.index, self.layout, self.blobs, plan, on_removed, own_lease=self._own(), reaps=reaps)
        self._count_evicted(freed)
        return freed

    def _own(self) -> str | None:
        """The name of this process's lease, if it has one."""
        with self._mutex:
            return None if self._lease is None else self._lease.name

    # --- clearing ----------------------------------------------------------------------------------------------------

    def clear(
        self, prefix: str = "", on_removed: Callable[[RemovedBlob], object] | None = None, *, dry_run: bool = False
    ) -> ClearResult:
        """Drop all entries whose URI starts with *prefix* (a string, not a path; without one, all there are), but for
        those that are pinned or of which something is pending, and their blobs; what went, and what stays.

        Without a prefix, blobs that no entry uses and what is in quarantine go, too; and what dead processes left goes
        in any case, with their edits kept as pending writes. Pins, pending writes and local edits stay whatever is
        said. Views handed out keep their bytes; what is filled meanwhile stays, or goes. *on_removed* is told of each
        blob. With *dry_run*, nothing changes: it says what would be done.

        Waits for another collector; raises LockTimeoutError where that does not end, NotAStoreError where the store's
        marker is gone or another store's, StoreFullError.
        """
        from casstore.eviction.clear import clear, look
        from casstore.root import check_marker

        check_marker(self.layout, self.store_id)
        self.committer.flush()
        if dry_run:
            return look(self.index, self.layout, prefix, on_removed)
        with self._turn():
            cleared = clear(self.index, self.layout, self.blobs, prefix, on_removed, own_lease=self._own())
        self._count_evicted(cleared)
        return cleared

    def mark_synced(self) -> int:
        """Have everything on the store's file system written to the disk, and note of which entries that is true now;
        how many. Spares hashing their blobs after the next boot. May take as long as the disk is behind.
        """
        from casstore.index.durability import mark_synced

        self.committer.flush()
        return mark_synced(self.index, self.layout, self.blobs, self.place)

    def uris_of(self, digest: bytes) -> tuple[str, ...]:
        """The URIs whose entries use the blob of *digest* (the bare hash) now."""
        from casstore.index.blob_users import uris_of

        return uris_of(self.index, digest)

    # --- pins --------------------------------------------------------------------------------------------------------

    def pin(self, *names: str) -> list[Pin]:
        """Never evict the entries of these URIs, nor of those held now below these prefixes (which end in a slash).

        The claim is on the URI: it holds for what takes the entry's place, and until `unpin`. On the disk on return.
        Raises NotHeldError where nothing is held of a name; nothing is pinned then.
        """
        from casstore.eviction.pins import is_prefix, not_held

        self.committer.flush()
        wanted = {}
        for name in names:
            entries = self.entries(name) if is_prefix(name) else self.entries_of(name)
            wanted[name] = [entry.key for entry in entries]
            if not wanted[name]:
                raise not_held(name)
        pins = self._pins().add(list(dict.fromkeys(key for keys in wanted.values() for key in keys)))
        pinned = {pin.key for pin in pins}
        for name, keys in wanted.items():
            if pinned.isdisjoint(keys):
                raise not_held(name)  # it was evicted in this very moment; what the other names say is pinned
        return pins

    def unpin(self, *names: str) -> list[Pin]:
        """Give up the claims on these URIs, and on those below these prefixes, held or not; which they were.

        Raises NotHeldError where nothing is pinned of a name; no claim is given up then.
        """
        from casstore.eviction.pins import is_prefix, not_pinned

        pins = list(self.pins())
        found = []
        for name in names:
            those = [pin for pin in pins if pin.uri == name or (is_prefix(name) and pin.uri.startswith(name))]
            if not those:
                raise not_pinned(name)
            found += those
        found = list(dict.fromkeys(found))
        self._pins().remove(found)
        return found

    def pins(self, prefix: str = "") -> Iterator[Pin]:
        """The pins whose URI starts with *prefix* (a string, not a path), in URI order, held or not."""
        return self._pins().all(prefix)

    def unreadable_pins(self) -> list[str]:
        """Paths of pins that hold although nobody can tell of what: damage, or a newer format."""
        return self._pins().unreadable()

    def _pins(self) -> Pins:
        from casstore.eviction.pins import Pins  # readers meet none

        return Pins(self.layout, self.index)
