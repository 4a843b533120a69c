"""What HTTP servers can answer, and which of our errors each answer is: a table for statuses, one for exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
    TruncatedBodyError,
    VersionMismatchError,
)


class HttpStatusError(Exception):
    """A status that is no success: the cause of the error that says what it means."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(f"HTTP {status} {reason}".rstrip())
        self.status = status


@dataclass(frozen=True, slots=True)
class _Meaning:
    raises: type[CloudPathException]
    says: str
    """What happened and the way out; fields: uri, host, method, status, allowed, tried, reason."""


_MISSING: Final = _Meaning(CloudPathFileNotFoundError, "{uri} does not exist")
_NO_LOGIN: Final = _Meaning(
    MissingCredentialsError, "{host} wants a login for {uri}: give the client auth=(user, password) or headers="
)
_BAD_LOGIN: Final = _Meaning(
    CloudPathPermissionError, "{host} does not accept this login for {uri}: check auth= and headers= of the client"
)
_FORBIDDEN: Final = _Meaning(
    CloudPathPermissionError,
    "{host} refused {method} of {uri}: a login (auth=, headers=) or a fresh signed URL may be needed. It is not known "
    "to be absent",
)
_NO_METHOD: Final = _Meaning(
    CloudPathPermissionError, "{host} allows no {method} of {uri}{allowed}: it can be used for reading only"
)
_CHANGED: Final = _Meaning(
    VersionMismatchError, "{uri} is not, or no longer, the version asked for; nothing was changed"
)
_BUSY: Final = _Meaning(
    CloudUnavailableError,
    "{host} kept failing for {uri} (HTTP {status}){tried}; nothing is known of it, try again later",
)
_ASTRAY: Final = _Meaning(
    CloudUnavailableError, "{host} leads {method} of {uri} astray: too many redirects, or one that cannot be followed"
)
_REFUSED: Final = _Meaning(InvalidConfigurationException, "{host} refused {method} of {uri} (HTTP {status})")

BY_STATUS: Final = {
    400: _REFUSED,
    401: _NO_LOGIN,
    403: _FORBIDDEN,
    404: _MISSING,
    405: _NO_METHOD,
    408: _BUSY,
    409: _Meaning(CloudUnavailableError, "{host} reports a conflict for {uri}{tried}; nothing was changed, try again"),
    410: _MISSING,
    412: _CHANGED,
    413: _Meaning(CloudUnavailableError, "{host} takes nothing as large as this for {uri}"),
    414: _Meaning(InvalidUriError, "{host} takes no name as long as {uri}"),
    423: _Meaning(CloudUnavailableError, "{uri} is locked at {host}; try again later"),
    425: _BUSY,
    429: _Meaning(CloudUnavailableError, "{host} is asked too often (HTTP 429){tried}; ask {uri} again later"),
    451: _FORBIDDEN,
    501: _Meaning(CloudPathNotImplementedError, "{host} knows no such {method}, or no such condition, for {uri}"),
    507: _Meaning(CloudUnavailableError, "{uri} was not written: {host} has no room for it"),
}
"""What is not listed: 3xx led astray, other 4xx refused, 5xx busy."""

RETRIED: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""No decision yet: the same request is sent again for a while. A 409 to a conditional write is, too."""

_UNREACHABLE: Final = _Meaning(
    CloudUnavailableError, "{host} could not be reached for {uri}{tried}: check the network, the name and the proxy"
)
_BROKEN: Final = _Meaning(TruncatedBodyError, "the connection to {host} broke while {uri} was read")
_STALLED: Final = _Meaning(CloudUnavailableError, "{host} stood still while {uri} was asked for{tried}; try again")
BY_EXCEPTION: Final = {
    "SSLError": _Meaning(
        CloudUnavailableError,
        "{host} could not prove for {uri} that it is {host} ({reason}); a certificate of your own goes to ca_certs=",
    ),
    "IncompleteRead": _Meaning(TruncatedBodyError, "{uri} ended early: the server stopped sending"),
    "ReadTimeoutError": _STALLED,
    "ConnectTimeoutError": _UNREACHABLE,
    "ProtocolError": _BROKEN,
    "DecodeError": _Meaning(CloudPathNotImplementedError, "{uri} is not encoded as {host} says it is"),
    "LocationValueError": _Meaning(InvalidUriError, "no server can be asked for {uri}"),
    "HTTPError": _UNREACHABLE,
    "OSError": _UNREACHABLE,
}
"""By the name of the class or of its nearest parent that is listed, so that urllib3 need not be imported here."""
_MODULES: Final = frozenset(("urllib3", "builtins", "http", "ssl", "socket"))


def is_known(error: Exception) -> bool:
    """Whether *error* is urllib3's or the network's."""
    return any(
        kind.__name__ in BY_EXCEPTION and kind.__module__.partition(".")[0] in _MODULES for kind in type(error).__mro__
    )


def translate_exception(
    error: Exception, *, uri: str, host: str, tried: str = "", has_answer: bool = True
) -> CloudPathException | None:
    """What to raise for *error*, or None where it is not the network's. Before there *has_answer*, no body is cut."""
    for kind in type(error).__mro__:
        meaning = BY_EXCEPTION.get(kind.__name__)
        if meaning is not None and kind.__module__.partition(".")[0] in _MODULES:
            if meaning.raises is TruncatedBodyError and not has_answer:
                meaning = _UNREACHABLE
            return meaning.raises(meaning.says.format(uri=uri, host=host, tried=tried, reason=_reason_of(error)))
    return None


def _reason_of(error: BaseException) -> str:
    deepest = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    return str(getattr(deepest, "verify_message", "") or deepest)


def translate_status(
    status: int, *, method: str, uri: str, host: str, tried: str = "", allow: str | None = None, has_login: bool = False
) -> CloudPathException:
    """What to raise for a status that is no success."""
    meaning = BY_STATUS.get(status)
    if meaning is None:
        meaning = _ASTRAY if status < 400 else _REFUSED if status < 500 else _BUSY
    if meaning is _NO_LOGIN and has_login:
        meaning = _BAD_LOGIN
    allowed = f" (it allows {allow})" if allow else ""
    return meaning.raises(
        meaning.says.format(uri=uri, host=host, method=method, status=status, tried=tried, allowed=allowed)
    )
