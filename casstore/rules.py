"""What sizes, durations and rules by prefix mean in ``config.toml``, the environment and options.

max_size = "500GB"
max_age = "30d"

[[rules]]
prefix = "s3://bucket/tmp/"
max_age = "12h"
max_size = "5GB"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from casstore.records import entry_prefix

MOST_RULES: Final = 250
"""A plan notes the rule of a blob in one byte."""

NONE: Final = "none"
"""In a setting or rule: no limit, where there would be one."""

_UNITS: Final = ("", "k", "m", "g", "t", "p")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_KEYS: Final = ("prefix", "max_age", "max_size")
_LONGEST_PREFIX: Final = 400
"""Bytes; what the keys of the index show of any URI."""


class Rule(NamedTuple):
    """What holds for URIs that begin with *prefix*: *max_age* in seconds (None: any), *max_size* in bytes (None: any).

    Without *has_age*, the store's own `max_age` holds for them.
    """

    prefix: str
    max_age: int | None
    max_size: int | None
    has_age: bool


def parse_size(text: object) -> int:
    """Bytes: a whole number, or a number and a unit. ``kB`` counts by 1000, ``KiB`` and ``K`` by 1024, case is free.

    Raises ValueError.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+)(?:\.(\d+))?\s*(?:([kmgtp])(i?b)?|b)?\s*", str(text).lower(), re.ASCII)
    if found is None or isinstance(text, bool):
        raise ValueError("must be a size: bytes, or a number with a unit such as 500MiB or 10GB")
    whole, fraction, unit, suffix = found.groups()
    scale: int = (1000 if suffix == "b" else 1024) ** _UNITS.index(unit or "")
    if fraction and not unit:
        raise ValueError("must be a whole number of bytes, or have a unit such as MiB")
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def parse_age(text: object) -> int | None:
    """Seconds: a whole number, or one with a unit (``90s``, ``45m``, ``12h``, ``30d``, ``2w``); None for ``none``.

    Raises ValueError.
    """
    if text == NONE:
        return None
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", str(text).lower(), re.ASCII)
    if found is None or isinstance(text, bool):
        raise ValueError("must be an age: seconds, or a number with a unit such as 12h, 30d or 2w, or none")
    return int(found[1]) * _SECONDS[found[2] or "s"]


def parse_rules(tables: object) -> tuple[Rule, ...]:
    """The ``[[rules]]`` of a file. Raises ValueError that names the rule, by number and prefix, and its key."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("must be written as [[rules]], one for each prefix")
    if len(tables) > MOST_RULES:
        raise ValueError(f"there may be {MOST_RULES} of them at most, not {len(tables)}")
    rules: list[Rule] = []
    for number, table in enumerate(tables, 1):
        rule = _parse_rule(f"rule {number}", table)
        if any(rule.prefix == other.prefix for other in rules):
            raise ValueError(f"rule {number}: there are two for the prefix {rule.prefix!r}")
        rules.append(rule)
    return tuple(rules)


def _parse_rule(where: str, table: dict[str, object]) -> Rule:
    prefix = table.get("prefix")
    if not isinstance(prefix, str) or "://" not in prefix:
        raise ValueError(f"{where}: prefix must be the beginning of URIs, such as 's3://bucket/tmp/', not {prefix!r}")
    if len(prefix.encode("utf-8", "surrogatepass")) > _LONGEST_PREFIX:
        raise ValueError(f"{where}: prefix may have {_LONGEST_PREFIX} bytes at most")
    where = f"{where} ({prefix})"
    unknown = sorted(table.keys() - set(_KEYS))
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; there are: {', '.join(_KEYS)}")
    if len(table) == 1:
        raise ValueError(f"{where}: it limits nothing: give it max_age or max_size")
    age, size = table.get("max_age"), table.get("max_size")
    max_age = None if age is None else _parse(where, "max_age", age, parse_age)
    max_size = None if size is None else _parse(where, "max_size", size, parse_size)
    return Rule(prefix, max_age, max_size, has_age=age is not None)


def _parse(where: str, key: str, value: object, parse: Callable[[object], int | None]) -> int | None:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{where}: {key} = {value!r}: {error}") from None


class Matcher:
    """Which of some rules holds for an entry: the one with the longest prefix. Takes the row's key as it is."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        numbered = ((entry_prefix(rule.prefix), number) for number, rule in enumerate(rules, 1))
        self._prefixes = sorted(numbered, key=lambda pair: -len(pair[0]))

    def number(self, row: bytes) -> int:
        """The rule's place, counted from 1; 0 where none holds."""
        for prefix, number in self._prefixes:
            if row.startswith(prefix):
                return number
        return 0
