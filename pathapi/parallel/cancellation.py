"""Cancellation of a worker's transfer, after its current chunk.

Ctrl-C interrupts one thread only, which may wait for workers that hold locks and connections. The workers check a flag
before each chunk.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

INTERRUPT_SECONDS = 0.5
"""Seconds that an interrupt waits for work in other threads; what takes longer continues without the caller."""

_local = threading.local()


class Cancelled(BaseException):
    """The transfer was cancelled; its result is not needed."""


@dataclass(eq=False, slots=True)
class CancelFlag:
    """Whether transfers are cancelled. A plain flag: an interrupt inside of an event would leave its lock behind."""

    is_set: bool = False


class CancelToken:
    """The cancel flag of the thread that created this; any thread may check it."""

    __slots__ = ("_flag",)

    def __init__(self) -> None:
        self._flag: CancelFlag | None = getattr(_local, "flag", None)

    def check(self) -> None:
        """Raise Cancelled if the flag is set."""
        if self._flag is not None and self._flag.is_set:
            raise Cancelled


def set_cancel_flag(flag: CancelFlag | None) -> CancelFlag | None:
    """Cancel this thread's further transfers when *flag* is set; return the flag of before."""
    before: CancelFlag | None = getattr(_local, "flag", None)
    _local.flag = flag
    return before
