"""How to log in to Google Cloud Storage, and the SDK's client of these settings.

The first request imports google-cloud-storage: a warm read needs only the origin.
"""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import dataclass, field
from typing import Any, Final

from pathapi.backends.connection_pools import mount_without_locks
from pathapi.backends.endpoints import checked_endpoint, parse_endpoint
from pathapi.backends.fork_safety import ForkSafe
from pathapi.backends.settings import LIVE, SECRET, ConnectionSettings, importing
from pathapi.common.redaction import causes_of, scrub

TIMEOUT: Final = (10.0, 60.0)
"""Seconds to connect, and between two bytes."""
_TOKENS: Final = ("token", "_token", "_refresh_token", "_client_secret", "_id_token")


def _if_picklable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return value


@dataclass(frozen=True, kw_only=True, eq=False)
class GSConnection(ConnectionSettings):
    """Settings of google-cloud-storage; thread-safe, usable in a forked child.

    *application_credentials* is a file's path, *credentials* an object of google-auth; *storage_client* has both and
    the endpoint. Without any of them, Google's own endpoints get the credentials that google-auth finds, if any. Other
    endpoints get none: their operator could use a token for Google's services. *no_sign_request* sends none. *timeout*
    is in seconds, or a pair: to connect, and between two bytes. *retry* is a `google.api_core.retry.Retry` to replace
    ours. *storage_class* applies to every new object; the default is the bucket's. User and password in *endpoint_url*
    are dropped.
    """

    application_credentials: str | os.PathLike[str] | None = None
    credentials: Any = field(default=None, repr=False, metadata=SECRET)
    project: str | None = None
    storage_client: Any = field(default=None, repr=False, metadata=LIVE)
    endpoint_url: str | None = field(default=None, repr=False)
    timeout: float | tuple[float, float] | None = None
    retry: Any = field(default=None, repr=False, metadata={"plain": _if_picklable})
    storage_class: str | None = None
    no_sign_request: bool = False
    _process: ForkSafe = field(default_factory=ForkSafe, init=False, repr=False)

    def __post_init__(self) -> None:
        endpoint = self.endpoint_url
        if endpoint is None and self.storage_client is not None:
            endpoint = str(self.storage_client._connection.API_BASE_URL)  # noqa: SLF001 (old SDKs have no public name)
        if endpoint is None:
            endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or os.environ.get("API_ENDPOINT_OVERRIDE")
            if endpoint and "://" not in endpoint:
                endpoint = f"http://{endpoint}"
        if endpoint:
            object.__setattr__(self, "endpoint_url", checked_endpoint(endpoint).rstrip("/"))

    def secret_settings(self) -> dict[str, Any]:
        # Credentials with a session cannot be pickled; those of the machine are found again.
        return {"credentials": _if_picklable(self.given_credentials)}

    @property
    def given_credentials(self) -> Any:
        """The credentials that the user gave as an object; None if there are none."""
        if self.credentials is not None or self.storage_client is None:
            return self.credentials
        return self.storage_client._credentials  # noqa: SLF001 (the SDK has no public name for it)

    @property
    def origin(self) -> str:
        """``gs`` for Google's own, ``gs@host:port`` elsewhere; see `pathapi.backend.Backend.origin`."""
        return str(self._process.once("origin", lambda: origin_of(self.endpoint_url) if self.endpoint_url else "gs"))

    def shell_options(self) -> list[str]:
        options = ["--credentials", os.fspath(self.application_credentials)] if self.application_credentials else []
        options += ["--endpoint-url", self.endpoint_url] if self.endpoint_url and self.origin != "gs" else []
        return options + ["--no-sign-request"] * self.no_sign_request

    @property
    def client(self) -> Any:
        """The SDK's client, one per process. Raises MissingDependenciesError, InvalidConfigurationException."""
        return self._process.once("client", self._make_client)

    @property
    def session(self) -> Any:
        """The SDK's session, which adds the login to each request."""
        return self.client._http  # noqa: SLF001 (the SDK has no public name for it)

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at the end."""
        connection = self.client._connection  # noqa: SLF001 (the SDK has no public name for it)
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
        for one in causes_of(error):
            # Some keep the whole request and response, where the token can be read.
            for name in ("request", "response"):
                if getattr(one, name, None) is not None and type(one).__module__.startswith("requests"):
                    setattr(one, name, None)
            if any(isinstance(arg, dict | list | tuple | bytes) for arg in one.args):
                one.args = tuple(str(arg) if isinstance(arg, dict | list | tuple | bytes) else arg for arg in one.args)
        scrub(error, self.known_secrets())

    def known_secrets(self) -> set[str]:
        """Return the tokens and keys to remove from texts of the SDK and the server."""
        credentials = [self.given_credentials, getattr(self._process.made.get("client"), "_credentials", None)]
        found = [getattr(one, name, None) for one in credentials if one is not None for name in _TOKENS]
        return {text for text in found if isinstance(text, str)}

    def _make_client(self) -> Any:
        with importing("gs:// needs google-cloud-storage: pip install 'casstore[gs]'"):
            import google.auth.exceptions
            from google.auth.transport.requests import AuthorizedSession
            from google.cloud import storage

        if self.storage_client is not None and not self._process.inherited:
            return self.storage_client
        refusals = (google.auth.exceptions.GoogleAuthError, ValueError, OSError)
        with self.checking("Google Cloud Storage client: the SDK", *refusals):
            credentials, project = self._find_credentials(storage.Client.SCOPE)
            # Anonymous: a session that returns a 401. The SDK's tries to renew the credentials, and loses the response.
            session = None if is_login(credentials) else AuthorizedSession(credentials, refresh_status_codes=())
            client = storage.Client(
                project=self.project or project,
                credentials=credentials,
                client_options={"api_endpoint": self.endpoint_url} if self.endpoint_url else None,
                _http=session,
            )
            session = client._http  # noqa: SLF001 (the SDK has no public name for it)
            schemes = ("http://",) if session.is_mtls else ("http://", "https://")
            mount_without_locks(session, *schemes)
            if (renewing := session._auth_request_session) is not None:  # noqa: SLF001 (as above)
                mount_without_locks(renewing, "https://", max_retries=3)
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
                warnings.simplefilter("ignore", DeprecationWarning)  # the user trusts this file
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


def is_login(credentials: Any) -> bool:
    """Return whether *credentials* identify a user."""
    return type(credentials).__name__ != "AnonymousCredentials"


def origin_of(endpoint: str) -> str:
    """Return the origin of an endpoint's URL. Raises InvalidConfigurationException, see `parse_endpoint`."""
    parsed = parse_endpoint(endpoint)
    if parsed.scheme == "https" and parsed.host.endswith(".googleapis.com"):
        return "gs"
    return f"gs@{parsed.address}"
