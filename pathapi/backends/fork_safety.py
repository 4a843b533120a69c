"""What a connection has made of its settings in this process; a forked child makes its own."""

from __future__ import annotations

import os
import threading
import weakref
from typing import ClassVar


class ForkSafe:
    """Objects of one process, under *lock*. A forked child must not share sockets with its parent: it makes new ones.

    *inherited* lists the parent's objects with sockets (None for one that was not made). It is empty in a process that
    was not forked, and never in one that was.
    """

    sockets: ClassVar[tuple[str, ...]]
    """The attributes that may have sockets. A class attribute is the value of one that is not made yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inherited: list[object] = []
        _living.add(self)

    def detach(self) -> list[object]:
        """Return everything that may have sockets, and forget it."""
        return [vars(self).pop(name, None) for name in self.sockets]

    def reset_after_fork(self) -> None:
        """Reset this object in a forked child, before the child does anything else."""
        self.lock = threading.Lock()
        # Kept, not dropped: closing a TLS socket here would send bytes on the parent's connection.
        self.inherited += self.detach()


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for state in list(_living):
        state.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
