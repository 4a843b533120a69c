"""A content-addressed store for objects of clouds: bytes once, by hash, and a transactional index by URI.

    import casstore

    cache = casstore.open()
    for entry in cache.entries("s3://bucket/prefix/"):
        print(entry.uri, entry.size, entry.digest)

It talks to no server: `pathapi` fills it.
"""

from typing import TYPE_CHECKING

try:
    import fcntl as _fcntl  # noqa: F401 - only to fail here, in one clear sentence
except ImportError:
    from sys import platform as _platform

    raise ImportError(f"casstore runs on Linux and macOS, not on {_platform}: on Windows, run it in WSL 2") from None

from casstore.blobs.blob_store import BlobModifiedError, CollisionError
from casstore.blobs.staging import Staging
from casstore.cache import Cache
from casstore.counters import Statistics
from casstore.errors import (
    BlobDamagedError,
    CasstoreError,
    IndexDamagedError,
    IndexUnavailableError,
    LockTimeoutError,
    NotAStoreError,
    NotHeldError,
    PendingDamagedError,
    ReentrantCallError,
    ReentrantWriteError,
    StillBeingWrittenError,
    StoreFormatError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    printable,
)
from casstore.exit_hooks import at_exit
from casstore.format.digest import ALGORITHMS, Digest, new_hasher, raw_hash, strong_digest
from casstore.format.keys import Key
from casstore.format.records import Entry, Moment, ProviderChecksum, Validator
from casstore.fs.copying import copy_out, copy_permissions, make_directories, same_bytes
from casstore.fs.files import full_disk, opened, reopen, sync_directory, write_all
from casstore.fs.mounts import boot_clock_ns
from casstore.index.entries import IndexSnapshot
from casstore.ingest.fill import Fill
from casstore.locks.lock_files import polls_until
from casstore.locks.mutex import TaskThreads, TimedQueue, new_mutex, refuse_wait, start_thread
from casstore.locks.single_flight import Flight, Flights
from casstore.locks.write_locks import WriteLock
from casstore.opening import open, pass_through_for
from casstore.reading.catalog import Stored, Usage

if TYPE_CHECKING:
    from casstore.config.units import format_size
    from casstore.eviction.clear import ClearResult
    from casstore.eviction.collector import CollectResult
    from casstore.eviction.local_copies import InUse
    from casstore.eviction.pins import Pin
    from casstore.eviction.plan import Plan
    from casstore.eviction.removal import RemovedBlob
    from casstore.local.directories import cached_directory, exact_directory
    from casstore.local.names import Place
    from casstore.local.paths import Content
    from casstore.local.uses import LocalUse
    from casstore.pass_through import PassThroughCache as PassThroughCache  # few processes ever load it
    from casstore.pending.records import Condition, PendingState, PendingWrite
    from casstore.pending.store import Pending
    from casstore.verify.report import (
        Leftovers,
        Problem,
        ProblemKind,
        Repair,
        RepairSummary,
        VerifyProgress,
        VerifyReport,
    )

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "ALGORITHMS", "BlobDamagedError", "BlobModifiedError", "Cache", "CasstoreError", "ClearResult", "CollectResult",
    "CollisionError", "Condition", "Content", "Digest", "Entry", "Fill", "Flight", "Flights", "IndexDamagedError",
    "IndexSnapshot", "IndexUnavailableError", "InUse", "Key", "Leftovers", "LocalUse", "LockTimeoutError", "Moment",
    "NotAStoreError", "NotHeldError", "Pending", "PendingDamagedError", "PendingState", "PendingWrite", "Pin", "Place",
    "Plan", "Problem", "ProblemKind", "ProviderChecksum", "ReentrantCallError", "ReentrantWriteError", "RemovedBlob",
    "Repair", "RepairSummary", "Staging", "Statistics", "StillBeingWrittenError", "Stored", "StoreFormatError",
    "StoreFullError", "StoreReadOnlyError", "StoreUnavailableError", "TaskThreads", "TimedQueue", "Usage", "Validator",
    "VerifyProgress", "VerifyReport", "WriteLock", "at_exit", "boot_clock_ns", "cached_directory", "copy_out",
    "copy_permissions", "exact_directory", "format_size", "full_disk", "make_directories", "new_hasher", "new_mutex",
    "open", "opened", "pass_through_for",
    "polls_until", "printable", "raw_hash", "refuse_wait", "reopen", "same_bytes", "start_thread", "strong_digest",
    "sync_directory", "write_all", "__version__",
]
# fmt: on

_LATER = {
    "ClearResult": "eviction.clear",
    "CollectResult": "eviction.collector",
    "RemovedBlob": "eviction.removal",
    **dict.fromkeys(
        ("Leftovers", "Problem", "ProblemKind", "Repair", "RepairSummary", "VerifyProgress", "VerifyReport"),
        "verify.report",
    ),
    **dict.fromkeys(("Condition", "PendingState", "PendingWrite"), "pending.records"),
    "Pending": "pending.store",
    "InUse": "eviction.local_copies",
    "Pin": "eviction.pins",
    "Content": "local.paths",
    **dict.fromkeys(("cached_directory", "exact_directory"), "local.directories"),
    "LocalUse": "local.uses",
    "Place": "local.names",
    "Plan": "eviction.plan",
    "format_size": "config.units",
}

# Former names, which code that uses the store may still import.
_FORMER = {
    "BlobTrippedError": "BlobModifiedError",
    "Checked": "VerifyProgress",
    "Cleared": "ClearResult",
    "Freed": "CollectResult",
    "Mended": "RepairSummary",
    "Noted": "IndexSnapshot",
    "Removed": "RemovedBlob",
    "Stated": "ProviderChecksum",
    "Verified": "VerifyReport",
    "size_text": "format_size",
    "without_storing": "pass_through_for",
}


def __getattr__(name: str) -> object:
    name = _FORMER.get(name, name)
    if name in globals():
        return globals()[name]
    if name in _LATER:
        # Few processes verify, collect, write or draw, and making these classes takes milliseconds.
        from importlib import import_module

        return getattr(import_module(f"casstore.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
