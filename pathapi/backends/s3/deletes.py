"""Deleting many objects by few requests, each under a condition of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pathapi.backends.s3.errors import translate_answer
from pathapi.exceptions import CloudPathFileNotFoundError, VersionMismatchError

BATCH: Final = 1_000
"""Keys that one request deletes at most (S3's limit)."""
CONFLICT_TRIES: Final = 8
"""A 409 says that another write of this key was in progress: no decision, so ask again."""

Conditions = Mapping[str, Mapping[str, str]]
"""By key: the arguments of a DeleteObject that say which version it may delete."""


def pause(attempt: int) -> None:
    """Before the next try after a 409."""
    time.sleep(random.uniform(0.2, 1.0) * min(2.0, 0.05 * 2**attempt))


def delete_many(
    call: Callable[..., Any], where: Callable[[str], dict[str, Any]], keys: Sequence[str], conditions: Conditions
) -> list[str]:
    """Delete *keys*, each if it is the version that its condition names; the keys that were refused.

    ``call(operation, key, **arguments)`` is one request, ``where(key)`` is what an error says of it. Other failures are
    raised at once.
    """
    refused: list[str] = []
    # XML cannot carry control characters; a URL can.
    for key in keys:
        if not key.isprintable():
            try:
                call("DeleteObject", key, **conditions[key])
            except VersionMismatchError:
                refused.append(key)
            except CloudPathFileNotFoundError as error:
                if type(error) is not CloudPathFileNotFoundError:
                    raise
    together = [key for key in keys if key.isprintable()]
    for begin in range(0, len(together), BATCH):
        batch = together[begin : begin + BATCH]
        for attempt in range(CONFLICT_TRIES):
            mismatched, batch = _delete_batch(call, where, batch, conditions)
            refused += mismatched
            if not batch:
                break
            pause(attempt)
        refused += batch
    return refused


def _delete_batch(
    call: Callable[..., Any], where: Callable[[str], dict[str, Any]], keys: Sequence[str], conditions: Conditions
) -> tuple[list[str], list[str]]:
    """One request; the keys that are another version, and those that were being written at that moment."""
    named = [{"Key": key, "ETag": conditions[key]["IfMatch"]} if conditions[key] else {"Key": key} for key in keys]
    answer = call("DeleteObjects", None, about=keys[0], Delete={"Objects": named, "Quiet": True})
    failed: dict[str, list[str]] = {}
    for item in answer.get("Errors", ()):
        failed.setdefault(str(item.get("Code")), []).append(str(item.get("Key")))
    mismatched = failed.pop("PreconditionFailed", [])
    busy = failed.pop("ConditionalRequestConflict", [])
    for code in ("NoSuchKey", "NoSuchVersion"):
        failed.pop(code, None)
    for code, failed_keys in failed.items():
        error = translate_answer(None, code, 0, operation="DeleteObjects", **where(failed_keys[0]))
        error.add_note(f"{sum(map(len, failed.values()))} of {len(keys)} keys were not deleted")
        raise error
    return mismatched, busy
