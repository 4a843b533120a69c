"""URLs of Google's objects: the plain ones are written here, signatures are the SDK's."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from urllib.parse import quote

from pathapi.backend import WEEK, check_expiry
from pathapi.backends.gs.requests import Requests
from pathapi.exceptions import InvalidUriError, MissingCredentialsError

_HOST: Final = "https://storage.googleapis.com"


def url_of(requests: Requests, key: str) -> str:
    """Where anybody may read the object if it is public; the bucket's without a *key*."""
    try:
        name = quote(key, safe="/~")
    except UnicodeEncodeError as error:
        raise InvalidUriError(f"{requests.uri(key)} is no text that UTF-8 can hold") from error
    return f"{_base(requests)}/{quote(requests.bucket, safe='~')}" + (f"/{name}" if name else "")


def signed_url_of(requests: Requests, key: str, seconds: int) -> str:
    """One that the credentials' private key signs (version 4). Sends nothing, unless they sign by a request.

    Raises MissingCredentialsError where they have none.
    """
    check_expiry(seconds, WEEK)
    url_of(requests, key)
    try:
        from google.auth.credentials import Signing

        client = requests.connection.client
        credentials = client._credentials  # noqa: SLF001 (the SDK has no face for it)
        if not isinstance(credentials, Signing):
            raise MissingCredentialsError(
                f"no URL of {requests.uri(key)} can be signed: that takes a private key, and "
                f"{type(credentials).__name__} has none; name the key file of a service account by "
                "application_credentials=, or give credentials= of google.auth.impersonated_credentials"
            )
        blob = client.bucket(requests.bucket).blob(key)
        signed = blob.generate_signed_url(
            expiration=timedelta(seconds=seconds),
            api_access_endpoint=_base(requests),
            method="GET",
            version="v4",
            client=client,
        )
    except Exception as error:
        meant = requests.meaning(error, key, "read")
        if meant is error:
            raise
        raise meant from error
    return str(signed)


def _base(requests: Requests) -> str:
    return requests.connection.endpoint_url or _HOST
