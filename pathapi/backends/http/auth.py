"""How requests log in: a user and a password, or a handler of `urllib.request` as its users know them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from email.message import Message
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote

from pathapi.exceptions import InvalidConfigurationException

if TYPE_CHECKING:
    from urllib.request import BaseHandler, Request

PLAIN_HEADERS: Final = frozenset(("accept", "accept-language", "cache-control", "from", "referer", "user-agent"))
"""Headers that log nobody in: a pickle may carry them, and another host may see them."""
MAY_TRAVEL: Final = PLAIN_HEADERS | {
    "content-type",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
}
"""Headers of one request that another host may see, to which a redirect leads: they say what is asked for."""


class Login(Protocol):
    """What is added to a request, before it and after a 401."""

    def before(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Headers to add."""
        ...

    def after(
        self, method: str, url: str, headers: Mapping[str, str], answer: Mapping[str, str]
    ) -> Mapping[str, str] | None:
        """Headers to try again with after a 401 that said *answer*; None to give up."""
        ...


class Basic:
    """A user and a password, sent from the first request on."""

    def __init__(self, user: str, password: str) -> None:
        self._value = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def before(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {"Authorization": self._value}

    def after(self, method: str, url: str, headers: Mapping[str, str], answer: Mapping[str, str]) -> None:
        return None


class Handled:
    """A `urllib.request.BaseHandler`: it may change each request, and answer a 401 (basic and digest do)."""

    def __init__(self, handler: BaseHandler) -> None:
        self._handler = handler
        self._lock = threading.Lock()

    def before(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        prepare = getattr(self._handler, url.partition("://")[0] + "_request", None)
        if prepare is None:
            return {}
        request = self._request(method, url, headers)
        with self._lock:
            request = prepare(request)
        return _headers_of(request, headers)

    def after(
        self, method: str, url: str, headers: Mapping[str, str], answer: Mapping[str, str]
    ) -> Mapping[str, str] | None:
        respond = getattr(self._handler, "http_error_401", None)
        if respond is None:
            return None
        message = Message()
        message["WWW-Authenticate"] = answer.get("WWW-Authenticate", "")
        request, opener = self._request(method, url, headers), _Opener()
        with self._lock:
            # The handler sends the new request by its opener; all that is wanted of it is what it would send.
            before, self._handler.parent = getattr(self._handler, "parent", None), opener  # type: ignore[assignment]
            try:
                respond(request, None, 401, "Unauthorized", message)
            finally:
                self._handler.parent = before  # type: ignore[assignment]
        return None if opener.sent is None else _headers_of(opener.sent, headers)

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> Request:
        from urllib.request import Request

        request = Request(url, headers=dict(headers), method=method)  # noqa: S310 (nothing is opened)
        request.timeout = None
        return request


class _Opener:
    sent: Request | None = None

    def open(self, request: Request, *_: Any, **__: Any) -> None:
        self.sent = request


def _headers_of(request: Request, before: Mapping[str, str]) -> dict[str, str]:
    """What a handler has added or changed; urllib writes the names in its own way."""
    known = {name.lower(): value for name, value in before.items()}
    return {name: value for name, value in request.header_items() if known.get(name.lower()) != value}


def merged(headers: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """*headers* and *more*, which replaces, however either writes the names."""
    replaced = {name.lower() for name in more}
    return {name: value for name, value in headers.items() if name.lower() not in replaced} | dict(more)


def login_of(auth: Any) -> Login | None:
    """What users give as ``auth``. Raises InvalidConfigurationException, which does not show it."""
    if auth is None:
        return None
    if isinstance(auth, tuple) and len(auth) == 2 and all(isinstance(part, str) for part in auth):
        return Basic(*auth)
    if hasattr(auth, "http_request") or hasattr(auth, "https_request") or hasattr(auth, "http_error_401"):
        return Handled(auth)
    raise InvalidConfigurationException(
        "auth is (user, password) or a handler of urllib.request; other logins go to headers="
    )


def login_in(user_info: str) -> Login | None:
    """The login that a URL holds before its host."""
    if not user_info:
        return None
    user, _, password = user_info.partition(":")
    return Basic(unquote(user), unquote(password))


def require_lines(headers: Mapping[Any, Any]) -> None:
    """Raise InvalidConfigurationException for a name or value that cannot stand in one line of a request."""
    for text in (*headers, *headers.values()):
        if not isinstance(text, str) or set(text) & {"\r", "\n", "\0"}:
            # Not quoted: what is malformed may be the secret.
            raise InvalidConfigurationException("headers= holds a name or value that cannot stand in one line")
