"""An object that is read through a wire that breaks, the same for every backend: ``big``, planted with `DATA`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pathapi.testing import drain, opened, read

DATA = os.urandom(300_000)
WHOLE = (0, None)
RANGE = (1_000, 200_000)


def both_ways(backend: Any, start: int, end: int | None) -> list[Callable[[], bytes]]:
    """Reads of it at once, and piece by piece."""
    return [lambda: read(backend, "big", start, end), lambda: drain(opened(backend, "big", start, end))]
