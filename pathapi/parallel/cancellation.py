"""Cancellation of a worker's transfer, after its current chunk.

Ctrl-C interrupts one thread only, which may wait for workers that hold locks and connections. The workers check an
event before each chunk.
"""

from __future__ import annotations

import threading

_local = threading.local()


class Cancelled(BaseException):
    """The transfer was cancelled; its result is not needed."""


class CancelToken:
    """The cancel event of the thread that created this; any thread may check it."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: threading.Event | None = getattr(_local, "event", None)

    def check(self) -> None:
        """Raise Cancelled if the event is set."""
        if self._event is not None and self._event.is_set():
            raise Cancelled


def set_cancel_event(event: threading.Event) -> None:
    """Cancel this thread's further transfers when *event* is set."""
    _local.event = event
