"""Requests to one host, with errors translated; messages show neither logins nor queries, which may sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from casstore import Validator
from pathapi.backend import WriteCondition
from pathapi.backends.bodies import Translate
from pathapi.backends.http.auth import login_in
from pathapi.backends.http.connection import HttpConnection, Response
from pathapi.backends.http.errors import RETRIED, HttpStatusError, translate_exception, translate_status
from pathapi.backends.http.responses import target_of
from pathapi.exceptions import CloudPathException, CloudPathFileNotFoundError
from pathapi.uri import Uri


class HttpHost:
    """One host of one scheme. *host* may begin with a login, which no other host gets."""

    def __init__(self, connection: HttpConnection, scheme: str, host: str) -> None:
        self.connection = connection
        self.scheme = scheme
        user, _, self.name = host.rpartition("@")
        self._login = login_in(user)

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
            uri = self.uri(key)
            return translate_exception(error, uri=uri, host=self.name, tried=tried, has_response=False) or error

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
            uri=self.uri(key),
            host=self.name,
            tried=answer.tried,
            allow=answer.headers.get("Allow"),
            has_login=self.connection.has_login or self._login is not None,
        )
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

    def translator(self, key: str) -> Translate:
        def translate(error: Exception) -> Exception:
            if isinstance(error, CloudPathException):
                return error
            self.connection.scrub(error)
            return translate_exception(error, uri=self.uri(key), host=self.name) or error

        return translate

    def url(self, key: str) -> str:
        return f"{self.scheme}://{self.name}{target_of(key)}"

    def uri(self, key: str) -> str:
        """For messages."""
        return Uri(self.scheme, self.name, key).shown.encode("utf-8", "backslashreplace").decode()
