"""Settings of a store: ``config.toml`` in its directory, overridden by environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from casstore.errors import StoreFormatError
from casstore.format.layout import Layout

if TYPE_CHECKING:
    from casstore.config.rules import Rule

MAX_DEFAULT_MIN_FREE: Final = 10 << 30
"""Bytes: the default of `Settings.min_free` on a large disk."""
_MIN_FREE_DIVISOR: Final = 20  # the default on smaller disks: a twentieth (5 %)
_PARSERS: Final = {"max_size": "parse_size", "min_free": "parse_size", "max_age": "parse_age", "rules": "parse_rules"}
"""Settings and their parsers in `casstore.config.rules`."""
_CHOICES: Final = {"views": ("auto", "copy", "link"), "verify": ("never", "always"), "policy": ("adaptive", "lru")}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a store: ``config.toml``, each overridden by ``CASSTORE_<NAME>``.

    *lock_timeout*: seconds without progress until a reader stops waiting for another download, a writer for another
    writer. *views*: local paths are a ``copy``, a hard ``link``, or ``auto``: a reflink, else a link (for root, a copy
    of a small file). *verify*: ``never`` checks size and mtime on a hit, ``always`` the hash. *offline*: send no
    requests. *max_size*: bytes of all blobs, None for no limit. *min_free*: bytes of the disk to keep free, None for
    the default (`keep_free`).
    """

    lock_timeout: float = 60.0
    views: str = "auto"
    verify: str = "never"
    offline: bool = False
    max_size: int | None = None
    min_free: int | None = None
    max_age: int | None = None
    rules: tuple[Rule, ...] = ()
    policy: str = "adaptive"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise StoreFormatError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(allowed)}")
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
        with open(layout.config, "rb") as file:
            # Imported here because few stores have settings.
            import tomllib

            found = tomllib.load(file)
    except FileNotFoundError:
        pass
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
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
                changed: dict[str, Any] = {name: _read(name, value, type(getattr(settings, name)))}
                settings = replace(settings, **changed)
            except (TypeError, ValueError) as error:
                setting = name if name == "rules" else f"{name} = {value!r}"
                raise StoreFormatError(f"{where}: {setting}: {error}") from error
    return settings


def _read(name: str, value: object, kind: type) -> object:
    if name not in _PARSERS:
        return _convert(value, kind)
    # Imported here because few stores have any of these.
    from casstore.config import rules

    return getattr(rules, _PARSERS[name])(value)


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
