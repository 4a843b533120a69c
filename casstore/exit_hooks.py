"""Run something when this process ends, whichever way it was started."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable


def at_exit(call: Callable[[], None]) -> Callable[[], object]:
    """Call *call* at a normal exit: before the interpreter's own teardown, while daemon threads still run.

    Returns a function that cancels it. A child of multiprocessing leaves by ``os._exit`` and runs no atexit functions,
    only its own finalizers.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        return Finalize(None, call, exitpriority=100).cancel
    atexit.register(call)
    return lambda: atexit.unregister(call)


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
