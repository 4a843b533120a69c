"""Rules by prefix in ``config.toml``:

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
"""A plan stores the rule of a blob in one byte."""
_KEYS: Final = ("prefix", "max_age", "max_size")
_MAX_PREFIX_BYTES: Final = 400  # the index's keys show this much of any URI


class Rule(NamedTuple):
    """Limits for URIs with *prefix*: *max_age* in seconds, *max_size* in bytes; None for no limit.

    Without *has_age*, the store's own `max_age` applies to them.
    """

    prefix: str
    max_age: int | None
    max_size: int | None
    has_age: bool


def parse_rules(tables: object) -> tuple[Rule, ...]:
    """Return the ``[[rules]]`` of a file. Raises: ValueError that names the rule by number and prefix, and its key."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("it must be a list of tables: write [[rules]] above each rule")
    if len(tables) > MAX_RULES:
        raise ValueError(f"there are {len(tables)} rules: {MAX_RULES} are allowed")
    rules: list[Rule] = []
    for number, table in enumerate(tables, 1):
        rule = _parse_rule(f"rule {number}", table)
        if any(rule.prefix == other.prefix for other in rules):
            raise ValueError(f"rule {number}: the prefix {rule.prefix!r} has two rules: remove one")
        rules.append(rule)
    return tuple(rules)


def _parse_rule(where: str, table: dict[str, object]) -> Rule:
    prefix = table.get("prefix")
    if not isinstance(prefix, str) or "://" not in prefix:
        raise ValueError(f"{where}: prefix = {prefix!r}: must start like a URI, such as 's3://bucket/tmp/'")
    if len(prefix.encode("utf-8", "surrogatepass")) > _MAX_PREFIX_BYTES:
        raise ValueError(f"{where}: prefix is too long: {_MAX_PREFIX_BYTES} bytes are allowed")
    where = f"{where} ({prefix})"
    unknown = sorted(table.keys() - set(_KEYS))
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}: use one of {', '.join(_KEYS)}")
    if len(table) == 1:
        raise ValueError(f"{where}: it has no limit: add max_age or max_size")
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
    """Finds the rule for a row's key: the one with the longest matching prefix."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        numbered = ((entry_prefix(rule.prefix), number) for number, rule in enumerate(rules, 1))
        self._prefixes = sorted(numbered, key=lambda pair: -len(pair[0]))

    def number(self, row: bytes) -> int:
        """Return the rule's position, counted from 1; 0 if none matches."""
        for prefix, number in self._prefixes:
            if row.startswith(prefix):
                return number
        return 0
