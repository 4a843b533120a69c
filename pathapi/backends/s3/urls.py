"""URLs of S3's objects, written and signed by boto3. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathapi.exceptions import CloudPathNotImplementedError, InvalidUriError

_PAYER = "x-amz-request-payer"


def prepare_urls(client: Any) -> None:
    """Make *client* sign URLs as it signs requests.

    By default boto3 signs them with version 2, which newer buckets refuse, and for the global endpoint. That redirects
    to the region's, another host, for which the signature is not valid.
    """
    events = client.meta.events
    events.register("provide-client-params.s3", _address_as_requests)
    events.register_first("choose-signer.s3", _choose_version_4)
    events.register("before-sign.s3.GetObject", _move_payer_into_query)


def url_of(client: Any, bucket: str, key: str, uri: str) -> str:
    """Return the plain URL of the object, or of the bucket without a *key*; *client* signs nothing."""
    if not key:
        return _make(client, "head_bucket", uri, {"Bucket": bucket}, 1).partition("?")[0]
    return _make(client, "get_object", uri, {"Bucket": bucket, "Key": key}, 1).partition("?")[0]


def signed_url_of(client: Any, bucket: str, key: str, uri: str, seconds: int, extra: Mapping[str, Any]) -> str:
    """Return a URL signed by *client*; *extra* are its extra arguments of a GetObject."""
    if any("CustomerKey" in name for name in extra):
        raise CloudPathNotImplementedError(
            f"{uri}: a URL alone cannot open it, a reader must send SSECustomerKey in a header: open it by its path"
        )
    payer = {name: value for name, value in extra.items() if name == "RequestPayer"}
    return _make(client, "get_object", uri, {"Bucket": bucket, "Key": key, **payer}, seconds)


def _make(client: Any, method: str, uri: str, arguments: Mapping[str, Any], seconds: int) -> str:
    try:
        return str(client.generate_presigned_url(method, Params=dict(arguments), ExpiresIn=seconds))
    except UnicodeEncodeError as error:
        raise InvalidUriError(f"{uri}: a name must be valid UTF-8") from error


def _address_as_requests(context: dict[str, Any], **_: Any) -> None:
    if context.get("is_presign_request"):
        context["use_global_endpoint"] = False


def _choose_version_4(signature_version: Any, **_: Any) -> str | None:
    # Of the others, the user chose 's3-query', and multi-region access points have their own.
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None


def _move_payer_into_query(request: Any, signature_version: Any, **_: Any) -> None:
    # S3 accepts it there too, and a program that opens a URL sends no header.
    if str(signature_version).endswith("-query") and _PAYER in request.headers:
        request.params = {**(request.params or {}), _PAYER: request.headers[_PAYER]}
        del request.headers[_PAYER]
