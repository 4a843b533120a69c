"""Writing one object: a private staging file, and at its close one conditional upload.

Nobody sees the bytes before `close`; an exception inside the ``with`` block uploads nothing. The upload carries the
condition that the object still is the version seen at the opening, or still does not exist.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casstore import Entry, Key, Noted, Staging, Validator
from pathapi.backend import ABSENT, Absent, Backend, ObjectInfo
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from pathapi.client import Client


@dataclass(frozen=True, slots=True)
class Base:
    """What a write starts from. *expect* None overwrites whatever is there; *guessed* says that the absence is known
    only from a listing, and is asked about once if the cloud says otherwise.
    """

    expect: Validator | Absent | None
    guessed: bool = False
    exclusive: bool = False


class Upload:
    """One write on its way: owns the staging file until `commit` or `abort`."""

    def __init__(self, client: Client[Any], key: Key, bucket: str, object_key: str, base: Base) -> None:
        self._client = client
        self._key = key
        self._bucket = bucket
        self._object_key = object_key
        self._base = base
        self._noted: Noted = client.cache.note(key)
        self._pid = os.getpid()
        self.staging: Staging | None = client.cache.stage()

    @property
    def uri(self) -> str:
        """Where the bytes go."""
        return self._key.uri

    def abort(self) -> None:
        """Upload nothing, forget the bytes."""
        staging, self.staging = self.staging, None
        if staging is not None:
            staging.close()

    def commit(self) -> Entry | None:
        """Upload, and make the bytes the entry.

        Raises OverwriteNewerCloudError where the object is not the version this started from, CloudPathFileExistsError
        where it was to be created; the object is untouched then.
        """
        staging, self.staging = self.staging, None
        if staging is None:
            return None
        if os.getpid() != self._pid:
            staging.close()  # a writing handle belongs to the process that opened it
            return None
        try:
            staging.rehash()
            moment = self._client.now()
            info = self._send(staging)
        except BaseException:
            staging.close()
            raise
        finally:
            self._client.listings.forget(self._bucket, self._object_key)
        return self._client.cache.record_write(self._noted, staging, info.validator, moment)

    def _send(self, staging: Staging) -> ObjectInfo:
        backend = self._client.backend(self._bucket)
        base = self._base
        try:
            return self._write(backend, staging, base.expect)
        except VersionMismatchError as error:
            if base.guessed:
                # The listing did not have it, and now it is there: ask once, and go by that.
                seen = head_or_none(backend, self._object_key)
                return self._send_again(backend, staging, ABSENT if seen is None else seen.validator)
            raise self._conflict(error) from error
        except CloudPathNotImplementedError as error:
            if base.expect is None or self._client.conditional_writes == "require":
                raise
            return self._send_unconditionally(backend, staging, error)

    def _send_again(self, backend: Backend, staging: Staging, expect: Validator | Absent) -> ObjectInfo:
        try:
            return self._write(backend, staging, expect)
        except VersionMismatchError as error:
            raise self._conflict(error) from error

    def _send_unconditionally(
        self, backend: Backend, staging: Staging, error: CloudPathNotImplementedError
    ) -> ObjectInfo:
        """The server cannot do conditions: a HEAD just before is the best there is."""
        expect = self._base.expect
        seen = head_or_none(backend, self._object_key)
        matches = seen is None if isinstance(expect, Absent) else _is(seen, expect)
        if not matches:
            raise self._conflict(error) from error
        self._client.warn_once(
            f"conditions {backend.origin}",
            f"{backend.origin} cannot write conditionally: what somebody else writes in the same moment may be lost "
            "(conditional_writes='require' makes this an error)",
        )
        return self._write(backend, staging, None)

    def _write(self, backend: Backend, staging: Staging, expect: Validator | Absent | None) -> ObjectInfo:
        guess = self._client.content_type_method
        content_type = guess(self._object_key)[0] if guess is not None else None
        if self._client.conditional_writes == "off":
            expect = None
        with open(os.dup(staging.descriptor), "rb") as source:
            source.seek(0)
            return backend.write(self._object_key, source, staging.size, expect=expect, content_type=content_type)

    def _conflict(self, error: Exception) -> OverwriteNewerCloudError | CloudPathFileExistsError:
        if self._base.exclusive:
            return CloudPathFileExistsError(f"{self.uri} exists already")
        return OverwriteNewerCloudError(
            f"{self.uri} was changed by somebody else since it was opened; nothing was uploaded. Read the new "
            "version and write again, write to another path, or pass force_overwrite_to_cloud=True"
        )


def _is(seen: ObjectInfo | None, expect: Validator | None) -> bool:
    return expect is None or (seen is not None and seen.validator.same_version(expect))


def head_or_none(backend: Backend, key: str) -> ObjectInfo | None:
    """What the object is, or None where there is none."""
    try:
        return backend.head(key)
    except CloudPathFileNotFoundError:
        return None


class _Raw(io.FileIO):
    """The staging file under the name of the URI."""

    def __init__(self, upload: Upload, mode: str) -> None:
        assert upload.staging is not None
        super().__init__(os.dup(upload.staging.descriptor), mode)
        self.name = upload.uri


class _Committing:
    """Closes by uploading, unless an exception ends the ``with`` block."""

    _upload: Upload | None = None

    def close(self) -> None:
        upload, self._upload = self._upload, None
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
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.abort()
        super().close()  # type: ignore[misc]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.abort()
            warnings.warn(
                f"{upload.uri} was opened for writing and never closed; nothing was uploaded", ResourceWarning, 2
            )
            super().close()  # type: ignore[misc]


class CloudBufferedWriter(_Committing, io.BufferedWriter):
    """What ``open("wb")`` returns."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(_Raw(upload, "wb"))
        self._upload = upload


class CloudBufferedRandom(_Committing, io.BufferedRandom):
    """What ``open("w+b")`` and ``open("r+b")`` return."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(_Raw(upload, "r+b"))
        self._upload = upload


class CloudTextWriter(io.TextIOWrapper):
    """What ``open("w")`` returns."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            buffer = self.buffer
            assert isinstance(buffer, _Committing)
            buffer.abort()
        self.close()
