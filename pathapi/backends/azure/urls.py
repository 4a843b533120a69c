"""URLs of Azure's blobs; a signed one has a shared access signature."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from pathapi.backend import WEEK, check_expiry
from pathapi.backends.azure.requests import AzureRequests
from pathapi.exceptions import InvalidConfigurationException, MissingCredentialsError

_SKEW: Final = timedelta(minutes=5)
"""A key for signing is valid from this long ago on: the server's clock may be behind."""


def url_of(requests: AzureRequests, key: str) -> str:
    """Return the URL of the blob, or of the container without a *key*."""
    base = f"{requests.connection.account.url}/{quote(requests.bucket)}"
    if not key:
        return base
    requests.check_name(key)
    return f"{base}/{quote(key, safe='~/')}"


def signed_url_of(requests: AzureRequests, key: str, seconds: int) -> str:
    """Return a URL with a shared access signature, of the account's key or of one that a token credential gets.

    Raises:
        MissingCredentialsError: there is neither.
    """
    check_expiry(seconds)
    url = url_of(requests, key)
    try:
        expiry = datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError as error:
        message = f"expire_seconds={seconds}: the date is too far in the future: use fewer seconds"
        raise InvalidConfigurationException(message) from error
    service = requests.connection.service_client
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    login = service.credential
    if getattr(login, "account_key", None):
        signer = {"account_name": login.account_name, "account_key": login.account_key}
    elif hasattr(login, "get_token"):
        check_expiry(seconds, WEEK)
        begin, ask = datetime.now(UTC) - _SKEW, service.get_user_delegation_key
        made = requests.call("Get User Delegation Key", key, ask, key_start_time=begin, key_expiry_time=expiry)
        signer = {"account_name": service.account_name, "user_delegation_key": made}
    else:
        raise MissingCredentialsError(
            f"{requests.uri(key)}: signing a URL needs the account's key or a token credential of azure-identity: give "
            "credential= or a connection_string with AccountKey"
        )
    read = BlobSasPermissions(read=True)
    signature = generate_blob_sas(
        container_name=requests.bucket, blob_name=key, permission=read, expiry=expiry, **signer
    )
    return f"{url}?{signature}"
