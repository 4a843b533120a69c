"""Format and parse sizes and ages."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_size(count: int) -> str:
    """Return *count* bytes in the largest unit that keeps a nonzero integer part: ``0 B``, ``1.5 MiB``, ``12 GiB``."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 9.95 else f"{value:.1f} {_UNITS[unit]}"


NONE: Final = "none"
"""In a setting or rule: no limit."""
_PREFIXES: Final = ("", "k", "m", "g", "t", "p")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: object) -> int:
    """Return bytes from a whole number, or a number with a unit in any case: ``kB`` is 1000, ``KiB`` and ``K`` 1024.

    Raises: ValueError.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+)(?:\.(\d+))?\s*(?:([kmgtp])(i?b)?|b)?\s*", str(text).lower(), re.ASCII)
    if found is None or isinstance(text, bool):
        raise ValueError("must be bytes, or a number with a unit such as 500MiB or 10GB")
    whole, fraction, unit, suffix = found.groups()
    scale: int = (1000 if suffix == "b" else 1024) ** _PREFIXES.index(unit or "")
    if fraction and not unit:
        raise ValueError("must be a whole number of bytes, or have a unit such as MiB")
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def parse_age(text: object) -> int | None:
    """Return seconds from a number with or without a unit (``90s``, ``45m``, ``12h``, ``30d``, ``2w``); None for
    ``none``.

    Raises: ValueError.
    """
    if text == NONE:
        return None
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", str(text).lower(), re.ASCII)
    if found is None or isinstance(text, bool):
        raise ValueError("must be seconds, a number with a unit such as 12h, 30d or 2w, or none")
    return int(found[1]) * SECONDS[found[2] or "s"]
