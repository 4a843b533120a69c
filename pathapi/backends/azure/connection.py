"""How to log in to Azure Blob Storage, and the service client of these settings.

The first request imports the SDK: a warm read needs only the origin, which the settings contain.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qsl

from pathapi.backends.connection_pools import mount_without_locks
from pathapi.backends.endpoints import parse_endpoint
from pathapi.backends.fork_safety import ForkSafe
from pathapi.backends.settings import SECRET, ConnectionSettings, importing
from pathapi.common.redaction import causes_of, redacted, scrub, without_user
from pathapi.exceptions import InvalidConfigurationException, MissingCredentialsError

RETRIES: Final = 3
_BACKOFF: Final = 0.4
_LONGEST_BACKOFF: Final = 8.0
"""Seconds; the SDK's own pauses begin at 15."""
_CONNECTION_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
_ACCOUNT_URL: Final = "AZURE_STORAGE_ACCOUNT_URL"
_NEEDS: Final = "az:// needs azure-storage-blob: pip install 'casstore[azure]'"
_VARIABLES: Final = f"set {_CONNECTION_STRING}, or {_ACCOUNT_URL} with azure-identity installed"
_HINTS: Final = {
    "hint": "give the client a connection_string, or an account_url and a credential (an account_url alone reads "
    f"public containers), or {_VARIABLES}",
    "shell_hint": f"use --account-url (with --no-sign-request for a public container), or {_VARIABLES}",
}
_EMULATOR: Final = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)
"""The meaning of ``UseDevelopmentStorage=true``; the key is public."""


class Login(Enum):
    """Values in place of a credential."""

    ENVIRONMENT = "environment"
    """Search like a client without arguments: the value that a pickle contains in place of a secret."""


@dataclass(frozen=True, slots=True)
class _Account:
    """An account, and how to log in to it. *url* has no query; *sas* is the query that it had."""

    url: str
    sas: str = field(default="", repr=False)
    credential: Any = field(default=None, repr=False)

    @property
    def is_signed(self) -> bool:
        return bool(self.sas) or self.credential is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class AzureConnection(ConnectionSettings):
    """Settings of azure-storage-blob, with its own meaning; thread-safe, usable in a forked child.

    Of several arguments the first takes precedence: *blob_service_client*, *data_lake_client*, *connection_string*,
    *account_url* (alone, or with a SAS in it, or with *credential*: an account key, a SAS, a token credential). Without
    any, the environment decides. *standard_blob_tier* applies to every new blob; the default is the account's. Timeouts
    are in seconds.
    """

    account_url: str | None = field(default=None, repr=False)
    credential: Any = field(default=None, repr=False, metadata=SECRET)
    connection_string: str | None = field(default=None, repr=False, metadata=SECRET)
    blob_service_client: Any = field(default=None, repr=False, metadata=SECRET)
    data_lake_client: Any = field(default=None, repr=False, metadata=SECRET)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    standard_blob_tier: str | None = None
    _process: ForkSafe = field(default_factory=ForkSafe, init=False, repr=False)

    def plain_settings(self) -> dict[str, Any]:
        tier = {"standard_blob_tier": self.standard_blob_tier} if self.standard_blob_tier else {}
        if not any(getattr(self, name) for name in ("account_url", *_LOGINS)):
            return tier
        account = self.account
        return {"account_url": account.url} | ({"credential": Login.ENVIRONMENT} if account.is_signed else {}) | tier

    def secret_settings(self) -> dict[str, Any]:
        # Keys and signatures, no objects.
        found: dict[str, Any] = {"connection_string": self.connection_string}
        if self.account_url and "?" in self.account_url:
            found["account_url"] = self.account_url
        if isinstance(self.credential, str | dict):
            found["credential"] = self.credential
        return {name: value for name, value in found.items() if value}

    @property
    def account(self) -> _Account:
        """The account, and how to log in. Raises MissingCredentialsError, InvalidConfigurationException."""
        account: _Account = self._process.once("account", self._find_account)
        return account

    @property
    def is_signed(self) -> bool:
        """Whether requests carry credentials."""
        return self.account.is_signed

    @property
    def origin(self) -> str:
        """``azure@`` and the account's host, for other endpoints host, port and account; see `Backend.origin`."""
        return str(self._process.once("origin", lambda: origin_of(self.account.url)))

    def shell_options(self) -> list[str]:
        return ["--account-url", self.account.url]

    @property
    def service_client(self) -> Any:
        """The SDK's `BlobServiceClient`, one per process."""
        # Only the process that the user gave it to may use its sockets.
        given = None if self._process.inherited else self.blob_service_client
        return self._process.once("service", lambda: given or self._make_service())

    def sdk_tier(self) -> Any:
        """Return *standard_blob_tier* as the SDK's value, or None. Raises InvalidConfigurationException."""
        if self.standard_blob_tier is None:
            return None
        with importing(_NEEDS):
            from azure.storage.blob import StandardBlobTier
        for tier in StandardBlobTier:
            if tier.value.lower() == self.standard_blob_tier.lower():
                return tier
        known = ", ".join(repr(tier.value) for tier in StandardBlobTier)
        raise InvalidConfigurationException(f"standard_blob_tier: use one of {known}, not {self.standard_blob_tier!r}")

    @property
    def data_lake(self) -> Any:
        """The SDK's `DataLakeServiceClient`: the one that was given, or one for the same account."""
        if self.data_lake_client is not None:
            return self.data_lake_client
        with importing("data_lake_client needs another package: pip install azure-storage-file-datalake"):
            from azure.storage.filedatalake import DataLakeServiceClient
        account = self.account
        url = account.url.replace(".blob.", ".dfs.", 1) + (f"?{account.sas}" if account.sas else "")
        return self._process.once("data lake", lambda: DataLakeServiceClient(url, credential=self._login(account)))

    def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        with self._process.lock:
            service = self._process.made.pop("service", None)
        if service is not None and service is not self.blob_service_client:
            service.close()

    def scrub(self, error: BaseException) -> None:
        account: _Account | None = self._process.made.get("account")
        known = _texts_of(self.credential) | (_texts_of(account.credential) if account is not None else set())
        for text in (self.connection_string, os.environ.get(_CONNECTION_STRING)):
            settings = _parse_connection_string(text) if text else {}
            known |= _texts_of([settings.get("ACCOUNTKEY"), settings.get("SHAREDACCESSSIGNATURE")])
        known |= _texts_of([account.sas if account is not None else None])
        _detach(error, known)
        scrub(error, known)

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
            raise MissingCredentialsError("az://: no Azure Storage account is configured", **_HINTS)
        account = _account_of(url, self.credential)
        return account if account.is_signed else _Account(account.url, credential=Login.ENVIRONMENT)

    def _login(self, account: _Account) -> Any:
        if account.credential is not Login.ENVIRONMENT:
            return account.credential
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            missing = MissingCredentialsError(f"{account.url}: no credentials were found", **_HINTS)
            raise self.explain(missing) from error
        return DefaultAzureCredential()

    def _make_service(self) -> Any:
        account = self.account
        with importing(_NEEDS):
            import azure.storage.blob as sdk
            import requests
            from azure.core.pipeline.transport import RequestsTransport

        class Retry(sdk.ExponentialRetry):
            """The SDK's, with shorter pauses."""

            def get_backoff_time(self, settings: dict[str, Any]) -> float:
                return random.uniform(0.05, min(_LONGEST_BACKOFF, _BACKOFF * 2 ** (settings["count"] - 1)))

        session = requests.Session()
        # Else a line of ~/.netrc would replace the signature.
        session.auth = lambda request: request
        mount_without_locks(session, "https://", "http://", max_retries=0)
        timeouts = {"connection_timeout": self.connect_timeout, "read_timeout": self.read_timeout}
        with self.checking("Azure client: the SDK", ValueError, TypeError):
            return sdk.BlobServiceClient(
                account.url + (f"?{account.sas}" if account.sas else ""),
                credential=self._login(account),
                transport=RequestsTransport(session=session, **timeouts),
                retry_policy=Retry(
                    retry_total=RETRIES, retry_connect=RETRIES, retry_read=RETRIES, retry_status=RETRIES
                ),
            )


_LOGINS: Final = tuple(one.name for one in fields(AzureConnection) if "plain" in one.metadata)


def _account_of(url: str, credential: Any) -> _Account:
    base, _, query = without_user(url).partition("?")
    origin_of(base)
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if key := getattr(credential, "account_key", None):  # the SDK's policy, which no client of it takes again
        credential = {"account_name": credential.account_name, "account_key": key}
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
            "connection_string: it names no account: write AccountName=...;AccountKey=... or BlobEndpoint=..."
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
    """Return the origin of an account's URL. Raises InvalidConfigurationException, see `parse_endpoint`."""
    parsed = parse_endpoint(url, "account_url", "https://ACCOUNT.blob.core.windows.net")
    return (
        f"azure@{parsed.host}" if ".blob." in parsed.host and parsed.port in (None, 443) else f"azure@{parsed.address}"
    )


def _texts_of(credential: Any) -> set[str]:
    """Return the secret texts of a credential."""
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


class _RedactedResponse:
    """A response of an error without anything that the server may have quoted from the request."""

    def __init__(self, response: Any) -> None:
        self.status_code = getattr(response, "status_code", 0)
        self.reason = str(getattr(response, "reason", ""))
        headers = getattr(response, "headers", None) or {}
        kept = ("content-range", "x-ms-error-code", "x-ms-request-id")
        self.headers = {name: headers[name] for name in kept if name in headers}


def _detach(error: BaseException, secrets: set[str]) -> None:
    """Replace the responses in *error* and its causes: the text of an error quotes their bodies."""
    for one in causes_of(error):
        facts = vars(one)
        if facts.get("response") is not None and not isinstance(facts["response"], dict):
            facts["response"] = _RedactedResponse(facts["response"])
        for name, value in facts.items():
            if isinstance(value, str):
                facts[name] = redacted(value, secrets)
            elif name in ("model", "error", "additional_info", "parts") and not isinstance(value, BaseException):
                facts[name] = None
