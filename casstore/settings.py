"""The settings of one store: ``config.toml`` in its directory, and the environment variables that override it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from casstore.errors import StoreFormatError
from casstore.layout import Layout

MOST_MIN_FREE: Final = 10 << 30
"""Bytes of free disk that the default `Settings.min_free` asks for at most, however large the disk is."""

_MIN_FREE_PART: Final = 20
"""The default is this part of the disk, where that is less: a twentieth, 5 %."""

_UNITS: Final = ("", "k", "m", "g", "t", "p")
_SIZES: Final = frozenset(("max_size", "min_free"))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one store: ``config.toml``, each overridden by ``CASSTORE_<NAME>`` in the environment.

    *lock_timeout*: seconds that a reader waits for another process's download that stands still, and a writer for
    another writer. *views*: ``auto``, ``copy`` or ``link`` (`casstore.leases.VIEW_MODES`). *verify*: ``never`` trusts
    the tripwire (size and mtime), ``always`` hashes on every hit. *offline*: never ask a cloud. *max_size*: bytes that
    the blobs may take, None for no limit. *min_free*: bytes of the disk that are to stay free, 0 for none; None stands
    for the default, see `keep_free`.
    """

    lock_timeout: float = 60.0
    views: str = "auto"
    verify: str = "never"
    offline: bool = False
    max_size: int | None = None
    min_free: int | None = None

    def __post_init__(self) -> None:
        _choose("views", self.views, ("auto", "copy", "link"))
        _choose("verify", self.verify, ("never", "always"))
        if not self.lock_timeout > 0:
            raise StoreFormatError(f"lock_timeout must be a positive number of seconds, not {self.lock_timeout!r}")

    def keep_free(self, space: os.statvfs_result) -> int:
        """Bytes of the disk *space* that are to stay free: as set, else the smaller of 10 GiB and 5 % of it."""
        if self.min_free is not None:
            return self.min_free
        return min(MOST_MIN_FREE, space.f_blocks * space.f_frsize // _MIN_FREE_PART)


def parse_size(text: object) -> int:
    """Bytes: a whole number, or a number and a unit. ``kB`` counts by 1000, ``KiB`` and ``K`` by 1024, case is free.

    Raises ValueError.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    # Imported here: few processes are given a size, and every one that opens a store would pay.
    import re

    found = re.fullmatch(r"\s*(\d+)(?:\.(\d+))?\s*(?:([kmgtp])(i?b)?|b)?\s*", str(text).lower(), re.ASCII)
    if found is None or isinstance(text, bool):
        raise ValueError("must be a size: bytes, or a number with a unit such as 500MiB or 10GB")
    whole, fraction, unit, suffix = found.groups()
    scale: int = (1000 if suffix == "b" else 1024) ** _UNITS.index(unit or "")
    if fraction and not unit:
        raise ValueError("must be a whole number of bytes, or have a unit such as MiB")
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StoreFormatError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def load_settings(layout: Layout, environment: Mapping[str, str]) -> Settings:
    """Read the store's settings. Raises StoreFormatError that names the file or variable and what is wrong in it."""
    found: dict[str, Any] = {}
    try:
        with open(layout.config, "rb") as file:
            # Imported here: few stores have settings of their own, and every process that opens one would pay.
            import tomllib

            found = tomllib.load(file)
    except FileNotFoundError:
        pass
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise StoreFormatError(f"{layout.config} is not valid TOML: {error}") from error
    known = {field.name: field for field in fields(Settings)}
    unknown = sorted(found.keys() - known)
    if unknown:
        raise StoreFormatError(f"{layout.config}: unknown setting {unknown[0]!r}; there are: {', '.join(known)}")
    settings = Settings()
    for name in known:
        variable = f"CASSTORE_{name.upper()}"
        where, value = layout.config, found.get(name)
        if environment.get(variable):
            where, value = variable, environment[variable]
        if value is not None:
            try:
                changed: dict[str, Any] = {
                    name: parse_size(value) if name in _SIZES else _convert(value, type(getattr(settings, name)))
                }
                settings = replace(settings, **changed)
            except (TypeError, ValueError) as error:
                raise StoreFormatError(f"{where}: {name} = {value!r}: {error}") from error
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
