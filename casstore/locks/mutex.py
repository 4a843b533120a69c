"""What the threads of a process exclude each other with, so that no interrupt, handler or fork leaves it locked.

CPython runs signal handlers, and raises what they raise, after calls, at the beginning of functions and at backward
jumps. ``with mutex:`` has no such point between locking and the block, nor between the block and unlocking. The
classes of `threading` (Condition, Event, Semaphore), `queue.Queue` and thread pools have: an interrupt in one of them
leaves its inner lock locked. So the packages use these instead:

- `new_mutex` and ``with``. The same thread may lock it again: a signal handler may run inside of a block, and call the
  library. In a forked child it is unlocked.
- `queue.SimpleQueue`, to wait: `put` and `get` are one step each; to wait with a time-out,
  `casstore.locks.timed_queue`.
- `start_thread`, of C: `Thread.start` waits for an Event. Nothing can interrupt between a note that the thread runs,
  made just before, and its start.

What must be released, a lock, an entry of a table, has an owner that exists before it is acquired, and whose release
does nothing twice. ``with owner, owner:`` releases it twice: an interrupt may be raised inside the first release.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import weakref
from typing import Any, Final

from casstore.errors import ReentrantCallError

_short: Final[set[weakref.ref[Any]]] = set()
_long: Final[set[weakref.ref[Any]]] = set()
"""Plain sets, which are copied in one step: other threads make mutexes meanwhile."""

start_thread: Final = _thread.start_new_thread
"""Call a function with a tuple of arguments in a new daemon thread. Raises RuntimeError if none can be started."""


def new_mutex(*, may_wait: bool = False) -> threading.RLock:
    """Return an unlocked mutex, for ``with`` only. *may_wait*: its blocks may wait for other threads."""
    mutex = threading.RLock()
    known = _long if may_wait else _short
    known.add(weakref.ref(mutex, known.discard))
    return mutex


def mutexes() -> list[threading.RLock]:
    """Return the mutexes of this process."""
    return [mutex for reference in (*_short, *_long) if (mutex := reference()) is not None]


def is_interrupted() -> bool:
    """Return whether this thread runs a signal handler that interrupted it in the block of a mutex: other threads may
    wait for that mutex, so the handler must not wait for them.
    """
    mutexes = (reference() for reference in list(_short))
    return any(mutex is not None and mutex._is_owned() for mutex in mutexes)  # noqa: SLF001 (as below)


def refuse_wait(what: object) -> None:
    """Raise ReentrantCallError, about *what*, if `is_interrupted`."""
    if is_interrupted():
        raise ReentrantCallError(
            f"{what}: a signal handler interrupted this thread inside of the store, and would wait for itself: call "
            "it again, or let the handler set a flag and do the work after it"
        )


def _after_fork_in_child() -> None:
    for mutex in mutexes():
        # The forking thread unlocks what it has itself: a signal handler may fork inside of a block.
        if not mutex._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 (as `threading.Condition` does)
            mutex._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 (as the standard library does)
    if "tempfile" in sys.modules:
        # It tries directories inside of its lock.
        sys.modules["tempfile"]._once_lock._at_fork_reinit()  # noqa: SLF001 (it has no hook of its own)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
