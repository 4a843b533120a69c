"""What sizes, durations and rules by prefix mean in ``config.toml``, the environment and options.

max_size = "500GB"
max_age = "30d"

[[rules]]
prefix = "s3://bucket/tmp/"
max_age = "12h"
max_size = "5GB"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from casstore.config.units import parse_age, parse_size
from casstore.format.keys import entry_prefix

MAX_RULES: Final = 250
"""A plan notes the rule of a blob in one byte."""


_KEYS: Final = ("prefix", "max_age", "max_size")
_MAX_PREFIX_BYTES: Final = 400
"""Bytes; what the keys of the index show of any URI."""


class Rule(NamedTuple):
    """What holds for URIs that begin with *prefix*: *max_age* in seconds (None: any), *max_size* in bytes (None: any).

    Without *has_age*, the store's own `max_age` holds for them.
    """

    prefix: str
    max_age: int | None
    max_size: int | None
    has_age: bool


def parse_rules(tables: object) -> tuple[Rule, ...]:
    """The ``[[rules]]`` of a file. Raises ValueError that names the rule, by number and prefix, and its key."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("must be written as [[rules]], one for each prefix")
    if len(tables) > MAX_RULES:
        raise ValueError(f"there may be {MAX_RULES} of them at most, not {len(tables)}")
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
    if len(prefix.encode("utf-8", "surrogatepass")) > _MAX_PREFIX_BYTES:
        raise ValueError(f"{where}: prefix may have {_MAX_PREFIX_BYTES} bytes at most")
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


class RuleMatcher:
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
