"""What a store holds, what it has saved, and whether it is sound: for people and scripts."""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casstore.blobs.blob_store import BlobStore
from casstore.config.settings import Settings
from casstore.counters import Counters, Statistics, statistics_facts
from casstore.format.checksums import ProviderChecksum
from casstore.format.digest import Digest
from casstore.format.keys import BLOB, entry_prefix
from casstore.format.layout import Layout
from casstore.format.records import Entry, in_uri_order, unpack_blob, unpack_entry
from casstore.fs import files
from casstore.fs import mounts as machine
from casstore.index.committer import Committer
from casstore.index.database import Index
from casstore.index.entries import current_entry
from casstore.leases.lease import Lease
from casstore.locks.collector_lock import CollectorLock
from casstore.reading.blob_checker import BlobChecker
from casstore.reading.dedup import ChecksumDedup

if TYPE_CHECKING:
    from datetime import timedelta

    from casstore.leases.reaper import ReapResult
    from casstore.pending.store import Pending
    from casstore.verify.report import Repairer, VerifyProgress, VerifyReport


@dataclass(frozen=True, slots=True)
class Usage:
    """What entries add up to: *entries* rows of *logical_bytes*, kept as *blobs* files of *stored_bytes*."""

    entries: int
    logical_bytes: int
    blobs: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """Stored over logical bytes; 1.0 for nothing at all."""
        return self.stored_bytes / self.logical_bytes if self.logical_bytes else 1.0


class Inspecting(abc.ABC):
    """`casstore.cache.Cache` as far as looking at it goes."""

    unavailable: OSError | None
    layout: Layout
    settings: Settings
    algorithm: str
    store_id: str
    place: int
    index: Index
    blobs: BlobStore
    checks: BlobChecker
    committer: Committer
    statements: ChecksumDedup
    tally: Counters
    _turns: CollectorLock
    _mutex: threading.Lock
    _lease: Lease | None

    @property
    @abc.abstractmethod
    def root(self) -> str:
        """The store's directory."""

    @abc.abstractmethod
    def quarantine(self, digest: Digest, reason: str, met: int | None = None) -> None:
        """Take a blob whose bytes are wrong out of the store."""

    @property
    @abc.abstractmethod
    def pending(self) -> Pending:
        """What was written here and is not in the cloud."""

    # --- what it holds -----------------------------------------------------------------------------------------------

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """All entries whose URI starts with *prefix* (a string, not a path), in URI order; not one snapshot."""
        self.committer.flush()
        rows = self.index.scan(entry_prefix(prefix))
        entries = (entry for row, record in rows if (entry := unpack_entry(row, record)) is not None)
        yield from in_uri_order(entry for entry in entries if entry.uri.startswith(prefix))

    def stat(self, uri: str, origin: str | None = None) -> Entry | None:
        """The entry of *uri*, of *origin* where several endpoints have one; None where it is not held."""
        return next((entry for entry in self.entries_of(uri) if origin in (None, entry.key.origin)), None)

    def entries_of(self, uri: str) -> Iterator[Entry]:
        """The entries of this very URI: one for each origin that it is held from."""
        self.committer.flush()
        # Only the rows of this URI, however many begin with it; a long one's are cut, and are compared.
        for row, record in self.index.scan(entry_prefix(uri + "\0")):
            entry = unpack_entry(row, record)
            if entry is not None and entry.uri == uri:
                yield entry

    def usage(self, prefix: str = "") -> Usage:
        """How much lies below *prefix*, before and after deduplication."""
        entries = logical = 0
        blobs: dict[bytes, int] = {}
        for entry in self.entries(prefix):
            entries += 1
            logical += entry.size
            blobs[entry.digest.value] = entry.size
        return Usage(entries, logical, len(blobs), sum(blobs.values()))

    def blob_path(self, entry: Entry) -> str:
        """Where an entry's bytes lie now; eviction may take the path away at any time: use `view` to hand one out."""
        return self.layout.blob(entry.digest.value)

    def stats(self) -> Statistics:
        """What all processes of this store counted; what others counted in the last seconds may be missing, and what
        a killed one had not yet written down is.
        """
        return self.tally.statistics()

    def info(self) -> dict[str, object]:
        """Facts about the store for people and scripts: where, how full, how it is set, what is kept for its users.

        None is no limit; sizes are in bytes, ages in seconds. *pinned_bytes* are those of blobs that pins hold now.
        """
        rows, index_bytes = self.index.usage()
        usage = self.usage()
        blobs = blob_bytes = 0
        for row, record in self.index.scan(BLOB):
            known = unpack_blob(row, record)
            if known is not None:
                blobs, blob_bytes = blobs + 1, blob_bytes + known.size
        space = os.statvfs(self.root)
        return {
            "root": self.root,
            "store_id": self.store_id,
            "digest": self.algorithm,
            "file_system": machine.mount_of(self.root).kind,
            "entries": usage.entries,
            "logical_bytes": usage.logical_bytes,
            "blobs": blobs,
            "stored_bytes": blob_bytes,
            "index_rows": rows,
            "index_bytes": index_bytes,
            "index_generation": self.index.generation,
            "free_bytes": space.f_bavail * space.f_frsize,
            **self._budget_facts(space),
            **self._kept_facts(),
            "views": self.settings.views,
            "verify": self.settings.verify,
            "statistics": statistics_facts(self.stats()),
        }

    def _budget_facts(self, space: os.statvfs_result) -> dict[str, object]:
        settings = self.settings
        rules = [
            {
                "prefix": rule.prefix,
                "max_size": rule.max_size,
                "max_age": rule.max_age if rule.has_age else settings.max_age,
            }
            for rule in settings.rules
        ]
        return {
            "policy": settings.policy,
            "max_size": settings.max_size,
            "min_free": settings.keep_free(space),
            "max_age": settings.max_age,
            "rules": rules,
        }

    def _kept_facts(self) -> dict[str, object]:
        from casstore.eviction.pins import Pins
        from casstore.pending.records import PendingState

        pins = Pins(self.layout, self.index)
        keys = [pin.key for pin in pins.all()]
        entries = self.index.read(lambda txn: [current_entry(txn, key) for key in keys])
        pinned = {entry.digest: entry.size for entry in entries if entry is not None}
        writes = list(self.pending.all())
        return {
            "pins": len(keys) + len(pins.unreadable()),
            "pinned_bytes": sum(pinned.values()),
            "pending_writes": len(writes) + len(self.pending.unreadable()),
            "pending_edits": sum(write.state is PendingState.EDIT for write in writes),
            "pending_bytes": sum(write.size for write in writes),
        }

    def find_by_checksum(self, stated: Iterable[ProviderChecksum]) -> tuple[Digest, int] | None:
        """A blob that has the bytes a provider states, open; None where there is none: `ChecksumDedup.find_blob`."""
        found = self.statements.find_blob(stated)
        if found is None or self.settings.verify != "always" or self.blobs.verify(found[1], found[0]):
            return found
        try:
            self.quarantine(found[0], "its bytes are not those of its name", found[1])
        finally:
            os.close(found[1])
        return None

    def may_have_checksum(self, stated: Iterable[ProviderChecksum]) -> bool:
        """Whether `known` may find something: a look at the index, nothing opened or hashed."""
        return self.statements.may_find(stated)

    # --- verifying ---------------------------------------------------------------------------------------------------

    def verify(
        self,
        progress: Callable[[VerifyProgress], None] | None = None,
        *,
        sample: float | None = None,
        newest: int | timedelta | None = None,
        repair: bool = False,
    ) -> VerifyReport:
        """Hash every blob again, hold every row against a file and every file against a row; changes nothing.

        With *sample*, a part between 0 and 1, only that part of the blobs is hashed, taken at random; with *newest*,
        only the so many that were stored last, or those stored within that time. With *repair*, what is wrong is put
        right or taken away, and what dead processes left is reaped; the result says what was done.

        It may take as long as reading the whole store does, and runs beside whoever uses the store; what this process
        has not committed yet is not looked at. *progress* is called often, in this thread. Damage is in the result;
        raises OSError only for what says nothing of the store (too many open files, no memory).
        """
        if self.unavailable is not None:
            raise self.unavailable
        # Imported here: few processes ever verify.
        from casstore.verify.sampling import Sample
        from casstore.verify.verifier import Verifier

        chosen = Sample(sample, newest)
        mender = self._mender() if repair else None
        verification = Verifier(self.layout, self.index, self.algorithm, chosen, mender, progress)
        verification.run(self.store_id)
        return verification.result(self._reap() if repair else None)

    def _mender(self) -> Repairer:
        from casstore.verify.repair import StoreRepairer

        self.committer.flush()
        return StoreRepairer(self.layout, self.index, self.blobs, self.checks, self.algorithm, self.place)

    def _reap(self) -> ReapResult | None:
        """Take away what dead processes left, unless a collector is doing that just now."""
        from casstore.leases.reaper import reap

        with self._mutex:
            own = None if self._lease is None else self._lease.name
        with files.full_disk(self.root), self._turns.acquire(0) as is_ours:
            return reap(self.layout, self.index, self.blobs, own_lease=own) if is_ours else None
