"""A content-addressed store for objects from clouds: bytes once, by hash; a transactional index by URI.

    import casstore

    cache = casstore.open()
    for entry in cache.entries("s3://bucket/prefix/"):
        print(entry.uri, entry.size, entry.digest)

It knows no cloud: `pathapi` fills it.
"""

from typing import TYPE_CHECKING

from casstore.blobs import BlobTrippedError, CollisionError, Staging
from casstore.cache import Cache
from casstore.digest import ALGORITHMS, Digest, new_hasher
from casstore.errors import (
    BlobDamagedError,
    CasstoreError,
    IndexDamagedError,
    IndexUnavailableError,
    LockTimeoutError,
    NotAStoreError,
    NotHeldError,
    PendingDamagedError,
    ReentrantWriteError,
    StillBeingWrittenError,
    StoreFormatError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from casstore.exits import at_exit
from casstore.files import copy_out, full_disk, make_directories, same_bytes
from casstore.fills import Fill, Stored
from casstore.flights import Flight
from casstore.inspecting import Usage
from casstore.items import Noted
from casstore.machine import boot_clock_ns
from casstore.processes import open, without_storing
from casstore.records import (
    Entry,
    Key,
    Moment,
    Validator,
)
from casstore.stated import Stated
from casstore.tallies import Statistics
from casstore.write_locks import WriteLock

if TYPE_CHECKING:
    from casstore.clearing import Cleared
    from casstore.collector import Freed, Removed
    from casstore.figures import size_text
    from casstore.findings import Checked, Leftovers, Mended, Problem, ProblemKind, Repair, Verified
    from casstore.handouts import InUse
    from casstore.pending import Condition, Pending, PendingState, PendingWrite
    from casstore.pins import Pin
    from casstore.plans import Plan
    from casstore.uncached import Uncached as Uncached  # few processes ever load it

__version__ = "0.1.0"

__all__ = [
    "ALGORITHMS",
    "BlobDamagedError",
    "BlobTrippedError",
    "Cache",
    "CasstoreError",
    "Checked",
    "Cleared",
    "CollisionError",
    "Condition",
    "Digest",
    "Entry",
    "Fill",
    "Flight",
    "Freed",
    "IndexDamagedError",
    "IndexUnavailableError",
    "InUse",
    "Key",
    "Leftovers",
    "LockTimeoutError",
    "Mended",
    "Moment",
    "NotAStoreError",
    "NotHeldError",
    "Noted",
    "Pending",
    "PendingDamagedError",
    "PendingState",
    "PendingWrite",
    "Pin",
    "Plan",
    "Problem",
    "ProblemKind",
    "ReentrantWriteError",
    "Removed",
    "Repair",
    "Staging",
    "Statistics",
    "Stated",
    "StillBeingWrittenError",
    "StoreFormatError",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "Stored",
    "Usage",
    "Validator",
    "Verified",
    "WriteLock",
    "__version__",
    "at_exit",
    "boot_clock_ns",
    "new_hasher",
    "copy_out",
    "full_disk",
    "make_directories",
    "same_bytes",
    "size_text",
    "open",
    "without_storing",
]

_LATER = {
    "Cleared": "clearing",
    **dict.fromkeys(("Freed", "Removed"), "collector"),
    **dict.fromkeys(("Checked", "Leftovers", "Mended", "Problem", "ProblemKind", "Repair", "Verified"), "findings"),
    **dict.fromkeys(("Condition", "Pending", "PendingState", "PendingWrite"), "pending"),
    "InUse": "handouts",
    "Pin": "pins",
    "Plan": "plans",
    "size_text": "figures",
}


def __getattr__(name: str) -> object:
    if name in _LATER:
        # Few processes verify, collect, write or draw, and making these classes takes milliseconds.
        from importlib import import_module

        return getattr(import_module(f"casstore.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
