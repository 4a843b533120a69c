"""Errors that the store raises on purpose. Each is also the built-in error that callers already catch."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what is not printable in *text*: a key or a server's text must not move the cursor or fake a line.

    For everything that a terminal may show: errors, warnings, log lines, prompts. Text that is printable is returned
    as it is.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


class CasstoreError(Exception):
    """Base class of all errors of `casstore`. Its text is printable, whatever key it names."""

    def __str__(self) -> str:
        return printable(super().__str__())

    def add_note(self, note: str, /) -> None:
        super().add_note(printable(note))


class StoreFormatError(CasstoreError, ValueError):
    """``store.json`` is damaged, or the store has a newer format; nothing was changed."""


class NotAStoreError(CasstoreError, OSError):
    """The directory is not a store and is not empty; nothing was changed."""


class StoreUnavailableError(CasstoreError, OSError):
    """This user or this file system cannot use the directory as a store; nothing was changed."""


class StoreReadOnlyError(StoreUnavailableError):
    """The store exists, but this user cannot write to it; nothing was changed."""


class IndexUnavailableError(CasstoreError, OSError):
    """This process cannot use the index now: it was forked without hooks, or a writer blocks it."""


class IndexDamagedError(CasstoreError, OSError):
    """The index's files are damaged; the store replaces them by an empty generation and continues."""


class BlobDamagedError(CasstoreError, OSError):
    """A blob's bytes do not match its digest; it is not served."""


class PendingDamagedError(CasstoreError, OSError):
    """The bytes of a pending write were changed or damaged; they are kept and not uploaded."""


class StillBeingWrittenError(CasstoreError, OSError):
    """A local file changed while it was copied; retry when its writer has finished."""


class StoreFullError(CasstoreError, OSError):
    """The disk or the quota is full; the store is unchanged."""


class NotHeldError(CasstoreError, FileNotFoundError):
    """The store has no such entry or pin; nothing was changed."""


class LockTimeoutError(CasstoreError, TimeoutError):
    """Another process or thread had the lock until the time-out; the message names it."""


class ReentrantCallError(CasstoreError, RuntimeError):
    """A signal handler interrupted its own thread inside of the store, and would wait for itself."""


class ReentrantWriteError(ReentrantCallError):
    """This thread is already writing that URI and would wait for itself."""
