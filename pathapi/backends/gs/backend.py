"""Google Cloud Storage, by google-cloud-storage.

An object's version is its generation, and the server evaluates every condition (ifGenerationMatch and similar). A
server that ignores one on a read is detected by the generation in its response.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

from casstore import Validator
from pathapi.backend import WEEK, ListItem, ObjectInfo, Prefix, WriteCondition, check_expiry
from pathapi.backends.bodies import OutOfRange, RangedBody, ReadRequest, ranged_body
from pathapi.backends.bucket_backend import BucketBackend, Conditions, checking_answers, key_order, list_pages
from pathapi.backends.error_table import CHANGED, NOT_MODIFIED, translating
from pathapi.backends.gs.connection import GSConnection
from pathapi.backends.gs.errors import Refusal, is_missing_object, should_retry
from pathapi.backends.gs.multipart import Progress, upload
from pathapi.backends.gs.requests import GSRequests, batch_of_deletes
from pathapi.backends.gs.responses import FIELDS, checksum_of, info_of, info_of_media, is_empty_object, span_of
from pathapi.backends.headers import range_of
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    MissingCredentialsError,
    VersionMismatchError,
)

__all__ = ["GSBackend", "GSConnection"]

PAGE: Final = 1_000
"""Objects per list request (Google's limit)."""
_BATCH_TRIES: Final = 4
_HOST: Final = "https://storage.googleapis.com"
_KEPT_BY_COPY: Final = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "customTime",
    "metadata",
)


class GSBackend(BucketBackend):
    """One bucket; see `pathapi.backend.Backend`."""

    _requests: GSRequests
    _reading = "read"
    _batch = 100  # Google's limit

    def __init__(self, connection: GSConnection, bucket: str) -> None:
        self._requests = GSRequests(connection, bucket)

    @checking_answers
    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        self._requests.path(key)  # an invalid key fails before the bytes are sent
        conditions = self._requests.conditions(key, expect)
        resource = upload(self._requests, key, source, size, content_type=content_type, conditions=conditions)
        info = info_of(key, resource)
        if info.size != size:
            raise ChecksumMismatchError(
                f"{self._requests.uri(key)}: {size} bytes were sent, and the object has {info.size}: write it again"
            )
        return info

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        if not self.bucket:
            listed = self.connection.client.list_buckets
            return self._list_buckets(lambda: [bucket.name for bucket in listed()], delimited=delimited)
        folded = b""

        def fetch(size: int, token: str | None) -> tuple[list[ListItem], str | None]:
            nonlocal folded
            query = {
                "prefix": prefix,
                "delimiter": "/" if delimited else None,
                "fields": f"items({FIELDS}),prefixes,nextPageToken",
                "maxResults": size,
                "pageToken": token,
            }
            reply = self._requests.call("list", prefix, "GET", self._requests.path("o"), query)
            page = self._requests.json(reply, prefix)
            found: list[ListItem] = [info_of(item["name"], item) for item in _list_in(page, "items")]
            # Some servers repeat on each page the prefixes of those before.
            prefixes = [one for one in map(Prefix, _list_in(page, "prefixes")) if key_order(one) > folded]
            folded = max(map(key_order, prefixes), default=folded)
            return found + prefixes, page.get("nextPageToken") or None

        return list_pages(self._list_request(prefix, PAGE, limit, delimited=delimited), fetch)

    @checking_answers
    def copy_across(
        self, source: str, to: Any, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        query: dict[str, Any] = {
            "fields": f"done,rewriteToken,totalBytesRewritten,resource({FIELDS})",
            **self._requests.conditions(target, over),
        }
        if expect is not None:
            if expect.version is None:
                seen = self.head(source).validator
                if not expect.same_version(seen):
                    raise CHANGED.make(uri=self._requests.uri(source))
                expect = seen
            query["ifSourceGenerationMatch"] = expect.version
        path = self._requests.path("o", source, "rewriteTo", "b", to.bucket, "o", target)
        progress = Progress(f"{self._requests.uri(source)}: the copy")
        with self._requests.explaining_missing(source):
            described = self._new_metadata(source, query)
            while True:  # one request, except for large objects that change place or class
                reply = self._requests.call("copy", source, "POST", path, query, **described)
                answer = self._requests.json(reply, source)
                if answer.get("done", True):
                    return info_of(target, self._requests.field(answer, "resource", source))
                query["rewriteToken"] = self._requests.field(answer, "rewriteToken", source)
                copied = int(answer.get("totalBytesRewritten", 0))
                progress.reach(copied if expect is None else min(copied, expect.size))

    def _new_metadata(self, source: str, query: dict[str, Any]) -> dict[str, Any]:
        """Return the metadata to send with a copy that changes the class: all that the copy keeps must be stated.

        Binds *query* to the version of these metadata.
        """
        storage_class = self.connection.storage_class
        if storage_class is None:
            return {}
        asked = {"fields": f"generation,{','.join(_KEPT_BY_COPY)}", "projection": "noAcl"}
        reply = self._requests.call("copy", source, "GET", self._requests.path("o", source), asked)
        found = self._requests.json(reply, source)
        generation = self._requests.field(found, "generation", source)
        if query.setdefault("ifSourceGenerationMatch", generation) != generation:
            raise CHANGED.make(uri=self._requests.uri(source))
        stated = {name: found[name] for name in _KEPT_BY_COPY if name in found} | {"storageClass": storage_class}
        return {"data": json.dumps(stated).encode(), "headers": {"Content-Type": "application/json; charset=UTF-8"}}

    def url(self, key: str) -> str:
        base = f"{self.connection.endpoint_url or _HOST}/{self._requests.quote(self.bucket, safe='~')}"
        return f"{base}/{self._requests.quote(key, safe='/~')}" if key else base

    def signed_url(self, key: str, seconds: int) -> str:
        """Sign with the credentials' private key (version 4). Sends a request only if that signs."""
        check_expiry(seconds, WEEK)
        self.url(key)  # an invalid key fails first
        with translating(self._requests.translator(key, "read")):
            from google.auth.credentials import Signing

            client, credentials = self.connection.client, self.connection.client_credentials
            if not isinstance(credentials, Signing):
                raise MissingCredentialsError(
                    f"{self._requests.uri(key)}: signing a URL needs a private key, and {type(credentials).__name__} "
                    "has none: give the key file of a service account as application_credentials=, or credentials= of "
                    "google.auth.impersonated_credentials"
                )
            signed = (
                client.bucket(self.bucket)
                .blob(key)
                .generate_signed_url(
                    expiration=timedelta(seconds=seconds),
                    api_access_endpoint=self.connection.endpoint_url or _HOST,
                    method="GET",
                    version="v4",
                    client=client,
                )
            )
        return str(signed)

    def _send_delete(self, key: str, conditions: Mapping[str, Any], expect: Validator | None) -> object:
        return self._requests.call("delete", key, "DELETE", self._requests.path("o", key), conditions)

    def _delete_batch(self, keys: Sequence[str], conditions: Conditions) -> Sequence[str]:
        refused: list[str] = []
        for left in range(_BATCH_TRIES - 1, -1, -1):
            failed = self._send_batch(keys, conditions)
            refused += [key for key, error in failed.items() if Refusal.of(error).status == 412]
            again = [key for key, error in failed.items() if left and should_retry(error)]
            for key, error in failed.items():
                if key not in again and key not in refused:
                    translated = self._requests.translator(key, "delete")(error)
                    translated.add_note(f"{len(failed)} of {len(keys)} objects were not deleted")
                    raise translated from error
            if not again:
                break
            keys = again
            time.sleep(random.uniform(0.1, 0.4) * 2 ** (_BATCH_TRIES - left))
        return refused

    def _send_batch(self, keys: Sequence[str], conditions: Conditions) -> dict[str, Exception]:
        """Delete *keys*; return those that were not deleted, and why."""
        paths = [f"/storage/v1{self._requests.path('o', key)}?{urlencode(conditions[key])}" for key in keys]
        body, content_type = batch_of_deletes([path.removesuffix("?") for path in paths])
        url = f"{self._requests.base_url(keys[0], 'delete')}/batch/storage/v1"
        headers = {"Content-Type": content_type}
        reply = self._requests.send("delete", keys[0], "POST", url, data=body, headers=headers)
        answers = dict(self._requests.batch_errors(reply))
        if len(answers) != len(keys):
            raise CloudUnavailableError(
                f"{self._requests.uri(keys[0])} and others: {len(answers)} of {len(keys)} deletes answered: try again"
            )
        failed = {keys[number]: error for number, error in answers.items() if error is not None}
        return {key: error for key, error in failed.items() if not is_missing_object(error)}

    def _open(self, asked: ReadRequest) -> RangedBody | None:
        try:
            return super()._open(asked)
        except CloudPathFileNotFoundError as error:
            if asked.expect is None or type(error) is not CloudPathFileNotFoundError:
                raise
            message = f"{asked.uri}: the expected version no longer exists: read it again"
            raise VersionMismatchError(message) from error

    def _read_conditions(self, asked: ReadRequest) -> Mapping[str, Any]:
        conditions = {}
        if asked.expect is not None and asked.expect.version is not None:
            # Not ifGenerationMatch: a versioned bucket still has this version, so all parts of a read succeed.
            conditions["generation"] = asked.expect.version
        if asked.unless is not None and asked.unless.version is not None:
            conditions["ifGenerationNotMatch"] = asked.unless.version
        return conditions

    def _head(self, key: str, conditions: Mapping[str, Any]) -> ObjectInfo:
        query = {"fields": FIELDS, "projection": "noAcl", **conditions}
        with self._requests.explaining_missing(key):
            reply = self._requests.call("head", key, "GET", self._requests.path("o", key), query)
        return info_of(key, self._requests.json(reply, key))

    def _get(self, asked: ReadRequest, conditions: Mapping[str, Any], *, ranged: bool) -> RangedBody | OutOfRange:
        key, start, end = asked.key, asked.start, asked.end
        wanted = range_of(start, end) if ranged else None
        with self._requests.explaining_missing(key):
            reply = self._requests.call(
                "read",
                key,
                "GET",
                self._requests.path("o", key),
                {"alt": "media", **conditions},
                prefix="/download",
                headers={} if wanted is None else {"Range": wanted},
                accept=(304, 416),
                stream=True,
            )
        stream, headers = reply.response.raw, reply.headers
        if reply.status in (304, 416):
            stream.drain_conn()  # closing the response would close the connection
        if reply.status == 304:
            raise NOT_MODIFIED.make(code=304, reason="", **self._requests.where(key))
        if reply.status == 416:
            # The response may not say that the object is empty, or which version it is.
            info = info_of_media(key, headers, 0) if is_empty_object(headers) else None
            if info is not None and conditions and info.validator.version is None:
                info = None
            return OutOfRange(info, keep_range=start > 0)
        return ranged_body(
            asked,
            stream,
            lambda: span_of(headers, reply.status, start, end),
            lambda size, _: info_of_media(key, headers, size),
            checksum_of,
        )


def _list_in(page: Mapping[str, Any], name: str) -> Sequence[Any]:
    """Return a list of a listing's page, which may be missing. Raises TypeError for anything else."""
    found = page.get(name)
    if not isinstance(found, list | None):
        raise TypeError(f"{name} is no list")
    return found or ()
