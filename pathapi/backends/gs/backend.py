"""Google Cloud Storage, by google-cloud-storage.

An object's version is its generation, and every condition is the server's own (ifGenerationMatch and its kin). A server
that ignores one on a read is noticed by the generation that its answer carries.
"""

from __future__ import annotations

import heapq
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

from casstore import Validator
from pathapi.backend import Absent, Nothing, ObjectInfo, Prefix, require_gone
from pathapi.backends.gs.connection import GSConnection
from pathapi.backends.gs.errors import Refusal, says_no_object, should_retry
from pathapi.backends.gs.requests import Reply, Requests, batch_of_deletes
from pathapi.backends.gs.responses import FIELDS, GSBody, info_of, info_of_media, placed, says_empty
from pathapi.backends.gs.uploads import upload
from pathapi.backends.gs.urls import signed_url_of, url_of
from pathapi.backends.headers import range_of
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    TruncatedBodyError,
    VersionMismatchError,
)

__all__ = ["GSBackend", "GSConnection"]

PAGE: Final = 1_000
"""Names that one request lists at most (Google's limit)."""
BATCH: Final = 100
"""Objects that one request deletes at most (Google's limit for a batch)."""
_BATCH_TRIES: Final = 4
_EMPTY_TRIES: Final = 3
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
        self._requests = Requests(connection, bucket)
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
    ) -> GSBody | None:
        conditions = {}
        if expect is not None and expect.version is not None:
            # Not ifGenerationMatch: a versioned bucket still has it, and the parts of a read then stay of one version.
            conditions["generation"] = expect.version
        if unless is not None and unless.version is not None:
            conditions["ifGenerationNotMatch"] = unless.version
        try:
            if end is not None and end <= start:
                body = self._read_nothing(key, conditions)
            else:
                body = self._read(key, start, end, conditions)
        except CloudPathFileNotFoundError as error:
            if expect is None or type(error) is not CloudPathFileNotFoundError:
                raise
            raise VersionMismatchError(f"{self._uri(key)} is no longer the version asked for; read it again") from error
        if body is None:
            return None
        found = body.info.validator
        if expect is not None and not expect.same_version(found):
            body.close()
            raise VersionMismatchError(f"{self._uri(key)} is no longer the version asked for; read it again")
        if unless is not None and unless.version is not None and unless.same_version(found):
            body.close()
            return None
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
        self._requests.path(key)  # a key that no object can have is told before its bytes are sent
        conditions = self._conditions(key, expect)
        resource = upload(self._requests, key, source, size, content_type=content_type, conditions=conditions)
        info = info_of(key, resource)
        if info.size != size:
            raise ChecksumMismatchError(f"{self._uri(key)} has {info.size} bytes where {size} were sent")
        return info

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        query: dict[str, Any] = {
            "prefix": prefix,
            "delimiter": "/" if delimited else None,
            "fields": f"items({FIELDS}),prefixes,nextPageToken",
        }
        left, folded = limit, b""
        while left is None or left > 0:
            query["maxResults"] = min(PAGE, left or PAGE)
            reply = self._requests.call("list", prefix, "GET", self._requests.path("o"), query)
            page = self._requests.json(reply, prefix)
            objects: Iterator[ObjectInfo | Prefix] = (info_of(item["name"], item) for item in page.get("items") or ())
            prefixes = (Prefix(name) for name in page.get("prefixes") or ())
            for item in heapq.merge(objects, prefixes, key=_order):
                if isinstance(item, Prefix):
                    if _order(item) <= folded:  # A server that repeats on each page what it folded before.
                        continue
                    folded = _order(item)
                yield item
                if left is not None:
                    left -= 1
                    if not left:  # A server that ignores maxResults.
                        return
            token = page.get("nextPageToken")
            if not token:
                return
            query["pageToken"] = token

    def copy(
        self,
        source: str,
        target: str,
        *,
        expect: Validator | None = None,
        over: Validator | Absent | None = None,
    ) -> ObjectInfo:
        query: dict[str, Any] = {"fields": f"done,rewriteToken,resource({FIELDS})", **self._conditions(target, over)}
        if expect is not None:
            if expect.version is None:
                seen = self.head(source).validator
                if not expect.same_version(seen):
                    raise VersionMismatchError(f"{self._uri(source)} is not, or no longer, the version asked for")
                expect = seen
            query["ifSourceGenerationMatch"] = expect.version
        path = self._requests.path("o", source, "rewriteTo", "b", self._bucket, "o", target)
        with self._explaining(source):
            described = self._described_anew(source, query)
            while True:  # one round, but for large objects that change their place or class
                reply = self._requests.call("copy", source, "POST", path, query, **described)
                answer = self._requests.json(reply, source)
                if answer.get("done", True):
                    return info_of(target, answer["resource"])
                query["rewriteToken"] = answer["rewriteToken"]

    def _described_anew(self, source: str, query: dict[str, Any]) -> dict[str, Any]:
        """What goes with a copy that changes the class: a copy that states anything must state all that is to stay.

        Binds *query* to the version that this was read of.
        """
        storage_class = self.connection.storage_class
        if storage_class is None:
            return {}
        asked = {"fields": f"generation,{','.join(_KEPT_BY_COPY)}", "projection": "noAcl"}
        reply = self._requests.call("copy", source, "GET", self._requests.path("o", source), asked)
        found = self._requests.json(reply, source)
        if query.setdefault("ifSourceGenerationMatch", found["generation"]) != found["generation"]:
            raise VersionMismatchError(f"{self._uri(source)} is not, or no longer, the version asked for")
        stated = {name: found[name] for name in _KEPT_BY_COPY if name in found} | {"storageClass": storage_class}
        return {"data": json.dumps(stated).encode(), "headers": {"Content-Type": "application/json; charset=UTF-8"}}

    def delete(
        self,
        keys: Sequence[str],
        *,
        expect: Validator | None = None,
        versions: Mapping[str, Validator] | None = None,
    ) -> None:
        if expect is not None or (len(keys) == 1 and not versions):
            for key in keys:
                self._delete(key, expect)
            return
        refused: list[str] = []
        for begin in range(0, len(keys), BATCH):
            refused += self._delete_batch(keys[begin : begin + BATCH], versions or {})
        require_gone(self, refused)

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
                gone = VersionMismatchError(f"{self._uri(key)} does not exist any more; nothing was changed")
                raise gone from error

    def _delete_batch(self, keys: Sequence[str], versions: Mapping[str, Validator]) -> Sequence[str]:
        """In one request; the keys that are another version."""
        refused: list[str] = []
        for left in range(_BATCH_TRIES - 1, -1, -1):
            failed = self._send_batch(keys, versions)
            refused += [key for key, error in failed.items() if Refusal.of(error).status == 412]
            again = [key for key, error in failed.items() if left and should_retry(error)]
            for key, error in failed.items():
                if key not in again and key not in refused:
                    meant = self._requests.meaning(error, key, "delete")
                    meant.add_note(f"{len(failed)} of {len(keys)} objects were not deleted")
                    raise meant from error
            if not again:
                break
            keys = again
            time.sleep(random.uniform(0.1, 0.4) * 2 ** (_BATCH_TRIES - left))
        return refused

    def _send_batch(self, keys: Sequence[str], versions: Mapping[str, Validator]) -> dict[str, Exception]:
        """Delete *keys*; those that were not deleted, and why."""
        queries = (urlencode(self._conditions(key, versions.get(key))) for key in keys)
        paths = [f"/storage/v1{self._requests.path('o', key)}" for key in keys]
        body, content_type = batch_of_deletes([f"{p}?{q}" if q else p for p, q in zip(paths, queries, strict=True)])
        url = f"{self._requests.base_url(keys[0], 'delete')}/batch/storage/v1"
        headers = {"Content-Type": content_type}
        reply = self._requests.send("delete", keys[0], "POST", url, data=body, headers=headers)
        answers = dict(self._requests.batch_errors(reply))
        if len(answers) != len(keys):
            raise CloudUnavailableError(
                f"the server answered {len(answers)} of {len(keys)} deletions, {self._uri(keys[0])} the first of them"
            )
        failed = {keys[number]: error for number, error in answers.items() if error is not None}
        return {key: error for key, error in failed.items() if not says_no_object(error)}

    # --- reading ---------------------------------------------------------------------------------------------------

    def _head(self, key: str, conditions: Mapping[str, str]) -> ObjectInfo | None:
        query = {"fields": FIELDS, "projection": "noAcl", **conditions}
        with self._explaining(key):
            reply = self._requests.call("head", key, "GET", self._requests.path("o", key), query, accept=(304,))
        return None if reply.status == 304 else info_of(key, self._requests.json(reply, key))

    def _read(self, key: str, start: int, end: int | None, conditions: Mapping[str, str]) -> GSBody | None:
        asked = range_of(start, end)
        for _ in range(_EMPTY_TRIES):
            with self._explaining(key):
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
            if reply.status not in (304, 416):
                return self._body(key, reply, start, end)
            reply.response.raw.drain_conn()  # closing it would close the connection
            if reply.status == 304:
                return None
            # The object ends at or before *start*. The answer may not say that it is empty, or which version is.
            if not start and says_empty(reply.headers):
                info = info_of_media(key, reply.headers, 0)
                if info.validator.version is not None or not conditions:
                    return self._nothing(key, info)
            if not start:
                asked = None
                continue
            nothing = self._read_nothing(key, conditions)
            if nothing is None or nothing.info.size <= start:
                return nothing
        raise VersionMismatchError(f"{self._uri(key)} kept changing while it was read; read it again")

    def _body(self, key: str, reply: Reply, start: int, end: int | None) -> GSBody:
        stream = reply.response.raw
        try:
            first, stop, size = placed(reply.headers, reply.status, start, end)
        except CloudPathException as error:
            stream.close()
            raise type(error)(f"{self._uri(key)}: {error}") from error
        wanted = size if end is None else min(end, size)
        length = max(0, min(stop, wanted) - start)
        if reply.status == 206 and stop < wanted:
            stream.close()
            raise TruncatedBodyError(f"{self._uri(key)}: asked up to {wanted}, the server answered up to {stop} only")
        info = info_of_media(key, reply.headers, size)
        skip = min(start - first, stop - first)
        if not length:
            if stop == first:
                stream.drain_conn()
            stream.close()
            return self._nothing(key, info)
        return GSBody(stream, info, length, self._reader(key), uri=self._uri(key), skip=skip, is_cut=stop > wanted)

    def _read_nothing(self, key: str, conditions: Mapping[str, str]) -> GSBody | None:
        info = self._head(key, conditions)
        return None if info is None else self._nothing(key, info)

    def _nothing(self, key: str, info: ObjectInfo) -> GSBody:
        return GSBody(Nothing(), info, 0, self._reader(key), uri=self._uri(key))

    def _reader(self, key: str) -> Callable[[Exception], Exception]:
        return lambda error: self._requests.meaning(error, key, "read")

    # --- requests --------------------------------------------------------------------------------------------------

    def _conditions(self, key: str, expect: Validator | Absent | None) -> dict[str, str]:
        if expect is None:
            return {}
        if isinstance(expect, Absent):
            return {"ifGenerationMatch": "0"}
        if expect.version is None:
            raise CloudPathNotImplementedError(
                f"{self._uri(key)}: Google Cloud Storage compares generations, and that version has none"
            )
        return {"ifGenerationMatch": expect.version}

    @contextmanager
    def _explaining(self, key: str) -> Iterator[None]:
        try:
            yield
        except CloudPathFileNotFoundError as error:
            explained = self._requests.explain_missing(error, key)
            if explained is error:
                raise
            raise explained from error

    def _uri(self, key: str) -> str:
        return self._requests.uri(key)


def _order(item: ObjectInfo | Prefix) -> bytes:
    return item.key.encode("utf-8", "surrogatepass")
