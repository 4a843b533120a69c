"""Reads of S3 by obstore, if it is installed: a small GET costs a third of boto3's.

Only reads, and only a 304, a 412 or bytes as the answer. For anything else boto3 repeats the request, and its errors
are translated in one place.

obstore shows no checksum headers. So a whole object must match the MD5 in its ETag; if the ETag is no MD5, boto3 reads
the object and checks what the server states. A mismatch means damaged bytes, or an ETag that is no MD5 (KMS): the read
fails, and boto3 reads this bucket from then on.

obstore hangs in a process that was forked after its parent loaded it: such a process uses boto3.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from casstore import new_hasher
from pathapi.backends.bodies import BodyChecksum, RangedBody, ReadRequest
from pathapi.backends.error_table import NOT_MODIFIED
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.responses import info_of
from pathapi.common.redaction import scrub
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathException,
    MissingDependenciesError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.parallel.part_threads import heard, outcome

_STRANGE: Final = re.compile(r"//|^/|/$|(^|/)\.\.?(/|$)|[\x00-\x1f\x7f]")
"""Keys that obstore refuses or mistakes for other keys: empty and dotted names, control characters."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
"""Names of buckets that obstore accepts: no access points; a space makes it panic."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_PIECE: Final = 1 << 20

_usable = True


def _forbid_in_child() -> None:
    global _usable
    if "obstore" in sys.modules:
        _usable = False


os.register_at_fork(after_in_child=_forbid_in_child)


class ObstoreBody(RangedBody):
    """A body that obstore reads."""

    __slots__ = ()


class _Stream:
    """obstore's response as a stream of *length* bytes: read at once, or piece by piece.

    *small* returns all bytes, or raises what their read raised; None if they were not read with the response.
    """

    def __init__(self, result: Any, length: int, small: Callable[[], Any] | None) -> None:
        self._result = result
        self._length = length
        self._small = small
        self._pieces: Iterator[Any] | None = None
        """None if there are no more."""
        self._rest = memoryview(b"")

    def read(self, amount: int) -> memoryview:
        result, self._result = self._result, None
        if result is not None and self._small is not None:
            self._rest = memoryview(self._small()).cast("B")
        elif result is not None and amount >= self._length:
            self._rest = memoryview(heard(result.bytes)).cast("B")
        elif result is not None:
            self._pieces = iter(result.stream(min_chunk_size=_PIECE))
        while not self._rest and (pieces := self._pieces) is not None:
            piece = heard(partial(next, pieces, None))
            if piece is None:
                self._pieces = None
            else:
                self._rest = memoryview(piece).cast("B")
        data, self._rest = self._rest[:amount], self._rest[amount:]
        return data

    def close(self) -> None:
        self._result, self._small, self._pieces, self._rest = None, None, None, memoryview(b"")


class FastReads:
    """Reads one bucket; made by `fast_reads`."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._is_enabled = True

    def supports(self, key: str) -> bool:
        """Return whether obstore can read this key in this process."""
        return self._is_enabled and _usable and _STRANGE.search(key) is None

    def read(self, asked: ReadRequest) -> ObstoreBody | None:
        """Return a body, or None: use boto3. Raises VersionMismatchError, NotModifiedError."""
        import obstore
        from obstore import exceptions

        start, end, uri = asked.start, asked.end, asked.uri
        options: dict[str, Any] = {**asked.etags("if_match", "if_none_match")}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}

        def fetch() -> tuple[Any, Callable[[], Any] | None]:
            result = obstore.get(self._store, asked.key, options=options)  # type: ignore[arg-type]  # built piece by piece
            first, stop = result.range
            return result, outcome(result.bytes) if stop - first <= _PIECE else None

        try:
            result, small = heard(fetch)
            meta, (first, stop) = result.meta, result.range
        except exceptions.NotModifiedError as error:
            raise NOT_MODIFIED.make(uri=uri, endpoint="S3", code=304, reason="") from error
        except exceptions.PreconditionError as error:
            scrub(error)
            raise VersionMismatchError(f"{uri}: the object is no longer the expected version: read it again") from error
        except Exception:  # noqa: BLE001 (boto3 repeats the request, and raises what is wrong)
            return None
        size = meta["size"]
        answer = {"ETag": meta["e_tag"], "VersionId": meta["version"], "LastModified": meta["last_modified"]}
        info = info_of(asked.key, answer, size)
        wanted = size if end is None else min(end, size)
        etag = info.validator.etag or ""
        is_whole = start == 0 and wanted == size
        if (first, stop) != (start, wanted) or (is_whole and size and not _MD5.fullmatch(etag)):
            return None
        length = wanted - start
        checksum = BodyChecksum("MD5 of the ETag", etag, new_hasher("md5")) if is_whole and size else None

        def translate(error: Exception) -> Exception:
            if isinstance(error, ChecksumMismatchError):
                self._is_enabled = False
            if isinstance(error, CloudPathException):
                return error
            scrub(error)
            return TruncatedBodyError(
                f"{uri}: the connection broke during the read ({type(error).__name__}): try again"
            )

        return ObstoreBody(info, length, _Stream(result, length, small), translate, uri, checksum=checksum)


def fast_reads(connection: S3Connection, bucket: str) -> FastReads | None:
    """Return a reader of *bucket*; None if boto3 must read it.

    That is: obstore is not installed or not usable in this process, the connection has settings that only boto3 knows,
    or ``CASSTORE_FAST=0`` is set.
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
            "timeout": f"{2 * connection.read_timeout:g}s",  # for a whole part, body included
        },
        "retry_config": {"max_retries": 0},  # boto3 is next, and retries itself
    }
    if connection.origin != "s3":
        options["endpoint"] = endpoint
    try:
        if connection.no_sign_request:
            options["skip_signature"] = True
        else:
            options["credential_provider"] = Boto3CredentialProvider(connection.session)
        return FastReads(S3Store(bucket, **options))
    except (MissingDependenciesError, ValueError, TypeError):
        return None  # for example without credentials: boto3 raises the error that says what to do
