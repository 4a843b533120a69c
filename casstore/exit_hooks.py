"""Run something when this process ends, whichever way it was started."""

from __future__ import annotations

import atexit
import contextlib
import sys
from collections.abc import Callable
from typing import Final

_calls: Final[list[Callable[[], None]]] = []


def _run() -> None:
    """Make all calls; print each error, as `atexit` does."""
    while _calls:
        try:
            _calls.pop()()
        except BaseException as error:  # noqa: BLE001 (it is printed, and the other calls are made)
            sys.excepthook(type(error), error, error.__traceback__)


# At the import: what a program registers afterwards runs before, and finds the stores as they were.
atexit.register(_run)


def at_exit(call: Callable[[], None]) -> Callable[[], object]:
    """Call *call* at a normal exit: before the interpreter's own teardown, while daemon threads still run.

    The calls run last in, first out, after the atexit functions that were registered since this module was imported.
    Returns a function that cancels it. A child of multiprocessing leaves by ``os._exit`` and runs no atexit functions,
    only its own finalizers.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        return Finalize(None, call, exitpriority=100).cancel
    _calls.append(call)

    def cancel() -> None:
        with contextlib.suppress(ValueError):
            _calls.remove(call)

    return cancel


class ExitHook:
    """Calls *call* at the exit of this process; a forked child makes its own.

    Registered on first need, since the children of multiprocessing forget what was registered before.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._cancel: Callable[[], object] = lambda: None
        self.is_registered = False

    def ensure(self) -> None:
        """Register the call, once."""
        if not self.is_registered:
            self._cancel = at_exit(self._call)
            self.is_registered = True  # last: an interrupt must not leave the call out

    def cancel(self) -> None:
        """Do not make the call; the next need registers it again."""
        self.is_registered = False
        self._cancel()
