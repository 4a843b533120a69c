"""A cloud path that can be written to, and what is pending of it.

What does the work is imported by the first write: most processes only read, and start sooner without.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from casstore import full_disk
from pathapi.backend import ABSENT, head_or_none
from pathapi.client import forced
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    InvalidConfigurationException,
)
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.metadata.listing import ListingPath

if TYPE_CHECKING:
    from casstore import PendingWrite, Stored
    from pathapi.location import Location
    from pathapi.writing.conditional_put import WriteBase
    from pathapi.writing.writer import Upload

Text = tuple[str | None, str | None, str | None, bool]
"""Encoding, errors, newline, and whether each line is flushed."""


class WritingPath(ListingPath):
    """`CloudPath` as far as making an object's content goes."""

    __slots__ = ()

    def _writable_target(self) -> Location:
        uri = self.uri
        if not uri.key or uri.key.endswith("/"):
            raise CloudPathIsADirectoryError(
                f"{self._shown} names a directory: an object to be written has a name after the last slash"
            )
        return self._target()

    def _open_for_writing(
        self,
        kind: str,
        to_cloud: bool | None,
        freshness: FreshnessArg,
        *,
        is_updated: bool,
        text: Text | None,
        at_once: bool = False,
    ) -> IO[Any]:
        from pathapi.writing.writer import CloudBufferedRandom, CloudBufferedWriter, CloudTextWriter

        upload = self._begin_upload(kind, forced(to_cloud, "TO_CLOUD"), freshness, at_once=at_once)
        try:
            buffered = CloudBufferedRandom(upload) if is_updated else CloudBufferedWriter(upload)
        except BaseException:
            upload.abort()
            raise
        try:
            if kind == "a":
                buffered.seek(0, os.SEEK_END)
            if text is None:
                return buffered
            encoding, errors, newline, by_line = text
            return CloudTextWriter(buffered, encoding, errors, newline, line_buffering=by_line)
        except BaseException:
            buffered.abort()  # an unknown encoding, say
            raise

    def _begin_upload(self, kind: str, force: bool, freshness: FreshnessArg, *, at_once: bool) -> Upload:
        from pathapi.writing.pending import acquire_write_lock
        from pathapi.writing.writer import Upload

        target = self._writable_target()
        cache = target.client.cache
        if cache.unavailable is None:
            with full_disk(cache.root):
                cache.lease  # noqa: B018 (taken before a file is open that may be left: see `strays.watch`)
        lock = acquire_write_lock(target, force=force)
        try:
            began = target.client.now()
            stored = self._start_content(kind, freshness) if kind in "ar" else None
            try:
                upload = Upload(target, self._base(kind, force, stored, freshness, began, at_once=at_once), lock)
                if stored is not None:
                    self._start_with(upload, stored)
            finally:
                if stored is not None:
                    os.close(stored.descriptor)
        except BaseException:
            lock.release()
            raise
        return upload

    def _start_content(self, kind: str, freshness: FreshnessArg) -> Stored | None:
        """What is added to: its version is the base."""
        try:
            return self._open_identified(freshness, ignore_pending=True)
        except CloudPathFileNotFoundError as error:
            if kind == "r":
                raise self._explain_missing(error) from error
            return None

    @staticmethod
    def _start_with(upload: Upload, stored: Stored) -> None:
        assert upload.staging is not None
        try:
            with full_disk(upload.target.client.cache.root):
                upload.staging.copy_from(stored.descriptor)
        except BaseException:
            upload.abort()
            raise

    def _base(
        self,
        kind: str,
        force: bool,
        stored: Stored | None,
        freshness: FreshnessArg,
        began: Any,
        *,
        at_once: bool = False,
    ) -> WriteBase:
        """What the write starts from; *at_once* says that it ends in the same call."""
        from pathapi.writing.conditional_put import WriteBase

        client, uri = self.client, self.uri
        policy = client.policy.of_call(self._text, freshness)
        if kind == "x":
            return WriteBase(ABSENT, exclusive=True)
        if force:
            return WriteBase(None)
        if stored is not None and stored.validator is not None:
            entry = stored.entry
            is_asked = entry is not None and (policy is ALWAYS or entry.validated.is_since(began))
            return WriteBase(stored.validator, entry=entry if is_asked and not stored.validator.racy else None)
        if kind == "a" and stored is None:
            return WriteBase(ABSENT)
        listed = self._listed_info()
        if listed is not None and listed.info is not None and freshness is None and policy is not ALWAYS:
            return WriteBase(listed.info.validator)
        held = client.cache.lookup(self._store_key())
        if held is None and client.listings.is_absent(uri.bucket, uri.key):
            # Where the listing is too old, a call may ask and go on: that is as if it had asked first. A file that was
            # open meanwhile may not: what has come since it was opened was seen by nobody.
            return WriteBase(ABSENT, assumed=at_once)
        if policy is not ALWAYS and held is not None:
            now = client.now()
            if policy.allows(held, now, now):
                return WriteBase(held.validator)
        if not policy.asks:
            return WriteBase(ABSENT)  # nothing of it was seen, so nothing of it may be overwritten
        info = head_or_none(client.backend(uri.bucket), uri.key)
        if info is None:
            return WriteBase(ABSENT)
        is_held = held is not None and held.validator.same_version(info.validator)
        is_racy = held is None or held.validator.racy or info.validator.racy
        return WriteBase(info.validator, entry=held if is_held and not is_racy else None)

    # --- the whole content at once ------------------------------------------------------------------------------------

    def write_bytes(self, data: bytes, *, force_overwrite_to_cloud: bool | None = None) -> int:
        """Make *data* the object's content; the count of bytes."""
        view = memoryview(data)
        with self._open_for_writing(
            "w", force_overwrite_to_cloud, None, is_updated=False, text=None, at_once=True
        ) as file:
            count: int = file.write(view)
        return count

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        force_overwrite_to_cloud: bool | None = None,
    ) -> int:
        """Make *data*, encoded like a file, the object's content; the count of characters."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        text = io.text_encoding(encoding), errors, newline, False
        with self._open_for_writing(
            "w", force_overwrite_to_cloud, None, is_updated=False, text=text, at_once=True
        ) as file:
            count: int = file.write(data)
        return count

    def touch(self, exist_ok: bool = True, mode: int | None = None) -> None:
        """Make an empty object if there is none; an existing one stays as it is. Raises FileExistsError."""
        try:
            with self._open_for_writing("x", None, None, is_updated=False, text=None):
                pass
        except CloudPathFileExistsError:
            if not exist_ok:
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False, mode: int | None = None) -> None:
        """Nothing: "directories" of an object store exist while there is something in them."""

    @contextmanager
    def edit(self, *, force_overwrite_to_cloud: bool | None = None) -> Iterator[str]:
        """A private local copy with the object's name, for tools that take a path and change the file: uploaded at the
        end of the block, as `close` of a file does and with its errors; an exception inside uploads nothing.

        Where there is no object yet, nothing is at the path, and what is there at the end becomes the object. Raises
        also `casstore.StillBeingWrittenError` where somebody still writes to it at the end.
        """
        from pathapi.writing.pending import acquire_write_lock
        from pathapi.writing.writer import Upload

        target = self._writable_target()
        cache = target.client.cache
        force = forced(force_overwrite_to_cloud, "TO_CLOUD")
        lock = acquire_write_lock(target, force=force)
        with contextlib.ExitStack() as undo:
            undo.callback(lock.release)
            began = target.client.now()
            stored = self._start_content("a", None)
            source = None if stored is None else stored.descriptor
            try:
                base = self._base("a", force, stored, None, began)
                path = cache.edit(target.key, target.client.local_name(self.uri), base.version, source)
            finally:
                if source is not None:
                    os.close(source)
            try:
                yield path
            except BaseException:
                cache.release_path(path)
                raise
            try:
                staging = cache.copy_local(path)
            except FileNotFoundError:
                cache.release_path(path)
                if stored is None:
                    return
                raise CloudPathFileNotFoundError(
                    f"the local copy of {self._shown} was removed; nothing was uploaded: unlink() deletes the object"
                ) from None
            undo.pop_all()
            digest = staging.digest()
            try:
                Upload(target, base, lock, staging).commit()
            except BaseException:
                if not any(write.digest == digest for write in cache.pending.of(target.key)):
                    raise  # the bytes are nowhere else
                cache.release_path(path, digest)
                raise
            cache.release_path(path, digest)

    # --- what the cloud does not have ---------------------------------------------------------------------------------

    @property
    def pending(self) -> list[PendingWrite]:
        """What was written to this URI on this machine and the cloud does not have, oldest first: failed uploads, local
        copies that were changed, files that were never closed. Asks nobody.
        """
        from pathapi.writing.pending import pending_of

        return pending_of(self._writable_target())

    def _open_pending(self) -> int | None:
        """A descriptor of what was written last and is pending, if anything is."""
        from pathapi.writing.pending import open_pending

        return open_pending(self._target())

    def push(self, which: PendingWrite | None = None, *, force_overwrite_to_cloud: bool | None = None) -> None:
        """Upload what is pending, under the condition that it started from: the cloud's object must be that version.

        *which* of several. Raises `OverwriteNewerCloudError` where somebody has changed the object; with
        *force_overwrite_to_cloud* that is overwritten. FileNotFoundError where nothing is pending, `PendingWriteError`
        where several different writes are and none is named.
        """
        from pathapi.writing.pending import push

        push(self._writable_target(), which, force=forced(force_overwrite_to_cloud, "TO_CLOUD"))

    def drop(self, which: PendingWrite | None = None) -> list[PendingWrite]:
        """Discard for good what is pending, all of it or *which*; what was discarded."""
        from pathapi.writing.pending import drop

        return drop(self._writable_target(), which)

    def save_pending(self, destination: str | os.PathLike[str], which: PendingWrite | None = None) -> None:
        """Move what is pending to the local file *destination*, which is replaced as a whole; then nothing waits here.

        Raises as `push` does; InvalidConfigurationException for a destination that is no local path.
        """
        path = os.fspath(destination)
        if "://" in path:
            raise InvalidConfigurationException(f"save_pending() saves to a local file, not to {destination!r}")
        from pathapi.writing.pending import save

        save(self._writable_target(), path, which)
