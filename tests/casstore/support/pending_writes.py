"""Pending writes as uploads leave them, made without a cloud."""

from __future__ import annotations

import os
from typing import Any

import casstore
from casstore import Condition, PendingState, PendingWrite
from tests.casstore.support.fill import forked, key_of


def pend(cache: casstore.Cache, name: str = "k", data: bytes = b"mine", **options: Any) -> PendingWrite:
    """*data*, pending of that key of the bucket; a failed upload that was to make the object, unless told otherwise."""
    arguments: dict[str, Any] = {
        "state": PendingState.FAILED,
        "condition": Condition.ABSENT,
        "base": None,
        "lease": cache.lease.name,
        "why": "the network was away",
        **options,
    }
    key = arguments.pop("key", key_of(name))
    staging = cache.stage()
    try:
        staging.write(data)
        return cache.pending.record(key, staging, **arguments)
    finally:
        staging.close()


def interrupt(root: Any, name: str = "k", data: bytes = b"mine", **options: Any) -> None:
    """Pending as a process leaves it that is killed in the middle of its upload."""

    def work() -> None:
        pend(casstore.open(root), name, data, state=PendingState.UPLOADING, **options)
        os.kill(os.getpid(), 9)

    assert forked(work) == -9
