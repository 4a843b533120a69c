"""Amazon S3 and other servers of its protocol, by boto3.

The server evaluates every condition (If-Match, If-None-Match). One that it does not support raises
`CloudPathNotImplementedError`; the caller decides what to do then. A server that ignores a condition on a read is
detected by the validator of its response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import WEEK, Absent, ListItem, ObjectInfo, Prefix, WriteCondition, check_expiry
from pathapi.backends.bodies import OutOfRange, RangedBody, open_range, ranged_body
from pathapi.backends.error_table import translating
from pathapi.backends.headers import format_etag, parse_range, range_of
from pathapi.backends.operations import delete_in_batches, explaining_missing_target, list_pages, source_version
from pathapi.backends.parallel_parts import read_exactly, read_parts
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.deletes import BATCH, delete_many
from pathapi.backends.s3.errors import answer_of
from pathapi.backends.s3.multipart import copy_ranges, part_size_of, send_multipart, threshold_of
from pathapi.backends.s3.obstore_reads import FastReads, fast_reads
from pathapi.backends.s3.requests import S3Requests
from pathapi.backends.s3.responses import info_of, is_empty_object
from pathapi.backends.s3.urls import signed_url_of, url_of
from pathapi.exceptions import CloudPathException, CloudPathNotImplementedError, MissingCredentialsError

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
        self._requests = S3Requests(connection, bucket)
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
                self._requests.uri(key),
                self._requests.translator(key, "GetObject"),
                expect,
            )
        except CloudPathException as error:
            if answer_of(error.__cause__ or error)[0] == 304:
                return None
            raise

    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        conditions = self._write_conditions(key, expect)
        described = {} if content_type is None else {"ContentType": content_type}
        config, uri = self.connection.boto3_transfer_config, self._requests.uri(key)
        if size >= threshold_of(config):
            answer = send_multipart(
                lambda operation, **arguments: self._requests.call(operation, key, expect=expect, **arguments),
                "UploadPart",
                ({"Body": data} for data in read_parts(source, size, part_size_of(size, config), uri)),
                described=described,
                conditions=conditions,
                threads=getattr(config, "max_concurrency", None),
            )
        else:
            data = read_exactly(source, size, uri)
            answer = self._requests.call("PutObject", key, expect=expect, Body=data, **described, **conditions)
        return info_of(key, answer, size)

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        arguments: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/"} if delimited else {"Prefix": prefix}

        def fetch(size: int, token: str | None) -> tuple[list[ListItem], str | None]:
            more: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
            page = self._requests.call("ListObjectsV2", None, about=prefix, MaxKeys=size, **arguments, **more)
            found: list[ListItem] = [info_of(item["Key"], item, int(item["Size"])) for item in page.get("Contents", ())]
            found += [Prefix(item["Prefix"]) for item in page.get("CommonPrefixes", ())]
            return found, page["NextContinuationToken"] if page.get("IsTruncated") else None

        return list_pages(fetch, PAGE, limit)

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        seen = source_version(self, source, expect, self._requests.uri(source))
        arguments: dict[str, Any] = {
            "CopySource": {"Bucket": self._bucket, "Key": source},
            "CopySourceIfMatch": format_etag(seen),
        }
        conditions = self._write_conditions(target, over)
        with explaining_missing_target(self, source, over, self._requests.uri(target)):
            if seen.size > COPY_LIMIT:
                described = self._requests.call("HeadObject", source)
                answer = send_multipart(
                    lambda operation, **more: self._requests.call(operation, target, about=source, **more),
                    "UploadPartCopy",
                    ({**arguments, **part} for part in copy_ranges(seen.size)),
                    described={name: described[name] for name in _KEPT_BY_COPY if described.get(name)},
                    conditions=conditions,
                )
                return info_of(target, answer, seen.size)
            answer = self._requests.call("CopyObject", target, about=source, **arguments, **conditions)
        return info_of(target, {**answer, **answer.get("CopyObjectResult", {})}, seen.size)

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        def delete_one(key: str, expect: Validator | None) -> None:
            self._requests.call("DeleteObject", key, expect=expect, **self._write_conditions(key, expect))

        def delete_batch(keys: Sequence[str], _: Mapping[str, Validator]) -> Sequence[str]:
            return delete_many(self._requests.call, self._requests.where, keys, conditions)

        # Before the first request: a version that S3 cannot compare must not fail the delete halfway.
        conditions = {key: self._write_conditions(key, (versions or {}).get(key)) for key in keys}

        delete_in_batches(self, keys, expect, versions, delete_one=delete_one, delete_batch=delete_batch, batch=BATCH)

    def url(self, key: str) -> str:
        with translating(self._requests.translator(key, "GetObject")):
            return url_of(self.connection.unsigned, self._bucket, key, self._requests.uri(key))

    def signed_url(self, key: str, seconds: int) -> str:
        check_expiry(seconds, WEEK)
        uri, extra = self._requests.uri(key), self._requests.extra_of("GetObject")
        if self.connection.no_sign_request:
            raise MissingCredentialsError(f"{uri}: no_sign_request=True cannot sign a URL: log in instead")
        client = self.connection.client
        with translating(self._requests.translator(key, "GetObject")):
            return signed_url_of(client, self._bucket, key, uri, seconds, extra)

    def _fast_reads(self) -> FastReads | None:
        if not self._looked_for_fast:
            self._fast = fast_reads(self.connection, self._bucket)
            self._looked_for_fast = True
        return self._fast

    # --- reading ---------------------------------------------------------------------------------------------------

    def _head(self, key: str, conditions: Mapping[str, Any]) -> ObjectInfo:
        answer = self._requests.call("HeadObject", key, **conditions)
        return info_of(key, answer, int(answer["ContentLength"]))

    def _get(
        self, key: str, start: int, end: int | None, conditions: Mapping[str, Any], *, ranged: bool
    ) -> RangedBody | OutOfRange:
        asked = range_of(start, end) if ranged else None
        ranges: dict[str, Any] = {"Range": asked} if asked else {}
        try:
            answer = self._requests.call("GetObject", key, **ranges, **conditions)
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
            self._requests.uri(key),
            self._requests.translator(key, "GetObject"),
        )

    # --- conditions ------------------------------------------------------------------------------------------------

    def _write_conditions(self, key: str, expect: WriteCondition) -> dict[str, Any]:
        if expect is None:
            return {}
        if isinstance(expect, Absent):
            return {"IfNoneMatch": "*"}
        etag = format_etag(expect)
        if etag is None:
            raise CloudPathNotImplementedError(
                f"{self._requests.uri(key)}: S3 compares ETags, and the expected version has none"
            )
        return {"IfMatch": etag}


_KEPT_BY_COPY: Final = (
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "Expires",
    "Metadata",
)
