"""URLs of Google's objects: plain ones are built here, the SDK signs the others."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from urllib.parse import quote

from pathapi.backend import WEEK, check_expiry
from pathapi.backends.error_table import translating
from pathapi.backends.gs.requests import GSRequests
from pathapi.exceptions import InvalidUriError, MissingCredentialsError

_HOST: Final = "https://storage.googleapis.com"


def url_of(requests: GSRequests, key: str) -> str:
    """Return the URL at which a public object can be read; the bucket's without a *key*."""
    try:
        name = quote(key, safe="/~")
    except UnicodeEncodeError as error:
        raise InvalidUriError(f"{requests.uri(key)}: a name must be valid UTF-8") from error
    return f"{_base(requests)}/{quote(requests.bucket, safe='~')}" + (f"/{name}" if name else "")


def signed_url_of(requests: GSRequests, key: str, seconds: int) -> str:
    """Return a URL signed with the credentials' private key (version 4). Sends a request only if that signs.

    Raises:
        MissingCredentialsError: the credentials have no private key.
    """
    check_expiry(seconds, WEEK)
    url_of(requests, key)
    with translating(requests.translator(key, "read")):
        from google.auth.credentials import Signing

        client, credentials = requests.connection.client, requests.connection.client_credentials
        if not isinstance(credentials, Signing):
            raise MissingCredentialsError(
                f"{requests.uri(key)}: signing a URL needs a private key, and {type(credentials).__name__} has none: "
                "give the key file of a service account as application_credentials=, or credentials= of "
                "google.auth.impersonated_credentials"
            )
        blob = client.bucket(requests.bucket).blob(key)
        signed = blob.generate_signed_url(
            expiration=timedelta(seconds=seconds),
            api_access_endpoint=_base(requests),
            method="GET",
            version="v4",
            client=client,
        )
    return str(signed)


def _base(requests: GSRequests) -> str:
    return requests.connection.endpoint_url or _HOST
