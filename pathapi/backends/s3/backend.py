"""Amazon S3 and other servers of its protocol, by boto3.

The server evaluates every condition (If-Match, If-None-Match). One that it does not support raises
`CloudPathNotImplementedError`; the caller decides what to do then. A server that ignores a condition on a read is
detected by the validator of its response.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import WEEK, Absent, ObjectInfo, Prefix, check_expiry
from pathapi.backends.bodies import OutOfRange, RangedBody, open_range, ranged_body
from pathapi.backends.error_table import GONE, translating
from pathapi.backends.headers import format_etag, parse_range, range_of
from pathapi.backends.operations import delete_in_batches, explaining_missing_target, key_order, source_version
from pathapi.backends.parallel_parts import read_exactly, read_parts
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.deletes import BATCH, CONFLICT_TRIES, delete_many, pause
from pathapi.backends.s3.errors import answer_of, retries_of, translate
from pathapi.backends.s3.multipart import copy_ranges, part_size_of, send_multipart, threshold_of
from pathapi.backends.s3.obstore_reads import FastReads, fast_reads
from pathapi.backends.s3.responses import info_of, is_empty_object
from pathapi.backends.s3.urls import signed_url_of, url_of
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    MissingCredentialsError,
    VersionMismatchError,
)

__all__ = ["S3Backend", "S3Connection"]

PAGE: Final = 1_000
"""Keys per list request (S3's limit)."""
COPY_LIMIT: Final = 5 << 30
"""Bytes per CopyObject (S3's limit)."""


class S3Backend:
    """One bucket; see `pathapi.backend.Backend`."""

    def __init__(self, connection: S3Connection, bucket: str) -> None:
        self.connection = connection
        self._bucket = bucket
        self._extra: dict[str, Mapping[str, Any]] = {}
        self._fast: FastReads | None = None
        self._looked_for_fast = False

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Backend, (self.connection, self._bucket)

    @property
    def origin(self) -> str:
        return self.connection.origin

    @property
    def bucket(self) -> str:
        return self._bucket

    def head(self, key: str) -> ObjectInfo:
        return self._head(key, {})

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> RangedBody | None:
        if end is None or end > start:
            fast = self._fast_reads()
            if fast is not None and fast.supports(key):
                answer = fast.read(key, start, end, expect, unless)
                if not isinstance(answer, bool):
                    return answer
        conditions = {}
        if expect is not None and (etag := format_etag(expect)):
            conditions["IfMatch"] = etag
        if unless is not None and not unless.racy and (etag := format_etag(unless)):
            conditions["IfNoneMatch"] = etag
        try:
            return open_range(
                lambda ranged: self._get(key, start, end, conditions, ranged=ranged),
                lambda: self._head(key, conditions),
                start,
                end,
                self._uri(key),
                self._translator(key),
                expect,
            )
        except CloudPathException as error:
            if answer_of(error.__cause__ or error)[0] == 304:
                return None
            raise

    def write(
        self,
        key: str,
        source: BinaryIO,
        size: int,
        *,
        expect: Validator | Absent | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        conditions = self._write_conditions(key, expect)
        described = {} if content_type is None else {"ContentType": content_type}
        config, uri = self.connection.boto3_transfer_config, self._uri(key)
        if size >= threshold_of(config):
            answer = send_multipart(
                lambda operation, **arguments: self._call(operation, key, expect=expect, **arguments),
                "UploadPart",
                ({"Body": data} for data in read_parts(source, size, part_size_of(size, config), uri)),
                described=described,
                conditions=conditions,
                threads=getattr(config, "max_concurrency", None),
            )
        else:
            data = read_exactly(source, size, uri)
            answer = self._call("PutObject", key, expect=expect, Body=data, **described, **conditions)
        return info_of(key, answer, size)

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        return itertools.islice(self._list(prefix, limit, delimited=delimited), limit)

    def _list(self, prefix: str, limit: int | None, *, delimited: bool) -> Iterator[ObjectInfo | Prefix]:
        arguments: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/"} if delimited else {"Prefix": prefix}
        listed = 0
        while True:
            size = PAGE if limit is None else min(PAGE, limit - listed)
            page = self._call("ListObjectsV2", None, about=prefix, MaxKeys=size, **arguments)
            objects: Iterator[ObjectInfo | Prefix] = (
                info_of(item["Key"], item, int(item["Size"])) for item in page.get("Contents", ())
            )
            folded = (Prefix(item["Prefix"]) for item in page.get("CommonPrefixes", ()))
            for item in heapq.merge(objects, folded, key=key_order):
                listed += 1
                yield item
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: Validator | Absent | None = None
    ) -> ObjectInfo:
        seen = source_version(self, source, expect, self._uri(source))
        arguments: dict[str, Any] = {
            "CopySource": {"Bucket": self._bucket, "Key": source},
            "CopySourceIfMatch": format_etag(seen),
        }
        conditions = self._write_conditions(target, over)
        with explaining_missing_target(self, source, over, self._uri(target)):
            if seen.size > COPY_LIMIT:
                described = self._call("HeadObject", source)
                answer = send_multipart(
                    lambda operation, **more: self._call(operation, target, about=source, **more),
                    "UploadPartCopy",
                    ({**arguments, **part} for part in copy_ranges(seen.size)),
                    described={name: described[name] for name in _KEPT_BY_COPY if described.get(name)},
                    conditions=conditions,
                )
                return info_of(target, answer, seen.size)
            answer = self._call("CopyObject", target, about=source, **arguments, **conditions)
        return info_of(target, {**answer, **answer.get("CopyObjectResult", {})}, seen.size)

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        def delete_one(key: str, expect: Validator | None) -> None:
            self._call("DeleteObject", key, expect=expect, **self._write_conditions(key, expect))

        def delete_batch(keys: Sequence[str], _: Mapping[str, Validator]) -> Sequence[str]:
            return delete_many(self._call, self._where, keys, conditions)

        # Before the first request: a version that S3 cannot compare must not fail the delete halfway.
        conditions = {key: self._write_conditions(key, (versions or {}).get(key)) for key in keys}

        delete_in_batches(self, keys, expect, versions, delete_one=delete_one, delete_batch=delete_batch, batch=BATCH)

    def url(self, key: str) -> str:
        with translating(self._translator(key)):
            return url_of(self.connection.unsigned, self._bucket, key, self._uri(key))

    def signed_url(self, key: str, seconds: int) -> str:
        check_expiry(seconds, WEEK)
        uri, extra = self._uri(key), self._extra_of("GetObject")
        if self.connection.no_sign_request:
            raise MissingCredentialsError(f"{uri}: no_sign_request=True cannot sign a URL: log in instead")
        client = self.connection.client
        with translating(self._translator(key)):
            return signed_url_of(client, self._bucket, key, uri, seconds, extra)

    def _fast_reads(self) -> FastReads | None:
        if not self._looked_for_fast:
            self._fast = fast_reads(self.connection, self._bucket)
            self._looked_for_fast = True
        return self._fast

    # --- reading ---------------------------------------------------------------------------------------------------

    def _head(self, key: str, conditions: Mapping[str, Any]) -> ObjectInfo:
        answer = self._call("HeadObject", key, **conditions)
        return info_of(key, answer, int(answer["ContentLength"]))

    def _get(
        self, key: str, start: int, end: int | None, conditions: Mapping[str, Any], *, ranged: bool
    ) -> RangedBody | OutOfRange:
        asked = range_of(start, end) if ranged else None
        ranges: dict[str, Any] = {"Range": asked} if asked else {}
        try:
            answer = self._call("GetObject", key, **ranges, **conditions)
        except CloudPathException as error:
            cause = error.__cause__ or error
            if asked is None or answer_of(cause)[0] != 416:
                raise
            # The 416 for an empty object does not state its version: a condition needs another request.
            is_empty = not conditions and is_empty_object(cause)
            return OutOfRange(ObjectInfo(key, Validator(0)) if is_empty else None, keep_range=start > 0)
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        return ranged_body(
            answer["Body"],
            start,
            end,
            lambda: parse_range(status, answer.get("ContentRange"), answer.get("ContentLength"), start, end),
            lambda size, is_whole: info_of(key, answer, size, is_whole=is_whole),
            self._uri(key),
            self._translator(key),
        )

    def _translator(self, key: str) -> Callable[[Exception], Exception]:
        def meaning(error: Exception) -> Exception:
            if isinstance(error, CloudPathException):
                return error
            self.connection.scrub(error)
            return translate(error, operation="GetObject", **self._where(key)) or error

        return meaning

    # --- requests --------------------------------------------------------------------------------------------------

    def _write_conditions(self, key: str, expect: Validator | Absent | None) -> dict[str, Any]:
        if expect is None:
            return {}
        if isinstance(expect, Absent):
            return {"IfNoneMatch": "*"}
        etag = format_etag(expect)
        if etag is None:
            raise CloudPathNotImplementedError(
                f"{self._uri(key)}: S3 compares ETags, and the expected version has none"
            )
        return {"IfMatch": etag}

    def _call(
        self,
        operation: str,
        key: str | None,
        *,
        about: str | None = None,
        expect: Validator | Absent | None = None,
        **arguments: Any,
    ) -> Any:
        """Send one request. Errors name *about* or *key*. With *expect*, a missing object is a version mismatch."""
        named = {"Bucket": self._bucket, **self._extra_of(operation), **arguments}
        if key is not None:
            named["Key"] = key
        for attempt in range(CONFLICT_TRIES):
            try:
                return getattr(self.connection.client, _METHODS[operation])(**named)
            except Exception as error:
                status, code = answer_of(error)
                if code == "ConditionalRequestConflict" and attempt + 1 < CONFLICT_TRIES:
                    pause(attempt)
                    continue
                if isinstance(error, CloudPathException):
                    raise
                self.connection.scrub(error)
                meant = translate(error, operation=operation, **self._where(about if about is not None else key or ""))
                if meant is None:
                    raise
                # S3 answers an If-Match on a deleted object with 404.
                if isinstance(expect, Validator) and status == 404 and type(meant) is CloudPathFileNotFoundError:
                    meant = GONE.make(uri=self._uri(key or ""))
                if isinstance(meant, VersionMismatchError):
                    meant.after_retry = retries_of(error) > 0
                raise meant from error
        raise AssertionError("unreachable")

    def _extra_of(self, operation: str) -> Mapping[str, Any]:
        """Return those of the connection's extra arguments that *operation* accepts."""
        if not self.connection.extra_args:
            return {}
        known = self._extra.get(operation)
        if known is None:
            members = self.connection.client.meta.service_model.operation_model(operation).input_shape.members
            # The source of a copy is decrypted with the same key, unless it has its own.
            keys = {name: value for name, value in self.connection.extra_args.items() if "SSECustomer" in name}
            given = {f"CopySource{name}": value for name, value in keys.items()} | dict(self.connection.extra_args)
            known = self._extra[operation] = {name: value for name, value in given.items() if name in members}
        return known

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}".encode("utf-8", "backslashreplace").decode()

    def _where(self, key: str) -> dict[str, Any]:
        origin = self.connection.origin
        endpoint = "Amazon S3" if origin == "s3" else origin.removeprefix("s3@")
        return {
            "uri": self._uri(key),
            "bucket": self._bucket,
            "endpoint": endpoint,
            "is_signed": not self.connection.no_sign_request,
        }


_METHODS: Final = {
    "HeadObject": "head_object",
    "GetObject": "get_object",
    "PutObject": "put_object",
    "ListObjectsV2": "list_objects_v2",
    "CopyObject": "copy_object",
    "DeleteObject": "delete_object",
    "DeleteObjects": "delete_objects",
    "CreateMultipartUpload": "create_multipart_upload",
    "UploadPart": "upload_part",
    "UploadPartCopy": "upload_part_copy",
    "CompleteMultipartUpload": "complete_multipart_upload",
    "AbortMultipartUpload": "abort_multipart_upload",
}
_KEPT_BY_COPY: Final = (
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "Expires",
    "Metadata",
)
