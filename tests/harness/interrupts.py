"""Interrupts a call at each point where CPython runs signal handlers, one after the other.

CPython 3.11 looks for signals after each call, at the beginning of each function and at backward jumps. `Interrupter`
counts these points of one thread by `sys.setprofile` (loops without a call are left out: there are none), and raises,
or calls a handler, at the one asked for. It does so inside of everything that runs: these packages, the standard
library, SDKs. A function of C that returns is one step, and so is what ``with`` calls of it.

The collector of cycles waits meanwhile: where it runs differs from run to run, and what it calls cannot be interrupted.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Interrupted(KeyboardInterrupt):
    """What the user does who presses Ctrl-C."""


def interrupt() -> None:
    """Raise."""
    raise Interrupted


class Interrupter:
    """A block in which *act* is called at the point number *at*; without it, `count` is the number of points."""

    def __init__(self, at: int | None = None, act: Callable[[], None] = interrupt) -> None:
        self._at = at
        self._act = act
        self.count = 0
        self.where = ""
        """The point that was met: a file, a line, and what was called there."""

    def __enter__(self) -> Self:
        gc.disable()
        sys.setprofile(self._look)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_return":
            if argument is sys.setprofile:
                return
        elif event != "call" or frame.f_code is _EXIT:
            return
        elif frame.f_code.co_flags & _GENERATORS:
            return  # raised at its resumption, it would leave the generator without its `finally`
        self.count += 1
        if self.count == self._at:
            name = getattr(argument, "__qualname__", "") if event == "c_return" else frame.f_code.co_qualname
            side = "after" if event == "c_return" else "in"
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {side} {name}"
            self._act()


_EXIT: Final = Interrupter.__exit__.__code__
