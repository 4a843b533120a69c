"""Giving up what a thread has in hand, at its next piece.

Ctrl-C reaches one thread, and that one may wait for others, which hold locks and bodies. They are told by an event
that is looked at before each piece that goes over the network, and end as an interrupt would have ended them.
"""

from __future__ import annotations

import threading

_local = threading.local()


class Cancelled(BaseException):
    """Nobody waits for this any more."""


class CancelToken:
    """The event that the thread which made this goes by; to be looked at by whichever thread."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: threading.Event | None = getattr(_local, "event", None)

    def check(self) -> None:
        """Raise GivenUp where that has come."""
        if self._event is not None and self._event.is_set():
            raise Cancelled


def set_cancel_event(event: threading.Event) -> None:
    """From now on, what this thread has in hand is given up when *event* is set."""
    _local.event = event
