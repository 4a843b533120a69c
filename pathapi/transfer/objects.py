"""Changing what is at a URI other than by writing a file: copying, renaming, deleting; one object at a time.

    write locks of what changes -> the version of the source -> copy, if the target is as known
        -> target's entry -> delete, if the source still is that version -> the source's entry is deleted

A crash between any two steps leaves the bytes at the source, at the target, or at both; never at neither. An entry of
before the crash is old, not wrong: the freshness policy decides about it as about any other.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Final, Self

from casstore import Entry, Stored, Validator, copy_out, full_disk, new_hasher, raw_hash, same_bytes
from pathapi.backend import ABSENT, COMPARABLE, Absent, CopiesAcross, ObjectInfo, WriteCondition, head_or_none
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.metadata.head import has_children
from pathapi.metadata.location import Location
from pathapi.writing.commit import commit_upload, stage
from pathapi.writing.conditional_put import WriteBase, matches_checksum, warn_of_conditions
from pathapi.writing.opening import ReadOptions, open_blob, open_identified
from pathapi.writing.pending import acquire_write_lock, write_lock

TRIES: Final = 4
"""Copies that are requested before objects that keep changing are an error."""

_SLASHES: Final = re.compile(r"[/\\]+")


class Locked:
    """The write locks of several URIs for a block, which uses it twice (`casstore.locks.mutex` says why)."""

    def __init__(self, *changes: Location, over: WriteBase | None = None) -> None:
        """The last of *changes* is written *over* what that says, by force if it says nothing."""
        self._forced = changes[-1] if over is not None and over.condition_version is None else None
        # Always in one order, so that no two processes wait for each other.
        in_order = {(at.client.cache.root, at.store_key.encoded): at for at in changes}
        self._locks = [(at, write_lock(at)) for _, at in sorted(in_order.items())]
        self._is_entered = False

    def __enter__(self) -> Self:
        if not self._is_entered:
            try:
                for at, lock in self._locks:
                    acquire_write_lock(at, lock, force=at is self._forced)
                self._is_entered = True
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        for _, lock in reversed(self._locks):
            lock.release()


@contextmanager
def open_version(source: Location, freshness: FreshnessArg = None, *, delete_source: bool) -> Iterator[Stored]:
    """Open the bytes of one version. A source that is to be deleted is requested now, whatever the policy."""
    stored = open_identified(source, ALWAYS) if delete_source else open_blob(source, ReadOptions(freshness))
    try:
        yield stored
    finally:
        os.close(stored.descriptor)


def delete(at: Location, version: Validator, copy: object = None) -> None:
    """Delete the object if it still is *version*, of which there may be a *copy*, and then its entry.

    The caller has the write lock. An absent object is no error: the request may have been sent twice, and its first
    response lost. Raises OverwriteNewerCloudError for another version, which stays.
    """
    client, key = at.client, at.key
    outcome = f"{copy} has the version of before, and {at} was left alone, with the new one" if copy else "not deleted"
    changed = OverwriteNewerCloudError(f"{at} was changed by another writer: {outcome}")
    try:
        at.backend.delete([key], expect=None if client.conditional_writes == "off" else version)
    except VersionMismatchError as error:
        if head_or_none(at.backend, key) is not None:
            raise changed from error
    except CloudPathNotImplementedError as error:
        if client.conditional_writes == "require":
            raise
        now = head_or_none(at.backend, key)
        if now is None:
            return
        if not now.validator.may_be(version):
            raise changed from error
        warn_of_conditions(at)
        at.backend.delete([key])
    finally:
        at.forget_listed()
        client.cache.record_delete(at.store_key)


def _copy_on_server(
    source: Location, target: Location, listed: ObjectInfo | None, over: WriteBase
) -> tuple[ObjectInfo, ObjectInfo]:
    """Copy on the server, over what *over* says is at the target, and make it the entry.

    Returns what the target is now, and the version of the source that it is. The caller has the target's write lock.
    What a listing said of the source, or an *over* that is assumed, is looked up once if the server disagrees. Raises
    CloudPathFileNotFoundError; OverwriteNewerCloudError if the target changes after that; it stays.
    """
    seen = listed or source.backend.head(source.key)
    cache = target.client.cache
    noted, moment = cache.snapshot(target.store_key), cache.now()
    try:
        _spare_newer(source, target, seen, over.there)
        info, seen = _copy(source, target, seen, over, is_listed=listed is not None)
        held = open_held(source, seen.validator)
        if held is None:
            # An entry of the target would be the version of before.
            cache.record_delete(target.store_key)
        else:
            entry, descriptor = held
            try:
                cache.record_copy(noted, entry.digest, descriptor, info.validator, moment)
            finally:
                os.close(descriptor)
    except BaseException as error:
        if isinstance(error, CloudUnavailableError) or not isinstance(error, Exception):
            cache.record_delete(target.store_key)  # its version is unknown now
        raise
    finally:
        target.forget_listed()
    return info, seen


def open_held(location: Location, version: Validator) -> tuple[Entry, int] | None:
    """Return the entry and the open blob of that version of the object, if the store has them."""
    cache = location.client.cache
    entry = cache.lookup(location.store_key)
    if entry is None or not entry.validator.proves_same_bytes(version):
        return None
    descriptor = cache.open_entry(entry)
    return None if descriptor is None else (entry, descriptor)


def _copy(
    source: Location, target: Location, seen: ObjectInfo, over: WriteBase, *, is_listed: bool
) -> tuple[ObjectInfo, ObjectInfo]:
    expect, assumed = over.condition_version, over.assumed
    if source.client.conditional_writes == "off":
        expect = None
    for _ in range(TRIES):
        try:
            return _send_copy(source, target, seen.validator, expect), seen
        except VersionMismatchError as error:
            now = head_or_none(target.backend, target.key) if expect is not None else None
            if error.outcome_unknown and now is not None and _is_copy(source, target, seen, now):
                return now, seen  # copied, and the response lost
            state = ABSENT if now is None else now.validator
            is_source = expect is None or _is_same(state, expect)
            if not is_source and (not assumed or error.outcome_unknown):
                raise OverwriteNewerCloudError(
                    f"{target} was changed while {source} was being copied there; nothing was changed. Look at it and "
                    "try again, or pass force_overwrite_to_cloud=True"
                ) from error
            if not is_source:
                _spare_newer(source, target, seen, now if over.spares_newer else None)
                expect, assumed = state, False
            if is_source or is_listed:
                seen, is_listed = source.backend.head(source.key), False
        except CloudPathNotImplementedError as error:
            if expect is None or source.client.conditional_writes == "require":
                raise
            now = head_or_none(target.backend, target.key)
            if not assumed and not _is_same(ABSENT if now is None else now.validator, expect):
                raise OverwriteNewerCloudError(
                    f"{target} was changed by another writer; nothing was changed"
                ) from error
            _spare_newer(source, target, seen, now if over.spares_newer else None)
            warn_of_conditions(source)
            expect = None
    if isinstance(expect, Absent) and has_children(target):
        raise CloudPathIsADirectoryError(f"{target.shown} is a directory, and the server keeps no object of that name")
    raise OverwriteNewerCloudError(f"{source} changed {TRIES} times while it was copied; nothing was changed")


def _spare_newer(source: Location, target: Location, seen: ObjectInfo, there: ObjectInfo | None) -> None:
    """Raise OverwriteNewerCloudError if *there* at the target is newer than *seen*, and other bytes."""
    if there is None or not _is_newer(there, seen.validator.mtime_ns):
        return
    may_be_same = there.size == seen.size and not _contradict(there, seen)
    if not may_be_same or not _is_copy(source, target, seen, there, COMPARABLE):
        raise _newer(target)


def _is_newer(there: ObjectInfo, mtime_ns: int | None) -> bool:
    """Return whether *there* is not older; a time that is unknown tells nothing."""
    newer = there.validator.mtime_ns
    return mtime_ns is not None and newer is not None and newer >= mtime_ns


def _newer(target: Location) -> OverwriteNewerCloudError:
    return OverwriteNewerCloudError(
        f"{target} is not older than what was to replace it, and has other bytes; nothing was changed. To replace it, "
        "pass force_overwrite_to_cloud=True, or set CLOUDPATHLIB_FORCE_OVERWRITE_TO_CLOUD=1"
    )


def _send_copy(source: Location, target: Location, version: Validator, over: WriteCondition) -> ObjectInfo:
    backend, to = source.backend, target.backend
    if source.uri.bucket == target.uri.bucket:
        return backend.copy(source.key, target.key, expect=version, over=over)
    assert isinstance(backend, CopiesAcross)
    return backend.copy_across(source.key, to, target.key, expect=version, over=over)


def _is_copy(
    source: Location, target: Location, seen: ObjectInfo, now: ObjectInfo, believed: Collection[str] | None = None
) -> bool:
    """Return whether the target *now* has the bytes of the version *seen* of the source: else both are read."""
    if now.size != seen.size or checksums_agree(now, seen, believed or source.client.believed_checksums):
        return now.size == seen.size
    try:
        return _digest_of(source, seen) == _digest_of(target, now)
    except (VersionMismatchError, CloudPathFileNotFoundError):
        return False


def _digest_of(at: Location, info: ObjectInfo) -> bytes:
    """Return the SHA-256 of the object's bytes, read from the server. Raises VersionMismatchError."""
    body = at.backend.read(at.key, 0, None, expect=info.validator)
    assert body is not None
    hasher, buffer = new_hasher("sha256"), memoryview(bytearray(1 << 20))
    with closing(body):
        while count := body.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.digest()


def _is_same(one: Validator | Absent, other: Validator | Absent) -> bool:
    if isinstance(one, Absent) or isinstance(other, Absent):
        return one is other
    return one.may_be(other)


def checksums_agree(one: ObjectInfo, other: ObjectInfo, believed: Collection[str] | None = None) -> bool:
    """Return whether the server's checksums, of the kinds *believed*, say that both are the same bytes.

    Without *believed*, of any kind: enough to find a copy that is incomplete.
    """
    kinds = [checksum for checksum in other.checksums if believed is None or checksum.kind in believed]
    known = {checksum.kind: checksum.value for checksum in kinds}
    return one.size == other.size and any(known.get(item.kind) == item.value for item in one.checksums)


def _contradict(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Return whether the server's checksums say that both are different bytes; an ETag says nothing of the kind."""
    known = {checksum.kind: checksum.value for checksum in other.checksums if checksum.kind != "etag-md5"}
    return any(known.get(item.kind, item.value) != item.value for item in one.checksums)


def _require_good(target: Location, copied: ObjectInfo, source: ObjectInfo) -> None:
    """Raise unless the copy is known to be complete: by a checksum, else by its size."""
    if checksums_agree(copied, source):
        return
    if _contradict(copied, source):
        raise ChecksumMismatchError(f"the copy at {target} has another checksum than the original, which was kept")
    # The response to a copy has no size.
    if target.backend.head(target.key).size != source.size:
        raise ChecksumMismatchError(f"the copy at {target} has another size than the original, which was kept")


def has_bytes(target: Location, there: ObjectInfo, descriptor: int, believed: Collection[str] | None = None) -> bool:
    """Return whether the object *there* certainly has the bytes of an open file; downloads nothing.

    The cached blob of that very version tells, else a hash that the server states and the client believes.
    """
    if os.fstat(descriptor).st_size != there.size or not there.size:
        return not there.size and not os.fstat(descriptor).st_size
    held = open_held(target, there.validator)
    if held is None:
        return matches_checksum(there, descriptor, believed or target.client.believed_checksums)
    try:
        return same_bytes(descriptor, held[1])
    finally:
        os.close(held[1])


def _sparing(base: WriteBase, target: Location, source: int, mtime_ns: Callable[[], int | None]) -> WriteBase:
    """Return *base* so that it refuses to replace what is newer than *mtime_ns*, and other bytes than *source*'s.

    Raises OverwriteNewerCloudError if that is known already.
    """
    if not base.spares_newer:
        return base

    def check(there: ObjectInfo) -> None:
        if not _is_newer(there, mtime_ns()) or has_bytes(target, there, source, COMPARABLE):
            return
        try:
            is_same = os.fstat(source).st_size == there.size and _digest_of(target, there) == raw_hash(source, "sha256")
        except (VersionMismatchError, CloudPathFileNotFoundError):
            is_same = False  # it changed while it was read
        if not is_same:
            raise _newer(target)

    if base.there is not None:
        check(base.there)
    return replace(base, check=check)


def upload(
    target: Location,
    source: int,
    base: WriteBase,
    mtime_ns: Callable[[], int | None],
    check: Callable[[], object] | None = None,
) -> None:
    """Upload a private copy of the open file *source*, of that mtime, under the rules of writing; make it the entry.

    *check* is called once the copy is made, and may raise. The caller has the target's write lock. A failure leaves
    nothing pending: the bytes are still at the source. Raises OverwriteNewerCloudError if the target is newer.
    """
    base = _sparing(base, target, source, mtime_ns)
    cache = target.client.cache
    noted, staging = cache.snapshot(target.store_key), stage(cache)
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


def copy_to_local(source: Location, stored: Stored, target: str, *, delete_source: bool) -> None:
    """Copy what was read of the source to the file *target*; with *delete_source*, delete it once that is durable."""
    copy_out(stored.descriptor, target, durable=delete_source)
    if delete_source:
        version = stored.validator
        assert version is not None
        if os.stat(target).st_size != stored.size:
            raise ChecksumMismatchError(f"{target} has another size than {source.shown}, which was kept")
        with Locked(source) as locks, locks:
            delete(source, version, target)


def copy_on_server(
    source: Location, target: Location, listed: ObjectInfo | None, over: WriteBase, *, delete_source: bool
) -> None:
    """Copy on the server; *listed* is what a listing said of the source.

    With *delete_source*, delete the very version that was copied; the target always exists. Raises
    CloudPathFileNotFoundError; OverwriteNewerCloudError if the target changed, and nothing was done, or if the source
    changed, and stays beside the copy of the version before.
    """
    changes = (source, target) if delete_source else (target,)
    with Locked(*changes, over=over) as locks, locks:
        alias = _alias_check(source, target, over) if delete_source else None
        if alias is not None:
            listed = source.backend.head(source.key)
            _refuse_same_object(source, target, alias, listed.validator)
        copied, seen = _copy_on_server(source, target, listed, alias or over)
        if delete_source:
            _refuse_same_object(source, target, alias, seen.validator)
            _require_good(target, copied, seen)
            delete(source, seen.validator, target)


def touch(at: Location) -> None:
    """Give the object the time of now, by a copy onto itself; it keeps its entry. Raises OverwriteNewerCloudError."""
    with Locked(at) as locks, locks:
        seen = at.backend.head(at.key)
        _copy_on_server(at, at, seen, WriteBase(seen.validator))


def copy_through(source: Location, target: Location, stored: Stored, over: WriteBase, *, delete_source: bool) -> None:
    """Upload what was read of the source; with *delete_source*, delete the version that was read."""
    version = stored.validator
    assert version is not None
    changes = (source, target) if delete_source else (target,)
    with Locked(*changes, over=over) as locks, locks:
        alias = _alias_check(source, target, over) if delete_source else None
        _refuse_same_object(source, target, alias, version)
        upload(target, stored.descriptor, alias or over, lambda: _mtime_ns(source, version))
        if delete_source:
            delete(source, version, target)


def _mtime_ns(source: Location, version: Validator) -> int | None:
    """Return the time of that version of the source; asks if an upload's answer, which has no time, made the entry."""
    if version.mtime_ns is not None or not source.policy.may_request:
        return version.mtime_ns
    now = head_or_none(source.backend, source.key)
    return None if now is None else now.validator.mtime_ns


def _alias_check(source: Location, target: Location, over: WriteBase) -> WriteBase | None:
    """Return what is at a target that may be the source under another name; None if it cannot be.

    Some servers take ``a//b`` for ``a/b``, a backslash for a slash, or one case for the other; and one server may have
    two endpoints. Deleting the source of such a copy would delete the only one.
    """
    if _plain(source) != _plain(target):
        return None
    there = head_or_none(target.backend, target.key)
    # Not assumed: a copy that succeeds has met both versions in one moment, so that comparing them is enough.
    return WriteBase.over(there, assumed=False, spares_newer=over.spares_newer)


def _refuse_same_object(source: Location, target: Location, alias: WriteBase | None, version: Validator) -> None:
    there = None if alias is None else alias.condition_version
    if isinstance(there, Validator) and there.may_be(version):
        raise CloudPathFileExistsError(
            f"{target} exists with the very version of {source}: the server may take both names for one object, so "
            "nothing was moved. Delete one of them with unlink() if they are two"
        )


def _plain(at: Location) -> tuple[str, str]:
    name = _SLASHES.sub("/", unicodedata.normalize("NFC", f"{at.uri.bucket}/{at.key}")).strip("/").casefold()
    return at.canonical.partition("://")[0], name
