"""What is pending of a URI, and what becomes of it: looked at before every use, uploaded, saved elsewhere, discarded.

Reading and writing look first. What failed, or was changed behind the API's back, raises and names the ways on; what
was on its way when its process died is looked for in the cloud, once. Whoever changes something has the write lock.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from casstore import Condition, LockTimeoutError, PendingState, PendingWrite, WriteLock
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    OverwriteNewerLocalError,
    PendingWriteError,
)
from pathapi.location import Location
from pathapi.writing import unclosed as strays
from pathapi.writing.commit import finish_upload, mark_failed, raise_explained, why_failed
from pathapi.writing.conditional_put import WriteBase, conditional_put, find_completed_upload, warn_of_conditions

_said: Final[set[str]] = set()


def acquire_write_lock(target: Location, *, force: bool = False) -> WriteLock:
    """The URI's write lock, once nothing that is pending of it stands in the way; with *force*, whatever does.

    Raises PendingWriteError, OverwriteNewerLocalError, LockTimeoutError, ReentrantWriteError.
    """
    cache = target.client.cache
    lock = cache.write_locks.acquire(target.key, on_poll=strays.process_queue)
    try:
        cache.record_changes(target.key)
        if cache.pending.has(target.key):
            for write in cache.pending.of(target.key):
                if cache.unavailable is None:
                    _resolve_interrupted(target, write)
            # Looked at anew: what has arrived after all may have been forced over the others.
            for write in cache.pending.of(target.key):
                if write.blocks and not force:
                    raise conflict_error(target, write)
    except BaseException:
        lock.release()
        raise
    return lock


def ensure_no_conflict(target: Location, *, force: bool, may_request: bool) -> None:
    """Raise where what the cloud or the store has is not what this machine's user wrote last.

    With *force*, the cloud's version is wanted: what stands in the way is set aside. Without *asks*, the cloud is not
    asked what became of an interrupted upload. Waits for nobody.
    """
    cache = target.client.cache
    cache.record_changes(target.key)
    for write in cache.pending.of(target.key):
        if cache.unavailable is None and _is_interrupted(target, write):
            if not may_request:
                raise conflict_error(target, write)
            # Where somebody else has the lock, he deals with it: until then, the old version.
            with suppress(LockTimeoutError), cache.write_locks.acquire(target.key, 0):
                _resolve_interrupted(target, write)
    # Looked at anew, as in `lock_for_change`.
    for write in cache.pending.of(target.key):
        if write.blocks:
            if not force:
                raise conflict_error(target, write)
            if cache.unavailable is None:
                _said.add(write.name)
                with suppress(FileNotFoundError):
                    why = f"{write.why}; then the cloud's version was taken"
                    cache.pending.mark(write, PendingState.INCOMPLETE, why=why)
        elif write.state is PendingState.INCOMPLETE and write.source is not None and write.name not in _said:
            _said.add(write.name)
            warnings.warn(
                f"{target.uri}: {write.why} ({write.source}); push() uploads it, drop() discards it", stacklevel=5
            )


def _is_interrupted(target: Location, write: PendingWrite) -> bool:
    """Whether nobody is uploading *write*, although its record says so."""
    if write.state is not PendingState.UPLOADING:
        return False
    cache = target.client.cache
    if write.lease == cache.lease.name:
        return not cache.write_locks.is_held(target.key)
    return cache.pending.is_interrupted(write)


def _resolve_interrupted(target: Location, write: PendingWrite) -> PendingWrite | None:
    """With the write lock held: find out what became of an interrupted upload. The record as it is then; None where
    there is none any more, because the cloud has the bytes.

    Raises PendingWriteError where the cloud cannot be asked.
    """
    if write.state is not PendingState.UPLOADING:
        return write
    cache = target.client.cache
    # With the lock, and of this process: the upload has ended, and could not say how.
    if write.lease != cache.lease.name and not cache.pending.is_interrupted(write):
        return write
    try:
        staging = cache.pending.adopt(write)
    except FileNotFoundError:
        return None
    try:
        noted, moment = cache.snapshot(target.key), cache.now()
        try:
            info = find_completed_upload(target, staging)
        except CloudPathException as error:
            raise conflict_error(target, write) from error
        if info is not None:
            overrules = write.condition is Condition.ANY
            finish_upload(target, staging, noted, info, moment, write, supersedes=overrules)
            target.forget_listed()
            return None
    finally:
        staging.close()
    why = "its process ended before the cloud had answered, and the cloud does not have the bytes"
    with suppress(FileNotFoundError):
        return cache.pending.mark(write, PendingState.FAILED, why=why)
    return None


def conflict_error(target: Location, write: PendingWrite) -> PendingWriteError | OverwriteNewerLocalError:
    """The error that names *write*, where its bytes are, and the ways on."""
    where = f"The bytes are at {target.client.cache.pending.path(write)}."
    ways = (
        "Keep yours: push() uploads them (with force_overwrite_to_cloud=True over whatever is there). Take the "
        "cloud's: read with force_overwrite_from_cloud=True, or drop(). Keep both: save_pending(PATH). At the shell: "
        "casstore pending, push, drop"
    )
    if write.state is PendingState.EDIT:
        return OverwriteNewerLocalError(f"{target.uri}: {write.why} ({write.source}). {where} {ways}")
    if write.state is PendingState.UPLOADING:
        return PendingWriteError(
            f"{target.uri}: the process that uploaded a write of it has ended, and the cloud cannot be asked whether "
            f"it arrived. {where} {ways}"
        )
    return PendingWriteError(f"{target.uri}: an earlier write has not reached the cloud: {write.why}. {where} {ways}")


def pending_of(target: Location) -> list[PendingWrite]:
    """What is pending of the URI now, this process's local copies included; oldest first.

    Raises the store's own error where it cannot be opened: nobody knows, then, and "nothing" would be a lie.
    """
    cache = target.client.cache
    if cache.unavailable is not None:
        raise cache.unavailable
    strays.process_queue()
    cache.record_changes(target.key)
    return cache.pending.of(target.key)


def open_pending(target: Location) -> int | None:
    """A descriptor of the bytes that were written last and are pending; None where nothing is."""
    for write in reversed(pending_of(target)):
        with suppress(FileNotFoundError):
            return target.client.cache.pending.open(write)
    return None


def select_pending(target: Location, which: PendingWrite | None) -> PendingWrite:
    """The one pending write of the URI that is meant.

    Raises CloudPathFileNotFoundError where there is none, PendingWriteError where there are several and none is named.
    """
    writes = pending_of(target)
    if which is not None:
        for write in writes:
            if write.name == which.name:
                return write
        raise CloudPathFileNotFoundError(f"that pending write of {target.uri} has been dealt with already")
    if not writes:
        raise CloudPathFileNotFoundError(f"nothing is pending of {target.uri}")
    chosen = [write for write in writes if write.state is not PendingState.INCOMPLETE] or writes
    if len({write.digest for write in chosen}) > 1:
        listed = "; ".join(f"{write.name}: {write.size} bytes, {write.why}" for write in chosen)
        raise PendingWriteError(f"{len(chosen)} different writes of {target.uri} are pending, name one: {listed}")
    return chosen[-1]


def push(target: Location, which: PendingWrite | None = None, *, force: bool = False) -> PendingWrite:
    """Upload a pending write, under the condition that it started from, or with *force* over whatever is there; which.

    Raises OverwriteNewerCloudError where the object is another version by now: the write stays pending.
    PendingWriteError where it is being uploaded by another process.
    """
    cache = target.client.cache
    with cache.write_locks.acquire(target.key, on_poll=strays.process_queue):
        write: PendingWrite | None = select_pending(target, which)
        assert write is not None
        was = write
        if write.state is PendingState.UPLOADING:
            write = _resolve_interrupted(target, write)
            if write is None:
                return was  # it had arrived
            if write.state is PendingState.UPLOADING:
                raise PendingWriteError(f"{target.uri} is being uploaded by another process just now")
        staging = cache.pending.adopt(write)
        try:
            base = WriteBase.of(write, force=force)
            state = write.state
            write = cache.pending.mark(write, PendingState.UPLOADING, lease=cache.lease.name)
            noted, moment = cache.snapshot(target.key), cache.now()
            try:
                # An earlier try may have arrived after all.
                sent = conditional_put(target, staging, base, again=was.state is not PendingState.EDIT)
            except BaseException as error:
                raise_explained(target, base, mark_failed(target, write, state, why_failed(error)), error)
                raise
            finally:
                target.forget_listed()
            # What the write itself was forced over stands in the way no more, either.
            overrules = base.condition is Condition.ANY
            finish_upload(target, staging, noted, sent.info, moment, write, supersedes=overrules)
            if write.source is not None:
                cache.mark_uploaded(write.source, write.digest, sent.info.validator)
            _forget_same(target, write)
            if sent.unconditional:
                warn_of_conditions(target)
            return was
        finally:
            staging.close()


def _forget_same(target: Location, pushed: PendingWrite) -> None:
    """The cloud has these bytes: what else is pending with the same ones is done with."""
    pending = target.client.cache.pending
    for other in pending.of(target.key):
        if other.digest == pushed.digest and other.state is not PendingState.UPLOADING:
            pending.discard(other)


def drop(target: Location, which: PendingWrite | None = None) -> list[PendingWrite]:
    """Discard a pending write, or all of the URI's; what was discarded."""
    cache = target.client.cache
    with cache.write_locks.acquire(target.key, on_poll=strays.process_queue):
        writes: Sequence[PendingWrite] = pending_of(target) if which is None else [select_pending(target, which)]
        for write in writes:
            _discard(target, write)
        return list(writes)


def save(target: Location, destination: str, which: PendingWrite | None = None) -> PendingWrite:
    """Copy a pending write's bytes to the local file *destination*, replaced as a whole; then it is pending no more."""
    cache = target.client.cache
    with cache.write_locks.acquire(target.key, on_poll=strays.process_queue):
        write = select_pending(target, which)
        cache.pending.save(write, destination)
        if write.source is not None:
            cache.release_path(write.source, write.digest)
        return write


def _discard(target: Location, write: PendingWrite) -> None:
    cache = target.client.cache
    cache.pending.discard(write)
    if write.source is not None:
        cache.release_path(write.source, write.digest)  # what a tool has put into the outbox
