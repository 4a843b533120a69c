"""Which error each answer of an HTTP server becomes: a table by status, and one by exception."""

from __future__ import annotations

from typing import Any, Final

from casstore import printable
from pathapi.backends.error_table import BROKEN, CHANGED, CUT_OFF, MISSING, ErrorTable, ErrorTemplate
from pathapi.exceptions import (
    CloudPathException,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
    TruncatedBodyError,
)


class HttpStatusError(Exception):
    """A status that is no success: the cause of the error that explains it."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(printable(f"HTTP {status} {reason}".rstrip()))
        self.status = status


# The fields of a message: uri, endpoint (the host), method, status, allowed, tried, reason.
_NO_LOGIN: Final = ErrorTemplate(
    MissingCredentialsError, "{uri}: {endpoint} requires a login: give the client auth=(user, password) or headers="
)
_BAD_LOGIN: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: {endpoint} does not accept this login: check auth= and headers= of the client"
)
_FORBIDDEN: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} denied {method}, and the object may exist: use a login (auth=, headers=) or a fresh signed URL",
)
_NO_METHOD: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: {endpoint} does not allow {method}{allowed}: it is read-only"
)
_CONFLICT: Final = ErrorTemplate(
    CloudUnavailableError, "{uri}: {endpoint} reports a conflict{tried}; nothing was changed: try again"
)
_BUSY: Final = ErrorTemplate(
    CloudUnavailableError, "{uri}: {endpoint} kept failing (HTTP {status}){tried}: try again later"
)
_BAD_REDIRECT: Final = ErrorTemplate(
    CloudUnavailableError, "{method} {uri}: too many redirects, or a redirect that cannot be followed"
)
_REFUSED: Final = ErrorTemplate(InvalidConfigurationException, "{uri}: {endpoint} refused {method} (HTTP {status})")

BY_STATUS: Final = {
    400: _REFUSED,
    401: _NO_LOGIN,
    403: _FORBIDDEN,
    404: MISSING,
    405: _NO_METHOD,
    408: _BUSY,
    409: _CONFLICT,
    410: MISSING,
    412: CHANGED,
    413: ErrorTemplate(CloudUnavailableError, "{uri}: {endpoint} does not accept an object of this size"),
    414: ErrorTemplate(InvalidUriError, "{uri}: the name is too long for {endpoint}"),
    423: ErrorTemplate(CloudUnavailableError, "{uri}: the object is locked at {endpoint}: try again later"),
    425: _BUSY,
    429: ErrorTemplate(
        CloudUnavailableError, "{uri}: {endpoint} limits the rate of requests (HTTP 429){tried}: try again later"
    ),
    451: _FORBIDDEN,
    501: ErrorTemplate(
        CloudPathNotImplementedError, "{uri}: {endpoint} does not support {method}, or its condition (HTTP 501)"
    ),
    507: ErrorTemplate(CloudUnavailableError, "{uri}: {endpoint} has no space left; nothing was written"),
}
"""Of the others, 3xx is a bad redirect, 4xx a refusal, 5xx a busy server."""

RETRIED: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses to retry; also 409 after a conditional write."""

_UNREACHABLE: Final = ErrorTemplate(
    CloudUnavailableError, "{uri}: {endpoint} could not be reached{tried}: check the network, the name and the proxy"
)
_STALLED: Final = ErrorTemplate(CloudUnavailableError, "{uri}: {endpoint} stopped responding{tried}: try again")
BY_EXCEPTION: Final = {
    "SSLError": ErrorTemplate(
        CloudUnavailableError,
        "{uri}: the certificate of {endpoint} is not trusted ({reason}): give your own certificate as ca_certs=",
    ),
    "IncompleteRead": CUT_OFF,
    "ReadTimeoutError": _STALLED,
    "ConnectTimeoutError": _UNREACHABLE,
    "ProtocolError": BROKEN,
    "DecodeError": ErrorTemplate(
        CloudPathNotImplementedError, "{uri}: the body does not have the encoding that {endpoint} states"
    ),
    "LocationValueError": ErrorTemplate(InvalidUriError, "{uri}: this is no URL of a server: check the host"),
    "HTTPError": _UNREACHABLE,
    "OSError": _UNREACHABLE,
}
TABLE: Final = ErrorTable(
    BY_STATUS,
    BY_EXCEPTION,
    frozenset(("urllib3", "builtins", "http", "ssl", "socket")),
    unsent=frozenset(("NewConnectionError", "ConnectTimeoutError", "ProxyError", "SSLError", "LocationValueError")),
)


def translate_exception(
    error: Exception, *, uri: str, endpoint: str, tried: str = "", has_response: bool = True, **_: Any
) -> CloudPathException | None:
    """Return what to raise for *error*; None if the network did not raise it.

    Without a response (not *has_response*) a broken connection is an unreachable server, not a truncated body.
    """
    template = TABLE.of_exception(error)
    if template is None:
        return None
    if template.error is TruncatedBodyError and not has_response:
        template = _UNREACHABLE
    return template.make(uri=uri, endpoint=endpoint, tried=tried, reason=_reason_of(error))


def _reason_of(error: BaseException) -> str:
    deepest = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    return str(getattr(deepest, "verify_message", "") or deepest)


def translate_status(
    status: int, *, allow: str | None = None, has_login: bool = False, **where: Any
) -> CloudPathException:
    """Return what to raise for a status that is no success. *where* gives uri, endpoint, method and tried."""
    template = BY_STATUS.get(status)
    if template is None:
        template = _BAD_REDIRECT if status < 400 else _REFUSED if status < 500 else _BUSY
    if template is _NO_LOGIN and has_login:
        template = _BAD_LOGIN
    allowed = f" (it allows {allow})" if allow else ""
    return template.make(status=status, allowed=allowed, **where)
