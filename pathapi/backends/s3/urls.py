"""How boto3 signs the URLs of S3's objects."""

from __future__ import annotations

from typing import Any

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
