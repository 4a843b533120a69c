"""Amazon S3 and whatever speaks its protocol, by boto3.

Every condition is the server's own (If-Match, If-None-Match); one that it cannot do raises
`CloudPathNotImplementedError`, and the layer above decides what then. A server that ignores a condition on a read is
noticed by the validator that its response carries.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import WEEK, Absent, Nothing, ObjectInfo, Prefix, check_expiry, require_gone
from pathapi.backends.headers import format_etag, range_of
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.deletes import CONFLICT_TRIES, delete_many, pause
from pathapi.backends.s3.errors import answer_of, retries_of, translate
from pathapi.backends.s3.multipart import copy_in_parts, part_size_of, threshold_of, upload_in_parts
from pathapi.backends.s3.obstore_reads import FastBody, FastReads, fast_reads
from pathapi.backends.s3.responses import S3Body, info_of, placed, says_empty
from pathapi.backends.s3.urls import signed_url_of, url_of
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    MissingCredentialsError,
    TruncatedBodyError,
    VersionMismatchError,
)

__all__ = ["S3Backend", "S3Connection"]

PAGE: Final = 1_000
"""Keys that one request lists at most (S3's limit)."""
COPY_LIMIT: Final = 5 << 30
"""Bytes that one CopyObject copies at most (S3's limit)."""
_EMPTY_TRIES: Final = 3


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
        answer = self._call("HeadObject", key)
        return info_of(key, answer, int(answer["ContentLength"]))

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> S3Body | FastBody | None:
        if end is None or end > start:
            fast = self._fast_reads()
            if fast is not None and fast.suits(key):
                answer = fast.read(key, start, end, expect, unless)
                if not isinstance(answer, bool):
                    return answer
        conditions = {}
        if expect is not None and (etag := format_etag(expect)):
            conditions["IfMatch"] = etag
        if unless is not None and not unless.racy and (etag := format_etag(unless)):
            conditions["IfNoneMatch"] = etag
        try:
            body = self._read_nothing(key, conditions) if end is not None and end <= start else None
            body = body or self._read(key, start, end, conditions)
        except CloudPathException as error:
            if answer_of(error.__cause__ or error)[0] == 304:
                return None
            raise
        if expect is not None and not expect.same_version(body.info.validator):
            body.close()
            raise VersionMismatchError(f"{self._uri(key)} is no longer the version asked for; read it again")
        return body

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
        config = self.connection.boto3_transfer_config
        if size >= threshold_of(config):
            answer = upload_in_parts(
                lambda operation, **arguments: self._call(operation, key, expect=expect, **arguments),
                source,
                size,
                part_size=part_size_of(size, config),
                threads=getattr(config, "max_concurrency", None),
                described=described,
                conditions=conditions,
            )
        else:
            data = source.read(size)
            if len(data) != size:
                raise TruncatedBodyError(f"the source of {self._uri(key)} ended {size - len(data)} bytes early")
            answer = self._call("PutObject", key, expect=expect, Body=data, **described, **conditions)
        return info_of(key, answer, size)

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        arguments: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/"} if delimited else {"Prefix": prefix}
        left = limit
        while left is None or left > 0:
            page = self._call("ListObjectsV2", None, about=prefix, MaxKeys=min(PAGE, left or PAGE), **arguments)
            objects: Iterator[ObjectInfo | Prefix] = (
                info_of(item["Key"], item, int(item["Size"])) for item in page.get("Contents", ())
            )
            folded = (Prefix(item["Prefix"]) for item in page.get("CommonPrefixes", ()))
            for item in heapq.merge(objects, folded, key=lambda item: item.key.encode("utf-8", "surrogatepass")):
                yield item
                if left is not None:
                    left -= 1
                    if not left:  # A server that ignores MaxKeys.
                        return
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def copy(
        self,
        source: str,
        target: str,
        *,
        expect: Validator | None = None,
        over: Validator | Absent | None = None,
    ) -> ObjectInfo:
        # The answer to a copy does not say the size; asked before, it comes with the ETag that ties the copy to it.
        seen = expect if expect is not None and expect.etag is not None else self.head(source).validator
        if expect is not None and not expect.same_version(seen):
            raise VersionMismatchError(f"{self._uri(source)} is not, or no longer, the version asked for")
        arguments: dict[str, Any] = {
            "CopySource": {"Bucket": self._bucket, "Key": source},
            "CopySourceIfMatch": format_etag(seen),
        }
        conditions = self._write_conditions(target, over)
        try:
            if seen.size > COPY_LIMIT:
                described = self._call("HeadObject", source)
                answer = copy_in_parts(
                    lambda operation, **more: self._call(operation, target, about=source, **more),
                    seen.size,
                    arguments=arguments,
                    described={name: described[name] for name in _KEPT_BY_COPY if described.get(name)},
                    conditions=conditions,
                )
                return info_of(target, answer, seen.size)
            answer = self._call("CopyObject", target, about=source, **arguments, **conditions)
        except CloudPathFileNotFoundError as error:
            if not isinstance(over, Validator) or type(error) is not CloudPathFileNotFoundError:
                raise
            self.head(source)  # a 404 does not say which of the two is gone; if it is the source, this says so
            raise VersionMismatchError(f"{self._uri(target)} does not exist any more; nothing was changed") from error
        return info_of(target, {**answer, **answer.get("CopyObjectResult", {})}, seen.size)

    def delete(
        self,
        keys: Sequence[str],
        *,
        expect: Validator | None = None,
        versions: Mapping[str, Validator] | None = None,
    ) -> None:
        if expect is not None or (len(keys) == 1 and not versions):
            for key in keys:
                self._call("DeleteObject", key, expect=expect, **self._write_conditions(key, expect))
            return
        conditions = {key: self._write_conditions(key, (versions or {}).get(key)) for key in keys}
        refused = delete_many(self._call, self._where, keys, conditions)
        require_gone(self, refused)

    def url(self, key: str) -> str:
        return self._tell(key, lambda: url_of(self.connection.unsigned, self._bucket, key, self._uri(key)))

    def signed_url(self, key: str, seconds: int) -> str:
        check_expiry(seconds, WEEK)
        uri, extra = self._uri(key), self._extra_of("GetObject")
        if self.connection.no_sign_request:
            raise MissingCredentialsError(f"no URL of {uri} can be signed under no_sign_request=True: log in instead")
        client = self.connection.client
        return self._tell(key, lambda: signed_url_of(client, self._bucket, key, uri, seconds, extra))

    def _tell(self, key: str, make: Callable[[], str]) -> str:
        try:
            return make()
        except Exception as error:
            meant = self._reader(key)(error)
            if meant is error:
                raise
            raise meant from error

    def _fast_reads(self) -> FastReads | None:
        if not self._looked_for_fast:
            self._fast = fast_reads(self.connection, self._bucket)
            self._looked_for_fast = True
        return self._fast

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read(self, key: str, start: int, end: int | None, conditions: Mapping[str, Any]) -> S3Body:
        asked = range_of(start, end)
        ranged: dict[str, Any] = {} if asked is None else {"Range": asked}
        for _ in range(_EMPTY_TRIES):
            try:
                answer = self._call("GetObject", key, **ranged, **conditions)
            except CloudPathException as error:
                if not ranged or answer_of(error.__cause__ or error)[0] != 416:
                    raise
                # The object ends at or before *start*. The answer says of an empty one that it is empty, and not which
                # version it is: whoever named one is answered by a plain request; one that is not empty any more is
                # cut below.
                if not start and not conditions and says_empty(error.__cause__ or error):
                    info = ObjectInfo(key, Validator(0))
                    return S3Body(Nothing(), info, 0, self._reader(key), uri=self._uri(key))
                if not start:
                    ranged = {}
                    continue
                nothing = self._read_nothing(key, conditions)
                if nothing.info.size <= start:
                    return nothing
                continue
            return self._body(key, answer, start, end)
        raise VersionMismatchError(f"{self._uri(key)} kept changing while it was read; read it again")

    def _body(self, key: str, answer: Mapping[str, Any], start: int, end: int | None) -> S3Body:
        stream = answer["Body"]
        try:
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            first, stop, size = placed(answer, status, start, end)
        except CloudPathException as error:
            stream.close()
            raise type(error)(f"{self._uri(key)}: {error}") from error
        wanted = size if end is None else min(end, size)
        length = max(0, min(stop, wanted) - start)
        if status == 206 and stop < wanted:
            stream.close()
            raise TruncatedBodyError(f"{self._uri(key)}: asked up to {wanted}, the server answered up to {stop} only")
        info = info_of(key, answer, size, is_whole=stop - first == size)
        skip = min(start - first, stop - first)
        return S3Body(stream, info, length, self._reader(key), uri=self._uri(key), skip=skip, is_cut=stop > wanted)

    def _read_nothing(self, key: str, conditions: Mapping[str, Any]) -> S3Body:
        answer = self._call("HeadObject", key, **conditions)
        info = info_of(key, answer, int(answer["ContentLength"]))
        return S3Body(Nothing(), info, 0, self._reader(key), uri=self._uri(key))

    def _reader(self, key: str) -> Callable[[Exception], Exception]:
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
            raise CloudPathNotImplementedError(f"{self._uri(key)}: S3 compares ETags, and that version has none")
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
        """One request. *about* is the key that an error names; under an *expect* absence is a conflict."""
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
                # If-Match on an object that is gone: a 404 on the key, and for us the version that is no more.
                if isinstance(expect, Validator) and status == 404 and type(meant) is CloudPathFileNotFoundError:
                    meant = VersionMismatchError(f"{self._uri(key or '')} does not exist any more; nothing was changed")
                if isinstance(meant, VersionMismatchError):
                    meant.after_retry = retries_of(error) > 0
                raise meant from error
        raise AssertionError("unreachable")

    def _extra_of(self, operation: str) -> Mapping[str, Any]:
        """Those of the connection's extra arguments that *operation* knows."""
        if not self.connection.extra_args:
            return {}
        known = self._extra.get(operation)
        if known is None:
            members = self.connection.client.meta.service_model.operation_model(operation).input_shape.members
            # What is read of a source is opened by the same key, unless that has one of its own.
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
