"""What a connection has made of its settings in this process; a forked child makes its own."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

from casstore import new_mutex


class ForkSafe:
    """Objects of one process, by name. A forked child must not share sockets with its parent: it makes new ones.

    *inherited* lists what each parent had made. It is empty in a process that was not forked, and never in one that
    was.
    """

    def __init__(self) -> None:
        self.lock = new_mutex()
        self.made: dict[Any, Any] = {}
        self.inherited: list[object] = []
        _living.add(self)

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """Return the object *name*; its first use in this process makes it."""
        found = self.made.get(name)
        if found is None:
            with self.lock:
                found = self.made.get(name)
                if found is None:
                    found = self.made[name] = make()
        return found

    def detach(self) -> dict[Any, Any]:
        """Return everything that was made, and forget it."""
        made, self.made = self.made, {}
        return made

    def reset_after_fork(self) -> None:
        """Reset this object in a forked child, before the child does anything else."""
        # Kept, not dropped: closing a TLS socket here would send bytes on the parent's connection.
        self.inherited.append(self.detach())


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for state in list(_living):
        state.reset_after_fork()


os.register_at_fork(after_in_child=_reset_after_fork)
