"""Reads of S3 by obstore, where that is installed: a small GET costs a third of boto3's.

Only reads, and only those it answers in the ordinary way: a 304, a 412, or bytes. Whatever else happens is asked again
of boto3, whose errors are translated in one place.

obstore shows no checksum headers. So an object that comes in one piece must have the MD5 that its ETag states; one
whose ETag states none is left to boto3, which checks what the server states. A mismatch may mean damaged bytes or an
ETag that is no MD5 (KMS): the body is refused, and the bucket is left to boto3 from then on.

A process that was forked after its parent had loaded obstore must not use it (it hangs there): it goes by boto3.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final

from casstore import Validator, new_hasher
from pathapi.backends.headers import format_etag
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.responses import info_of
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudUnavailableError,
    MissingDependenciesError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.redaction import scrub

_STRANGE: Final = re.compile(r"//|^/|/$|(^|/)\.\.?(/|$)|[\x00-\x1f\x7f]")
"""Keys that obstore refuses or reads as other keys: empty and dotted names, control characters."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
"""Names of buckets that obstore takes: an access point is not one, and at a space it panics."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_PIECE: Final = 1 << 20

_usable = True


def _forbid_in_child() -> None:
    global _usable
    if "obstore" in sys.modules:
        _usable = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forbid_in_child)


class FastBody:
    """The bytes of one GET; see `pathapi.backend.Body`. With *md5*, they must have it."""

    __slots__ = ("_hasher", "_left", "_md5", "_on_mismatch", "_pieces", "_rest", "_result", "_uri", "info", "length")

    def __init__(self, result: Any, info: Any, length: int, uri: str, md5: str | None, on_mismatch: Any) -> None:
        self.info = info
        self.length: int | None = length
        self._result = result
        self._left = length
        self._uri = uri
        self._md5 = md5
        self._hasher = None if md5 is None else new_hasher("md5")
        self._on_mismatch = on_mismatch
        self._pieces: Any = None
        self._rest = memoryview(b"")

    def read(self) -> bytes:
        if self._pieces is not None:
            data = bytearray(self._left)
            filled = 0
            while count := self.readinto(memoryview(data)[filled:]):
                filled += count
            return bytes(data)
        try:
            content = bytes(self._result.bytes())
        except Exception as error:
            raise self._broken(error) from error
        self._take(content)
        if self._left:
            raise TruncatedBodyError(f"{self._uri}: the body ended {self._left} bytes early")
        return content

    def readinto(self, buffer: memoryview) -> int:
        if not self._left or not len(buffer):
            return 0
        try:
            if self._pieces is None:
                self._pieces = iter(self._result.stream(min_chunk_size=_PIECE))
            while not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    raise TruncatedBodyError(f"{self._uri}: the body ended {self._left} bytes early")
                self._rest = memoryview(piece).cast("B")
        except TruncatedBodyError:
            raise
        except Exception as error:
            raise self._broken(error) from error
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._take(self._rest[:count])
        self._rest = self._rest[count:]
        return count

    def _take(self, data: bytes | memoryview) -> None:
        self._left -= len(data)
        if self._hasher is not None:
            self._hasher.update(data)
        if self._left < 0:
            raise TruncatedBodyError(f"{self._uri}: the body is longer than announced")
        if not self._left and self._hasher is not None and self._hasher.digest().hex() != self._md5:
            self._on_mismatch()
            raise ChecksumMismatchError(f"{self._uri}: the bytes received do not have the MD5 that the ETag states")

    def _broken(self, error: Exception) -> CloudUnavailableError:
        scrub(error)
        return TruncatedBodyError(f"{self._uri}: the connection broke inside the body ({type(error).__name__})")

    def close(self) -> None:
        self._pieces = iter(())
        self._result = None
        self._rest = memoryview(b"")


class FastReads:
    """Reads of one bucket. Make one by `fast_reads`."""

    def __init__(self, store: Any, bucket: str) -> None:
        import obstore
        from obstore import exceptions

        self._get = obstore.get
        self._not_modified = exceptions.NotModifiedError
        self._precondition = exceptions.PreconditionError
        self._store = store
        self._bucket = bucket
        self._trusted = True

    def suits(self, key: str) -> bool:
        """Whether this key, in this process and bucket, is to be read here."""
        return self._trusted and _usable and _STRANGE.search(key) is None

    def read(
        self, key: str, start: int, end: int | None, expect: Validator | None, unless: Validator | None
    ) -> FastBody | bool | None:
        """A body, None for a 304, or False: ask boto3. Raises VersionMismatchError."""
        options: dict[str, Any] = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        if expect is not None and (etag := format_etag(expect)):
            options["if_match"] = etag
        if unless is not None and not unless.racy and (etag := format_etag(unless)):
            options["if_none_match"] = etag
        uri = f"s3://{self._bucket}/{key}"
        try:
            result = self._get(self._store, key, options=options)  # type: ignore[arg-type]  # a TypedDict, built piece by piece
            meta, (first, stop) = result.meta, result.range
        except self._not_modified:
            return None
        except self._precondition as error:
            scrub(error)
            raise VersionMismatchError(f"{uri} is no longer the version asked for; read it again") from error
        except Exception:  # noqa: BLE001 (boto3 is asked the same, and says what is the matter)
            return False
        size = meta["size"]
        answer = {"ETag": meta["e_tag"], "VersionId": meta["version"], "LastModified": meta["last_modified"]}
        info = info_of(key, answer, size)
        wanted = size if end is None else min(end, size)
        etag = info.validator.etag or ""
        is_whole = start == 0 and wanted == size
        if (first, stop) != (start, wanted) or (is_whole and size and not _MD5.fullmatch(etag)):
            return False
        if expect is not None and not expect.same_version(info.validator):
            raise VersionMismatchError(f"{uri} is no longer the version asked for; read it again")
        return FastBody(result, info, wanted - start, uri, etag if is_whole and size else None, self._distrust)

    def _distrust(self) -> None:
        self._trusted = False


def fast_reads(connection: S3Connection, bucket: str) -> FastReads | None:
    """A reader of *bucket*, or None where boto3 is to do it: obstore is missing or of no use to this process, the
    connection needs what only boto3 can do, or ``CASSTORE_FAST=0`` says so.
    """
    if not _usable or os.environ.get("CASSTORE_FAST") == "0" or connection.extra_args or not _NAME.fullmatch(bucket):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.store import S3Store
    except ImportError:
        return None
    meta = connection.client.meta
    endpoint = meta.endpoint_url
    options: dict[str, Any] = {
        "region": meta.region_name or "us-east-1",
        "virtual_hosted_style_request": connection.addressing_style == "virtual",
        "client_options": {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": f"{connection.connect_timeout:g}s",
            "timeout": f"{2 * connection.read_timeout:g}s",  # of a whole part, body included
        },
        "retry_config": {"max_retries": 0},  # boto3 is asked next, and has retries of its own
    }
    if connection.origin != "s3":
        options["endpoint"] = endpoint
    try:
        if connection.no_sign_request:
            options["skip_signature"] = True
        else:
            options["credential_provider"] = Boto3CredentialProvider(connection.session)
        return FastReads(S3Store(bucket, **options), bucket)
    except (MissingDependenciesError, ValueError, TypeError):
        return None  # for one, there are no credentials: boto3 says so, and what to do
