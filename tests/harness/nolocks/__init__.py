"""The suite without file locks: every lock call says yes at once, in this process and in its children.

File systems exist where that is so. Locks may save work; what they may not do is carry correctness. `install` replaces
the functions of `fcntl`; children of whatever kind get the same through ``sitecustomize.py`` beside this file.

LMDB's own locks are taken inside its C library and stay. So does the lock of a ``file://`` bucket, which stands in for
a server's condition.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "CASSTORE_TEST_NO_LOCKS"
_BUCKETS_OWN: Final = "pathapi.backends.file."


def install() -> None:
    """Let locks of this process do nothing, and those of its children."""
    import fcntl

    if hasattr(fcntl.flock, "__wrapped__"):
        return
    here = str(Path(__file__).parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, paths)])
    lock_commands = {getattr(fcntl, name) for name in dir(fcntl) if name.startswith(("F_SETLK", "F_OFD_SETLK"))}
    fcntl.flock = _unless_a_buckets_own(fcntl.flock, lambda *_: None)
    fcntl.lockf = _unless_a_buckets_own(fcntl.lockf, lambda *_: None)
    fcntl.fcntl = _unless_a_buckets_own(
        fcntl.fcntl, lambda _, command, argument=0: argument if command in lock_commands else NotImplemented
    )


def _unless_a_buckets_own(real: Callable[..., Any], pretend: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(*arguments: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        answer = NotImplemented if caller.startswith(_BUCKETS_OWN) else pretend(*arguments)
        return real(*arguments) if answer is NotImplemented else answer

    return call
