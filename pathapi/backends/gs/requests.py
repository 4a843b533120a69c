"""Requests to the JSON API over the SDK's session: retried, with errors translated.

The SDK's own objects send extra requests for metadata and hide the headers of a response. Used here are its session,
which logs in, its errors, which are the causes of ours, and its `Retry`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from casstore import Validator
from pathapi.backend import Absent
from pathapi.backends.bucket_requests import BucketRequests
from pathapi.backends.error_table import may_be_carried_out, translating
from pathapi.backends.gs.connection import TIMEOUT, GSConnection
from pathapi.backends.gs.errors import TABLE, Refusal, should_retry, translate
from pathapi.backends.headers import parse_batch
from pathapi.common.redaction import redacted
from pathapi.exceptions import (
    BucketNotFoundError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    InvalidUriError,
)

TRIES: Final = 5
"""The most tries of one request."""
_OK: Final = frozenset((200, 201, 204, 206))
_LONGEST_EXPLANATION: Final = 64 << 10
MOST_ANSWERED: Final = 64 << 20
"""Bytes of the longest answer that is not an object's bytes, decompressed: a page of a listing has 1 MiB."""
_PIECE: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Reply:
    """One response; *tries* counts how often its request was sent. *content* is its body, unless that is a stream."""

    response: Any
    tries: int
    content: bytes = b""
    method: str = "GET"

    @property
    def status(self) -> int:
        return int(self.response.status_code)

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""
        headers: Mapping[str, str] = self.response.headers
        return headers


class GSRequests(BucketRequests):
    """Requests about one bucket."""

    connection: GSConnection
    scheme = "gs"
    service = "Google Cloud Storage"
    compares = "Google compares generations"
    translate = staticmethod(translate)

    def condition_of(self, expect: Validator | Absent) -> dict[str, Any] | None:
        if isinstance(expect, Absent):
            return {"ifGenerationMatch": "0"}
        return None if expect.version is None else {"ifGenerationMatch": expect.version}

    def path(self, *parts: str) -> str:
        """Return the path of the bucket's resource that *parts* name. Raises InvalidUriError."""
        if not all(parts):
            raise InvalidUriError(f"{self.uri('')}: there is no object with an empty name: add a key")
        return "/".join(("/b", *(self.quote(part, safe="~") for part in (self.bucket, *parts))))

    def call(
        self,
        operation: str,
        key: str,
        method: str,
        path: str,
        query: Mapping[str, Any],
        *,
        prefix: str = "",
        **options: Any,
    ) -> Reply:
        """Send one request to the API at *prefix* (``/download``, ``/upload``).

        The other arguments are those of `send`.
        """
        given = {name: value for name, value in query.items() if value is not None} | {"prettyPrint": "false"}
        with self.checking_utf8(key):
            asked = urlencode(given)
        url = f"{self.base_url(key, operation)}{prefix}/storage/v1{path}?{asked}"
        return self.send(operation, key, method, url, **options)

    def json(self, reply: Reply, key: str) -> dict[str, Any]:
        """Parse the response. Raises CloudUnavailableError if it is no JSON object: that would be an empty listing."""
        try:
            found = json.loads(reply.content)
        except (ValueError, RecursionError) as error:
            raise self._not_google(key, reply.method) from error
        if not isinstance(found, dict):
            raise self._not_google(key, reply.method)
        return found

    def field(self, found: Mapping[str, Any], name: str, key: str) -> Any:
        """Return a field that every response has. Raises CloudUnavailableError if it is missing."""
        if name not in found:
            raise self._not_google(key, "POST")
        return found[name]

    def _not_google(self, key: str, method: str) -> CloudUnavailableError:
        error = CloudUnavailableError(
            f"{self.uri(key)}: the server did not answer as Google Cloud Storage does: check the endpoint"
        )
        error.outcome_unknown = method != "GET"
        return error

    def base_url(self, key: str, operation: str) -> str:
        """Return where the API is. The search for credentials may fail here already."""
        with translating(self.translator(key, operation)):
            return self.connection.base_url

    def send(
        self,
        operation: str,
        key: str,
        method: str,
        url: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        stream: bool = False,
        again: bool = True,
    ) -> Reply:
        """Send one request to any URL of the service. Errors name *key*. Statuses in *accept* are no errors, like 200.

        Not *again*: without retries.
        """
        tries, is_unknown, content = 0, False, b""
        connection = self.connection
        described = {"User-Agent": connection.user_agent, "Accept-Encoding": "gzip", **(headers or {})}

        def read(response: Any, **_: Any) -> None:
            nonlocal content
            # In a hook: google-auth drops a 401 and sends the request again, by the same connection if it was read.
            content = _read_whole(response)

        def attempt() -> Any:
            nonlocal tries, is_unknown
            tries += 1
            try:
                response = connection.session.request(
                    method,
                    url,
                    data=data,
                    headers=dict(described),
                    timeout=connection.timeout or TIMEOUT,
                    stream=True,
                    hooks=None if stream else {"response": [read, *connection.session.hooks["response"]]},
                    allow_redirects=False,
                )
            except Exception as error:
                is_unknown = is_unknown or TABLE.may_be_sent(error)
                raise
            is_unknown = is_unknown or may_be_carried_out(response.status_code)
            if response.status_code in _OK or response.status_code in accept:
                return response
            raise self._error_of(response, None if stream else content)

        try:
            return Reply(self._retrying(attempt, lambda: tries) if again else attempt(), tries, content, method)
        except CloudPathException:
            raise
        except _TooLongError as error:
            raise self._not_google(key, method) from error
        except Exception as error:  # noqa: BLE001 (always raised)
            self.raise_translated(error, key, operation, outcome_unknown=is_unknown and method != "GET")

    @contextlib.contextmanager
    def explaining_missing(self, key: str) -> Iterator[None]:
        """For an ambiguous 404 in the block, find out by one more request if the bucket is missing.

        Google's own 404s are not ambiguous.
        """
        try:
            yield
        except CloudPathFileNotFoundError as error:
            if Refusal.of(error.__cause__ or error).is_ambiguous:
                try:
                    self.call("list", key, "GET", self.path("o"), {"maxResults": 1, "fields": "nextPageToken"})
                except BucketNotFoundError as missing:
                    raise missing from error
                except CloudPathException:
                    pass
            raise

    def _retrying(self, attempt: Any, tries: Any) -> Any:
        retry = self.connection.retry
        if retry is None:
            from google.api_core.retry import Retry

            # The SDK bounds retries by time alone, two minutes.
            retry = Retry(
                predicate=lambda error: tries() < TRIES and should_retry(error),
                initial=0.2,
                maximum=10.0,
                multiplier=2.0,
                timeout=120.0,
            )
        return getattr(retry, "retry_policy", retry)(attempt)()

    def _error_of(self, response: Any, text: bytes | None) -> Exception:
        """Return the SDK's error for a response, without the request: that contains a token, and its URL may sign.

        *text* is its body; without it, the body is a stream.
        """
        try:
            if text is None:
                text = response.raw.read(_LONGEST_EXPLANATION, decode_content=True)
        finally:
            response.close()
        return self._make_error(response.status_code, text)

    def _make_error(self, status: int, text: bytes) -> Exception:
        from google.api_core.exceptions import from_http_status

        known = self.connection.known_secrets()
        reason, message = (redacted(part, known) for part in _explanation(text))
        error: Exception = from_http_status(status, message or reason, errors=[{"reason": reason, "message": message}])
        return error

    def batch_errors(self, reply: Reply) -> Iterator[tuple[int, Exception | None]]:
        """Of each answer in a batch's its number and, where it is a failure, the SDK's error for it."""
        for number, status, text in parse_batch(reply.headers.get("content-type"), reply.content):
            _, brace, rest = text.partition(b"{")
            if number >= 0:
                yield number, None if status in _OK else self._make_error(status, brace + rest)


class _TooLongError(Exception):
    """The body is no answer of this API."""


def _read_whole(response: Any) -> bytes:
    """Return a response's body, decompressed. Raises _TooLongError, which is not retried."""
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > MOST_ANSWERED:
            response.close()
            raise _TooLongError(f"over {MOST_ANSWERED} bytes")
    return bytes(body)


def _explanation(text: bytes) -> tuple[str, str]:
    """Return reason and message of an error's body: JSON, or plain text if bytes were requested."""
    plain = text.decode("utf-8", "replace").strip()
    try:
        told = json.loads(plain)["error"]
        first: dict[str, Any] = next(iter(told.get("errors") or ()), {})
        return str(first.get("reason", "")), str(told.get("message", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", "" if plain.startswith("<") else plain[:500]


def multipart_upload(resource: Mapping[str, Any], data: bytes) -> tuple[bytes, str]:
    """Return an object's metadata and bytes as one body, and that body's content type."""
    boundary = f"casstore-{os.urandom(16).hex()}"  # unguessable for the author of the data
    content_type = str(resource.get("contentType", "application/octet-stream"))
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(dict(resource))}\r\n"
        f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n"
    )
    body = b"".join((head.encode(), data, f"\r\n--{boundary}--\r\n".encode()))
    return body, f'multipart/related; boundary="{boundary}"'


def batch_of_deletes(paths: Sequence[str]) -> tuple[bytes, str]:
    """Return one body that deletes the objects at *paths* of the API, and its content type."""
    parts = [
        f"--batch\r\nContent-Type: application/http\r\nContent-ID: <{number}>\r\n\r\nDELETE {path} HTTP/1.1\r\n\r\n\r\n"
        for number, path in enumerate(paths)
    ]
    return ("".join(parts) + "--batch--\r\n").encode(), 'multipart/mixed; boundary="batch"'
