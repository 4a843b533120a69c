"""Requests to one host, with errors translated; messages show neither logins nor queries, which may sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from casstore import Validator
from pathapi.backend import Absent, WriteCondition
from pathapi.backends.bucket_requests import BucketRequests
from pathapi.backends.headers import format_etag
from pathapi.backends.http.auth import login_in
from pathapi.backends.http.connection import HttpConnection, Response
from pathapi.backends.http.errors import RETRIED, HttpStatusError, translate_exception, translate_status
from pathapi.backends.http.responses import target_of
from pathapi.common.uri import Uri
from pathapi.exceptions import CloudPathFileNotFoundError


class HttpRequests(BucketRequests):
    """Requests to one host of one scheme. *host* may begin with a login, which no other host gets."""

    connection: HttpConnection
    compares = "a conditional write needs a strong ETag"
    translate = staticmethod(translate_exception)

    def __init__(self, connection: HttpConnection, scheme: str, host: str) -> None:
        user, _, name = host.rpartition("@")
        super().__init__(connection, name)
        self.scheme = scheme
        self._login = login_in(user)

    def condition_of(self, expect: Validator | Absent) -> dict[str, Any] | None:
        if isinstance(expect, Absent):
            return {"If-None-Match": "*"}
        etag = format_etag(expect)
        return None if etag is None or expect.weak else {"If-Match": etag}

    def where(self, key: str) -> dict[str, Any]:
        return {"uri": self.uri(key), "endpoint": self.bucket}

    def send(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        *,
        expect: WriteCondition = None,
        source: BinaryIO | None = None,
        size: int = 0,
    ) -> Response:
        # A 409 to a conditional write: another write was in progress, and the condition was not evaluated.
        retried = RETRIED if expect is None else RETRIED | {409}

        def explain(error: Exception, tried: str) -> Exception:
            return translate_exception(error, **self.where(key), tried=tried, has_response=False) or error

        return self.connection.send(
            method,
            self.url(key),
            headers or {},
            login=self._login,
            source=source,
            size=size,
            retried=retried,
            explain=explain,
        )

    def require(
        self,
        answer: Response,
        key: str,
        method: str,
        expect: WriteCondition = None,
        successes: frozenset[int] = frozenset((200, 203, 206)),
        *,
        is_page: bool = False,
    ) -> None:
        """Raise the error of a status outside *successes*, or of a directory's page unless *is_page*."""
        status = answer.status
        if status in successes:
            if is_page or not self._leads_to_page(answer, key):
                return
            answer.drop()
            cause = HttpStatusError(301, "redirected to the same name with a slash")
            raise CloudPathFileNotFoundError(f"{self.uri(key)} is a directory, not an object") from cause
        answer.drop()
        if status == 404 and isinstance(expect, Validator):
            status = 412  # a condition on an object that no longer exists
        translated = translate_status(
            status,
            method=method,
            **self.where(key),
            tried=answer.tried,
            allow=answer.headers.get("Allow"),
            has_login=self.connection.has_login or self._login is not None,
        )
        translated = self.connection.explain(translated)
        translated.outcome_unknown = answer.outcome_unknown
        raise translated from HttpStatusError(answer.status, answer.response.reason or "")

    def _leads_to_page(self, answer: Response, key: str) -> bool:
        """Return whether redirects ended at the same name with a slash: so servers mark a directory."""
        asked = self.url(key)
        if answer.url == asked:
            return False
        path = answer.url.partition("?")[0]
        return path.rpartition("/")[0].endswith("/" + asked.partition("?")[0].rpartition("/")[2]) and (
            path.endswith("/") and self.connection.is_directory(answer.url)
        )

    def require_object(self, key: str) -> None:
        if not key or self.connection.is_directory(self.url(key)):
            raise CloudPathFileNotFoundError(f"{self.uri(key)} is a directory: list it, or use custom_dir_matcher=")

    def url(self, key: str) -> str:
        return f"{self.scheme}://{self.bucket}{target_of(key)}"

    def uri(self, key: str) -> str:
        """For messages."""
        return Uri(self.scheme, self.bucket, key).shown.encode("utf-8", "backslashreplace").decode()
