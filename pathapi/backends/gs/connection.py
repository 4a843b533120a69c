"""How to log in to Google Cloud Storage, and the one SDK client that comes of it.

google-cloud-storage is imported by the first request, not before: a warm read needs the origin only.
"""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from pathapi.backends.fork_safety import Made
from pathapi.exceptions import InvalidConfigurationException, MissingDependenciesError
from pathapi.redaction import is_spawning, redacted, scrub, without_user

MAX_CONNECTIONS: Final = 64
"""Idle connections that are kept: 32 threads, each with an object and a part of another."""
TIMEOUT: Final = (10.0, 60.0)
"""Seconds to connect, and between two bytes."""
_TOKENS: Final = ("token", "_token", "_refresh_token", "_client_secret", "_id_token")


class _Made(Made):
    def __init__(self) -> None:
        super().__init__()
        self.client: Any = None
        self.origin: str | None = None

    def let_go(self) -> list[object]:
        made, self.client = [self.client], None
        return made


@dataclass(frozen=True, kw_only=True, eq=False)
class GSConnection:
    """Settings of google-cloud-storage; thread-safe, usable in a forked child, picklable.

    A pickle carries no secret, unless it is for a child that multiprocessing is starting: what it gives back looks for
    credentials as a new one would. A user and a password in *endpoint_url* are dropped; Google logs in by tokens alone.

    *application_credentials* is a file's path; *credentials* an object of google-auth's; *storage_client* brings both
    and the endpoint. Without any, Google's own endpoints get the credentials that google-auth finds, and are asked
    without where it finds none; any other endpoint is asked without: a token for Google's services would be its
    operator's to use. *no_sign_request* looks for none and sends none. *timeout* is in seconds, or a pair: to connect,
    and between two bytes. *retry* is a `google.api_core.retry.Retry` in place of ours. *storage_class* is that of every
    object that is made, else the bucket's.
    """

    application_credentials: str | os.PathLike[str] | None = None
    credentials: Any = field(default=None, repr=False)
    project: str | None = None
    storage_client: Any = field(default=None, repr=False)
    endpoint_url: str | None = field(default=None, repr=False)
    timeout: float | tuple[float, float] | None = None
    retry: Any = field(default=None, repr=False)
    storage_class: str | None = None
    no_sign_request: bool = False
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __post_init__(self) -> None:
        endpoint = self.endpoint_url
        if endpoint is None and self.storage_client is not None:
            endpoint = str(self.storage_client._connection.API_BASE_URL)  # noqa: SLF001 (old SDKs have no face for it)
        if endpoint is None:
            endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or os.environ.get("API_ENDPOINT_OVERRIDE")
            if endpoint and "://" not in endpoint:
                endpoint = f"http://{endpoint}"
        if endpoint:
            object.__setattr__(self, "endpoint_url", checked_endpoint(endpoint))

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_made"}
        state["credentials"] = self.spawnable_credentials if is_spawning() else None
        state["storage_client"] = None
        state["retry"] = self.plain_retry
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made=_Made())

    @property
    def given_credentials(self) -> Any:
        """What the user gave to log in with, as an object; None where it is to be looked for."""
        if self.credentials is not None or self.storage_client is None:
            return self.credentials
        return self.storage_client._credentials  # noqa: SLF001 (the SDK has no face for it)

    @property
    def spawnable_credentials(self) -> Any:
        """The same, if they can be pickled: some hold a session, and are found again where they are the machine's."""
        return _if_picklable(self.given_credentials)

    @property
    def plain_retry(self) -> Any:
        """*retry*, if it can be pickled: its predicate is often a closure."""
        return _if_picklable(self.retry)

    @property
    def origin(self) -> str:
        """``gs`` for Google's own, ``gs@host:port`` elsewhere; see `pathapi.backend.Backend.origin`."""
        if self._made.origin is None:
            self._made.origin = origin_of(self.endpoint_url) if self.endpoint_url else "gs"
        return self._made.origin

    @property
    def client(self) -> Any:
        """The SDK's client, made once per process. Raises MissingDependenciesError, InvalidConfigurationException."""
        client = self._made.client
        return client if client is not None else self._make()

    @property
    def session(self) -> Any:
        """The SDK's session, which adds what logs in to each request."""
        return self.client._http  # noqa: SLF001 (the SDK has no face for it)

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at the end."""
        connection = self.client._connection  # noqa: SLF001 (the SDK has no face for it)
        return str(connection.get_api_base_url_for_mtls(self.endpoint_url)).rstrip("/")

    @property
    def user_agent(self) -> str:
        """The SDK's name for itself, which Google asks for."""
        return str(self.client._connection.user_agent).strip()  # noqa: SLF001 (as above)

    @property
    def client_credentials(self) -> Any:
        """The credentials of the SDK's client."""
        return self.client._credentials  # noqa: SLF001 (the SDK has no public name for it)

    @property
    def is_signed(self) -> bool:
        """Whether requests carry credentials."""
        return is_login(self.client_credentials)

    def scrub(self, error: BaseException) -> None:
        """Take this connection's secrets out of an error of the SDK's, which is about to be the cause of ours."""
        pending: list[BaseException] = [error]
        seen = set[int]()
        while pending:
            one = pending.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            pending += [more for more in (one.__cause__, one.__context__, *one.args) if isinstance(more, BaseException)]
            # The whole request and the whole answer hang on some; whoever pickles or inspects them finds the token.
            for name in ("request", "response"):
                if getattr(one, name, None) is not None and type(one).__module__.startswith("requests"):
                    setattr(one, name, None)
            if any(isinstance(arg, dict | list | tuple | bytes) for arg in one.args):
                one.args = tuple(str(arg) if isinstance(arg, dict | list | tuple | bytes) else arg for arg in one.args)
        scrub(error, self.known_secrets())

    def known_secrets(self) -> set[str]:
        """Tokens and keys that texts of others are searched for."""
        credentials = [self.given_credentials, getattr(self._made.client, "_credentials", None)]
        found = [getattr(one, name, None) for one in credentials if one is not None for name in _TOKENS]
        return {text for text in found if isinstance(text, str)}

    def _make(self) -> Any:
        with self._made.lock:
            if self._made.client is None:
                try:
                    import google.auth.exceptions
                    from google.cloud import storage
                except ImportError as error:
                    raise MissingDependenciesError(
                        "gs:// needs google-cloud-storage: pip install 'casstore[gs]'"
                    ) from error
                try:
                    self._made.client = self._make_client(storage)
                except (google.auth.exceptions.GoogleAuthError, ValueError, OSError) as error:
                    if isinstance(error, InvalidConfigurationException):
                        raise
                    self.scrub(error)
                    message = f"no client of Google Cloud Storage can be made of these settings: {redacted(str(error))}"
                    raise InvalidConfigurationException(message) from error
            return self._made.client

    def _make_client(self, storage: Any) -> Any:
        if self.storage_client is not None and not self._made.inherited:
            return self.storage_client
        credentials, project = self._find_credentials(storage.Client.SCOPE)
        options = {"api_endpoint": self.endpoint_url} if self.endpoint_url else None
        client = storage.Client(
            project=self.project or project,
            credentials=credentials,
            client_options=options,
            _http=None if is_login(credentials) else _anonymous_session(credentials),
        )
        _widen(client._http)  # noqa: SLF001 (the SDK has no face for it)
        return client

    def _find_credentials(self, scopes: Any) -> tuple[Any, str | None]:
        import google.auth
        import google.auth.exceptions
        from google.auth.credentials import AnonymousCredentials

        if self.no_sign_request:
            return AnonymousCredentials(), None
        if (given := self.given_credentials) is not None:
            return given, getattr(self.storage_client, "project", None)
        if self.application_credentials is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # whoever names the file trusts it
                name = os.fspath(self.application_credentials)
                from_file: tuple[Any, str | None] = google.auth.load_credentials_from_file(name, scopes=scopes)
            return from_file
        if self.origin == "gs":
            try:
                found: tuple[Any, str | None] = google.auth.default(scopes=scopes)
            except google.auth.exceptions.DefaultCredentialsError:
                if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
                    raise
            else:
                return found
        return AnonymousCredentials(), None


def _if_picklable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return value


def is_login(credentials: Any) -> bool:
    """Whether *credentials* say who asks."""
    return type(credentials).__name__ != "AnonymousCredentials"


def _anonymous_session(credentials: Any) -> Any:
    """A session that takes a 401 as it is: the SDK's tries to renew the credentials, and loses the answer."""
    from google.auth.transport.requests import AuthorizedSession

    return AuthorizedSession(credentials, refresh_status_codes=())


def _widen(session: Any) -> None:
    from requests.adapters import HTTPAdapter

    def adapter() -> Any:
        return HTTPAdapter(pool_connections=4, pool_maxsize=MAX_CONNECTIONS)

    session.mount("http://", adapter())
    if not session.is_mtls:
        session.mount("https://", adapter())


def checked_endpoint(endpoint: str) -> str:
    """An endpoint's URL without user and password, and without a slash at its end.

    Raises InvalidConfigurationException where it names no host or has a query; what it was is not told.
    """
    origin_of(endpoint)
    return without_user(endpoint).rstrip("/")


def _split_endpoint(endpoint: str) -> tuple[str, str | None, int | None, str, str] | None:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme, parts.hostname, parts.port, parts.path, parts.query or parts.fragment
    except ValueError:
        return None


def origin_of(endpoint: str) -> str:
    """The origin of an endpoint's URL: host and port, and the path where there is one; no user, no password.

    Raises InvalidConfigurationException where the URL names no host, or has a query, as signed URLs have.
    """
    # The errors quote nothing and have no cause: what is malformed may be a password.
    split = _split_endpoint(endpoint)
    if split is None:
        raise InvalidConfigurationException("the endpoint URL is malformed; write http://host:port")
    scheme, host, port, path, query = split
    if not host or scheme not in ("http", "https"):
        raise InvalidConfigurationException("the endpoint URL names no host; write http://host:port")
    if query:
        raise InvalidConfigurationException("the endpoint URL has a query; write http://host:port")
    if scheme == "https" and host.endswith(".googleapis.com"):
        return "gs"
    if ":" in host:
        host = f"[{host}]"
    return f"gs@{host}:{port or (443 if scheme == 'https' else 80)}{path.rstrip('/')}"
