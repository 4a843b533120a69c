"""Amazon S3 and other servers of its protocol, by boto3.

The server evaluates every condition (If-Match, If-None-Match). One that it does not support raises
`CloudPathNotImplementedError`; the caller decides what to do then. A server that ignores a condition on a read is
detected by the validator of its response.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import WEEK, ListItem, ObjectInfo, Prefix, WriteCondition, check_expiry
from pathapi.backends.bodies import OutOfRange, RangedBody, ReadRequest, ranged_body
from pathapi.backends.bucket_backend import BucketBackend, Conditions, checking_answers, list_pages
from pathapi.backends.error_table import translating
from pathapi.backends.headers import format_etag, parse_range, range_of
from pathapi.backends.parallel_parts import read_exactly, read_parts
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.errors import answer_of, translate_answer
from pathapi.backends.s3.multipart import copy_ranges, part_size_of, send_multipart, threads_of, threshold_of
from pathapi.backends.s3.obstore_reads import FastReads, fast_reads
from pathapi.backends.s3.requests import CONFLICT_TRIES, S3Requests, pause
from pathapi.backends.s3.responses import info_of, is_empty_object
from pathapi.exceptions import CloudPathException, CloudPathNotImplementedError, MissingCredentialsError

__all__ = ["S3Backend", "S3Connection"]

PAGE: Final = 1_000
"""Keys per list request (S3's limit)."""
COPY_LIMIT: Final = 5 << 30
"""Bytes per CopyObject (S3's limit)."""
_KEPT_BY_COPY: Final = (
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "Expires",
    "Metadata",
)
_STATED: Final = ("StorageClass", "ServerSideEncryption", "SSEKMSKeyId", "WebsiteRedirectLocation")
"""What a copy of an object onto itself keeps besides."""


class S3Backend(BucketBackend):
    """One bucket; see `pathapi.backend.Backend`."""

    _requests: S3Requests
    _reading = "GetObject"
    _batch = 1_000  # S3's limit

    def __init__(self, connection: S3Connection, bucket: str) -> None:
        self._requests = S3Requests(connection, bucket)
        self._fast: FastReads | None = None
        self._looked_for_fast = False

    @property
    def read_threads(self) -> int:
        """Parts of one object that are read at a time."""
        return threads_of(self.connection.boto3_transfer_config)

    @checking_answers
    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        conditions = self._requests.conditions(key, expect)
        described = {} if content_type is None else {"ContentType": content_type}
        config, uri = self.connection.boto3_transfer_config, self._requests.uri(key)
        if size >= threshold_of(config):
            answer = send_multipart(
                functools.partial(self._requests.call, key=key, expect=expect),
                "UploadPart",
                ({"Body": data} for data in read_parts(source, size, part_size_of(size, config), uri)),
                described=described,
                conditions=conditions,
                threads=threads_of(config),
            )
        else:
            data = read_exactly(source, size, uri)
            answer = self._requests.call("PutObject", key, expect=expect, Body=data, **described, **conditions)
        return info_of(key, answer, size)

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        if not self.bucket:
            found = self.connection.client.list_buckets
            return self._list_buckets(lambda: [item["Name"] for item in found()["Buckets"]], delimited=delimited)
        arguments: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/"} if delimited else {"Prefix": prefix}

        def fetch(size: int, token: str | None) -> tuple[list[ListItem], str | None]:
            more: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
            page = self._requests.call("ListObjectsV2", None, about=prefix, MaxKeys=size, **arguments, **more)
            found: list[ListItem] = [info_of(item["Key"], item, int(item["Size"])) for item in page.get("Contents", ())]
            found += [Prefix(item["Prefix"]) for item in page.get("CommonPrefixes", ())]
            # Without either field it is no page, or not the last one: a KeyError, and so an error of the listing.
            return found, page["NextContinuationToken"] if page["IsTruncated"] else None

        return list_pages(self._list_request(prefix, PAGE, limit, delimited=delimited), fetch)

    @checking_answers
    def copy_across(
        self, source: str, to: Any, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        seen = self._source_version(source, expect)
        conditions = to._requests.conditions(target, over)  # noqa: SLF001 (another backend of this class)
        send = functools.partial(self._requests.call, key=target, about=source, Bucket=to.bucket)
        arguments: dict[str, Any] = {
            "CopySource": {"Bucket": self.bucket, "Key": source},
            "CopySourceIfMatch": format_etag(seen),
        }
        with self._explaining_missing_target(source, to, target, over):
            if seen.size > COPY_LIMIT:
                described = self._requests.call("HeadObject", source)
                answer = send_multipart(
                    send,
                    "UploadPartCopy",
                    ({**arguments, **part} for part in copy_ranges(seen.size)),
                    described={name: described[name] for name in _KEPT_BY_COPY if described.get(name)},
                    conditions=conditions,
                )
                return info_of(target, answer, seen.size)
            if source == target and self.bucket == to.bucket:
                arguments |= self._all_metadata(source)
            answer = send("CopyObject", **arguments, **conditions)
        return info_of(target, {**answer, **answer.get("CopyObjectResult", {})}, seen.size)

    def _all_metadata(self, key: str) -> dict[str, Any]:
        """Return what a copy of an object onto itself states: S3 refuses one that states nothing."""
        described = self._requests.call("HeadObject", key)
        stated = {name: described[name] for name in (*_KEPT_BY_COPY, *_STATED) if described.get(name)}
        return {**stated, "MetadataDirective": "REPLACE"}

    def url(self, key: str) -> str:
        method, named = ("get_object", {"Key": key}) if key else ("head_bucket", {})
        return self._make_url(self.connection.unsigned, method, key, 1, **named).partition("?")[0]

    def signed_url(self, key: str, seconds: int) -> str:
        check_expiry(seconds, WEEK)
        uri, extra = self._requests.uri(key), self._requests.extra_of("GetObject")
        if self.connection.no_sign_request:
            raise MissingCredentialsError(f"{uri}: no_sign_request=True cannot sign a URL: log in instead")
        if any("CustomerKey" in name for name in extra):
            raise CloudPathNotImplementedError(
                f"{uri}: a URL alone cannot open it, a reader must send SSECustomerKey in a header: open it by its path"
            )
        payer = {name: value for name, value in extra.items() if name == "RequestPayer"}
        return self._make_url(self.connection.client, "get_object", key, seconds, Key=key, **payer)

    def _make_url(self, client: Any, method: str, key: str, seconds: int, **named: Any) -> str:
        with translating(self._requests.translator(key, "GetObject")), self._requests.checking_utf8(key):
            parameters = {"Bucket": self.bucket, **named}
            return str(client.generate_presigned_url(method, Params=parameters, ExpiresIn=seconds))

    def _head(self, key: str, conditions: Mapping[str, Any]) -> ObjectInfo:
        answer = self._requests.call("HeadObject", key, **conditions)
        return info_of(key, answer, int(answer["ContentLength"]))

    def _read_conditions(self, asked: ReadRequest) -> Mapping[str, Any]:
        return asked.etags("IfMatch", "IfNoneMatch")

    def _get(self, asked: ReadRequest, conditions: Mapping[str, Any], *, ranged: bool) -> RangedBody | OutOfRange:
        key, start, end = asked.key, asked.start, asked.end
        if not self._looked_for_fast:
            self._fast = fast_reads(self.connection, self.bucket)
            self._looked_for_fast = True
        if ranged and self._fast is not None and self._fast.supports(key):
            body = self._fast.read(asked)
            if body is not None:
                return body
        wanted = range_of(start, end) if ranged else None
        ranges: dict[str, Any] = {"Range": wanted} if wanted else {}
        try:
            answer = self._requests.call("GetObject", key, **ranges, **conditions)
        except CloudPathException as error:
            cause = error.__cause__ or error
            if wanted is None or answer_of(cause)[0] != 416:
                raise
            # The 416 for an empty object does not state its version: a condition needs another request.
            is_empty = not conditions and is_empty_object(cause)
            return OutOfRange(ObjectInfo(key, Validator(0)) if is_empty else None, keep_range=start > 0)
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        return ranged_body(
            asked,
            answer["Body"],
            lambda: parse_range(status, answer.get("ContentRange"), answer.get("ContentLength"), start, end),
            lambda size, is_whole: info_of(key, answer, size, is_whole=is_whole),
        )

    def _send_delete(self, key: str, conditions: Mapping[str, Any], expect: Validator | None) -> object:
        return self._requests.call("DeleteObject", key, expect=expect, **conditions)

    def _delete_batch(self, keys: Sequence[str], conditions: Conditions) -> Sequence[str]:
        # XML cannot contain control characters; a URL can.
        refused = self._delete_each((key for key in keys if not key.isprintable()), conditions)
        left: Sequence[str] = [key for key in keys if key.isprintable()]
        for attempt in range(CONFLICT_TRIES):
            if not left:
                break
            if attempt:
                pause(attempt - 1)
            mismatched, left = self._send_batch(left, conditions)
            refused += mismatched
        return [*refused, *left]

    def _send_batch(self, keys: Sequence[str], conditions: Conditions) -> tuple[Sequence[str], Sequence[str]]:
        """Send one request; return the keys whose version differs, and those that were being written at that moment."""
        named = [{"Key": key, "ETag": conditions[key]["IfMatch"]} if conditions[key] else {"Key": key} for key in keys]
        delete = {"Objects": named, "Quiet": True}
        answer = self._requests.call("DeleteObjects", None, about=keys[0], Delete=delete)
        failed: dict[str, list[str]] = {}
        for item in answer.get("Errors", ()):
            failed.setdefault(str(item.get("Code")), []).append(str(item.get("Key")))
        mismatched = failed.pop("PreconditionFailed", [])
        busy = failed.pop("ConditionalRequestConflict", [])
        for code in ("NoSuchKey", "NoSuchVersion"):
            failed.pop(code, None)
        for code, failed_keys in failed.items():
            where = self._requests.where(failed_keys[0])
            error = translate_answer(None, code, 0, operation="DeleteObjects", **where)
            error.add_note(f"{sum(map(len, failed.values()))} of {len(keys)} keys were not deleted")
            raise error
        return mismatched, busy
