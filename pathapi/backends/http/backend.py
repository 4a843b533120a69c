"""Plain HTTP(S) servers, by urllib3: one host is a bucket, and a key is what follows the host in the URL, as written.

The server evaluates every condition (If-Match, If-None-Match; times if it sends no ETags). Many servers ignore
conditions and ranges, so their responses are checked too. The limits of such servers:

* Conditional writes are optional in HTTP; few servers support them and none announces it. A HEAD precedes each, so a
  server that ignores the condition can only overwrite a change made in the moment between.
* The only listing is an index page, whose links give names and nothing else: `ObjectInfo.is_named_only`.
* A version that no condition can name (weak ETag, no validator) is read in one piece.
* Bytes are stored as sent: the request asks for ``identity``. If a server compresses (``gzip``) nevertheless,
  the compressed bytes are stored: its ETag, length and ranges are about those.
* A body of unknown length is read to its end before it is returned, or up to `MOST_FOR_SIZE` bytes for its size alone.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import Absent, ListItem, ObjectInfo, WriteCondition, delete_each
from pathapi.backends.bodies import OutOfRange, RangedBody, ReadRequest, open_range, ranged_body
from pathapi.backends.error_table import CHANGED, GONE, NotModifiedError, translating
from pathapi.backends.headers import parse_etag, parse_range, range_of
from pathapi.backends.http.auth import require_lines
from pathapi.backends.http.connection import HttpConnection, Response
from pathapi.backends.http.index_pages import walk
from pathapi.backends.http.requests import HttpRequests
from pathapi.backends.http.responses import (
    MOST_FOR_SIZE,
    can_pin,
    conditions_to_read,
    confirms,
    info_of,
    length_of,
    most_spooled,
    spool,
    validator_of,
)
from pathapi.common.redaction import unsigned
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    NoStatError,
)

__all__ = ["HttpBackend", "HttpConnection"]

MOST_RETURNED: Final = 1 << 30
"""Bytes of the longest body that `request` returns; it is in memory."""
_WRITTEN: Final = frozenset((200, 201, 202, 204))
_UNKNOWN_BY_HEAD: Final = frozenset((405, 501))


class HttpBackend:
    """One host; see `pathapi.backend.Backend`. *host* may begin with a login; no other host gets it."""

    def __init__(self, connection: HttpConnection, scheme: str, host: str) -> None:
        self.connection = connection
        self._requests = HttpRequests(connection, scheme, host)

    @property
    def origin(self) -> str:
        return self._requests.scheme

    @property
    def bucket(self) -> str:
        return self._requests.bucket

    def head(self, key: str) -> ObjectInfo:
        self._requests.require_object(key)
        answer = self._requests.send("HEAD", key)
        # A signed URL is often signed for GET alone.
        refuses = answer.status in _UNKNOWN_BY_HEAD or (
            answer.status == 403 and unsigned(self._requests.url(key)) != self._requests.url(key)
        )
        if not refuses:
            self._requests.require(answer, key, "HEAD")
        answer.drop()
        length = None if refuses else length_of(answer.headers)
        if length is not None:
            return info_of(key, answer.headers, length)
        # The server does not state the size, or does not answer a HEAD: send a GET and do not read it.
        body = self._open(self._request_of(key, 0, 1), {})
        assert body is not None
        with closing(body):
            return body.info

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> RangedBody | None:
        self._requests.require_object(key)
        return self._open(self._request_of(key, start, end, expect, unless), conditions_to_read(expect, unless))

    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        self._requests.require_object(key)
        headers = self._requests.conditions(key, expect)
        headers["Content-Type"] = content_type or "application/octet-stream"
        self._check_before(key, expect)
        method = self.connection.write_file_http_method
        answer = self._requests.send(method, key, headers, expect=expect, source=source, size=size)
        self._requests.require(answer, key, method, expect, _WRITTEN)
        answer.drop()
        # Only the response to the write states this version: a later HEAD may see another writer's.
        etag, weak = parse_etag(answer.headers.get("ETag"))
        modified = validator_of(answer.headers, size).mtime_ns if etag is not None else None
        return ObjectInfo(key, Validator(size, etag, weak, mtime_ns=modified), (), content_type)

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        folder = prefix[: prefix.rfind("/") + 1]
        return itertools.islice(walk(self._requests, folder, prefix[len(folder) :], delimited=delimited), limit)

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        """Copy through this machine: plain HTTP has no request for it."""
        body = self.read(source, expect=expect)
        assert body is not None
        with closing(body):
            spooled = spool(body, self._requests.translator(source, "GET"), body.info.size)
        assert spooled is not None, "a body ends at its announced length"
        with spooled[0]:
            return self.write(target, *spooled, expect=over, content_type=body.info.content_type)

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        if versions:
            delete_each(self, keys, versions)
            return
        for key in keys:
            self._requests.require_object(key)
            headers = self._requests.conditions(key, expect)
            self._check_before(key, expect)
            answer = self._requests.send("DELETE", key, headers, expect=expect)
            if answer.status not in (404, 410) or expect is not None:
                self._requests.require(answer, key, "DELETE", expect, _WRITTEN)
            answer.drop()

    def has_page(self, key: str) -> bool:
        """Return whether there is a page at *key*, the name of a "directory": one HEAD."""
        answer = self._requests.send("HEAD", key)
        if answer.status in _UNKNOWN_BY_HEAD:
            answer.drop()
            answer = self._requests.send("GET", key)
        is_missing = answer.status in (404, 410)
        if not is_missing:
            self._requests.require(answer, key, "HEAD", is_page=True)
        answer.drop()
        return not is_missing

    def request(self, method: str, key: str, headers: Mapping[str, str], data: bytes | None) -> tuple[Any, bytes]:
        """Send any request; return the response and its whole body. Raises the error of a status that is no success."""
        require_lines(headers)
        source = None if data is None else io.BytesIO(data)
        answer = self._requests.send(method, key, headers, source=source, size=len(data or b""))
        if answer.status >= 300:
            self._requests.require(answer, key, method, is_page=True)
        body = bytearray()
        with translating(self._requests.translator(key, "GET")):
            # Until nothing comes: only then does urllib3 notice a body that was cut.
            while len(body) <= MOST_RETURNED and (data := answer.response.read(MOST_RETURNED + 1 - len(body))):
                body += data
        if len(body) > MOST_RETURNED:
            answer.response.close()
            uri = self._requests.uri(key)
            raise CloudUnavailableError(f"{uri}: the body has over {MOST_RETURNED} bytes: use read_bytes() or open()")
        return answer.response, bytes(body)

    def _request_of(
        self, key: str, start: int, end: int | None, expect: Validator | None = None, unless: Validator | None = None
    ) -> ReadRequest:
        return ReadRequest(
            key, start, end, expect, unless, self._requests.uri(key), self._requests.translator(key, "GET")
        )

    def _open(self, asked: ReadRequest, conditions: Mapping[str, str]) -> RangedBody | None:
        return open_range(
            asked, lambda ranged: self._get(asked, conditions, ranged=ranged), lambda: self.head(asked.key)
        )

    def _get(self, asked: ReadRequest, conditions: Mapping[str, str], *, ranged: bool) -> RangedBody | OutOfRange:
        key, unless = asked.key, asked.unless
        wanted = range_of(asked.start, asked.end) if ranged else None
        answer = self._requests.send("GET", key, {**conditions, **({"Range": wanted} if wanted else {})})
        if answer.status == 304 and unless is not None:
            answer.drop()
            same = confirms(answer.headers, unless)
            if same is None:
                # It states no time, and servers also answer 304 for an older version that was put back.
                same = unless.same_version(self.head(key).validator)
            if same:
                raise NotModifiedError(f"{asked.uri}: not modified")
            kept = {name: value for name, value in conditions.items() if not name.startswith(("If-None", "If-Mod"))}
            return self._get(replace(asked, unless=None), kept, ranged=ranged)
        if answer.status == 416 and wanted:
            answer.drop()
            # The 416 for an empty object does not state its version: a condition needs another request.
            is_empty = not conditions and answer.headers.get("Content-Range") == "bytes */0"
            return OutOfRange(ObjectInfo(key, Validator(0)) if is_empty else None, keep_range=False)
        self._requests.require(answer, key, "GET")
        if answer.status != 206:
            return self._whole(asked, answer)
        body = self._part(asked, answer)
        if body is not None:
            return body
        answer.response.close()
        if not ranged:
            raise CloudUnavailableError(f"{asked.uri}: the server sent a part of the object, unasked")
        return self._get(asked, conditions, ranged=False)

    def _part(self, asked: ReadRequest, answer: Response) -> RangedBody | None:
        """Return the body of a 206, or None for another range than requested, or one of a version that no condition
        can name in the request for the next range.
        """
        end = asked.end
        try:
            content_range, length = answer.headers.get("Content-Range"), length_of(answer.headers)
            first, stop, size = span = parse_range(206, content_range, length, asked.start, end)
        except CloudPathException:
            return None
        info = info_of(asked.key, answer.headers, size)
        is_piece = not first and stop < size and end != 1  # one byte is a question about the object
        if stop < (size if end is None else min(end, size)) or (is_piece and not can_pin(info.validator)):
            return None
        return ranged_body(asked, answer.response, lambda: span, lambda *_: info)

    def _whole(self, asked: ReadRequest, answer: Response) -> RangedBody:
        """Return the body of a 200. A read from the start gets all of it, whatever the *end*: it is sent anyway."""
        stream: Any = answer.response
        size = length_of(answer.headers)
        if size is None:
            stream, size = self._spool(asked, answer)
        info = info_of(asked.key, answer.headers, size)
        span = (0, size, size)
        return ranged_body(asked if asked.start else replace(asked, end=None), stream, lambda: span, lambda *_: info)

    def _spool(self, asked: ReadRequest, answer: Response) -> tuple[Any, int]:
        """Read a body of unknown length, since an `ObjectInfo` has the size."""
        is_question = asked.end == 1  # about the object; its bytes are not needed
        most = MOST_FOR_SIZE if is_question else most_spooled()
        try:
            spooled = spool(answer.response, asked.translate, most)
        except BaseException:
            answer.response.close()
            raise
        answer.drop()
        if spooled is not None:
            return spooled
        what = f"{asked.uri}: the server does not state its size, and it has over {most} bytes"
        if is_question:
            raise NoStatError(f"{what}: read it, or configure the server to send Content-Length")
        raise CloudUnavailableError(f"{what}: configure the server to send Content-Length")

    def _check_before(self, key: str, expect: WriteCondition) -> None:
        if expect is None:
            return
        try:
            seen = self.head(key).validator
        except CloudPathFileNotFoundError as error:
            if isinstance(expect, Validator):
                raise GONE.make(uri=self._requests.uri(key)) from error
            return
        if isinstance(expect, Absent) or not expect.same_version(seen):
            raise CHANGED.make(uri=self._requests.uri(key))
