"""Pending writes of a URI: checked before every use, uploaded, saved elsewhere, discarded.

Reading and writing check first. A failed write, or an edit outside the API, raises and names the ways on; an upload
whose process died is looked for on the server, once. Every change is made with the write lock.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from casstore import LockTimeoutError, PendingState, PendingWrite, WriteLock, printable, strong_digest
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    InvalidConfigurationException,
    OverwriteNewerLocalError,
    PendingWriteError,
)
from pathapi.metadata.head import exists
from pathapi.metadata.location import Location
from pathapi.writing import unclosed
from pathapi.writing.commit import finish_upload, is_unknown, mark_failed, raise_explained, why_failed
from pathapi.writing.conditional_put import WriteBase, conditional_put, find_completed_upload, warn_of_conditions

_warned: Final[set[str]] = set()


def write_lock(target: Location) -> WriteLock:
    """Return the URI's write lock, which is not acquired yet."""
    return target.client.cache.write_locks.request(target.store_key)


def acquire_write_lock(target: Location, lock: WriteLock, *, force: bool = False) -> None:
    """Acquire *lock*, the URI's, once no pending write blocks it; with *force*, whatever is pending.

    Raises PendingWriteError, OverwriteNewerLocalError, LockTimeoutError, ReentrantWriteError.
    """
    cache = target.client.cache
    try:
        lock.acquire(on_poll=unclosed.process_queue)
        cache.record_changes(target.store_key)
        if cache.pending.has(target.store_key):
            for write in cache.pending.of(target.store_key):
                if cache.unavailable is None:
                    _resolve_interrupted(target, write)
            # Listed again: an interrupted upload that has arrived may have been forced over the others.
            for write in cache.pending.of(target.store_key):
                if write.blocks and not force:
                    raise conflict_error(target, write)
    except BaseException:
        lock.release()
        raise


def ensure_no_conflict(target: Location, *, force: bool, may_request: bool) -> None:
    """Raise if the server or the store does not have what the user of this machine wrote last.

    With *force*, the server's version is wanted: pending writes that block become ``incomplete``. Without
    *may_request*, an interrupted upload raises too. Waits for no lock.
    """
    cache = target.client.cache
    cache.record_changes(target.store_key)
    for write in cache.pending.of(target.store_key):
        if cache.unavailable is None and _is_interrupted(target, write):
            if not may_request:
                raise conflict_error(target, write)
            # The process that has the lock, if one does, resolves it: until then, readers get the old version.
            with suppress(LockTimeoutError), write_lock(target) as lock, lock:
                lock.acquire(0)
                _resolve_interrupted(target, write)
    # Listed again, as in `acquire_write_lock`.
    for write in cache.pending.of(target.store_key):
        if write.blocks:
            if not force:
                raise conflict_error(target, write)
            if cache.unavailable is None:
                _warned.add(write.name)
                with suppress(FileNotFoundError):
                    why = f"{write.why}; then the server's version was taken"
                    cache.pending.mark(write, PendingState.INCOMPLETE, why=why)
        elif write.state is PendingState.INCOMPLETE and write.source is not None and write.name not in _warned:
            _warned.add(write.name)
            message = f"{target}: {write.why} ({write.source}): push() uploads it, drop() discards it"
            warnings.warn(printable(message), stacklevel=5)


def _is_interrupted(target: Location, write: PendingWrite) -> bool:
    """Whether *write*'s record says that it is being uploaded, and no process is uploading it."""
    if write.state is not PendingState.UPLOADING:
        return False
    cache = target.client.cache
    if write.lease == cache.lease.name:
        return not cache.write_locks.is_held(target.store_key)
    return cache.pending.is_interrupted(write)


def _resolve_interrupted(target: Location, write: PendingWrite) -> PendingWrite | None:
    """Find out, with the write lock, whether an interrupted upload has arrived.

    Return the record as it is then; None if the server has the bytes and there is no record. Raises PendingWriteError
    if the server cannot be reached.
    """
    if write.state is not PendingState.UPLOADING:
        return write
    cache = target.client.cache
    # A record of this process is resolved too: with the lock, its upload has ended, and could not record how.
    if write.lease != cache.lease.name and not cache.pending.is_interrupted(write):
        return write
    try:
        staging = cache.pending.adopt(write)
    except FileNotFoundError:
        return None
    try:
        snapshot, moment = cache.snapshot(target.store_key), cache.now()
        try:
            info = find_completed_upload(target, staging)
        except CloudPathException as error:
            raise conflict_error(target, write) from error
        if info is not None:
            finish_upload(target, staging, snapshot, info, moment, write, write.condition)
            target.forget_listed()
            return None
    finally:
        staging.close()
    why = "its process ended before the server had answered, and the server does not have the bytes"
    with suppress(FileNotFoundError):
        return cache.pending.mark(write, PendingState.FAILED, why=why, outcome_unknown=False)
    return None


def conflict_error(target: Location, write: PendingWrite) -> PendingWriteError | OverwriteNewerLocalError:
    """Return the error that names *write*, where its bytes are, and the fixes."""
    error: type[PendingWriteError | OverwriteNewerLocalError] = PendingWriteError
    what = f"an earlier write was not uploaded: {write.why}"
    if write.state is PendingState.EDIT:
        error, what = OverwriteNewerLocalError, f"{write.why} ({write.source})"
    elif write.state is PendingState.UNREADABLE:
        return error(
            f"{target}: an earlier write is pending, and {write.why}. The bytes are at "
            f"{target.client.cache.pending.path(write)}",
            hint="save_pending(PATH) moves them to a file, and drop() discards them. On the command line: casstore "
            "pending, drop",
            shell_hint=f"`casstore drop --save-to PATH --name {write.name}` moves them to a file; `casstore drop "
            f"--name {write.name}` discards them",
        )
    elif write.state is PendingState.UPLOADING:
        what = (
            "an upload was interrupted when its process died, and the server cannot be reached to check whether it "
            "completed"
        )
    next_time = "; to change an object, use writing() or edit()" if write.source is not None else ""
    return error(
        f"{target}: {what}. The bytes are at {target.client.cache.pending.path(write)}",
        hint="push() uploads them (with force_overwrite_to_cloud=True it overwrites the object); drop() discards them, "
        "and force_overwrite_from_cloud=True reads the server's version; save_pending(PATH) keeps both"
        f"{next_time}. On the command line: casstore pending, push, drop",
        shell_hint="`casstore push` uploads them (with --force it overwrites the object); `casstore drop` discards "
        "them; `casstore drop --save-to PATH` keeps both",
    )


def pending_of(target: Location) -> list[PendingWrite]:
    """Return the URI's pending writes, those of this process's local copies included; oldest first.

    Raises the store's own error if it cannot be opened: an empty list would be wrong.
    """
    cache = target.client.cache
    if cache.unavailable is not None:
        raise cache.unavailable
    unclosed.process_queue()
    cache.record_changes(target.store_key)
    cache.record_made(target.place)
    return cache.pending.of(target.store_key)


def open_pending(target: Location) -> int | None:
    """Return a descriptor of the bytes that were written last and are pending; or None."""
    for write in reversed(pending_of(target)):
        with suppress(FileNotFoundError):
            return target.client.cache.pending.open(write)
    return None


def select_pending(target: Location, which: PendingWrite | None) -> PendingWrite:
    """Return the URI's pending write, *which* of several.

    Raises CloudPathFileNotFoundError if there is none, PendingWriteError if there are several and *which* is None.
    """
    writes = pending_of(target)
    if which is not None:
        for write in writes:
            if write.name == which.name:
                return write
        raise CloudPathFileNotFoundError(f"{target}: that pending write has been dealt with already")
    if not writes:
        raise CloudPathFileNotFoundError(f"{target}: nothing is pending")
    chosen = [write for write in writes if write.state is not PendingState.INCOMPLETE] or writes
    have_same_bytes = target.client.cache.pending.have_same_bytes
    if not all(have_same_bytes(write, chosen[-1]) for write in chosen):
        listed = "; ".join(f"{write.name}: {write.size} bytes, {write.why}" for write in chosen)
        raise PendingWriteError(
            f"{target}: {len(chosen)} different writes are pending",
            hint=f"pass one of them: {listed}",
            shell_hint=f"select one with --name: {listed}",
        )
    return chosen[-1]


def push_all(target: Location, which: PendingWrite | None, *, force: bool) -> None:
    """Upload what is pending of *target*, and below it. Raises as `CloudPath.push` does."""
    cache = target.client.cache
    writes = pending_of(target)
    if which is not None or any(write.key == target.store_key for write in writes):
        push(target, which, force=force)
    ours = [write for write in cache.pending.all() if write.key.origin == target.client.origin and which is None]
    found = {write.key: None for write in ours if write.uri.startswith(target.prefix_uri)}
    if not writes and not found:
        # What a tool made at its path with a suffix: `numpy.save` does.
        beside = f"{target.canonical}."
        found = {write.key: None for write in ours if write.source is not None and write.uri.startswith(beside)}
    for key in found:
        push(target.at(target.key_of(key.uri)), force=force)
    if which is None and not writes and not found and not exists(target):
        raise CloudPathFileNotFoundError(f"{target}: nothing is pending, and there is no such object: write it first")


def push(target: Location, which: PendingWrite | None = None, *, force: bool = False) -> PendingWrite:
    """Upload a pending write, under the condition that it started from or, with *force*, over whatever is there.

    Return the write as it was. Raises OverwriteNewerCloudError if the object is another version by now: the write stays
    pending. Raises PendingWriteError if another process is uploading it.
    """
    cache = target.client.cache
    with write_lock(target) as lock, lock:
        lock.acquire(on_poll=unclosed.process_queue)
        pushed = select_pending(target, which)
        write: PendingWrite | None = pushed
        if pushed.state is PendingState.UPLOADING:
            write = _resolve_interrupted(target, pushed)
            if write is None:
                return pushed  # it had arrived
            if write.state is PendingState.UPLOADING:
                raise PendingWriteError(f"{target}: another process is uploading it: push again once it has ended")
        assert write is not None
        if write.state is PendingState.UNREADABLE:
            raise conflict_error(target, write)  # what it started from is unknown
        staging = cache.pending.adopt(write)
        try:
            base = WriteBase.of(write, force=force)
            state = write.state
            write = cache.pending.mark(write, PendingState.UPLOADING, lease=cache.lease.name)
            snapshot, moment = cache.snapshot(target.store_key), cache.now()
            try:
                result = conditional_put(target, staging, base, again=write.outcome_unknown)
            except BaseException as error:
                kept = mark_failed(target, write, state, why_failed(error), outcome_unknown=is_unknown(error))
                raise_explained(target, base, kept, error)
                raise
            finally:
                target.forget_listed()
            # Before *staging* is taken over.
            proof = None if write.source is None else strong_digest(staging.descriptor)
            done = [
                other
                for other in cache.pending.of(target.store_key)
                if other.name != write.name and cache.pending.has_bytes(other, staging.descriptor)
            ]
            # The writes that this one was forced over block the URI no longer, either.
            finish_upload(target, staging, snapshot, result.info, moment, write, base.condition)
            if write.source is not None and proof is not None:
                cache.local.uploaded(write.key, write.source, write.digest, proof, result.info.validator)
            # The server has these bytes: other pending writes of the same ones are done.
            for other in done:
                if other.state is not PendingState.UPLOADING:
                    cache.pending.discard(other)
            if result.unconditional:
                warn_of_conditions(target)
            return pushed
        finally:
            staging.close()


def drop(target: Location, which: PendingWrite | None = None) -> list[PendingWrite]:
    """Discard a pending write, or all of the URI's; return what was discarded."""
    pending = target.client.cache.pending
    with write_lock(target) as lock, lock:
        lock.acquire(on_poll=unclosed.process_queue)
        writes: Sequence[PendingWrite] = pending_of(target) if which is None else [select_pending(target, which)]
        for write in writes:
            with target.client.cache.changes.releasing_source(write):
                pending.discard(write)
        return list(writes)


def save(target: Location, destination: str, which: PendingWrite | None = None) -> PendingWrite:
    """Copy a pending write's bytes to the local file *destination*, replaced as a whole; then discard the write."""
    if "://" in destination:
        raise InvalidConfigurationException(f"save_pending() saves to a local file, not to {destination!r}")
    with write_lock(target) as lock, lock:
        lock.acquire(on_poll=unclosed.process_queue)
        write = select_pending(target, which)
        with target.client.cache.changes.releasing_source(write):
            target.client.cache.pending.save(write, destination)
        return write
