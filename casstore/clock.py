"""This moment, by the wall clock and by the boot clock."""

from __future__ import annotations

import time
from typing import Final

from casstore.format.records import Moment
from casstore.fs import mounts

HOUR_NS: Final = 3600 * 10**9


def now(boot: int) -> Moment:
    """Return this moment by both clocks; *boot* is the tag of this boot clock (`Root.boot`)."""
    return Moment(time.time_ns(), mounts.boot_clock_ns(), boot)


def current_hour() -> int:
    """Return the hours since the epoch: the resolution of an entry's last use."""
    return time.time_ns() // HOUR_NS
