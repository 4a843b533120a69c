"""Google Cloud Storage, by google-cloud-storage.

An object's version is its generation, and the server evaluates every condition (ifGenerationMatch and similar). A
server that ignores one on a read is detected by the generation in its response.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

from casstore import Validator
from pathapi.backend import Absent, ListItem, ObjectInfo, Prefix, WriteCondition
from pathapi.backends.bodies import OutOfRange, RangedBody, open_range, ranged_body
from pathapi.backends.error_table import CHANGED, GONE, translating
from pathapi.backends.gs.connection import GSConnection
from pathapi.backends.gs.errors import Refusal, is_missing_object, should_retry
from pathapi.backends.gs.multipart import upload
from pathapi.backends.gs.requests import GSRequests, batch_of_deletes
from pathapi.backends.gs.responses import FIELDS, checksum_of, info_of, info_of_media, is_empty_object, span_of
from pathapi.backends.gs.urls import signed_url_of, url_of
from pathapi.backends.headers import range_of
from pathapi.backends.operations import delete_in_batches, key_order, list_pages
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    VersionMismatchError,
)

__all__ = ["GSBackend", "GSConnection"]

PAGE: Final = 1_000
"""Objects per list request (Google's limit)."""
BATCH: Final = 100
"""Objects per delete request (Google's limit for a batch)."""
_BATCH_TRIES: Final = 4
_KEPT_BY_COPY: Final = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "customTime",
    "metadata",
)


class GSBackend:
    """One bucket; see `pathapi.backend.Backend`."""

    def __init__(self, connection: GSConnection, bucket: str) -> None:
        self.connection = connection
        self._requests = GSRequests(connection, bucket)
        self._bucket = bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return GSBackend, (self.connection, self._bucket)

    @property
    def origin(self) -> str:
        return self.connection.origin

    @property
    def bucket(self) -> str:
        return self._bucket

    def head(self, key: str) -> ObjectInfo:
        info = self._head(key, {})
        assert info is not None
        return info

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> RangedBody | None:
        conditions = {}
        if expect is not None and expect.version is not None:
            # Not ifGenerationMatch: a versioned bucket still has this version, so all parts of a read succeed.
            conditions["generation"] = expect.version
        known = unless if unless is not None and unless.version is not None else None
        if known is not None and known.version is not None:
            conditions["ifGenerationNotMatch"] = known.version
        try:
            return open_range(
                lambda ranged: self._get(key, start, end, conditions, ranged=ranged),
                lambda: self._head(key, conditions),
                start,
                end,
                self._requests.uri(key),
                self._requests.translator(key, "read"),
                expect,
                known,
            )
        except CloudPathFileNotFoundError as error:
            if expect is None or type(error) is not CloudPathFileNotFoundError:
                raise
            raise VersionMismatchError(
                f"{self._requests.uri(key)}: the expected version no longer exists: read it again"
            ) from error

    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        self._requests.path(key)  # an invalid key fails before the bytes are sent
        conditions = self._conditions(key, expect)
        resource = upload(self._requests, key, source, size, content_type=content_type, conditions=conditions)
        info = info_of(key, resource)
        if info.size != size:
            raise ChecksumMismatchError(
                f"{self._requests.uri(key)}: {size} bytes were sent, and the object has {info.size}: write it again"
            )
        return info

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
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
            found: list[ListItem] = [info_of(item["name"], item) for item in page.get("items") or ()]
            # Some servers repeat on each page the prefixes of those before.
            prefixes = [one for one in map(Prefix, page.get("prefixes") or ()) if key_order(one) > folded]
            folded = max(map(key_order, prefixes), default=folded)
            return found + prefixes, page.get("nextPageToken") or None

        return list_pages(fetch, PAGE, limit)

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        query: dict[str, Any] = {"fields": f"done,rewriteToken,resource({FIELDS})", **self._conditions(target, over)}
        if expect is not None:
            if expect.version is None:
                seen = self.head(source).validator
                if not expect.same_version(seen):
                    raise CHANGED.make(uri=self._requests.uri(source))
                expect = seen
            query["ifSourceGenerationMatch"] = expect.version
        path = self._requests.path("o", source, "rewriteTo", "b", self._bucket, "o", target)
        with translating(self._requests.explain_missing(source)):
            described = self._new_metadata(source, query)
            while True:  # one request, except for large objects that change place or class
                reply = self._requests.call("copy", source, "POST", path, query, **described)
                answer = self._requests.json(reply, source)
                if answer.get("done", True):
                    return info_of(target, answer["resource"])
                query["rewriteToken"] = answer["rewriteToken"]

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
        if query.setdefault("ifSourceGenerationMatch", found["generation"]) != found["generation"]:
            raise CHANGED.make(uri=self._requests.uri(source))
        stated = {name: found[name] for name in _KEPT_BY_COPY if name in found} | {"storageClass": storage_class}
        return {"data": json.dumps(stated).encode(), "headers": {"Content-Type": "application/json; charset=UTF-8"}}

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        delete_in_batches(
            self, keys, expect, versions, delete_one=self._delete, delete_batch=self._delete_batch, batch=BATCH
        )

    def url(self, key: str) -> str:
        return url_of(self._requests, key)

    def signed_url(self, key: str, seconds: int) -> str:
        return signed_url_of(self._requests, key, seconds)

    def _delete(self, key: str, expect: Validator | None) -> None:
        conditions = self._conditions(key, expect)
        try:
            self._requests.call("delete", key, "DELETE", self._requests.path("o", key), conditions)
        except BucketNotFoundError:
            raise
        except CloudPathFileNotFoundError as error:
            if expect is not None:
                raise GONE.make(uri=self._requests.uri(key)) from error

    def _delete_batch(self, keys: Sequence[str], versions: Mapping[str, Validator]) -> Sequence[str]:
        """Delete in one request; return the keys whose version differs."""
        refused: list[str] = []
        for left in range(_BATCH_TRIES - 1, -1, -1):
            failed = self._send_batch(keys, versions)
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

    def _send_batch(self, keys: Sequence[str], versions: Mapping[str, Validator]) -> dict[str, Exception]:
        """Delete *keys*; return those that were not deleted, and why."""
        queries = (urlencode(self._conditions(key, versions.get(key))) for key in keys)
        paths = [f"/storage/v1{self._requests.path('o', key)}" for key in keys]
        body, content_type = batch_of_deletes([f"{p}?{q}" if q else p for p, q in zip(paths, queries, strict=True)])
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

    # --- reading ---------------------------------------------------------------------------------------------------

    def _head(self, key: str, conditions: Mapping[str, str]) -> ObjectInfo | None:
        query = {"fields": FIELDS, "projection": "noAcl", **conditions}
        with translating(self._requests.explain_missing(key)):
            reply = self._requests.call("head", key, "GET", self._requests.path("o", key), query, accept=(304,))
        return None if reply.status == 304 else info_of(key, self._requests.json(reply, key))

    def _get(
        self, key: str, start: int, end: int | None, conditions: Mapping[str, str], *, ranged: bool
    ) -> RangedBody | OutOfRange | None:
        asked = range_of(start, end) if ranged else None
        with translating(self._requests.explain_missing(key)):
            reply = self._requests.call(
                "read",
                key,
                "GET",
                self._requests.path("o", key),
                {"alt": "media", **conditions},
                prefix="/download",
                headers={} if asked is None else {"Range": asked},
                accept=(304, 416),
                stream=True,
            )
        stream, headers = reply.response.raw, reply.headers
        if reply.status in (304, 416):
            stream.drain_conn()  # closing the response would close the connection
        if reply.status == 304:
            return None
        if reply.status == 416:
            # The response may not say that the object is empty, or which version it is.
            info = info_of_media(key, headers, 0) if is_empty_object(headers) else None
            if info is not None and conditions and info.validator.version is None:
                info = None
            return OutOfRange(info, keep_range=start > 0)
        return ranged_body(
            stream,
            start,
            end,
            lambda: span_of(headers, reply.status, start, end),
            lambda size, _: info_of_media(key, headers, size),
            self._requests.uri(key),
            self._requests.translator(key, "read"),
            checksum_of,
        )

    def _conditions(self, key: str, expect: WriteCondition) -> dict[str, str]:
        if expect is None:
            return {}
        if isinstance(expect, Absent):
            return {"ifGenerationMatch": "0"}
        if expect.version is None:
            raise CloudPathNotImplementedError(
                f"{self._requests.uri(key)}: Google compares generations, and the expected version has none"
            )
        return {"ifGenerationMatch": expect.version}
