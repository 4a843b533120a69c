"""Settings of a connection: the fields of its dataclass say what a pickle may contain and what is secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from pathapi.redaction import is_spawning


def partly_secret(plain: Callable[[Any], Any]) -> Mapping[str, Any]:
    """Return the metadata of a field with a secret part: every pickle may contain *plain* of the value."""
    return {"plain": plain}


SECRET: Final = partly_secret(lambda _: None)
"""Metadata of a field that only a child that multiprocessing is spawning may get."""
LIVE: Final = {"live": True}
"""Metadata of a field for an object of the user's, such as a session: no argument of a restored client."""


class ConnectionSettings:
    """Mixin for a dataclass of settings: pickles it without secrets, and without the state of this process."""

    def plain_settings(self) -> dict[str, Any]:
        """Return the arguments that any pickle may contain: those that are set, without secrets."""
        found = {}
        for one in _arguments(self):
            value = one.metadata.get("plain", _unchanged)(getattr(self, one.name))
            if value and value != one.default and "live" not in one.metadata:
                found[one.name] = value
        return found

    def secret_settings(self) -> dict[str, Any]:
        """Return the arguments that only a child that multiprocessing is spawning may get."""
        values = {one.name: getattr(self, one.name) for one in _arguments(self) if "plain" in one.metadata}
        return {name: value for name, value in values.items() if value}

    def __getstate__(self) -> dict[str, Any]:
        clean = not is_spawning()
        return {
            one.name: (one.metadata.get("plain", _unchanged) if clean else _unchanged)(getattr(self, one.name))
            for one in _arguments(self)
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        fresh = {one.name: one.default_factory() for one in _fields(self) if one.default_factory is not MISSING}
        self.__dict__.update({**fresh, **state})


def _unchanged(value: Any) -> Any:
    return value


def _fields(settings: Any) -> tuple[Field[Any], ...]:
    return fields(settings)


def _arguments(settings: Any) -> list[Field[Any]]:
    return [one for one in _fields(settings) if one.init]
