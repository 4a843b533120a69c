"""URLs of Azure's blobs; a signed one has a shared access signature."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from pathapi.backend import WEEK, check_expiry
from pathapi.backends.azure.requests import AzureRequests
from pathapi.exceptions import InvalidConfigurationException, MissingCredentialsError

_SKEW: Final = timedelta(minutes=5)
"""A key for signing is valid from this long ago on: the server's clock may be behind."""


class AzureUrls(AzureRequests):
    """A container's URLs; see `pathapi.backend.HasUrls`."""

    def url(self, key: str) -> str:
        base = f"{self.connection.account.url}/{quote(self._bucket)}"
        if not key:
            return base
        self._check(key)
        return f"{base}/{quote(key, safe='~/')}"

    def signed_url(self, key: str, seconds: int) -> str:
        check_expiry(seconds)
        url = self.url(key)
        try:
            expiry = datetime.now(UTC) + timedelta(seconds=seconds)
        except OverflowError as error:
            raise InvalidConfigurationException(
                f"expire_seconds={seconds}: the date is too far in the future: use fewer seconds"
            ) from error
        service = self.connection.service_client
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        login = service.credential
        if getattr(login, "account_key", None):
            key_arguments = {"account_name": login.account_name, "account_key": login.account_key}
        elif hasattr(login, "get_token"):
            check_expiry(seconds, WEEK)
            key_arguments = {"account_name": service.account_name, "user_delegation_key": self._ask_key(key, expiry)}
        else:
            raise MissingCredentialsError(
                f"{self._uri(key)}: signing a URL needs the account's key or a token credential of azure-identity: "
                "give credential= or a connection_string with AccountKey"
            )
        signature = generate_blob_sas(
            container_name=self._bucket,
            blob_name=key,
            permission=BlobSasPermissions(read=True),
            expiry=expiry,
            **key_arguments,
        )
        return f"{url}?{signature}"

    def _ask_key(self, key: str, expiry: datetime) -> Any:
        ask = self.connection.service_client.get_user_delegation_key
        return self._call(
            "Get User Delegation Key", key, ask, key_start_time=datetime.now(UTC) - _SKEW, key_expiry_time=expiry
        )
