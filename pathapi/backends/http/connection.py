"""Requests to HTTP servers, by urllib3: logged in, redirected, and retried within a time limit.

urllib3's own `Retry` is not used. It does not bound the total time, has one list of statuses for all methods, and
reads a ``Retry-After`` date by this machine's clock. Its redirects follow the same statuses for every method, send all
but the listed headers to another host, and cannot log in again at each hop, as digest authentication needs.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urljoin, urlsplit

from pathapi.backends.connection_pools import MAX_CONNECTIONS, without_locks
from pathapi.backends.error_table import may_be_carried_out
from pathapi.backends.fork_safety import ForkSafe
from pathapi.backends.http.auth import (
    FORWARDED_HEADERS,
    PUBLIC_HEADERS,
    Login,
    login_of,
    merged,
    require_lines,
    tls_settings,
)
from pathapi.backends.http.errors import RETRIED, TABLE
from pathapi.backends.http.responses import parse_time
from pathapi.backends.settings import SECRET, ConnectionSettings, importing
from pathapi.common.redaction import scrub
from pathapi.exceptions import CloudPathException, TruncatedBodyError

MAX_REDIRECTS: Final = 10

_FOLLOWED: Final = {"GET": frozenset((301, 302, 303, 307, 308)), "HEAD": frozenset((301, 302, 303, 307, 308))}
_FOLLOWED_BY_WRITES: Final = frozenset((307, 308))
"""The others may turn a write into a read of another page."""
_READS: Final = frozenset(_FOLLOWED)
_AS_STORED: Final = {"Accept-Encoding": "identity"}
_BLOCK: Final = 1 << 17
_DRAINED: Final = 1 << 16
"""Bytes of an unneeded body that are read so that its connection can be reused."""


@dataclass(frozen=True, slots=True)
class Response:
    """urllib3's response with its body unread. *url* is where redirects ended; *tries* and *seconds* are the cost.

    *outcome_unknown* is that of `CloudPathException`, if it is a failure.
    """

    response: Any
    url: str
    tries: int = 1
    seconds: float = 0.0
    outcome_unknown: bool = False

    @property
    def status(self) -> int:
        return int(self.response.status)

    @property
    def headers(self) -> Mapping[str, str]:
        headers: Mapping[str, str] = self.response.headers
        return headers

    @property
    def tried(self) -> str:
        """The number of tries and their time, for an error."""
        return _tried(self.tries, self.seconds)

    def drop(self) -> None:
        """Finish without the body: return the connection to the pool, or close it if much is left to read."""
        response = self.response
        try:
            left = response.length_remaining
            if left is not None and left <= _DRAINED:
                response.drain_conn()
            else:
                response.close()
            response.release_conn()
        except Exception:  # noqa: BLE001 (the response is not needed)
            response.close()


def _public(headers: Mapping[str, str]) -> dict[str, str]:
    """Return *headers* without those that may log in."""
    return {name: value for name, value in headers.items() if name.lower() in PUBLIC_HEADERS}


@dataclass(frozen=True, kw_only=True, eq=False)
class HttpConnection(ConnectionSettings):
    """Settings of requests to HTTP servers; thread-safe, usable in a forked child.

    The fields have the meaning of `HttpClient`'s arguments. *timeout* limits the wait for each piece of data,
    *connect_timeout* that for a connection, *retry_timeout* one request with its retries and pauses. The first pause is
    *backoff*. All are in seconds.
    """

    auth: Any = field(default=None, repr=False, metadata=SECRET)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, metadata={"plain": _public})
    ca_certs: str | None = None
    write_file_http_method: str = "PUT"
    custom_list_page_parser: Callable[[str], Any] | None = None
    custom_dir_matcher: Callable[[str], bool] | None = None
    connect_timeout: float = 10.0
    timeout: float = 60.0
    tries: int = 5
    retry_timeout: float = 60.0
    backoff: float = 0.25
    _process: ForkSafe = field(default_factory=ForkSafe, init=False, repr=False)
    _login: Login | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        require_lines(self.headers)
        object.__setattr__(self, "_login", login_of(self.auth))

    @property
    def has_login(self) -> bool:
        """Whether requests may contain a login."""
        return self.auth is not None or len(_public(self.headers)) < len(self.headers)

    def is_directory(self, url: str) -> bool:
        """Return whether *url* is an index page: by `custom_dir_matcher`, else by a final slash."""
        if self.custom_dir_matcher is not None:
            return bool(self.custom_dir_matcher(url))
        return url.partition("#")[0].partition("?")[0].endswith("/")

    def scrub(self, error: BaseException) -> None:
        known = [value for name, value in self.headers.items() if name.lower() not in PUBLIC_HEADERS]
        if isinstance(self.auth, tuple):
            known += self.auth
        scrub(error, {str(value).strip() for value in known})

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        login: Login | None = None,
        source: BinaryIO | None = None,
        size: int = 0,
        retried: frozenset[int] = RETRIED,
        explain: Callable[[Exception, str], Exception],
    ) -> Response:
        """Send one request, with redirects and retries. Raises ``explain(error, tried)`` if there is no response.

        *login* is that of the URL. *source* gives the *size* bytes of a write. Statuses in *retried*, and broken
        connections, are retried within `retry_timeout`. A POST is retried only if the server did nothing (429, 503).
        """
        began = time.monotonic()
        is_repeatable = method != "POST"
        attempt, is_unknown = 0, False
        while True:
            attempt += 1
            answer: Response | None = None
            failure: Exception | None = None
            wait = self.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
            try:
                answer = self._follow(method, url, headers, login or self._login, source, size)
            except Exception as error:
                if isinstance(error, CloudPathException) or TABLE.of_exception(error) is None:
                    raise
                failure = error
                is_unknown = is_unknown or TABLE.may_be_sent(error)
                again = is_repeatable and not _is_untrusted(error)
            else:
                is_unknown = is_unknown or may_be_carried_out(answer.status)
                again = answer.status in retried and (is_repeatable or answer.status in (429, 503))
                wait = max(wait, _retry_after(answer.headers))
            seconds = time.monotonic() - began
            if not again or attempt == self.tries or seconds + wait > self.retry_timeout:
                is_unknown = is_unknown and method not in _READS
                if answer is not None:
                    return replace(answer, tries=attempt, seconds=seconds, outcome_unknown=is_unknown)
                assert failure is not None
                self.scrub(failure)
                explained = explain(failure, _tried(attempt, seconds))
                if isinstance(explained, CloudPathException):
                    explained.outcome_unknown = is_unknown
                raise explained from failure
            if answer is not None:
                answer.drop()
            time.sleep(wait)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], login: Login | None, source: BinaryIO | None, size: int
    ) -> Response:
        followed = _FOLLOWED.get(method, _FOLLOWED_BY_WRITES)
        home = _server_of(url)
        left = MAX_REDIRECTS
        while True:
            if _server_of(url) == home:
                named, signer = merged(self.headers, headers), login
            else:  # Another host gets no login.
                forwarded = {name: value for name, value in headers.items() if name.lower() in FORWARDED_HEADERS}
                named, signer = merged(_public(self.headers), forwarded), None
            response = self._send_once(method, url, merged(_AS_STORED, named), signer, source, size)
            place = response.headers.get("Location")
            target = _joined(url, place)
            if response.status not in followed or _server_of(target) is None or not left:
                return Response(response, url)
            Response(response, url).drop()
            url, left = target, left - 1

    def _send_once(
        self, method: str, url: str, headers: dict[str, str], login: Login | None, source: BinaryIO | None, size: int
    ) -> Any:
        if login is None:
            return self._open(method, url, headers, source, size)
        headers = merged(headers, login.headers_for(method, url, headers))
        response = self._open(method, url, headers, source, size)
        if response.status == 401:
            more = login.headers_after_401(method, url, headers, response.headers)
            if more is not None:
                Response(response, url).drop()
                response = self._open(method, url, merged(headers, more), source, size)
        return response

    def _open(self, method: str, url: str, headers: dict[str, str], source: BinaryIO | None, size: int) -> Any:
        body = None
        if source is not None:
            source.seek(0)
            body = _exactly(source, size)
            headers = {**headers, "Content-Length": str(size)}
        try:
            return self._pool(url).urlopen(
                method,
                url.partition("#")[0],
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except _SourceEndedError as error:
            raise TruncatedBodyError(str(error)) from error

    def _pool(self, url: str) -> Any:
        """Return the pool for *url*: of direct connections, or of the proxy that the environment names."""
        from urllib.request import getproxies, proxy_bypass

        import urllib3

        scheme, host = _server_of(url) or ("", "")
        proxies = getattr(self.auth, "proxies", None)  # those of a `ProxyHandler`
        proxy = (getproxies() if proxies is None else proxies).get(scheme)
        if proxy is not None and proxy_bypass(host):
            proxy = None

        def make() -> Any:
            settings: dict[str, Any] = {
                "maxsize": MAX_CONNECTIONS,
                "blocksize": _BLOCK,
                "timeout": urllib3.Timeout(connect=self.connect_timeout, read=self.timeout),
                **tls_settings(self.auth),
            }
            if self.ca_certs is not None:
                settings["ca_certs"] = self.ca_certs
            if proxy is None:
                return without_locks(urllib3.PoolManager(**settings))
            user = urlsplit(proxy).netloc.rpartition("@")[0]
            proxied = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
            return without_locks(urllib3.ProxyManager(proxy, proxy_headers=proxied, **settings))

        return self._process.once(proxy, make)

    def close(self) -> None:
        """Close idle connections; later requests open new ones."""
        with self._process.lock:
            pools = self._process.detach()
        for pool in pools.values():
            pool.clear()


class _SourceEndedError(Exception):
    """Not an OSError: urllib3 would treat it as the network's."""


def _exactly(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield *size* bytes; fewer are an error, since the server would wait for the rest. Raises _SourceEndedError."""
    while size:
        data = source.read(min(size, _BLOCK))
        if not data:
            raise _SourceEndedError(f"the source of the upload ended {size} bytes early")
        yield data
        size -= len(data)


def _tried(tries: int, seconds: float) -> str:
    return f" after {tries} tries in {seconds:.1f} s" if tries > 1 else ""


def _server_of(url: str) -> tuple[str, str] | None:
    """Return scheme, host and port of a URL, the scope of a login; None if it cannot be fetched."""
    # By what connects: another parser finds another host in `http://there\\@here`.
    with importing("http:// and https:// need urllib3: pip install 'casstore[http]'"):
        from urllib3.util import parse_url
    try:
        parts = parse_url(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.host:
        return None
    return parts.scheme, f"{parts.host}:{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"


def _joined(url: str, place: str | None) -> str:
    """Return the target of a redirect to *place*; empty if there is none."""
    with contextlib.suppress(ValueError):
        return urljoin(url, place) if place else ""
    return ""


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait; a date is relative to the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    until, now = parse_time(text), parse_time(headers.get("Date"))
    return 0.0 if until is None or now is None else max(0.0, (until - now) / 1e9)


def _is_untrusted(error: BaseException) -> bool:
    return any(type(one).__name__ in ("SSLCertVerificationError", "CertificateError") for one in (error, *error.args))
