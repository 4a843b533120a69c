"""The URLs of servers, as users and environments give them: checked, without logins, and as part of an origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pathapi.common.redaction import without_user
from pathapi.exceptions import InvalidConfigurationException

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's URL in pieces, without user and password."""

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def address(self) -> str:
        """``host:port``, with the scheme's port by default, and the path if there is one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port or _PORTS[self.scheme]}{self.path}"


def parse_endpoint(url: str, name: str = "endpoint_url", example: str = "http://host:port") -> Endpoint:
    """Split *url*. *name* and *example* are for the error.

    Raises:
        InvalidConfigurationException: *url* is malformed, names no host, or has a query, as signed URLs have. The
            message does not quote it and has no cause: what is malformed may be a password.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port, path = parts.scheme, parts.hostname, parts.port, parts.path.rstrip("/")
        query = parts.query or parts.fragment
    except ValueError:
        scheme, host, port, path, query = "", None, None, "", ""
    if not host or scheme not in _PORTS or query:
        problem = "it has a query" if query else "it is malformed or names no host"
        raise InvalidConfigurationException(f"{name}: {problem}: write {example}")
    return Endpoint(scheme, host, port, path)


def checked_endpoint(url: str) -> str:
    """Return *url* without user and password. Raises what `parse_endpoint` does."""
    parse_endpoint(url)
    return without_user(url)
