"""Write one object: a private staging file, and at its close one conditional upload.

    open     the URI's write lock; the version that is there, or absence
    write    to a file that only this handle sees
    close    bytes, digest -> pending write, on the disk -> upload -> entry -> pending write discarded -> lock released

`close` makes the bytes visible; an exception inside the ``with`` block uploads nothing. Once `close` has recorded them,
the bytes are on the server or pending, whatever happens to this process or machine.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Self

from casstore import (
    CasstoreError,
    Entry,
    IndexSnapshot,
    PendingState,
    PendingWrite,
    Staging,
    WriteLock,
    full_disk,
    printable,
    same_bytes,
)
from pathapi.backend import head_or_none
from pathapi.exceptions import CloudPathException
from pathapi.metadata.location import Location
from pathapi.writing import unclosed
from pathapi.writing.commit import commit_upload, stage, with_room
from pathapi.writing.conditional_put import WriteBase


class Upload:
    """One write: owns staging file and write lock until `commit`, `abort` or `keep_as_incomplete`.

    Each ends it in a block that uses it twice (`casstore.locks.mutex` says why).
    """

    def __init__(
        self,
        target: Location,
        base: WriteBase,
        lock: WriteLock,
        staging: Staging | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        """Take over *lock*, and *staging* if the bytes are there already; *at_once* as for `opening.write_base`."""
        cache = target.client.cache
        self.target = target
        self.lock = lock
        self._base = base
        self._at_once = at_once
        self._snapshot: IndexSnapshot = cache.snapshot(target.store_key)
        self._pid = os.getpid()
        self.has_failed_write = False
        """Whether a write into the staging file has failed: text that was on its way is lost."""
        self.interrupt: Callable[[], BaseException] | None = None
        """Makes the interrupt by which it failed, if it was one; the first itself has frames that have this object."""
        self.staging: Staging | None = staging or stage(cache)

    @property
    def uri(self) -> str:
        return self.target.canonical

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it: a writing handle does nothing in a forked child."""
        return self._pid == os.getpid()

    def write(self, write: Callable[[Any], int | None], data: Any) -> int | None:
        """Call ``write(data)`` on the staging file; if the disk is full, make room in the store once."""
        cache = self.target.client.cache
        try:
            with full_disk(cache.root):
                return with_room(cache, lambda: write(data), memoryview(data).nbytes)
        except BaseException as error:
            self.has_failed_write = True
            if not isinstance(error, Exception):
                self.interrupt = functools.partial(type(error), *error.args)
            raise

    def _begin_end(self) -> Staging | None:
        """Return the staging file; None if this ended before, or in a forked child."""
        staging = self.staging
        if staging is None or self.is_ours:
            return staging
        self.staging = None
        staging.close_in_child()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Give up the staging file, and then the lock. A second call does nothing."""
        staging = self.staging
        if staging is not None:
            staging.close()
        self.lock.release()
        self.staging = None

    def abort(self) -> None:
        """Upload nothing, and discard the bytes."""
        if self._begin_end() is not None:
            with self, self:
                pass

    def commit(self) -> Entry | None:
        """Upload, and make the bytes the entry; they are on the server, or safe on this machine, at the end.

        Raises:
            OverwriteNewerCloudError: the object is not the version that this started from; it is unchanged.
            CloudPathFileExistsError: it was to be created, and exists; it is unchanged.
            CloudPathException: whatever `conditional_put` raises; every message says where the bytes are.
        """
        staging = self._begin_end()
        if staging is None:
            return None
        with self, self:
            staging.rehash()
            if self._is_unchanged(staging):
                return self._base.entry
            return commit_upload(self.target, staging, self._base, self._snapshot)

    def _is_unchanged(self, staging: Staging) -> bool:
        """Whether the server, asked in this call, has these very bytes: the base's version, compared byte for byte."""
        entry = self._base.entry
        if entry is None or entry.digest != staging.digest() or entry.size != staging.size:
            return False
        blob = self.target.client.cache.open_entry(entry)
        if blob is None:
            return False
        try:
            if not same_bytes(staging.descriptor, blob):
                return False
        finally:
            os.close(blob)
        if self._at_once:
            return True
        # The base was seen when the file was opened, perhaps hours ago.
        try:
            info = head_or_none(self.target.backend, self.target.key)
        except CloudPathException:
            return False  # the upload finds out, and keeps the bytes
        return info is not None and entry.validator.proves_same_bytes(info.validator)

    def keep_as_incomplete(self, why: str) -> PendingWrite | None:
        """Upload nothing, and keep the bytes as an ``incomplete`` pending write; None if there are none."""
        cache, staging = self.target.client.cache, self._begin_end()
        if staging is None:
            return None
        with self, self:
            staging.rehash()
            if not staging.size:
                return None
            return cache.pending.record(
                self.target.store_key,
                staging,
                PendingState.INCOMPLETE,
                self._base.condition,
                self._base.version,
                lease=cache.lease.name,
                why=f"{why}; what was written so far",
                push_options=self.target.client.push_options,
            )


# --- files ------------------------------------------------------------------------------------------------------------
# Python loses an interrupt that meets a `__del__`. So only the classes of open files have one: at its end, a file
# changes its class.


class _StagingFile(io.FileIO):
    """The staging file under the name of the URI; in a forked child it ignores all calls."""

    mode = "wb"  # what `open` was given: io's own attribute is read-only

    def __init__(self, upload: Upload, mode: str) -> None:
        assert upload.staging is not None
        super().__init__(os.dup(upload.staging.descriptor), mode)
        self.name = upload.uri
        self._upload = upload

    def write(self, data: Any) -> Any:
        return self._upload.write(super().write, data) if self._upload.is_ours else memoryview(data).nbytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # The position belongs to the open file, which parent and child share.
        return super().seek(offset, whence) if self._upload.is_ours else 0

    def truncate(self, size: int | None = None) -> int:
        return super().truncate(size) if self._upload.is_ours else size or 0


class _OpenStagingFile(_StagingFile):
    """A staging file whose upload has not ended."""

    def __del__(self) -> None:
        # In a cycle this may run before the buffer above has been flushed into it: the end of the upload closes this.
        if self._upload.staging is None or not self._upload.is_ours:
            with contextlib.suppress(OSError):
                self.close()


class _UploadingBuffer:
    """Uploads when it is closed, unless an exception ends the ``with`` block."""

    _upload: Upload | None = None
    _text: weakref.ref[CloudTextWriter] | None = None
    text_flushed = True
    """Whether no text is left in the layer above. In a cycle this file may be finalised before that layer."""

    def _begin(self, upload: Upload) -> None:
        self._upload = upload
        reference = weakref.ref(self)  # a cycle would delay the end of a file that is used no longer

        def keep() -> None:
            file = reference()
            if file is not None:
                file.keep_as_incomplete("it was opened for writing again")

        upload.lock.on_reopen = keep
        unclosed.track(self, upload.target.client.cache.root)

    def _end(self) -> None:
        self._upload = None
        raw = getattr(self, "raw", None)
        if isinstance(raw, _OpenStagingFile):
            raw.__class__ = _StagingFile  # type: ignore[assignment]
        if isinstance(self, _Unclosed):
            self.__class__ = type(self).__mro__[2]  # the one after the open class and `_Unclosed`
        unclosed.forget(self)

    def close(self) -> None:
        upload = self._upload
        if upload is None:
            super().close()  # type: ignore[misc]
            return
        try:
            super().close()  # type: ignore[misc]
            upload.commit()
        except BaseException:
            upload.abort()
            raise
        finally:
            self._end()

    def flush_text(self, flush: Callable[[], object]) -> None:
        """Call *flush*, of the layer above. If it fails, or a write failed before, text is lost: upload nothing.

        An interrupt of a write is raised again: an error of a close in a ``finally`` block would take its place.
        """
        upload = self._upload
        try:
            flush()
        except BaseException:
            self.abort()
            raise
        if upload is not None and upload.has_failed_write and upload.staging is not None:
            self.keep_as_incomplete("a write failed or was interrupted")
            missing = "some text is missing, and nothing was uploaded: write it again"
            if upload.interrupt is None:
                raise OSError(errno.EIO, missing, upload.uri)
            interrupt = upload.interrupt()
            interrupt.add_note(printable(f"{upload.uri}: {missing}"))
            raise interrupt

    def abort(self) -> None:
        """Close, and upload nothing."""
        upload = self._upload
        try:
            if upload is not None:
                upload.abort()
        finally:
            self._end()
        with contextlib.suppress(OSError):  # a full disk has raised before
            super().close()  # type: ignore[misc]

    def _close_quietly(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().close()  # type: ignore[misc]

    def keep_as_incomplete(self, why: str) -> None:
        """Upload nothing, keep what was written so far as ``incomplete``, and close; log what happened."""
        upload = self._upload
        if upload is None or not upload.is_ours:
            return
        self._end()
        text = None if self._text is None else self._text()
        with contextlib.suppress(OSError, ValueError):
            if text is not None:
                text.flush()
        self._close_quietly()
        try:
            kept = upload.keep_as_incomplete(why)
        except (CloudPathException, CasstoreError, OSError) as error:
            outcome = f"what was written could not be kept: {error}"
        else:
            outcome = "nothing was written, and nothing was uploaded"
            if kept is not None:
                path = upload.target.client.cache.pending.path(kept)
                outcome = f"it was not uploaded, and is kept at {path} (see `casstore pending`)"
        unclosed.log_warning(f"{upload.uri}: {why}; {outcome}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
            else:
                self.abort()
        except BaseException:
            self.abort()  # an interrupt may have ended the first step of either
            raise


class _Unclosed(_UploadingBuffer):
    """What is done with a file that is never closed."""

    def __del__(self) -> None:
        upload = self._upload
        if upload is None or upload.staging is None:
            return
        if upload.is_ours:
            message = f"{upload.uri} was opened for writing and never closed"
            warnings.warn(printable(message), ResourceWarning, stacklevel=2)
            upload.lock.is_ending = True  # by another thread: the one that opened it may wait for that
            unclosed.queue_unclosed(self)
        else:
            self._upload = None
            upload.abort()
            self._close_quietly()


class CloudBufferedWriter(_UploadingBuffer, io.BufferedWriter):
    """What ``open("wb")`` returns."""


class _OpenBufferedWriter(_Unclosed, CloudBufferedWriter):
    def __init__(self, upload: Upload) -> None:
        super().__init__(_OpenStagingFile(upload, "wb"))
        self._begin(upload)


class CloudBufferedRandom(_UploadingBuffer, io.BufferedRandom):
    """What ``open("w+b")`` and ``open("r+b")`` return."""


class _OpenBufferedRandom(_Unclosed, CloudBufferedRandom):
    def __init__(self, upload: Upload) -> None:
        super().__init__(_OpenStagingFile(upload, "r+b"))
        self._begin(upload)


class CloudTextWriter(io.TextIOWrapper):
    """What ``open("w")`` returns."""

    mode = "w"

    def __init__(self, buffer: CloudBufferedWriter | CloudBufferedRandom, *arguments: Any, **options: Any) -> None:
        super().__init__(buffer, *arguments, **options)
        buffer._text = weakref.ref(self)  # noqa: SLF001 (two halves of one file)
        buffer.text_flushed = False

    def detach(self) -> Any:
        """Return the binary file below, which continues on its own."""
        buffer: Any = super().detach()
        buffer.text_flushed = True
        return buffer

    def close(self) -> None:
        """Flush, and close the binary file below, which uploads; upload nothing if any text was lost on its way."""
        buffer: Any = self.buffer
        try:
            if not self.closed and isinstance(buffer, _UploadingBuffer):
                buffer.flush_text(super().flush)
        except BaseException:
            buffer.abort()  # an interrupt may have ended any step
            raise
        super().close()
        self.__class__ = CloudTextWriter

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        buffer: Any = self.buffer
        try:
            if kind is not None:
                buffer.abort()
            self.close()
        except BaseException:
            buffer.abort()  # an interrupt may have ended the first step of either
            raise


class _OpenTextWriter(CloudTextWriter):
    def __del__(self) -> None:
        # Not closed: that would upload. The buffer below is collected next, or lives on while it is used elsewhere.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            buffer: Any = self.buffer
            try:
                self.flush()
            finally:
                buffer.text_flushed = True


def open_binary(upload: Upload, mode: str, *, is_updated: bool) -> CloudBufferedWriter | CloudBufferedRandom:
    """Return the file whose `close` commits *upload*; *is_updated* for reading and writing."""
    file = _OpenBufferedRandom(upload) if is_updated else _OpenBufferedWriter(upload)
    raw: Any = file.raw
    raw.mode = mode
    return file


def open_text(buffer: CloudBufferedWriter | CloudBufferedRandom, *arguments: Any, **options: Any) -> CloudTextWriter:
    """Return a text file above *buffer*; the arguments are those of `io.TextIOWrapper`."""
    return _OpenTextWriter(buffer, *arguments, **options)
