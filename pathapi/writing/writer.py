"""Writing one object: a private staging file, and at its close one conditional upload.

    open     the URI's write lock; the version that is there, or absence
    write    to a file that nobody else sees
    close    bytes, digest -> pending write, on the disk -> upload -> entry -> the pending write goes -> lock

Nobody sees the bytes before `close`; an exception inside the ``with`` block uploads nothing. From the moment that
`close` has recorded them, the bytes are in the cloud or pending, whatever happens to this process or machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from casstore import (
    CasstoreError,
    Entry,
    IndexSnapshot,
    PendingState,
    PendingWrite,
    Staging,
    WriteLock,
    full_disk,
    same_bytes,
)
from pathapi.exceptions import CloudPathException
from pathapi.location import Location
from pathapi.writing import unclosed as strays
from pathapi.writing.commit import NO_ROOM, commit_upload, stage
from pathapi.writing.conditional_put import WriteBase

if TYPE_CHECKING:
    from types import TracebackType


class Upload:
    """One write on its way: owns the staging file and the write lock until `commit`, `abort` or `set_aside`."""

    def __init__(self, target: Location, base: WriteBase, lock: WriteLock, staging: Staging | None = None) -> None:
        """*staging*, where the bytes are there already, is taken over."""
        cache = target.client.cache
        self.target = target
        self._base = base
        self._lock = lock
        self._noted: IndexSnapshot = cache.snapshot(target.key)
        self._pid = os.getpid()
        self.staging: Staging | None = staging or stage(cache)

    @property
    def uri(self) -> str:
        """Where the bytes go."""
        return self.target.uri

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it: a writing handle does nothing in a forked child."""
        return self._pid == os.getpid()

    def allow_takeover(self, yield_lock: Any) -> None:
        """At a prompt, the next writer of the same thread may call *give_way* to have the lock."""
        self._lock.on_reopen = yield_lock

    def mark_ending(self) -> None:
        """Another thread is about to end this: the one that opened it may wait for that."""
        self._lock.is_ending = True

    def write(self, write: Any, data: Any) -> Any:
        """``write(data)`` into the staging file; where the disk is full, the store makes room once."""
        cache = self.target.client.cache
        with full_disk(cache.root):
            try:
                return write(data)
            except OSError as error:
                if error.errno not in NO_ROOM or not cache.trims.make_room(memoryview(data).nbytes):
                    raise
                return write(data)

    def _take_staging(self) -> Staging | None:
        staging, self.staging = self.staging, None
        if staging is not None and not self.is_ours:
            staging.close_in_child()
            return None
        return staging

    def abort(self) -> None:
        """Upload nothing, forget the bytes."""
        staging = self._take_staging()
        if staging is not None:
            staging.close()
            self._lock.release()

    def commit(self) -> Entry | None:
        """Upload, and make the bytes the entry; done, or safe on this machine, when this returns or raises.

        Raises OverwriteNewerCloudError where the object is not the version this started from, CloudPathFileExistsError
        where it was to be created; the object is untouched then. Those and what else `send` raises say where the bytes
        are.
        """
        staging = self._take_staging()
        if staging is None:
            return None
        try:
            staging.rehash()
            if self._is_unchanged(staging):
                staging.close()
                return self._base.entry
            return commit_upload(self.target, staging, self._base, self._noted)
        except BaseException:
            staging.close()
            raise
        finally:
            self._lock.release()

    def _is_unchanged(self, staging: Staging) -> bool:
        """Whether the cloud, asked in this very open, has these very bytes: by digest, and then byte for byte."""
        entry = self._base.entry
        if entry is None or entry.digest != staging.digest() or entry.size != staging.size:
            return False
        held = self.target.client.cache.open_entry(entry)
        if held is None:
            return False
        try:
            return same_bytes(staging.descriptor, held)
        finally:
            os.close(held)

    def keep_as_incomplete(self, why: str) -> PendingWrite | None:
        """Upload nothing and keep the bytes, as an ``incomplete`` pending write; None where there are none to keep.

        What cannot be kept is lost, and said.
        """
        staging = self._take_staging()
        if staging is None:
            return None
        client = self.target.client
        try:
            staging.rehash()
            if not staging.size:
                return None
            cache = client.cache
            return cache.pending.record(
                self.target.key,
                staging,
                PendingState.INCOMPLETE,
                self._base.condition,
                self._base.version,
                lease=cache.lease.name,
                why=f"{why}; what was written so far",
            )
        finally:
            staging.close()
            self._lock.release()


# --- files ------------------------------------------------------------------------------------------------------------


class _Raw(io.FileIO):
    """The staging file under the name of the URI; in a forked child nothing that is done to it has an effect."""

    def __init__(self, upload: Upload, mode: str) -> None:
        assert upload.staging is not None
        super().__init__(os.dup(upload.staging.descriptor), mode)
        self.name = upload.uri
        self._upload = upload

    def write(self, data: Any) -> int:
        if not self._upload.is_ours:
            return memoryview(data).nbytes
        count: int = self._upload.write(super().write, data)
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # The position belongs to the open file, which parent and child share.
        return super().seek(offset, whence) if self._upload.is_ours else 0

    def truncate(self, size: int | None = None) -> int:
        return super().truncate(size) if self._upload.is_ours else size or 0

    def __del__(self) -> None:
        # In a cycle this may come before the buffer above has been emptied into it: whoever takes that closes this.
        if self._upload.staging is None or not self._upload.is_ours:
            with contextlib.suppress(OSError):
                self.close()


class _Committing:
    """Closes by uploading, unless an exception ends the ``with`` block."""

    _upload: Upload | None = None
    _text: weakref.ref[CloudTextWriter] | None = None
    text_flushed = True
    """Whether no text is still on its way here. In a cycle this file may be finalised before the text above it."""

    def _begin(self, upload: Upload) -> None:
        self._upload = upload
        reference = weakref.ref(self)  # a cycle would put off the end of a file that nobody has any more

        def give_way() -> None:
            file = reference()
            if file is not None:
                file.keep_as_incomplete("it was opened for writing again")

        upload.allow_takeover(give_way)
        strays.track(self, upload.target.client.cache.root)

    def _end(self) -> Upload | None:
        upload, self._upload = self._upload, None
        if upload is not None:
            strays.forget(self)
        return upload

    def close(self) -> None:
        upload = self._end()
        if upload is None:
            super().close()  # type: ignore[misc]
            return
        try:
            super().close()  # type: ignore[misc]
        except BaseException:
            upload.abort()
            raise
        upload.commit()

    def abort(self) -> None:
        """Close and upload nothing."""
        upload = self._end()
        if upload is not None:
            upload.abort()
        with contextlib.suppress(OSError):  # a full disk has said so before, and nobody wants these bytes
            super().close()  # type: ignore[misc]

    def keep_as_incomplete(self, why: str) -> None:
        """Upload nothing, keep what was written so far as ``incomplete``, and close."""
        upload = self._end()
        if upload is None or not upload.is_ours:
            return
        text = None if self._text is None else self._text()
        with contextlib.suppress(OSError, ValueError):
            if text is not None:
                text.flush()
        with contextlib.suppress(OSError, ValueError):
            super().close()  # type: ignore[misc]
        try:
            kept = upload.keep_as_incomplete(why)
        except (CloudPathException, CasstoreError, OSError) as error:
            strays.log_warning(f"{upload.uri}: {why}; what was written could not be kept: {error}")
            return
        if kept is None:
            strays.log_warning(f"{upload.uri}: {why}; nothing was written, and nothing was uploaded")
            return
        path = upload.target.client.cache.pending.path(kept)
        strays.log_warning(f"{upload.uri}: {why}; it was not uploaded, and is kept at {path} (see `casstore pending`)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        upload = self._upload
        if upload is None:
            return
        if upload.is_ours:
            warnings.warn(f"{upload.uri} was opened for writing and never closed", ResourceWarning, stacklevel=2)
            upload.mark_ending()
            strays.queue_unclosed(self)
        else:
            self._upload = None
            upload.abort()
            with contextlib.suppress(OSError, ValueError):
                super().close()  # type: ignore[misc]


class CloudBufferedWriter(_Committing, io.BufferedWriter):
    """What ``open("wb")`` returns."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(_Raw(upload, "wb"))
        self._begin(upload)


class CloudBufferedRandom(_Committing, io.BufferedRandom):
    """What ``open("w+b")`` and ``open("r+b")`` return."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(_Raw(upload, "r+b"))
        self._begin(upload)


class CloudTextWriter(io.TextIOWrapper):
    """What ``open("w")`` returns."""

    def __init__(self, buffer: CloudBufferedWriter | CloudBufferedRandom, *arguments: Any, **options: Any) -> None:
        super().__init__(buffer, *arguments, **options)
        buffer._text = weakref.ref(self)
        buffer.text_flushed = False

    def detach(self) -> Any:
        """The binary file below, which goes on alone."""
        buffer: Any = super().detach()
        buffer.text_flushed = True
        return buffer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            buffer = self.buffer
            assert isinstance(buffer, _Committing)
            buffer.abort()
        self.close()

    def __del__(self) -> None:
        # Not closed: that would upload. The buffer below is collected next, or holds out until somebody closes it.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            buffer: Any = self.buffer
            try:
                self.flush()
            finally:
                buffer.text_flushed = True
