"""Deletes of many objects in one request, each with its own condition."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pathapi.backends.s3.errors import translate_answer
from pathapi.exceptions import CloudPathFileNotFoundError, VersionMismatchError

BATCH: Final = 1_000
"""Keys per delete request (S3's limit)."""
CONFLICT_TRIES: Final = 8
"""Tries after a 409: another write of the key was in progress, and the condition was not evaluated."""

Conditions = Mapping[str, Mapping[str, str]]
"""By key: the arguments of DeleteObject that name the version."""


def pause(attempt: int) -> None:
    """Sleep before the next try after a 409."""
    time.sleep(random.uniform(0.2, 1.0) * min(2.0, 0.05 * 2**attempt))


def delete_many(
    call: Callable[..., Any], where: Callable[[str], dict[str, Any]], keys: Sequence[str], conditions: Conditions
) -> list[str]:
    """Delete *keys* (at most `BATCH`), each under its condition, and return those whose version differs.

    ``call(operation, key, **arguments)`` sends one request, ``where(key)`` gives the fields of its errors. Other
    failures are raised at once.
    """
    refused: list[str] = []
    # XML cannot contain control characters; a URL can.
    for key in keys:
        if not key.isprintable():
            try:
                call("DeleteObject", key, **conditions[key])
            except VersionMismatchError:
                refused.append(key)
            except CloudPathFileNotFoundError as error:
                if type(error) is not CloudPathFileNotFoundError:
                    raise
    left = [key for key in keys if key.isprintable()]
    for attempt in range(CONFLICT_TRIES):
        if not left:
            break
        if attempt:
            pause(attempt - 1)
        mismatched, left = _delete_batch(call, where, left, conditions)
        refused += mismatched
    return refused + left


def _delete_batch(
    call: Callable[..., Any], where: Callable[[str], dict[str, Any]], keys: Sequence[str], conditions: Conditions
) -> tuple[list[str], list[str]]:
    """Send one request; return the keys whose version differs, and those that were being written at that moment."""
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
