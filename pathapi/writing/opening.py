"""Opening an object: for reading through the store, or for writing from the version that is there.

What writing needs is imported by the first write: most processes only read, and start sooner without.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from casstore import Moment, Stored, full_disk, strong_digest
from pathapi.backend import ABSENT, head_or_none
from pathapi.client import forced
from pathapi.exceptions import CloudPathFileNotFoundError, CloudPathIsADirectoryError, CloudUnavailableError
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.metadata.head import explain_missing
from pathapi.metadata.location import Location, informative
from pathapi.reading.reader import LocalChangeFoundError, ReadRequest

if TYPE_CHECKING:
    from pathapi.writing.conditional_put import WriteBase
    from pathapi.writing.writer import Upload

Result = TypeVar("Result")


class OpenOptions(NamedTuple):
    """A mode of `open`, taken apart: *is_updated* for ``+``; the rest is `io`'s, and *mode* what the file says."""

    kind: str
    is_binary: bool = True
    is_updated: bool = False
    buffering: int = -1
    encoding: str | None = None
    errors: str | None = None
    newline: str | None = None
    mode: str = "wb"

    @classmethod
    def parse(
        cls, mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None
    ) -> OpenOptions:
        """Take *mode* apart. Raises ValueError, as the built-in `open` does."""
        letters = set(mode)
        kinds = letters & set("rwxa")
        if len(kinds) != 1 or len(letters) != len(mode) or letters - set("rwxabt+") or {"b", "t"} <= letters:
            raise ValueError(f"invalid mode: {mode!r}")
        is_binary = "b" in letters
        if is_binary and (encoding is not None or errors is not None or newline is not None):
            raise ValueError("binary mode takes no encoding, errors or newline argument")
        if not is_binary and buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        kind, is_updated = kinds.pop(), "+" in letters
        if is_binary:  # in io's spelling
            mode = "rb+" if is_updated and kind == "w" else f"{kind}b{'+' * is_updated}"
        return cls(kind, is_binary, is_updated, buffering, encoding, errors, newline, mode)

    @property
    def is_reading(self) -> bool:
        """Whether nothing is written."""
        return self.kind == "r" and not self.is_updated


class ReadOptions(NamedTuple):
    """What one read overrides. *checked_cache*: the store was just found to have no fresh entry. *require_store*: raise
    if the store cannot keep the bytes.
    """

    freshness: FreshnessArg = None
    verify: bool | None = None
    force: bool | None = None
    read_pending: bool = False
    checked_cache: bool = False
    require_store: bool = False


def read_request(
    location: Location, options: ReadOptions, *, with_content: bool = False, ignore_pending: bool = False
) -> ReadRequest:
    """Return what the reader is to read, and how. Raises CloudPathIsADirectoryError for a bucket."""
    client, uri = location.client, location.uri
    if not uri.key:
        raise CloudPathIsADirectoryError(f"{location.shown} is a bucket, not an object")
    return ReadRequest(
        location,
        location.policy_of_call(options.freshness),
        # Of any age: an epoch lasts longer than a listing is believed. The policy or the server has the last word.
        informative(client.listings.recall_any_age(uri.bucket, uri.key, location.listed)),
        client.verify if options.verify is None else options.verify,
        forced(options.force, "FROM_CLOUD"),
        options.require_store,
        with_content,
        ignore_pending,
    )


def _read(
    location: Location, read: Callable[..., Result], request: ReadRequest, *, checked_cache: bool = False
) -> Result:
    """Return *read* (of the client's reader) of *request*, once no pending write of the object blocks reading."""
    cache = location.client.cache
    if request.require_store and cache.unavailable is not None:
        raise cache.unavailable
    is_changed = not request.ignore_pending and cache.has_local_changes(request.store_key)
    while True:
        if is_changed:
            from pathapi.writing.pending import ensure_no_conflict  # most readers meet nothing pending

            ensure_no_conflict(location, force=request.force, may_request=request.freshness.may_request)
        try:
            return read(request, checked_cache=checked_cache)
        except LocalChangeFoundError:
            is_changed, checked_cache = True, False


def open_blob(location: Location, options: ReadOptions) -> Stored:
    """Open the object's blob, downloaded if it must be. Raises as `CloudPath.open` does, without an explanation."""
    return _read(
        location, location.client.reader.open, read_request(location, options), checked_cache=options.checked_cache
    )


def open_stored(location: Location, options: ReadOptions) -> Stored:
    """Open the object's blob, downloaded if it must be. Raises as `CloudPath.open` does."""
    try:
        return open_blob(location, options)
    except CloudPathFileNotFoundError as error:
        raise explain_missing(location, error) from error


def open_for_reading(location: Location, options: ReadOptions) -> int:
    """Open what is pending, if that is wanted, else the object's blob."""
    descriptor = open_pending(location) if options.read_pending else None
    return open_stored(location, options).descriptor if descriptor is None else descriptor


def read_bytes(location: Location, options: ReadOptions) -> bytes:
    """Return all bytes, of what is pending, if that is wanted, else of the object."""
    descriptor = open_pending(location) if options.read_pending else None
    if descriptor is not None:
        with io.FileIO(descriptor, "rb") as file:
            return file.readall()
    try:
        request = read_request(location, options, with_content=True)
        return _read(location, location.client.reader.read_bytes, request, checked_cache=options.checked_cache)
    except CloudPathFileNotFoundError as error:
        raise explain_missing(location, error) from error


def open_pending(location: Location) -> int | None:
    """Open the bytes that were written last and are pending; None if nothing is."""
    from pathapi.writing import pending

    return pending.open_pending(location)


def open_identified(location: Location, freshness: FreshnessArg, *, ignore_pending: bool = False) -> Stored:
    """Open the object's blob, of a version that conditions can name.

    An empty object may come without a version; a second request, about the entry that there is then, returns one.
    """
    read = location.client.reader.open
    stored = _read(location, read, read_request(location, ReadOptions(freshness), ignore_pending=ignore_pending))
    if stored.validator is None or stored.validator.identifies:
        return stored
    os.close(stored.descriptor)
    return _read(location, read, read_request(location, ReadOptions(ALWAYS), ignore_pending=ignore_pending))


def require_object_name(location: Location) -> Location:
    """Return *location*. Raises CloudPathIsADirectoryError if it names a directory."""
    if not location.key or location.key.endswith("/"):
        raise CloudPathIsADirectoryError(f"{location.shown} names a directory: add a name after the last slash")
    return location


def open_for_writing(
    location: Location,
    options: OpenOptions,
    force: bool | None = None,
    freshness: FreshnessArg = None,
    *,
    at_once: bool = False,
) -> IO[Any]:
    """Open a private file that is uploaded at `close`; *at_once* says that the same call closes it."""
    from pathapi.writing.writer import open_binary, open_text

    encoding = None if options.is_binary else io.text_encoding(options.encoding)
    upload = _begin_upload(location, options.kind, forced(force, "TO_CLOUD"), freshness, at_once=at_once)
    buffered = None
    try:
        buffered = open_binary(upload, options.mode, is_updated=options.is_updated)
        if options.kind == "a":
            buffered.seek(0, os.SEEK_END)
        if options.is_binary:
            return buffered
        by_line = options.buffering == 1
        file = open_text(buffered, encoding, options.errors, options.newline, line_buffering=by_line)
        file.mode = options.mode
        return file
    except BaseException:  # an unknown encoding, say
        upload.abort()
        if buffered is not None:
            buffered.abort()
        raise


def write(location: Location, data: Any, options: OpenOptions, force: bool | None) -> int:
    """Make *data* the object's content; return its length. Raises TypeError."""
    if options.is_binary:
        data = memoryview(data)
    elif not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")
    with open_for_writing(location, options, force, at_once=True) as file, file:
        count: int = file.write(data)
    return count


def _begin_upload(location: Location, kind: str, force: bool, freshness: FreshnessArg, *, at_once: bool) -> Upload:
    from pathapi.writing.pending import acquire_write_lock, write_lock
    from pathapi.writing.writer import Upload

    require_object_name(location)
    cache = location.client.cache
    if cache.unavailable is None:
        with full_disk(cache.root):
            cache.lease  # noqa: B018 (acquired before a file is open that may never be closed: see `unclosed.track`)
    lock, upload = write_lock(location), None
    try:
        acquire_write_lock(location, lock, force=force)
        began = location.client.now()
        stored = _open_start(location, kind, freshness) if kind in "ar" else None
        try:
            base = write_base(location, kind, stored, freshness, began, force=force, at_once=at_once)
            upload = Upload(location, base, lock, at_once=at_once)
            if stored is not None:
                assert upload.staging is not None
                with full_disk(cache.root):
                    upload.staging.copy_from(stored.descriptor)
        finally:
            if stored is not None:
                os.close(stored.descriptor)
        return upload
    except BaseException:
        with lock, lock:
            if upload is not None:
                upload.abort()
        raise


def _open_start(location: Location, kind: str, freshness: FreshnessArg) -> Stored | None:
    """Open the content that is added to: its version is the base."""
    try:
        return open_identified(location, freshness, ignore_pending=True)
    except CloudPathFileNotFoundError as error:
        if kind == "r":
            raise explain_missing(location, error) from error
        return None


def write_base(
    location: Location,
    kind: str,
    stored: Stored | None,
    freshness: FreshnessArg,
    began: Moment,
    *,
    force: bool,
    at_once: bool = False,
) -> WriteBase:
    """Return what a write starts from, by what was seen of the object; *at_once* says that it ends in the same call.

    *stored* is the content that it adds to, if there is one; *began* is when the call began.
    """
    from pathapi.writing.conditional_put import WriteBase

    client, uri, policy = location.client, location.uri, location.policy_of_call(freshness)
    if kind == "x":
        return WriteBase(ABSENT, exclusive=True)
    if force:
        return WriteBase(None)
    if stored is not None and stored.validator is not None:
        entry = stored.entry
        is_asked = entry is not None and (policy is ALWAYS or entry.validated.is_between(began, client.now()))
        return WriteBase(stored.validator, entry=entry if is_asked else None)
    if kind == "a" and stored is None:
        return WriteBase(ABSENT)
    listed = location.listed_object()
    if listed is not None and freshness is None and policy is not ALWAYS:
        return WriteBase(listed.validator)
    held = client.cache.lookup(location.store_key)
    if held is None and client.listings.is_absent(uri.bucket, uri.key):
        # If the listing is too old, a call may ask and go on, as if it had asked first. A file that was open in the
        # meantime may not: objects created since it was opened were not seen.
        return WriteBase(ABSENT, assumed=at_once)
    if policy is not ALWAYS and held is not None:
        now = client.now()
        if policy.allows(held, now, now):
            return WriteBase(held.validator)
    if not policy.may_request:
        return WriteBase(ABSENT, unknown=True)  # nothing of the object was seen, so nothing of it may be overwritten
    try:
        info = head_or_none(location.backend, uri.key)
    except CloudUnavailableError as error:
        if client.cache.unavailable is not None:
            raise  # the bytes could not be kept
        # Kept at the close. A later push uploads them if no object is there.
        return WriteBase(ABSENT, unknown=True, unreached=error if at_once else None)
    if info is None:
        return WriteBase(ABSENT)
    is_held = held is not None and held.validator.proves_same_bytes(info.validator)
    return WriteBase(info.validator, entry=held if is_held else None)


class Edit(AbstractContextManager[str]):
    """The block of `CloudPath.edit`: it has a private local copy of the object, and uploads it at its end."""

    def __init__(self, location: Location, force: bool | None, *, with_bytes: bool = True) -> None:
        self._block = _edit(location, force, with_bytes=with_bytes)

    def __enter__(self) -> str:
        try:
            return self._block.__enter__()
        except BaseException:
            self._block.gen.close()  # an interrupt may have met contextlib's part of it
            raise

    def __exit__(self, *exc: object) -> bool | None:
        try:
            return self._block.__exit__(*exc)  # type: ignore[arg-type]
        except BaseException:
            self._block.gen.close()
            raise


@contextmanager
def _edit(location: Location, force: bool | None, *, with_bytes: bool) -> Iterator[str]:
    from pathapi.writing.pending import acquire_write_lock, write_lock
    from pathapi.writing.writer import Upload

    client, cache = require_object_name(location).client, location.client.cache
    is_forced = forced(force, "TO_CLOUD")
    with write_lock(location) as lock, lock:
        acquire_write_lock(location, lock, force=is_forced)
        began = client.now()
        kind = "a" if with_bytes else "w"
        stored = _open_start(location, kind, None) if with_bytes else None
        source = None if stored is None else stored.descriptor
        key = location.store_key
        try:
            base = write_base(location, kind, stored, None, began, force=is_forced)
            path = cache.local.private_path(location.place, base.version, source)
        finally:
            if source is not None:
                os.close(source)
        process = os.getpid()
        try:
            yield path
        except BaseException:
            if os.getpid() == process:
                cache.local.release(key, path)
            raise
        if os.getpid() != process:
            return  # a forked child: the file and the upload are its parent's
        try:
            staging = cache.changes.copy_privately(path)
        except FileNotFoundError:
            cache.local.release(key, path)
            if stored is None:
                return
            raise CloudPathFileNotFoundError(
                f"{location.shown}: its local copy was removed; nothing was uploaded: unlink() deletes the object"
            ) from None
        proof = strong_digest(staging.descriptor)
        try:
            Upload(location, base, lock, staging).commit()
        except BaseException:
            if not any(cache.pending.strong_digest(write) == proof for write in cache.pending.of(location.store_key)):
                raise  # the bytes are nowhere else
            cache.local.release(key, path, proof)
            raise
        cache.local.release(key, path, proof)
