"""What a connection has made of its settings, which a forked child must make anew."""

from __future__ import annotations

import abc
import os
import threading
import weakref


class Made(abc.ABC):
    """What was made of the settings so far, under *lock*; emptied in a forked child, which must not share sockets.

    *inherited* is what the parent had made, and empty in a process that was not forked.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inherited: list[object] = []
        _living.add(self)

    @abc.abstractmethod
    def let_go(self) -> list[object]:
        """Everything that may hold sockets, to be held no more."""

    def reset_after_fork(self) -> None:
        """For the child, before it does anything else."""
        self.lock = threading.Lock()
        # Kept, not dropped: closing a TLS socket here would speak on the parent's connection.
        self.inherited += self.let_go()


_living: weakref.WeakSet[Made] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for made in list(_living):
        made.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
