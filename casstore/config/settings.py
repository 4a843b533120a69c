"""Settings of a store: ``config.toml`` in its directory, overridden by environment variables.

max_size = "500GB"
max_age = "30d"

[[rules]]
prefix = "s3://bucket/tmp/"
max_age = "12h"
max_size = "5GB"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final, NamedTuple

from casstore.config.units import parse_age, parse_size
from casstore.errors import StoreFormatError
from casstore.format.keys import entry_prefix
from casstore.format.layout import Layout
from casstore.fs import files

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


MAX_DEFAULT_MIN_FREE: Final = 10 << 30
"""Bytes: the default of `Settings.min_free` on a large disk."""
_MIN_FREE_DIVISOR: Final = 20  # the default on smaller disks: a twentieth (5 %)
_PARSERS: Final = {
    "max_size": parse_size,
    "min_free": parse_size,
    "max_age": parse_age,
    "local_directory_limit": parse_size,
    "rules": parse_rules,
}
_CHOICES: Final = {
    "local_paths": ("evict", "keep"),
    "views": ("auto", "copy", "link"),
    "verify": ("never", "always"),
    "policy": ("adaptive", "lru"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a store: ``config.toml``, each overridden by ``CASSTORE_<NAME>``.

    *lock_timeout*: seconds without progress until a reader stops waiting for another download, a writer for another
    writer. *views*: local paths are a ``copy``, a hard ``link``, or ``auto``: a reflink, else a copy up to 64 MiB, else
    a link, which tools can only read. *local_paths*: ``evict`` those that were unused for *local_path_grace*
    seconds if room is needed, or ``keep`` all that a process was given for as long as it lives.
    *local_directory_limit*: bytes that ``os.fspath`` of a directory downloads at most. *verify*: ``never`` checks size
    and mtime on a hit, ``always`` the hash. *offline*: send no requests. *trust_root*: use the store although other
    users can replace its files. *max_size*: bytes of all blobs and local copies, None for no limit. *min_free*: bytes
    of the disk to keep free, None for the default (`keep_free`).
    """

    lock_timeout: float = 60.0
    views: str = "auto"
    local_paths: str = "evict"
    local_path_grace: float = 10.0
    local_directory_limit: int = 10 << 30
    verify: str = "never"
    offline: bool = False
    trust_root: bool = False
    max_size: int | None = None
    min_free: int | None = None
    max_age: int | None = None
    rules: tuple[Rule, ...] = ()
    policy: str = "adaptive"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise StoreFormatError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(allowed)}")
        if not self.local_path_grace >= 0:
            raise StoreFormatError(f"local_path_grace = {self.local_path_grace!r}: must be a number of seconds")
        if not self.lock_timeout > 0:
            raise StoreFormatError(f"lock_timeout = {self.lock_timeout!r}: must be a positive number of seconds")

    def keep_free(self, space: os.statvfs_result) -> int:
        """Return the bytes of the disk *space* to keep free: as set, else the smaller of 10 GiB and 5 % of it."""
        if self.min_free is not None:
            return self.min_free
        return min(MAX_DEFAULT_MIN_FREE, space.f_blocks * space.f_frsize // _MIN_FREE_DIVISOR)


def load_settings(layout: Layout, environment: Mapping[str, str]) -> Settings:
    """Read the store's settings. Raises: StoreFormatError that names the file or variable, and the error in it."""
    found: dict[str, Any] = {}
    try:
        with files.open_regular(layout.config) as file:
            # Imported here because few stores have settings.
            import tomllib

            found = tomllib.load(file)
            # Of the file, and of a link to it.
            owners = {os.fstat(file.fileno()).st_uid, os.lstat(layout.config).st_uid}
            if owners - {0, os.geteuid()}:
                found.pop("trust_root", None)  # another user cannot say so
    except FileNotFoundError:
        pass
    # TOMLDecodeError, UnicodeDecodeError; CPython 3.11 makes a SystemError of a RecursionError at an odd depth.
    except (ValueError, RecursionError, SystemError) as error:
        raise StoreFormatError(f"{layout.config}: invalid TOML: {error}") from error
    known = {field.name: field for field in fields(Settings)}
    unknown = sorted(found.keys() - known)
    if unknown:
        raise StoreFormatError(f"{layout.config}: unknown setting {unknown[0]!r}: use one of {', '.join(known)}")
    settings = Settings()
    for name in known:
        variable = f"CASSTORE_{name.upper()}"
        where, value = layout.config, found.get(name)
        if environment.get(variable) and name != "rules":
            where, value = variable, environment[variable]
        if value is not None:
            try:
                parse = _PARSERS.get(name, partial(_convert, kind=type(getattr(settings, name))))
                changed: dict[str, Any] = {name: parse(value)}
                settings = replace(settings, **changed)
            except (TypeError, ValueError) as error:
                setting = name if name == "rules" else f"{name} = {value!r}"
                raise StoreFormatError(f"{where}: {setting}: {error}") from error
    return settings


def _convert(value: object, kind: type) -> object:
    if kind is bool:
        text = str(value).lower()
        if text in ("1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off"):
            return False
        raise ValueError("must be true or false")
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise ValueError(f"must be {kind.__name__}")
    return value
