"""One conditional upload: what it starts from, how it is sent, and what a refusal or a lost answer means.

The condition is the version that was seen, or absence. A refusal is a conflict. Only if an earlier try may have been
carried out (`CloudPathException.outcome_unknown`), the object is read back: with these very bytes, they arrived.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from casstore import Condition, Entry, PendingWrite, Staging, Validator, raw_hash, reopen
from pathapi.backend import ABSENT, COMPARABLE, Absent, ObjectInfo, head_or_none
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    VersionMismatchError,
)
from pathapi.metadata.location import Location
from pathapi.parallel.cancellation import CancelToken

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class WriteBase:
    """What a write starts from.

    *condition_version* None overwrites whatever is there. *assumed*: a listing alone shows the absence; one HEAD
    request decides if the server disagrees. *entry* is the cached entry of that very version, if the server confirmed
    it in this very open. *unknown*: the server could not be asked for the version, so that no object may be there;
    *unreached* is the error of a call that would only try the same server again. With *spares_newer*, a copy does not
    replace what is newer than its source: *there*, as a listing told, or what a HEAD finds, which *check* refuses.
    """

    condition_version: Validator | Absent | None
    assumed: bool = False
    exclusive: bool = False
    entry: Entry | None = None
    unknown: bool = False
    unreached: CloudUnavailableError | None = None
    spares_newer: bool = False
    there: ObjectInfo | None = None
    check: Callable[[ObjectInfo], object] | None = None

    @property
    def condition(self) -> Condition:
        """The condition as a pending write records it."""
        if self.unknown:
            return Condition.UNKNOWN
        if self.condition_version is None:
            return Condition.ANY
        return Condition.ABSENT if isinstance(self.condition_version, Absent) else Condition.MATCH

    @property
    def version(self) -> Validator | None:
        """The version that was seen, if there was one."""
        return self.condition_version if isinstance(self.condition_version, Validator) else None

    @classmethod
    def over(cls, there: ObjectInfo | None, *, assumed: bool, spares_newer: bool) -> WriteBase:
        """Return what a copy onto *there*, or onto nothing, starts from."""
        version = ABSENT if there is None else there.validator
        return cls(version, assumed=assumed, spares_newer=spares_newer, there=there if spares_newer else None)

    @classmethod
    def of(cls, write: PendingWrite, *, force: bool) -> WriteBase:
        """Return what a pending write started from: never what is there now."""
        if force or write.condition is Condition.ANY:
            return cls(None)
        if write.condition in (Condition.ABSENT, Condition.UNKNOWN):
            return cls(ABSENT, exclusive=write.exclusive, unknown=write.condition is Condition.UNKNOWN)
        return cls(write.base)


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The object after an upload; *unconditional* asks for `warn_of_conditions` once everything else is done."""

    info: ObjectInfo
    unconditional: bool = False


def conditional_put(target: Location, staging: Staging, base: WriteBase, *, again: bool = False) -> UploadResult:
    """Upload *staging*'s bytes under *base*'s condition.

    *again*: they were sent before, with an unknown result. Raises VersionMismatchError for a conflict, and whatever
    else `Backend.write` raises; `outcome_unknown` of the error says whether they may have arrived.
    """
    try:
        return _send(target, staging, base)
    except (VersionMismatchError, CloudUnavailableError) as error:
        error.outcome_unknown = error.outcome_unknown or again
        if not error.outcome_unknown:
            raise  # another writer's object may have the same bytes: two creations must not both succeed
        try:
            info = find_completed_upload(target, staging)
        except CloudPathException as unavailable:
            if isinstance(error, CloudUnavailableError):
                raise error from error.__cause__
            unavailable.outcome_unknown = True  # whose object it is stays unknown
            raise
        if info is None:
            error.outcome_unknown = False  # it was asked, and does not have them
            raise
        return UploadResult(info)
    except CloudPathException as error:  # of this try only: what became of the one before stays unknown
        error.outcome_unknown = error.outcome_unknown or again
        raise


def _send(target: Location, staging: Staging, base: WriteBase) -> UploadResult:
    expect = None if target.client.conditional_writes == "off" else base.condition_version
    try:
        return _send_expecting(target, staging, expect)
    except VersionMismatchError as error:
        if not base.assumed or error.outcome_unknown:
            raise
        # The listing did not have it, and now it is there: ask once, and use the answer.
        seen = head_or_none(target.backend, target.key)
        if seen is not None and base.check is not None:
            base.check(seen)
        return _send_expecting(target, staging, ABSENT if seen is None else seen.validator)


def _send_expecting(target: Location, staging: Staging, expect: Validator | Absent | None) -> UploadResult:
    try:
        return UploadResult(_write(target, staging, expect))
    except (CloudPathNotImplementedError, CloudPathPermissionError) as error:
        if expect is None or target.client.conditional_writes == "require":
            raise
        return _send_unconditionally(target, staging, expect, error)


def _send_unconditionally(
    target: Location, staging: Staging, expect: Validator | Absent, error: CloudPathException
) -> UploadResult:
    """Check by a HEAD just before: the server, or the role, cannot do conditions (or nothing at all)."""
    backend = target.backend
    try:
        seen = head_or_none(backend, target.key)
    except CloudPathPermissionError:
        raise error from error.__cause__
    matches = seen is None if isinstance(expect, Absent) else seen is not None and seen.validator.may_be(expect)
    if not matches:
        mismatch = VersionMismatchError(f"{target}: not the version that was seen; nothing was changed")
        mismatch.outcome_unknown = error.outcome_unknown
        raise mismatch from error
    try:
        return UploadResult(_write(target, staging, None), unconditional=True)
    except CloudPathPermissionError:
        raise error from error.__cause__  # it was not the condition


def warn_of_conditions(target: Location) -> None:
    """Warn, once per origin, that the server cannot do conditions."""
    origin = target.backend.origin
    target.client.warn_once(
        f"conditions {origin}",
        f"{origin}: the server cannot write conditionally, and a write of another client in the same moment may be "
        "lost: conditional_writes='require' makes this an error",
    )


def _write(target: Location, staging: Staging, expect: Validator | Absent | None) -> ObjectInfo:
    guess = target.client.content_type_method
    content_type = guess(target.key)[0] if guess is not None else None
    with _Source(staging.descriptor) as source:
        return target.backend.write(target.key, source, staging.size, expect=expect, content_type=content_type)


class _Source(io.BufferedReader):
    """A staging file as a backend reads it: at a position of its own, until the transfer is cancelled."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(io.FileIO("", opener=lambda *_: reopen(descriptor)))
        self._stop = CancelToken()

    def read(self, size: int | None = -1) -> bytes:
        self._stop.check()
        return super().read(size)


def find_completed_upload(target: Location, staging: Staging) -> ObjectInfo | None:
    """Return the object if it has exactly *staging*'s bytes, else None.

    A checksum of the provider that the client believes is enough; otherwise all bytes are read and compared.
    """
    backend = target.backend
    info = head_or_none(backend, target.key)
    if info is None or info.size != staging.size:
        return None
    if matches_checksum(info, staging.descriptor, target.client.believed_checksums):
        return info
    try:
        body = backend.read(target.key, 0, None, expect=info.validator if info.validator.identifies else None)
    except (VersionMismatchError, CloudPathFileNotFoundError):
        return None
    assert body is not None
    buffer, offset = memoryview(bytearray(_PIECE)), 0
    with closing(body):
        while count := body.readinto(buffer):
            if os.pread(staging.descriptor, count, offset) != buffer[:count]:
                return None
            offset += count
    return info if offset == staging.size else None


def matches_checksum(info: ObjectInfo, descriptor: int, believed: Collection[str]) -> bool:
    """Whether an open file has the hash, of a kind *believed*, that the provider states of the whole object."""
    for checksum in info.checksums:
        if checksum.kind in COMPARABLE and checksum.kind in believed:
            return raw_hash(descriptor, checksum.kind.removeprefix("etag-")).hex() == checksum.value
    return False
