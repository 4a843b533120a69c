"""What the store raises on purpose: a short closed list, each also the built-in that callers already catch."""

from __future__ import annotations


class CasstoreError(Exception):
    """Base of everything that `casstore` raises on purpose."""


class StoreFormatError(CasstoreError, ValueError):
    """The root holds a damaged ``store.json``, or a store of a newer format; nothing was changed."""


class NotAStoreError(CasstoreError, OSError):
    """The directory holds somebody else's files and no store; nothing was changed."""


class StoreUnavailableError(CasstoreError, OSError):
    """The root cannot be used by this user or on this file system; nothing was changed."""


class StoreReadOnlyError(StoreUnavailableError):
    """There is a store, and this user can read it and not write to it; nothing was changed."""


class IndexUnavailableError(CasstoreError, OSError):
    """The index cannot be used by this process just now: forked without hooks, a writer that does not move on."""


class IndexDamagedError(CasstoreError, OSError):
    """The index's files are damaged; the store replaces them by an empty generation and goes on."""


class BlobDamagedError(CasstoreError, OSError):
    """A blob does not hold the bytes its name promises; it is not served."""


class PendingDamagedError(CasstoreError, OSError):
    """The bytes of a pending write are not what was written; they stay where they are, and are not uploaded."""


class StillBeingWrittenError(CasstoreError, OSError):
    """A local file changed while it was copied; whoever writes it is to finish first."""


class StoreFullError(CasstoreError, OSError):
    """The disk or the quota is full; the store is as it was before."""


class NotHeldError(CasstoreError, FileNotFoundError):
    """The store has no entry, or no pin, of what was named; nothing was changed."""


class LockTimeoutError(CasstoreError, TimeoutError):
    """Somebody else held the lock for the whole time allowed; the message says who."""


class ReentrantWriteError(CasstoreError, RuntimeError):
    """This very thread is writing that URI already, and would wait for itself."""
