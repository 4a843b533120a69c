"""Requests to HTTP servers, by urllib3: logged in, redirected, tried again for a while, and no more than that."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urljoin, urlsplit

from pathapi.backends.fork_safety import Made
from pathapi.backends.http.auth import MAY_TRAVEL, PLAIN_HEADERS, Login, login_of, merged, require_lines
from pathapi.backends.http.errors import RETRIED, is_known
from pathapi.backends.http.responses import parse_time
from pathapi.exceptions import (
    CloudPathException,
    MissingDependenciesError,
    TruncatedBodyError,
)
from pathapi.redaction import is_spawning, scrub

MAX_CONNECTIONS: Final = 64
"""Idle connections to one host that are kept: 32 threads, each with an object and a part of another."""
MAX_REDIRECTS: Final = 10

_FOLLOWED: Final = {
    "GET": frozenset((301, 302, 303, 307, 308)),
    "HEAD": frozenset((301, 302, 303, 307, 308)),
}
_FOLLOWED_BY_WRITES: Final = frozenset((307, 308))
"""The others may turn a write into a read of another page."""
_DRAINED: Final = 1 << 16
"""Bytes of an unwanted body that are read so that its connection can serve again."""


class _Made(Made):
    def __init__(self) -> None:
        super().__init__()
        self.pools: dict[str | None, Any] = {}

    def let_go(self) -> list[object]:
        made: list[object] = [self.pools]
        self.pools = {}
        return made


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body waits to be read. *url* is where redirects led; *tries* and *seconds* are what it took."""

    response: Any
    url: str
    tries: int = 1
    seconds: float = 0.0

    @property
    def status(self) -> int:
        return int(self.response.status)

    @property
    def headers(self) -> Mapping[str, str]:
        headers: Mapping[str, str] = self.response.headers
        return headers

    @property
    def tried(self) -> str:
        """How long it was tried, for an error."""
        return _tried(self.tries, self.seconds)

    def drop(self) -> None:
        """Have done with it: the connection goes back, or ends where much is left to read."""
        drop(self.response)


class SendError(Exception):
    """No answer came: *cause* is urllib3's error, *tried* says how long it was tried."""

    def __init__(self, cause: Exception, tried: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.tried = tried


@dataclass(frozen=True, kw_only=True, eq=False)
class HttpConnection:
    """How to speak to HTTP servers; thread-safe, usable in a forked child.

    A pickle carries neither *auth* nor headers that may log in, unless it is for a child that multiprocessing is
    starting. *ca_certs* is a file of certificates to trust in place of the system's. *write_method* is what servers
    take for a write. *list_page_parser* gives the links of an index page's text; *dir_matcher* tells the URL of a
    "directory". Timeouts, *patience* (with one request, tries and waits included) and *backoff* in seconds.
    """

    auth: Any = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_certs: str | None = None
    write_method: str = "PUT"
    list_page_parser: Callable[[str], Any] | None = None
    dir_matcher: Callable[[str], bool] | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    tries: int = 5
    patience: float = 60.0
    backoff: float = 0.25
    _login: Login | None = field(default=None, init=False, repr=False)
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __post_init__(self) -> None:
        require_lines(self.headers)
        object.__setattr__(self, "_login", login_of(self.auth))

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_made", "_login")}
        if not is_spawning():
            state |= {"auth": None, "headers": self.plain_headers}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made=_Made(), _login=login_of(state["auth"]))

    @property
    def plain_headers(self) -> dict[str, str]:
        """*headers* without those that may log in."""
        return {name: value for name, value in self.headers.items() if name.lower() in PLAIN_HEADERS}

    @property
    def has_login(self) -> bool:
        """Whether requests carry what may be a login."""
        return self.auth is not None or len(self.plain_headers) < len(self.headers)

    def is_directory(self, url: str) -> bool:
        """Whether *url* is an index page: by `dir_matcher`, else by the slash that it ends with."""
        if self.dir_matcher is not None:
            return bool(self.dir_matcher(url))
        return url.partition("#")[0].partition("?")[0].endswith("/")

    def scrub(self, error: BaseException) -> None:
        """Take this connection's secrets out of an error of urllib3's, which is about to be the cause of ours."""
        known = [value for name, value in self.headers.items() if name.lower() not in PLAIN_HEADERS]
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
    ) -> Answer:
        """One request, redirects and tries again included. Raises SendError where no answer comes.

        *login* is the URL's own. *source* holds the *size* bytes of a write. Statuses *retried*, and broken
        connections, are tried again for as long as `patience` lasts; what cannot be repeated (POST) only where the
        server has said that it did nothing.
        """
        began = time.monotonic()
        is_repeatable = method != "POST"
        for attempt in range(1, self.tries + 1):
            answer: Answer | None = None
            failure: Exception | None = None
            try:
                answer = self._follow(method, url, headers, login or self._login, source, size)
            except Exception as error:
                if isinstance(error, CloudPathException) or not is_known(error):
                    raise
                failure = error
            seconds = time.monotonic() - began
            wait = self.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
            if answer is not None:
                final = Answer(answer.response, answer.url, attempt, seconds)
                again = answer.status in retried and (is_repeatable or answer.status in (429, 503))
                wait = max(wait, _retry_after(answer.headers))
                if not again or attempt == self.tries or seconds + wait > self.patience:
                    return final
                final.drop()
            else:
                assert failure is not None
                again = is_repeatable and not _is_untrusted(failure)
                if not again or attempt == self.tries or seconds + wait > self.patience:
                    self.scrub(failure)
                    raise SendError(failure, _tried(attempt, seconds)) from failure
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        login: Login | None,
        source: BinaryIO | None,
        size: int,
    ) -> Answer:
        followed = _FOLLOWED.get(method, _FOLLOWED_BY_WRITES)
        home = _origin_of(url)
        redirects = 0
        while True:
            is_home = _origin_of(url) == home
            response = self._send_once(method, url, headers, login if is_home else None, source, size, is_home=is_home)
            place = response.headers.get("Location")
            target = urljoin(url, place) if place else ""
            if response.status not in followed or _origin_of(target) is None or redirects == MAX_REDIRECTS:
                return Answer(response, url)
            redirects += 1
            url = target
            drop(response)

    def _send_once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        login: Login | None,
        source: BinaryIO | None,
        size: int,
        *,
        is_home: bool,
    ) -> Any:
        # What logs in here is nothing to another host that a redirect leads to.
        if not is_home:
            headers = {name: value for name, value in headers.items() if name.lower() in MAY_TRAVEL}
        named = merged({"Accept-Encoding": "identity"}, self.headers if is_home else self.plain_headers)
        named = merged(named, headers)
        if login is not None:
            named = merged(named, login.before(method, url, named))
        response = self._open(method, url, named, source, size)
        if response.status == 401 and login is not None:
            more = login.after(method, url, named, response.headers)
            if more is not None:
                drop(response)
                response = self._open(method, url, merged(named, more), source, size)
        return response

    def _open(self, method: str, url: str, headers: dict[str, str], source: BinaryIO | None, size: int) -> Any:
        body = None
        if source is not None:
            source.seek(0)
            body = _Exact(source, size)
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
        """The connections to use for *url*: direct ones, or by the proxy that the environment names."""
        try:
            import urllib3
        except ImportError as error:
            raise MissingDependenciesError("http:// and https:// need urllib3: pip install 'casstore[http]'") from error
        from urllib.request import getproxies, proxy_bypass

        scheme, host = _origin_of(url) or ("", "")
        proxy = getproxies().get(scheme)
        if proxy is not None and proxy_bypass(host):
            proxy = None
        pool = self._made.pools.get(proxy)
        if pool is not None:
            return pool
        settings: dict[str, Any] = {
            "maxsize": MAX_CONNECTIONS,
            "blocksize": 1 << 17,
            "timeout": urllib3.Timeout(connect=self.connect_timeout, read=self.read_timeout),
        }
        if self.ca_certs is not None:
            settings["ca_certs"] = self.ca_certs
        with self._made.lock:
            pool = self._made.pools.get(proxy)
            if pool is None:
                if proxy is None:
                    pool = urllib3.PoolManager(**settings)
                else:
                    user = urlsplit(proxy).netloc.rpartition("@")[0]
                    proxied = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
                    pool = urllib3.ProxyManager(proxy, proxy_headers=proxied, **settings)
                self._made.pools[proxy] = pool
            return pool

    def close(self) -> None:
        """Close idle connections; later requests open new ones."""
        with self._made.lock:
            pools, self._made.pools = self._made.pools, {}
        for pool in pools.values():
            pool.clear()


class _SourceEndedError(Exception):
    """Not an OSError: urllib3 would take it for the network's."""


class _Exact:
    """The *size* bytes of a body: no more are sent, and fewer are an error and no endless wait of the server's."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self._left = size

    def read(self, amount: int = -1) -> bytes:
        wanted = self._left if amount < 0 else min(amount, self._left)
        data = self._source.read(wanted) if wanted else b""
        if wanted and not data:
            raise _SourceEndedError(f"the source of an upload ended {self._left} bytes early")
        self._left -= len(data)
        return data


def drop(response: Any) -> None:
    """Have done with a response; see `Answer.drop`."""
    try:
        left = response.length_remaining
        if left is not None and left <= _DRAINED:
            response.drain_conn()
        else:
            response.close()
        response.release_conn()
    except Exception:  # noqa: BLE001 (nobody wants it any more)
        response.close()


def _tried(tries: int, seconds: float) -> str:
    return f" after {tries} tries in {seconds:.1f} s" if tries > 1 else ""


def _origin_of(url: str) -> tuple[str, str] | None:
    """Scheme and host of a URL that can be fetched: what a login is for."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.scheme, f"{parts.hostname.lower()}:{port}"


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait; a date counts by the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    until, now = parse_time(text), parse_time(headers.get("Date"))
    return 0.0 if until is None or now is None else max(0.0, (until - now) / 1e9)


def _is_untrusted(error: BaseException) -> bool:
    return any(type(one).__name__ in ("SSLCertVerificationError", "CertificateError") for one in (error, *error.args))
