"""Commit bytes to the server: recorded, uploaded, made the entry; and what a failure means.

Once the record exists, the bytes are on the server or pending, whatever happens to this process or machine. Callers
have the URI's write lock.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import Final, TypeVar

from casstore import (
    Cache,
    CasstoreError,
    Condition,
    Entry,
    IndexSnapshot,
    Moment,
    PendingState,
    PendingWrite,
    Staging,
    StoreFullError,
    full_disk,
    printable,
)
from pathapi.backend import ObjectInfo
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileExistsError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.metadata.location import Location
from pathapi.writing.conditional_put import WriteBase, conditional_put, warn_of_conditions

ResultT = TypeVar("ResultT")

_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Errors that making room in the store may help against."""


def with_room(cache: Cache, call: Callable[[], ResultT], needed: int = 1) -> ResultT:
    """Return ``call()``; if the disk is full, make room for *needed* bytes in the store, and call once more."""
    try:
        return call()
    except OSError as error:
        if error.errno not in _NO_ROOM or not cache.background.make_room(needed):
            raise
        return call()


def stage(cache: Cache) -> Staging:
    """Return a staging file."""
    return with_room(cache, cache.stage)


def commit_upload(
    target: Location, staging: Staging, base: WriteBase, snapshot: IndexSnapshot, *, has_other_copy: bool = False
) -> Entry | None:
    """Record *staging*'s bytes as pending, upload them, make them the entry, and discard the pending write.

    Records nothing if they are a copy of other bytes. Takes *staging* over if it returns. Raises as `Upload.commit`.
    """
    client = target.client
    write, not_kept = (None, None) if has_other_copy else _record(target, staging, base)
    try:
        if not client.policy.of(target.canonical).may_request:
            raise CloudUnavailableError(f"{target}: not uploaded: the policy is offline")
        if base.unreached is not None:
            raise base.unreached
        moment = client.now()
        result = conditional_put(target, staging, base)
    except BaseException as error:
        raise_explained(target, base, _keep(target, base, write, error), error, not_kept)
        raise
    finally:
        target.forget_listed()
    entry = finish_upload(target, staging, snapshot, result.info, moment, write, base.condition)
    if result.unconditional:
        warn_of_conditions(target)
    return entry


def finish_upload(
    target: Location,
    staging: Staging,
    snapshot: IndexSnapshot,
    info: ObjectInfo,
    moment: Moment,
    write: PendingWrite | None,
    condition: Condition,
) -> Entry | None:
    """Make *staging*'s bytes, which the server has as *info*, the entry; then discard *write*.

    Under the *condition* ANY (the user forced this write), the URI's other pending writes block it no longer. Otherwise
    they stay: a local copy, say, that was changed during the upload.
    """
    client = target.client
    cache, pending = client.cache, client.cache.pending
    try:
        entry = cache.record_write(
            snapshot, staging, info.validator, moment, client.reader.checksums(target.store_key, info)
        )
    except (CasstoreError, OSError) as error:
        entry = None
        try:
            # The old entry must no longer be served; forgetting it takes less of a full disk than the new one.
            if isinstance(error, StoreFullError):
                cache.background.make_room(1)
            cache.record_delete(target.store_key)
        except (CasstoreError, OSError):
            # The pending write stays, so that the next use of the URI finds out and tries again.
            error.add_note(printable(f"{target}: the server has the bytes; only the store could not record them"))
            raise error from error.__cause__
    # First the others, then this one: a process that is killed in between has recorded all that is needed to go on.
    if condition is Condition.ANY and cache.unavailable is None and pending.has(target.store_key):
        for other in pending.of(target.store_key):
            if other.blocks:
                # Not worth failing a write that has arrived: the next use of the URI names the one that still blocks.
                with contextlib.suppress(OSError):
                    pending.mark(other, PendingState.INCOMPLETE, why=f"{other.why}; then the URI was overwritten")
    if write is not None:
        pending.discard(write)
    return entry


def _record(target: Location, staging: Staging, base: WriteBase) -> tuple[PendingWrite | None, OSError | None]:
    """Return the pending write; or None, and why, without a store or room for it: the upload is tried anyway."""
    cache = target.client.cache
    if cache.unavailable is not None:
        return None, cache.unavailable

    def record() -> PendingWrite:
        with full_disk(cache.root):
            lease = cache.lease.name
        return cache.pending.record(
            target.store_key,
            staging,
            PendingState.UPLOADING,
            base.condition,
            base.version,
            lease=lease,
            why="it is being uploaded",
            exclusive=base.exclusive,
            push_options=target.client.push_options,
        )

    try:
        return with_room(cache, record), None
    except StoreFullError as error:
        return None, error


def raise_explained(
    target: Location, base: WriteBase, kept: PendingWrite | None, error: BaseException, not_kept: OSError | None = None
) -> None:
    """Raise what *error* of an upload means to the user; its bytes are *kept*, or are not because of *not_kept*.

    Returns if there is nothing to explain: after an interrupt, say.
    """
    where, hints = _where_kept(target, kept, not_kept)
    if isinstance(error, VersionMismatchError):
        kind: type[CloudPathException] = OverwriteNewerCloudError
        what = "another writer has changed the object since it was opened; nothing was uploaded"
        if base.exclusive:
            kind, what = CloudPathFileExistsError, "the object exists already; nothing was changed"
        elif base.unknown:
            what = "the object exists, and the server could not be reached when this write began; nothing was uploaded"
        raise kind(f"{target}: {what}{where}", **hints) from error
    if isinstance(error, CloudPathException):
        raise error.extended(where, **hints) from error.__cause__ or error
    if where:
        error.add_note(printable(": ".join([f"{target}: not uploaded{where}", *hints.values()][:2])))


def _where_kept(target: Location, kept: PendingWrite | None, not_kept: OSError | None) -> tuple[str, dict[str, str]]:
    """Return the end of a message on where the bytes are, and the hints of its error."""
    if not_kept is not None:
        return f". The bytes could not be kept either: {not_kept}", {}
    if kept is None:
        return "", {}
    hint = (
        "upload them with push() (force_overwrite_to_cloud=True overwrites the object), save them elsewhere with "
        "save_pending(), or discard them with drop(). On the command line: `casstore push` (--force overwrites), "
        "`casstore drop`"
    )
    shell_hint = (
        "`casstore push` uploads them (with --force it overwrites the object); `casstore drop` discards them; "
        "`casstore drop --save-to PATH` saves them elsewhere"
    )
    where = f". The bytes are kept at {target.client.cache.pending.path(kept)}"
    return where, {"hint": hint, "shell_hint": shell_hint}


def _keep(target: Location, base: WriteBase, write: PendingWrite | None, error: BaseException) -> PendingWrite | None:
    """Return what is pending after the upload has failed."""
    if write is None:
        return None
    if not isinstance(error, VersionMismatchError) or not base.exclusive:
        return mark_failed(target, write, PendingState.FAILED, why_failed(error), outcome_unknown=is_unknown(error))
    # "x" is how programs find out whether they are the first. A program that is not may continue: nothing may block
    # the URI, and a loop of attempts must not fill the disk.
    pending = target.client.cache.pending
    if not write.size or any(
        other.state is PendingState.INCOMPLETE and pending.have_same_bytes(other, write)
        for other in pending.of(write.key)
    ):
        pending.discard(write)
        return None
    return mark_failed(target, write, PendingState.INCOMPLETE, "it was to be created, and existed already")


def mark_failed(
    target: Location, write: PendingWrite, state: PendingState, why: str, *, outcome_unknown: bool = False
) -> PendingWrite:
    """Record that *write*'s upload has failed, and *why*; return it as it is pending now."""
    try:
        return target.client.cache.pending.mark(write, state, why=why, outcome_unknown=outcome_unknown)
    except OSError:
        return write  # the record exists, and the next use of the URI finds out


def is_unknown(error: BaseException) -> bool:
    """Return whether an upload that ended in *error* may have reached the server: an interrupt does not tell."""
    return error.outcome_unknown if isinstance(error, CloudPathException) else True


def why_failed(error: BaseException) -> str:
    """Return what a record says of an upload that ended in *error*."""
    if isinstance(error, VersionMismatchError):
        return "another writer had changed the object"
    if isinstance(error, Exception):
        return f"the upload failed: {error}"
    return f"the upload was interrupted: {type(error).__name__}"
