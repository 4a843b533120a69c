"""A server that stalls, and Ctrl-C meanwhile."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from pathapi.parallel.part_threads import PartThreads

LARGE: Final = 20 << 20
"""Bytes that are more than one request, either way."""
_SECONDS: Final = 60.0
"""How long a stall takes if no interrupt is heard."""


class Stall:
    """Stops each thread that calls it, and interrupts the main thread when it stops the first one."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._calls = itertools.count()
        self._was_outlasted = False

    def __call__(self) -> None:
        if next(self._calls) == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if not self._released.wait(_SECONDS):
            self._was_outlasted = True

    def interrupts(self, call: Callable[[], object]) -> bool:
        """Make *call*, which is to be interrupted while threads are stopped; return whether any was stopped."""
        was_interrupted = False
        try:
            call()
        except KeyboardInterrupt:
            was_interrupted = True
            assert not self._was_outlasted, "the interrupt was heard after the stall only"
        finally:
            self._released.set()
            while any(is_part_thread(frame) for frame in sys._current_frames().values()):  # noqa: SLF001
                time.sleep(0.01)
        assert was_interrupted == (next(self._calls) > 0)
        return was_interrupted


def is_part_thread(frame: FrameType | None) -> bool:
    """Return whether the thread of *frame* was started for the parts of a transfer."""
    while frame is not None and frame.f_code is not PartThreads._run.__code__:  # noqa: SLF001 (threads have no names)
        frame = frame.f_back
    return frame is not None
