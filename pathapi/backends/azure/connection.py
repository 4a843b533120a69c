"""How to log in to Azure Blob Storage, and the one service client that comes of it.

The SDK is imported by the first request, not before: a warm read needs the origin only, and that is in the settings.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pathapi.backends.fork_safety import Made
from pathapi.exceptions import (
    InvalidConfigurationException,
    MissingCredentialsError,
    MissingDependenciesError,
)
from pathapi.redaction import is_spawning, redacted, scrub, without_user

MAX_CONNECTIONS: Final = 64
"""Idle connections that are kept: 32 threads, each with an object and a part of another."""
RETRIES: Final = 3
_BACKOFF: Final = 0.4
_LONGEST_BACKOFF: Final = 8.0
"""Seconds; the SDK's own begin at 15."""
_CONNECTION_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
_ACCOUNT_URL: Final = "AZURE_STORAGE_ACCOUNT_URL"
_NEEDS: Final = "az:// needs azure-storage-blob: pip install 'casstore[azure]'"
_HELP: Final = (
    "give the client a connection_string, or an account_url and a credential (an account_url alone reads public "
    f"containers), or set {_CONNECTION_STRING}, or {_ACCOUNT_URL} with azure-identity installed"
)
_EMULATOR: Final = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)
"""What ``UseDevelopmentStorage=true`` stands for; the key is a published one."""


class Login(Enum):
    """What may stand for a credential."""

    ENVIRONMENT = "environment"
    """Look for one where a client without arguments would: what a pickle carries in a secret's place."""


class _Made(Made):
    def __init__(self) -> None:
        super().__init__()
        self.service: Any = None
        self.data_lake: Any = None
        self.account: _Account | None = None
        self.origin: str | None = None

    def let_go(self) -> list[object]:
        made, self.service, self.data_lake = [self.service, self.data_lake], None, None
        return made


@dataclass(frozen=True, slots=True)
class _Account:
    """Which account, and how to log in to it. *url* has no query; *sas* is what it had."""

    url: str
    sas: str = field(default="", repr=False)
    credential: Any = field(default=None, repr=False)

    @property
    def is_signed(self) -> bool:
        return bool(self.sas) or self.credential is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class AzureConnection:
    """Settings of azure-storage-blob, with its own meaning; thread-safe, usable in a forked child, picklable.

    A pickle carries the account, and no secret unless it is for a child that multiprocessing is starting: what it gives
    back looks for credentials in the environment. Of several arguments the first wins: *blob_service_client*,
    *data_lake_client*, *connection_string*, *account_url* (alone, or with a SAS in it, or with *credential*: an account
    key, a SAS, a token credential). Without any, the environment. *standard_blob_tier* is that of every blob that is
    made, else the account's. Timeouts in seconds.
    """

    account_url: str | None = field(default=None, repr=False)
    credential: Any = field(default=None, repr=False)
    connection_string: str | None = field(default=None, repr=False)
    blob_service_client: Any = field(default=None, repr=False)
    data_lake_client: Any = field(default=None, repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    standard_blob_tier: str | None = None
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_made"}
        return state | dict.fromkeys(_SECRETS) | self.plain_settings() | (self.secrets() if is_spawning() else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made=_Made())

    def plain_settings(self) -> dict[str, Any]:
        """Which account this is, as arguments without a secret; empty where nothing is set."""
        if not any(getattr(self, name) for name in ("account_url", *_SECRETS)):
            return {}
        account = self.account
        return {"account_url": account.url} | ({"credential": Login.ENVIRONMENT} if account.is_signed else {})

    def secrets(self) -> dict[str, Any]:
        """The arguments that log in, for a child that is being started: keys and signatures, no objects."""
        found: dict[str, Any] = {"account_url": self.account_url, "connection_string": self.connection_string}
        if isinstance(self.credential, str | dict):
            found["credential"] = self.credential
        return {name: value for name, value in found.items() if value}

    @property
    def account(self) -> _Account:
        """Which account, and how to log in. Raises MissingCredentialsError, InvalidConfigurationException."""
        account = self._made.account
        if account is None:
            account = self._made.account = self._find_account()
        return account

    @property
    def origin(self) -> str:
        """``azure@`` and the account's host, for other endpoints host, port and account; see `Backend.origin`."""
        if self._made.origin is None:
            self._made.origin = origin_of(self.account.url)
        return self._made.origin

    @property
    def service_client(self) -> Any:
        """The SDK's `BlobServiceClient`, made once per process."""
        return self._made.service or self._make()

    def sdk_tier(self) -> Any:
        """*standard_blob_tier* as the SDK has it, or None. Raises InvalidConfigurationException where it knows none."""
        if self.standard_blob_tier is None:
            return None
        try:
            from azure.storage.blob import StandardBlobTier
        except ImportError as error:
            raise MissingDependenciesError(_NEEDS) from error
        for tier in StandardBlobTier:
            if tier.value.lower() == self.standard_blob_tier.lower():
                return tier
        known = ", ".join(repr(tier.value) for tier in StandardBlobTier)
        raise InvalidConfigurationException(f"standard_blob_tier is one of {known}, not {self.standard_blob_tier!r}")

    @property
    def data_lake(self) -> Any:
        """The SDK's `DataLakeServiceClient`: the one that was given, or one for the same account."""
        if self.data_lake_client is not None:
            return self.data_lake_client
        if self._made.data_lake is None:
            try:
                from azure.storage.filedatalake import DataLakeServiceClient
            except ImportError as error:
                raise MissingDependenciesError(
                    "data_lake_client needs another package: pip install azure-storage-file-datalake"
                ) from error
            account = self.account
            url = account.url.replace(".blob.", ".dfs.", 1) + (f"?{account.sas}" if account.sas else "")
            self._made.data_lake = DataLakeServiceClient(url, credential=self._login(account))
        return self._made.data_lake

    def close(self) -> None:
        """Close what connections there are; the next request makes new ones."""
        with self._made.lock:
            service, self._made.service = self._made.service, None
        if service is not None and service is not self.blob_service_client:
            service.close()

    def scrub(self, error: BaseException) -> None:
        """Take this connection's secrets out of an error of the SDK's, which is about to be the cause of ours."""
        account = self._made.account
        known = _texts_of(self.credential) | (_texts_of(account.credential) if account is not None else set())
        for text in (self.connection_string, os.environ.get(_CONNECTION_STRING)):
            settings = _parse_connection_string(text) if text else {}
            known |= _texts_of([settings.get("ACCOUNTKEY"), settings.get("SHAREDACCESSSIGNATURE")])
        known |= _texts_of([account.sas if account is not None else None])
        _detach(error, known)
        scrub(error, known)

    # --- finding ---------------------------------------------------------------------------------------------------

    def _find_account(self) -> _Account:
        if self.blob_service_client is not None:
            return _account_of(self.blob_service_client.primary_endpoint, self.blob_service_client.credential)
        if self.data_lake_client is not None:
            url = self.data_lake_client.primary_endpoint.replace(".dfs.", ".blob.", 1)
            return _account_of(url, self.data_lake_client.credential)
        if self.connection_string:
            return _account_of_string(self.connection_string, self.credential)
        configured = os.environ.get(_CONNECTION_STRING)
        if self.account_url:
            account = _account_of(self.account_url.replace(".dfs.", ".blob.", 1), self.credential)
            if self.credential is not Login.ENVIRONMENT:
                return account
            if configured:
                found = _account_of_string(configured, None)
                if origin_of(found.url) == origin_of(account.url):
                    return found
            return account
        if configured:
            return _account_of_string(configured, self.credential)
        url = os.environ.get(_ACCOUNT_URL)
        if not url:
            raise MissingCredentialsError(f"no account of Azure Storage is known here: {_HELP}")
        account = _account_of(url, self.credential)
        return account if account.is_signed else _Account(account.url, credential=Login.ENVIRONMENT)

    def _login(self, account: _Account) -> Any:
        if account.credential is not Login.ENVIRONMENT:
            return account.credential
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise MissingCredentialsError(f"there are no credentials for {account.url}: {_HELP}") from error
        return DefaultAzureCredential()

    def _make(self) -> Any:
        with self._made.lock:
            if self._made.service is None:
                # Only the process that was given it may use its sockets.
                given = None if self._made.inherited else self.blob_service_client
                self._made.service = given or self._make_service()
            return self._made.service

    def _make_service(self) -> Any:
        account = self.account
        try:
            import azure.storage.blob as sdk
            import requests
            from azure.core.pipeline.transport import RequestsTransport
        except ImportError as error:
            raise MissingDependenciesError(_NEEDS) from error

        class Retry(sdk.ExponentialRetry):
            """The SDK's, with waits of our own."""

            def get_backoff_time(self, settings: dict[str, Any]) -> float:
                return random.uniform(0.05, min(_LONGEST_BACKOFF, _BACKOFF * 2 ** (settings["count"] - 1)))

        session = requests.Session()
        # Without one, a line of ~/.netrc would take the place of the signature.
        session.auth = _leave_alone
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=MAX_CONNECTIONS, max_retries=0)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        timeouts = {"connection_timeout": self.connect_timeout, "read_timeout": self.read_timeout}
        try:
            return sdk.BlobServiceClient(
                account.url + (f"?{account.sas}" if account.sas else ""),
                credential=self._login(account),
                transport=RequestsTransport(session=session, **timeouts),
                retry_policy=Retry(
                    retry_total=RETRIES, retry_connect=RETRIES, retry_read=RETRIES, retry_status=RETRIES
                ),
            )
        except (ValueError, TypeError) as error:
            self.scrub(error)
            message = f"no client of Azure can be made of these settings: {redacted(str(error))}"
            raise InvalidConfigurationException(message) from error


_SECRETS: Final = ("credential", "connection_string", "blob_service_client", "data_lake_client")


def _leave_alone(request: Any) -> Any:
    return request


def _account_of(url: str, credential: Any) -> _Account:
    base, _, query = without_user(url).partition("?")
    origin_of(base)
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    return _Account(base.rstrip("/"), query if "sig" in names else "", credential)


def _account_of_string(text: str, credential: Any) -> _Account:
    settings = _parse_connection_string(text)
    if settings.get("USEDEVELOPMENTSTORAGE", "").lower() == "true":
        settings = _parse_connection_string(_EMULATOR)
    name, key = settings.get("ACCOUNTNAME"), settings.get("ACCOUNTKEY")
    url = settings.get("BLOBENDPOINT")
    if not url and name:
        scheme = settings.get("DEFAULTENDPOINTSPROTOCOL") or "https"
        url = f"{scheme}://{name}.blob.{settings.get('ENDPOINTSUFFIX') or 'core.windows.net'}"
    if not url:
        raise InvalidConfigurationException(
            "the connection string names no account; it has AccountName=...;AccountKey=... or BlobEndpoint=..."
        )
    if credential in (None, Login.ENVIRONMENT):
        credential = {"account_name": name, "account_key": key} if name and key else None
    account = _account_of(url, credential)
    signature = (settings.get("SHAREDACCESSSIGNATURE") or "").lstrip("?")
    return account if credential is not None or not signature else _Account(account.url, signature)


def _parse_connection_string(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.strip().strip(";").split(";"))
    return {name.strip().upper(): value.strip() for name, _, value in pairs}


def origin_of(url: str) -> str:
    """The origin of an account's URL. Raises InvalidConfigurationException where it names no host; quotes nothing."""
    try:
        parts = urlsplit(url)
        scheme, host, port, path = parts.scheme, parts.hostname, parts.port, parts.path.rstrip("/")
    except ValueError:
        scheme, host, port, path = "", None, None, ""
    if not host or scheme not in ("http", "https"):
        raise InvalidConfigurationException(
            "the account URL of Azure is malformed; write https://ACCOUNT.blob.core.windows.net"
        )
    if ".blob." in host and port in (None, 443):
        return f"azure@{host}"
    if ":" in host:
        host = f"[{host}]"
    return f"azure@{host}:{port or (443 if scheme == 'https' else 80)}{path}"


def _texts_of(credential: Any) -> set[str]:
    """What of a credential is a secret."""
    if isinstance(credential, list | tuple):
        return {text for one in credential for text in _texts_of(one)}
    if isinstance(credential, dict):
        return _texts_of(credential.get("account_key"))
    if isinstance(credential, str):
        query = credential.lstrip("?")
        return {credential, query} | {value for name, value in parse_qsl(query) if name.lower() == "sig"}
    found = (getattr(credential, name, None) for name in ("signature", "account_key"))
    key = getattr(getattr(credential, "named_key", None), "key", None)
    return {text for one in (*found, key) if isinstance(one, str) for text in _texts_of(one)}


class _Answer:
    """What is left of a response in an error: nothing that the server may have quoted of the request."""

    def __init__(self, response: Any) -> None:
        self.status_code = getattr(response, "status_code", 0)
        self.reason = str(getattr(response, "reason", ""))
        headers = getattr(response, "headers", None) or {}
        kept = ("content-range", "x-ms-error-code", "x-ms-request-id")
        self.headers = {name: headers[name] for name in kept if name in headers}


def _detach(error: BaseException, secrets: set[str]) -> None:
    """Take responses out of *error* and what it was raised from: its text quotes their bodies whenever it is shown."""
    pending, seen = [error], set[int]()
    while pending:
        error = pending.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        facts = vars(error)
        known = (error.__cause__, error.__context__, *error.args, *facts.values())
        pending += [one for one in known if isinstance(one, BaseException)]
        if facts.get("response") is not None and not isinstance(facts["response"], dict):
            facts["response"] = _Answer(facts["response"])
        for name, value in facts.items():
            if isinstance(value, str):
                facts[name] = redacted(value, secrets)
            elif name in ("model", "error", "additional_info", "parts") and not isinstance(value, BaseException):
                facts[name] = None
