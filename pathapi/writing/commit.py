"""Bytes on their way to the cloud: recorded, uploaded, made the entry; and what it means where that fails.

From the moment that the record is made, the bytes are in the cloud or pending, whatever happens to this process or
machine. For whoever has the URI's write lock.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Any, Final

from casstore import (
    Cache,
    CasstoreError,
    Condition,
    Entry,
    IndexSnapshot,
    PendingState,
    PendingWrite,
    Staging,
    StoreFullError,
    full_disk,
)
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileExistsError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.location import Location
from pathapi.writing.conditional_put import WriteBase, conditional_put, warn_of_conditions

NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""What making room in the store may help against."""


def stage(cache: Cache) -> Staging:
    """A staging file; where the disk is full, the store makes room once."""
    try:
        return cache.stage()
    except StoreFullError as error:
        if error.errno not in NO_ROOM or not cache.trims.make_room(1):
            raise
    return cache.stage()


def commit_upload(
    target: Location, staging: Staging, base: WriteBase, noted: IndexSnapshot, *, has_other_copy: bool = False
) -> Entry | None:
    """Record *staging*'s bytes as pending, upload them, make them the entry; then they are pending no more.

    Where they are a copy of what *is_elsewhere*, nothing is recorded. Takes *staging* over where it returns. For
    whoever has the write lock. Raises as `Upload.commit` does.
    """
    client = target.client
    write, why_not = (None, None) if has_other_copy else _record(target, staging, base)
    try:
        if not client.policy.of(target.uri).asks:
            raise CloudUnavailableError(f"{target.uri} was not uploaded: the policy is offline")
        moment = client.now()
        sent = conditional_put(target, staging, base)
    except BaseException as error:
        raise_explained(target, base, _keep(target, base, write, error), error, why_not)
        raise
    finally:
        target.forget_listed()
    entry = finish_upload(target, staging, noted, sent.info, moment, write, supersedes=base.condition is Condition.ANY)
    if sent.unconditional:
        warn_of_conditions(target)
    return entry


def finish_upload(
    target: Location,
    staging: Staging,
    noted: IndexSnapshot,
    info: Any,
    moment: Any,
    write: PendingWrite | None,
    *,
    supersedes: bool,
) -> Entry | None:
    """The cloud has *staging*'s bytes, as *info* says: the entry first, then *write* goes.

    With *overrules*, for the user has forced this over it, what else is pending of the URI stands in the way no more.
    Without, it stays: a local copy, say, that somebody changed during the upload.
    """
    client = target.client
    cache, pending = client.cache, client.cache.pending
    stated = client.reader.checksums(target.key, info)
    try:
        entry = cache.record_write(noted, staging, info.validator, moment, stated)
    except (CasstoreError, OSError) as error:
        entry = None
        try:
            # The old entry must not be served any more; forgetting it takes less of a full disk than the new one.
            cache.trims.make_room(1)
            cache.record_delete(target.key)
        except (CasstoreError, OSError):
            # The pending write stays, so that whoever uses the URI next finds out and tries again.
            error.add_note(f"the cloud has what was written to {target.uri}; only the store could not note it")
            raise error from error.__cause__
    # First the others, then this one: a process that is killed in between has said all that it takes to go on.
    if supersedes and cache.unavailable is None and pending.has(target.key):
        for other in pending.of(target.key):
            if other.blocks:
                # Not worth an error of a write that has arrived: what stays in the way says so itself.
                with contextlib.suppress(OSError):
                    pending.mark(other, PendingState.INCOMPLETE, why=f"{other.why}; then the URI was overwritten")
    if write is not None:
        pending.discard(write)
    return entry


def _record(target: Location, staging: Staging, base: WriteBase) -> tuple[PendingWrite | None, OSError | None]:
    """The pending write; None, and why, where there is no store to keep it, or no room: the upload is tried anyway."""
    cache = target.client.cache
    if cache.unavailable is not None:
        return None, cache.unavailable

    def record() -> PendingWrite:
        with full_disk(cache.root):
            lease = cache.lease.name
        return cache.pending.record(
            target.key,
            staging,
            PendingState.UPLOADING,
            base.condition,
            base.version,
            lease=lease,
            why="it is being uploaded",
            exclusive=base.exclusive,
        )

    try:
        return record(), None
    except StoreFullError as error:
        if error.errno not in NO_ROOM or not cache.trims.make_room(1):
            return None, error
    try:
        return record(), None
    except StoreFullError as error:
        return None, error


def raise_explained(
    target: Location, base: WriteBase, kept: PendingWrite | None, error: BaseException, why_not: OSError | None = None
) -> None:
    """Raise what *error* of an upload means to the user, now that its bytes are *kept*, or, for *why_not*, are not.

    Returns for what is not ours to explain: an interrupt, say.
    """
    is_conflict = isinstance(error, VersionMismatchError)
    where = _ways_on(target, kept, why_not)
    if is_conflict and base.exclusive:
        raise CloudPathFileExistsError(f"{target.uri} exists already; nothing was changed.{where}") from error
    if is_conflict:
        raise OverwriteNewerCloudError(
            f"{target.uri} was changed by somebody else since it was opened; nothing was uploaded.{where}"
        ) from error
    if isinstance(error, CloudPathException):
        raise type(error)(f"{error}.{where}" if where else str(error)) from error.__cause__ or error
    if where:
        error.add_note(f"{target.uri} was not uploaded.{where}")


def _keep(target: Location, base: WriteBase, write: PendingWrite | None, error: BaseException) -> PendingWrite | None:
    """What is pending once the upload has failed; None where nothing is."""
    pending = target.client.cache.pending
    if write is None:
        return None
    if isinstance(error, VersionMismatchError) and base.exclusive:
        # "x" is how programs ask whether they are the first. Who is not may go on: nothing may block the URI, and
        # asking in a loop must not fill the disk.
        if not write.size or any(
            other.digest == write.digest and other.state is PendingState.INCOMPLETE for other in pending.of(write.key)
        ):
            pending.discard(write)
            return None
        return mark_failed(target, write, PendingState.INCOMPLETE, "it was to be created, and existed already")
    return mark_failed(target, write, PendingState.FAILED, why_failed(error))


def mark_failed(target: Location, write: PendingWrite, state: PendingState, why: str) -> PendingWrite:
    """*write* as it is pending now that its upload has failed, for *why*."""
    try:
        return target.client.cache.pending.mark(write, state, why=why)
    except OSError:
        return write  # the record is there, and whoever meets it finds out


def why_failed(error: BaseException) -> str:
    """What a record says of an upload that ended in *error*."""
    if isinstance(error, VersionMismatchError):
        return "somebody else had changed the object"
    if isinstance(error, Exception):
        return f"the upload failed: {error}"
    return f"the upload was interrupted: {type(error).__name__}"


def _ways_on(target: Location, write: PendingWrite | None, why_not: OSError | None) -> str:
    if why_not is not None:
        return f" The bytes could not be kept either: {why_not}"
    if write is None:
        return ""
    path = target.client.cache.pending.path(write)
    return (
        f" The bytes are kept at {path}: upload them with push() (`casstore push`; force_overwrite_to_cloud=True, "
        "`--force`, overwrites whatever is there), save them elsewhere with save_pending(), or discard them with drop()"
    )
