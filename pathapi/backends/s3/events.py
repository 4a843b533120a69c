"""Handlers of boto3's events: how it signs the URLs of objects, and what became of each try of a request.

boto3 sends a request several times, and itself reports only how often.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from pathapi.backends import error_table
from pathapi.backends.s3.errors import may_be_carried_out

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


class Attempts:
    """The tries of one request; *outcome_unknown* once the server may have carried out one that failed."""

    outcome_unknown = False


_current: ContextVar[Attempts | None] = ContextVar("attempts", default=None)


@contextlib.contextmanager
def watching_attempts() -> Iterator[Attempts]:
    """Note the tries of the requests that the block sends, in this thread, by clients given to `watch`."""
    attempts = Attempts()
    token = _current.set(attempts)
    try:
        yield attempts
    finally:
        _current.reset(token)


def watch(client: Any) -> None:
    """Have *client* report each try."""
    client.meta.events.register("response-received.s3", _note)


def _note(parsed_response: Any = None, exception: Any = None, **_: Any) -> None:
    attempts = _current.get()
    if attempts is None:
        return
    status = int((parsed_response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if error_table.may_be_carried_out(status) or (exception is not None and may_be_carried_out(exception)):
        attempts.outcome_unknown = True
