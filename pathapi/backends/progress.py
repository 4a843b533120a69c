"""A bound for loops that go on as long as a server says so."""

from __future__ import annotations

import random
import time
from typing import Final

from pathapi.exceptions import CloudUnavailableError

_ROUNDS: Final = 4
_LONGEST_PAUSE: Final = 5.0


class Progress:
    """Raises CloudUnavailableError once *what* made no progress *rounds* times in a row, with a pause after each."""

    def __init__(self, what: str, rounds: int = _ROUNDS) -> None:
        self._what = what
        self._rounds = rounds
        self._reached = self._stalled = 0

    def reach(self, position: int) -> None:
        """Record that the server is at *position*; one that is not beyond all before is no progress."""
        if position > self._reached:
            self._reached, self._stalled = position, 0
            return
        self._stalled += 1
        if self._stalled > self._rounds:
            raise CloudUnavailableError(f"{self._what} makes no progress at the server: try again")
        time.sleep(min(random.uniform(0.0, 0.2) * 2**self._stalled, _LONGEST_PAUSE))
