"""Plain HTTP(S) servers, by urllib3: one host is a bucket, and a key is what follows the host in the URL, as written.

Every condition is the server's own (If-Match, If-None-Match; by times where it tells no ETags), and what it answers is
looked at as well, since many servers ignore conditions and ranges. What such a server lacks:

* Conditional writes are an option of HTTP that few servers take and none announces: a HEAD goes before each, so that a
  server that ignores the condition overwrites no more than what came in the moment between.
* There is no listing but the links of an index page, which tell names and nothing else: the objects of a listing are
  `ObjectInfo.is_named_only`.
* A version that no request can be tied to (weak ETag, no validator) is read in one piece.
* Bytes are kept as they are sent: ``identity`` is asked for, and a server that encodes all the same (``gzip``) has its
  encoded bytes stored, which are those that its ETag, length and ranges speak of.
* A body whose length is not told is read to its end before it is handed on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import Absent, Nothing, ObjectInfo, Prefix, delete_each
from pathapi.backends.headers import format_etag, parse_etag, range_of
from pathapi.backends.http.auth import require_lines
from pathapi.backends.http.body import HttpBody, spool
from pathapi.backends.http.connection import Answer, HttpConnection
from pathapi.backends.http.errors import HttpStatusError
from pathapi.backends.http.host import HttpHost
from pathapi.backends.http.index_pages import walk
from pathapi.backends.http.responses import (
    can_pin,
    conditions_to_read,
    confirms,
    info_of,
    length_of,
    placed,
    size_if_unsatisfiable,
    validator_of,
)
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    VersionMismatchError,
)
from pathapi.redaction import unsigned

__all__ = ["HttpBackend", "HttpConnection"]

_TRIES: Final = 4
"""Requests for one read: a range that cannot be used, an object that ends before it, a 304 that speaks of another."""
_WRITTEN: Final = frozenset((200, 201, 202, 204))
_UNKNOWN_BY_HEAD: Final = frozenset((405, 501))


class HttpBackend:
    """One host; see `pathapi.backend.Backend`. *host* may begin with a login, which is told to nobody else, nor to a
    pickle.
    """

    def __init__(self, connection: HttpConnection, scheme: str, host: str) -> None:
        self.connection = connection
        self._host = HttpHost(connection, scheme, host)

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpBackend, (self.connection, self._host.scheme, self._host.name)

    @property
    def origin(self) -> str:
        return self._host.scheme

    @property
    def bucket(self) -> str:
        return self._host.name

    def head(self, key: str) -> ObjectInfo:
        self._host.require_object(key)
        answer = self._host.send("HEAD", key)
        # A signed URL is often signed for GET alone.
        refuses = answer.status in _UNKNOWN_BY_HEAD or (
            answer.status == 403 and unsigned(self._host.url(key)) != self._host.url(key)
        )
        if not refuses:
            self._host.require(answer, key, "HEAD")
            answer.drop()
            length = length_of(answer.headers)
            if length is not None:
                return info_of(key, answer.headers, length)
        else:
            answer.drop()
        # The server does not say the size, or anything, of an object that is not sent: a GET that is not read does.
        body = self._read(key, 0, 1, {})
        try:
            return body.info
        finally:
            body.close()

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> HttpBody | None:
        self._host.require_object(key)
        if end is not None and end <= start:
            body = self._nothing(key)
            if unless is not None and unless.same_version(body.info.validator):
                return None
        else:
            found = self._read_unless(key, start, end, conditions_to_read(expect, unless), unless)
            if found is None:
                return None
            body = found
        if expect is not None and not expect.same_version(body.info.validator):
            body.close()
            raise VersionMismatchError(f"{self._host.uri(key)} is no longer the version asked for; read it again")
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
        self._host.require_object(key)
        headers = self._conditions_to_write(key, expect)
        headers["Content-Type"] = content_type or "application/octet-stream"
        self._check_before(key, expect)
        method = self.connection.write_method
        answer = self._host.send(method, key, headers, expect=expect, source=source, size=size)
        self._host.require(answer, key, method, expect, _WRITTEN)
        answer.drop()
        # Asked for now, the version might be another writer's already: the answer to the write has it, or nobody.
        etag, weak = parse_etag(answer.headers.get("ETag"))
        modified = validator_of(answer.headers, size).mtime_ns if etag is not None else None
        return ObjectInfo(key, Validator(size, etag, weak, mtime_ns=modified), (), content_type)

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        left = limit
        if left == 0:
            return
        folder = prefix[: prefix.rfind("/") + 1]
        for item in walk(self._host, folder, prefix[len(folder) :], delimited=delimited):
            yield item
            if left is not None:
                left -= 1
                if not left:
                    return

    def copy(
        self,
        source: str,
        target: str,
        *,
        expect: Validator | None = None,
        over: Validator | Absent | None = None,
    ) -> ObjectInfo:
        """Through this machine: plain HTTP has no request for it."""
        body = self.read(source, expect=expect)
        assert body is not None
        try:
            spooled, size = spool(_Reading(body), self._host.meaning_for(source))
        finally:
            body.close()
        with spooled:
            return self.write(target, spooled, size, expect=over, content_type=body.info.content_type)

    def delete(
        self,
        keys: Sequence[str],
        *,
        expect: Validator | None = None,
        versions: Mapping[str, Validator] | None = None,
    ) -> None:
        if versions:
            delete_each(self, keys, versions)
            return
        for key in keys:
            self._host.require_object(key)
            headers = self._conditions_to_write(key, expect)
            self._check_before(key, expect)
            answer = self._host.send("DELETE", key, headers, expect=expect)
            if answer.status in (404, 410) and expect is None:
                answer.drop()
            else:
                self._host.require(answer, key, "DELETE", expect, _WRITTEN)
                answer.drop()

    def has_page(self, key: str) -> bool:
        """Whether there is a page at *key*, which names a "directory": one HEAD."""
        answer = self._host.send("HEAD", key)
        if answer.status in _UNKNOWN_BY_HEAD:
            answer.drop()
            answer = self._host.send("GET", key)
        if answer.status in (404, 410):
            answer.drop()
            return False
        self._host.require(answer, key, "HEAD", is_page=True)
        answer.drop()
        return True

    def request(self, method: str, key: str, headers: Mapping[str, str], data: bytes | None) -> tuple[Any, bytes]:
        """Any request, and all of its answer. Raises what a status that is no success means."""
        require_lines(headers)
        source = None if data is None else io.BytesIO(data)
        answer = self._host.send(method, key, headers, source=source, size=len(data or b""))
        if answer.status >= 300:
            self._host.require(answer, key, method, is_page=True)
        try:
            content = answer.response.read()
        except Exception as error:
            meant = self._host.meaning_for(key)(error)
            if meant is error:
                raise
            raise meant from error
        return answer.response, content

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read_unless(
        self, key: str, start: int, end: int | None, conditions: Mapping[str, str], unless: Validator | None
    ) -> HttpBody | None:
        try:
            return self._read(key, start, end, conditions)
        except _NotModified as answer:
            if unless is None:
                raise HttpStatusError(304) from None
            same = confirms(answer.headers, unless)
        if same is None:
            # It says no time: older versions that were put back are "not modified" either.
            same = unless.same_version(self.head(key).validator)
        if same:
            return None
        kept = {name: value for name, value in conditions.items() if not name.startswith(("If-None", "If-Mod"))}
        return self._read(key, start, end, kept)

    def _read(self, key: str, start: int, end: int | None, conditions: Mapping[str, str]) -> HttpBody:
        asked = range_of(start, end)
        for _ in range(_TRIES):
            answer = self._host.send("GET", key, {**conditions, **({"Range": asked} if asked else {})})
            if answer.status == 304:
                answer.drop()
                raise _NotModified(answer.headers)
            if answer.status == 416 and asked:
                answer.drop()
                size = size_if_unsatisfiable(answer.headers)
                # It says of an empty object that it is empty, and not which version: who named one gets a plain answer.
                if not start and not conditions and size == 0:
                    return self._body(key, Nothing(), ObjectInfo(key, Validator(0)), 0)
                if start:
                    nothing = self._nothing(key)
                    if nothing.info.size <= start:
                        return nothing
                asked = None
                continue
            self._host.require(answer, key, "GET")
            if answer.status != 206:
                return self._whole(key, answer, start, end)
            body = self._part(key, answer, start, end)
            if body is not None:
                return body
            answer.response.close()
            asked = None
        raise VersionMismatchError(f"{self._host.uri(key)} kept changing while it was read; read it again")

    def _part(self, key: str, answer: Answer, start: int, end: int | None) -> HttpBody | None:
        """The body of a 206; None where it cannot be used: another range than asked, or a version that the next range
        could not be tied to.
        """
        try:
            first, stop, size = placed(answer.headers, start, end)
        except CloudPathException:
            return None
        if stop < (size if end is None else min(end, size)):
            return None
        info = info_of(key, answer.headers, size)
        is_piece = not first and stop < size and end != 1  # one byte is a question about the object
        if is_piece and not can_pin(info.validator):
            return None
        return self._body(key, answer.response, info, stop - first)

    def _whole(self, key: str, answer: Answer, start: int, end: int | None) -> HttpBody:
        """The body of a 200. To who reads from the start it is given whole, whatever the *end*: it comes anyway."""
        stream: Any = answer.response
        size = length_of(answer.headers)
        if size is None:
            try:
                stream, size = spool(answer.response, self._host.meaning_for(key))
            except BaseException:
                answer.response.close()
                raise
            answer.drop()
        info = info_of(key, answer.headers, size)
        if not start:
            return self._body(key, stream, info, size)
        skip, stop = min(start, size), size if end is None else min(end, size)
        return self._body(key, stream, info, max(0, stop - skip), skip=skip, is_cut=stop < size)

    def _nothing(self, key: str) -> HttpBody:
        return self._body(key, Nothing(), self.head(key), 0)

    def _body(
        self, key: str, stream: Any, info: ObjectInfo, length: int, *, skip: int = 0, is_cut: bool = False
    ) -> HttpBody:
        return HttpBody(
            stream, info, length, self._host.meaning_for(key), uri=self._host.uri(key), skip=skip, is_cut=is_cut
        )

    # --- requests --------------------------------------------------------------------------------------------------

    def _conditions_to_write(self, key: str, expect: Validator | Absent | None) -> dict[str, str]:
        if expect is None:
            return {}
        if isinstance(expect, Absent):
            return {"If-None-Match": "*"}
        etag = format_etag(expect)
        if etag is None or expect.weak:
            raise CloudPathNotImplementedError(
                f"{self._host.uri(key)}: a condition on a write needs a strong ETag, and {self._host.name} gives none"
            )
        return {"If-Match": etag}

    def _check_before(self, key: str, expect: Validator | Absent | None) -> None:
        if expect is None:
            return
        try:
            seen = self.head(key).validator
        except CloudPathFileNotFoundError as error:
            if isinstance(expect, Validator):
                raise VersionMismatchError(
                    f"{self._host.uri(key)} does not exist any more; nothing was changed"
                ) from error
            return
        if isinstance(expect, Absent) or not expect.same_version(seen):
            raise VersionMismatchError(f"{self._host.uri(key)} is not the version expected; nothing was changed")


class _NotModified(Exception):  # noqa: N818 (an answer, not an error)
    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.headers = headers


class _Reading:
    """A body as a stream that `spool` can read."""

    def __init__(self, body: HttpBody) -> None:
        self._body = body

    def read(self, amount: int) -> bytes:
        buffer = bytearray(amount)
        return bytes(buffer[: self._body.readinto(memoryview(buffer))])
