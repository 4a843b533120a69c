"""Changing what is at a URI other than by writing a file: copying, renaming, deleting; one object at a time.

    write locks of what changes -> the version of the source -> copy, if the target is as known
        -> target's entry -> delete, if the source still is that version -> the source's entry goes

A crash between any two steps leaves the bytes at the source, at the target, or at both; never at neither. An entry of
before the crash is old, not wrong: the freshness policy decides about it as about any other.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from casstore import Entry, Stored, Validator, full_disk
from pathapi.backend import ABSENT, Absent, ObjectInfo, head_or_none
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathFileExistsError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.location import Location
from pathapi.writing.commit import commit_upload, stage
from pathapi.writing.conditional_put import WriteBase, warn_of_conditions
from pathapi.writing.pending import acquire_write_lock

TRIES: Final = 4
"""Copies that are asked for before objects that keep changing are an error."""

_SLASHES: Final = re.compile(r"[/\\]+")


@dataclass(frozen=True, slots=True)
class SourceVersion:
    """A version of the source; *guessed* says that only a listing knows it, and is looked up if the cloud disagrees."""

    info: ObjectInfo
    guessed: bool = False

    @property
    def version(self) -> Validator:
        """For a condition."""
        return self.info.validator


@contextmanager
def locked(*changes: Location, forced: Location | None = None) -> Iterator[None]:
    """Hold the write locks of several URIs, taken in one order by everybody, so that nobody waits in a circle; *forced*
    is the one of them that is overwritten by force.
    """
    in_order = {(at.client.cache.root, at.key.encoded): at for at in changes}
    with ExitStack() as stack:
        for _, at in sorted(in_order.items()):
            stack.enter_context(acquire_write_lock(at, force=at is forced))
        yield


def forced_of(target: Location, over: WriteBase) -> Location | None:
    """*target*, if it is to be overwritten whatever it is: what `locked` wants to know."""
    return target if over.condition_version is None else None


def source_version(source: Location, listed: ObjectInfo | None) -> SourceVersion:
    """The version of the source: what a listing said, else one HEAD. Raises CloudPathFileNotFoundError."""
    return (
        SourceVersion(source.backend.head(source.object_key)) if listed is None else SourceVersion(listed, guessed=True)
    )


# --- deleting ---------------------------------------------------------------------------------------------------------


def delete(at: Location, version: Validator) -> None:
    """Delete the object if it still is *version*, and then its entry; for whoever has its write lock.

    An object that is gone already is no error: this request may have been sent twice, its first answer lost. Raises
    VersionMismatchError where it is another one by now, which stays.
    """
    try:
        _delete(at, version)
    finally:
        at.forget_listed()
        at.client.cache.record_delete(at.key)


def _delete(at: Location, version: Validator) -> None:
    client, key = at.client, at.object_key
    try:
        at.backend.delete([key], expect=None if client.conditional_writes == "off" else version)
    except VersionMismatchError:
        if head_or_none(at.backend, key) is not None:
            raise
    except CloudPathNotImplementedError as error:
        if client.conditional_writes == "require":
            raise
        now = head_or_none(at.backend, key)
        if now is None:
            return
        if not now.validator.same_version(version):
            raise VersionMismatchError(f"{at} is not the version that was seen; it was not deleted") from error
        warn_of_conditions(at)
        at.backend.delete([key])


# --- copying on the server --------------------------------------------------------------------------------------------


def copy_on_server(
    source: Location, target: Location, seen: SourceVersion, over: WriteBase
) -> tuple[ObjectInfo, SourceVersion]:
    """Copy inside one bucket, over what *over* says is at the target, and make it the entry; what the target is now,
    and which version of the source that is. For whoever has the target's write lock.

    An *over* that is guessed is looked up once, if the cloud disagrees. Raises OverwriteNewerCloudError where somebody
    else changes the target after that: it is left alone.
    """
    cache = target.client.cache
    noted, moment = cache.snapshot(target.key), cache.now()
    try:
        info, seen = _copy(source, target, seen, over)
    except CloudUnavailableError:
        cache.record_delete(target.key)  # nobody knows which one it is now
        raise
    finally:
        target.forget_listed()
    held = _open_held(source, seen.version)
    if held is None:
        # What may be held of the target is the version of before.
        cache.record_delete(target.key)
    else:
        entry, descriptor = held
        try:
            cache.record_copy(noted, entry.digest, descriptor, info.validator, moment)
        finally:
            os.close(descriptor)
    return info, seen


def _open_held(source: Location, version: Validator) -> tuple[Entry, int] | None:
    """The entry and the open blob of that very version of the source, if the store has it."""
    cache = source.client.cache
    entry = cache.lookup(source.key)
    if entry is None or not entry.validator.same_version(version) or entry.validator.racy or version.racy:
        return None
    descriptor = cache.open_entry(entry)
    return None if descriptor is None else (entry, descriptor)


def _copy(source: Location, target: Location, seen: SourceVersion, over: WriteBase) -> tuple[ObjectInfo, SourceVersion]:
    backend, target_key = source.backend, target.object_key
    expect, guessed = over.condition_version, over.assumed
    if source.client.conditional_writes == "off":
        expect = None
    for attempt in range(TRIES):
        try:
            return backend.copy(source.object_key, target_key, expect=seen.version, over=expect), seen
        except VersionMismatchError as error:
            now = head_or_none(backend, target_key) if expect is not None else None
            if attempt and now is not None and checksums_agree(now, seen.info):
                return now, seen  # done, and the answer lost
            state = ABSENT if now is None else now.validator
            if expect is None or _is_same(state, expect):
                # So it was the source.
                seen = SourceVersion(backend.head(source.object_key))
            elif guessed:
                expect, guessed = state, False
                seen = SourceVersion(backend.head(source.object_key)) if seen.guessed else seen
            else:
                raise OverwriteNewerCloudError(
                    f"{target} was changed by somebody else while {source} was being copied there; nothing was "
                    "changed. Look at it and try again, or pass force_overwrite_to_cloud=True"
                ) from error
        except CloudPathNotImplementedError as error:
            if expect is None or source.client.conditional_writes == "require":
                raise
            now = head_or_none(backend, target_key)
            if not guessed and not _is_same(ABSENT if now is None else now.validator, expect):
                raise OverwriteNewerCloudError(f"{target} was changed by somebody else; nothing was changed") from error
            warn_of_conditions(source)
            expect = None
    raise OverwriteNewerCloudError(f"{source} changed {TRIES} times while it was copied; nothing was changed")


def _is_same(one: Validator | Absent, other: Validator | Absent) -> bool:
    if isinstance(one, Absent) or isinstance(other, Absent):
        return one is other
    return one.same_version(other)


def checksums_agree(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether what the provider states of both says that they are the same bytes."""
    stated = {checksum.kind: checksum.value for checksum in other.checksums}
    return one.size == other.size and any(stated.get(item.kind) == item.value for item in one.checksums)


def _require_good(target: Location, copied: ObjectInfo, source: ObjectInfo) -> None:
    """Raise unless the copy is known to be whole: by a checksum, else by the size that the server states of it."""
    if checksums_agree(copied, source):
        return
    stated = {checksum.kind: checksum.value for checksum in source.checksums if checksum.kind != "etag-md5"}
    if any(stated.get(item.kind, item.value) != item.value for item in copied.checksums):
        raise ChecksumMismatchError(f"the copy at {target} has another checksum than the original, which was kept")
    # The answer to a copy does not say the size.
    if target.backend.head(target.object_key).size != source.size:
        raise ChecksumMismatchError(f"the copy at {target} has another size than the original, which was kept")


# --- copying through this machine -------------------------------------------------------------------------------------


def upload(target: Location, source: int, base: WriteBase, check: Callable[[], object] | None = None) -> None:
    """Upload a private copy of the open file *source* under the rules of writing, and make it the entry.

    *check* is called once the copy is made, and may raise. For whoever has the target's write lock. What fails leaves
    nothing pending: the bytes are still where they came from.
    """
    cache = target.client.cache
    noted, staging = cache.snapshot(target.key), stage(cache)
    try:
        with full_disk(cache.root):
            staging.copy_from(source)
        if check is not None:
            check()
        staging.rehash()
        commit_upload(target, staging, base, noted, has_other_copy=True)
    except BaseException:
        staging.close()
        raise


# --- moving -----------------------------------------------------------------------------------------------------------


def copy(source: Location, target: Location, listed: ObjectInfo | None, over: WriteBase) -> None:
    """Copy on the server; *listed* is what a listing said of the source. Raises as `copy_on_server` does."""
    with locked(target, forced=forced_of(target, over)):
        copy_on_server(source, target, source_version(source, listed), over)


def rename(source: Location, target: Location, listed: ObjectInfo | None, over: WriteBase) -> None:
    """Copy on the server, then delete the very version that was copied; the target is never missing.

    Raises CloudPathFileNotFoundError, and OverwriteNewerCloudError where the target was changed meanwhile (nothing is
    done then) or the source was (it stays then, beside the copy of the version before).
    """
    with locked(source, target, forced=forced_of(target, over)):
        twin = _alias_check(source, target)
        seen = source_version(source, listed if twin is None else None)
        _refuse_same_object(source, target, twin, seen.version)
        copied, seen = copy_on_server(source, target, seen, twin or over)
        _refuse_same_object(source, target, twin, seen.version)
        _require_good(target, copied, seen.info)
        delete_moved(source, str(target), seen.version)


def copy_through(source: Location, target: Location, stored: Stored, over: WriteBase, *, delete_source: bool) -> None:
    """Upload what was read of the source, and, if it *moves*, delete the version that was read."""
    version = stored.validator
    assert version is not None
    if not delete_source:
        with locked(target, forced=forced_of(target, over)):
            upload(target, stored.descriptor, over)
        return
    with locked(source, target, forced=forced_of(target, over)):
        twin = _alias_check(source, target)
        _refuse_same_object(source, target, twin, version)
        upload(target, stored.descriptor, twin or over)
        delete_moved(source, str(target), version)


def delete_moved(source: Location, target: str, version: Validator) -> None:
    """Delete the source of a copy that is known good. Raises OverwriteNewerCloudError where it is newer than that."""
    try:
        delete(source, version)
    except VersionMismatchError as error:
        raise OverwriteNewerCloudError(
            f"{source} was changed by somebody else after it was copied: {target} has the version of before, and "
            f"{source} was left alone, with the new one"
        ) from error


def _alias_check(source: Location, target: Location) -> WriteBase | None:
    """What is at a target that may be the source under another name; None where it cannot be.

    Some servers take ``a//b`` for ``a/b``, a backslash for a slash, or one case for the other; and one server may have
    two endpoints. Deleting the source of such a copy would delete the only one.
    """
    if _plain(source) != _plain(target):
        return None
    there = head_or_none(target.backend, target.object_key)
    # Not guessed: the copy that succeeds has met both versions in one moment, so that comparing them is enough.
    return WriteBase(ABSENT if there is None else there.validator)


def _refuse_same_object(source: Location, target: Location, twin: WriteBase | None, version: Validator) -> None:
    if (
        twin is not None
        and isinstance(twin.condition_version, Validator)
        and twin.condition_version.same_version(version)
    ):
        raise CloudPathFileExistsError(
            f"{target} exists with the very version of {source}: the server may take both names for one object, so "
            "nothing was moved. Delete one of them with unlink() if they are two"
        )


def _plain(at: Location) -> tuple[str, str]:
    name = _SLASHES.sub("/", unicodedata.normalize("NFC", f"{at.bucket}/{at.object_key}")).strip("/").casefold()
    return at.uri.partition("://")[0], name
