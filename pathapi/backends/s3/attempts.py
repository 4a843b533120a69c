"""What became of each try of a request that boto3 sends several times: boto3 itself reports only their number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from pathapi.backends import error_table
from pathapi.backends.s3.errors import may_be_carried_out


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
