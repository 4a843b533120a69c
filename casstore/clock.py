"""This moment, by the wall clock and by the boot clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    pass


_HOUR_NS: Final = 3600 * 10**9
