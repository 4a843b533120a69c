"""Facts about a store, for people and scripts."""

from __future__ import annotations

import os

from casstore.counters import Statistics, statistics_facts
from casstore.eviction.pins import Pins
from casstore.format.keys import BLOB
from casstore.format.records import unpack_blob
from casstore.fs import mounts
from casstore.index.database import Index
from casstore.index.entries import current_entry
from casstore.pending.records import PendingState
from casstore.pending.store import Pending
from casstore.reading.catalog import Usage
from casstore.root import Root


def store_facts(root: Root, index: Index, usage: Usage, pending: Pending, statistics: Statistics) -> dict[str, object]:
    """Return where the store is, how full it is, its settings, and what is kept for its users: see `Cache.info`."""
    layout, settings = root.layout, root.settings
    rows, index_bytes = index.usage()
    records = (unpack_blob(row, record) for row, record in index.scan(BLOB))
    sizes = [record.size for record in records if record is not None]
    pins = Pins(layout, index)
    keys = [pin.key for pin in pins.all()]
    pinned = index.read(lambda txn: [current_entry(txn, key) for key in keys])
    writes, unidentified = list(pending.all()), pending.unidentified()
    space = os.statvfs(layout.root)
    return {
        "root": layout.root,
        "store_id": root.store_id,
        "digest": root.algorithm,
        "file_system": mounts.mount_of(layout.root).kind,
        "entries": usage.entries,
        "logical_bytes": usage.logical_bytes,
        "blobs": len(sizes),
        "stored_bytes": sum(sizes),
        "index_rows": rows,
        "index_bytes": index_bytes,
        "index_generation": index.generation,
        "free_bytes": space.f_bavail * space.f_frsize,
        "policy": settings.policy,
        "max_size": settings.max_size,
        "min_free": settings.keep_free(space),
        "max_age": settings.max_age,
        "rules": [
            {
                "prefix": rule.prefix,
                "max_size": rule.max_size,
                "max_age": rule.max_age if rule.has_age else settings.max_age,
            }
            for rule in settings.rules
        ],
        "pins": len(keys) + len(pins.unreadable()),
        "pinned_bytes": sum({entry.digest: entry.size for entry in pinned if entry is not None}.values()),
        "pending_writes": len(writes) + len(unidentified),
        "pending_edits": sum(write.state is PendingState.EDIT for write in writes),
        "pending_bytes": sum(write.size for write in (*writes, *unidentified)),
        "views": settings.views,
        "verify": settings.verify,
        "statistics": statistics_facts(statistics),
    }
