"""How requests log in: with a user and a password, or by a handler of `urllib.request`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from casstore import new_mutex
from pathapi.exceptions import InvalidConfigurationException

if TYPE_CHECKING:
    from urllib.request import BaseHandler, Request

PUBLIC_HEADERS: Final = frozenset(("accept", "accept-language", "cache-control", "from", "referer", "user-agent"))
"""Headers that contain no login: any pickle and any other host may get them."""
FORWARDED_HEADERS: Final = PUBLIC_HEADERS | {
    "content-type",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
}
"""Headers of a request that are sent to another host after a redirect."""


class Login:
    """Headers that log in, the same for every request unless a subclass makes its own."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def headers_for(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers to add to a request."""
        return self._headers

    def headers_after_401(
        self, method: str, url: str, headers: Mapping[str, str], answer: Mapping[str, str]
    ) -> Mapping[str, str] | None:
        """Return the headers for one more try after a 401 with the headers *answer*; None to give up."""
        return None


def _basic_login(user: str, password: str) -> Login:
    return Login({"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()})


class HandlerLogin(Login):
    """A `urllib.request.BaseHandler`: it may change each request, and respond to a 401, as basic and digest do."""

    def __init__(self, handler: BaseHandler) -> None:
        super().__init__({})
        self._handler = handler
        self._lock = new_mutex()

    def headers_for(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        prepare = getattr(self._handler, url.partition("://")[0] + "_request", None)
        if prepare is None:
            return {}
        request = self._request(method, url, headers)
        with self._recording():
            request = prepare(request)
        return _headers_of(request, headers)

    def headers_after_401(
        self, method: str, url: str, headers: Mapping[str, str], answer: Mapping[str, str]
    ) -> Mapping[str, str] | None:
        respond = getattr(self._handler, "http_error_401", None)
        if respond is None:
            return None
        message = Message()
        message["WWW-Authenticate"] = answer.get("WWW-Authenticate", "")
        request = self._request(method, url, headers)
        with self._recording() as opener:
            respond(request, None, 401, "Unauthorized", message)
        return None if opener.sent is None else _headers_of(opener.sent, headers)

    @contextmanager
    def _recording(self) -> Iterator[_Opener]:
        """Give the handler an opener that only records what the handler sends."""
        with self._lock:
            before, self._handler.parent = getattr(self._handler, "parent", None), _Opener()  # type: ignore[assignment]
            try:
                yield self._handler.parent  # type: ignore[misc]
            finally:
                self._handler.parent = before  # type: ignore[assignment]

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> Request:
        from urllib.request import Request

        request = Request(url, headers=dict(headers), method=method)  # noqa: S310 (nothing is opened)
        request.timeout = None
        return request


class _Opener:
    sent: Request | None = None
    addheaders = ()

    def open(self, request: Request, *_: Any, **__: Any) -> None:
        self.sent = request


def _headers_of(request: Request, before: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a handler added or changed; urllib changes the case of names."""
    known = {name.lower(): value for name, value in before.items()}
    known["host"] = request.host
    return {name: value for name, value in request.header_items() if known.get(name.lower()) != value}


def merged(headers: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Return *headers* updated by *more*; names are case-insensitive."""
    replaced = {name.lower() for name in more}
    return {name: value for name, value in headers.items() if name.lower() not in replaced} | dict(more)


def login_of(auth: Any) -> Login | None:
    """Return the login for what users give as ``auth``. Raises InvalidConfigurationException without showing it."""
    if auth is None:
        return None
    if isinstance(auth, tuple) and len(auth) == 2 and all(isinstance(part, str) for part in auth):
        return _basic_login(*auth)
    if any(hasattr(auth, name) for name in ("add_parent", "http_request", "https_request", "http_error_401")):
        return HandlerLogin(auth)
    raise InvalidConfigurationException(
        "auth: use (user, password) or a handler of urllib.request; for other logins use headers="
    )


def tls_settings(auth: Any) -> dict[str, Any]:
    """Return urllib3's settings for the TLS context of an `HTTPSHandler`; none of any other *auth*."""
    context = getattr(auth, "_context", None)
    if context is None:
        return {}
    # urllib3 compares the name itself if the context does not.
    return {"ssl_context": context} | ({} if context.check_hostname else {"assert_hostname": False})


def login_in(user_info: str) -> Login | None:
    """Return the login of a URL: what is before its host."""
    if not user_info:
        return None
    user, _, password = user_info.partition(":")
    return _basic_login(unquote(user), unquote(password))


def require_lines(headers: Mapping[Any, Any]) -> None:
    """Raise InvalidConfigurationException for a name or value that is no single line of text."""
    for text in (*headers, *headers.values()):
        if not isinstance(text, str) or set(text) & {"\r", "\n", "\0"}:
            # Not quoted: what is malformed may be the secret.
            raise InvalidConfigurationException("headers: each name and value must be a str in one line")
