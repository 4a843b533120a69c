"""Settings of a connection: the fields of its dataclass say what a pickle may contain and what is secret."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any, Final, NoReturn

from pathapi.common.redaction import redacted
from pathapi.exceptions import (
    CloudPathException,
    CloudPathPermissionError,
    InvalidConfigurationException,
    MissingCredentialsError,
    MissingDependenciesError,
)

SECRET: Final[Mapping[str, Any]] = {"plain": lambda _: None}
"""Metadata of a field that only a child that multiprocessing is spawning may get. In place of a value that is secret in
part, any other pickle contains what the function returns for it.
"""
_GIVE_KEYS: Final = (
    "give this process keys by environment variables or a named profile, or call pathapi.set_default_client in its "
    "initializer"
)
LIVE: Final = {"live": True}
"""Metadata of a field for an object of the user's, such as a session: no argument of a restored client."""


class ConnectionSettings:
    """Mixin for a dataclass of settings: says which of them a client's pickle may contain. It is not pickled itself."""

    has_lost_keys = False
    """Whether the connection was unpickled without the keys that it had."""

    def scrub(self, error: BaseException) -> None:
        """Remove this connection's secrets from an error of the SDK, the future cause of ours."""
        raise NotImplementedError

    def plain_settings(self) -> dict[str, Any]:
        """Return the arguments that any pickle may contain: those that are set, without secrets."""
        found = {}
        for one in _arguments(self):
            value = _plain(one, getattr(self, one.name))
            if value and value != one.default and "live" not in one.metadata:
                found[one.name] = value
        return found

    def secret_settings(self) -> dict[str, Any]:
        """Return the arguments that only a child that multiprocessing is spawning may get."""
        values = {one.name: getattr(self, one.name) for one in _arguments(self) if "plain" in one.metadata}
        return {name: value for name, value in values.items() if value}

    def login(self) -> object:
        """Return what tells these keys from others of the same plain settings, in this process; None without keys.

        Equal keys are one login. Each session or object that logs in is another one.
        """
        plain = self.plain_settings()
        keys = {name: value for name, value in self.secret_settings().items() if plain.get(name) != value}
        values = ((one, getattr(self, one.name)) for one in _arguments(self) if one.metadata)
        live = any(
            value is not None and ("live" in one.metadata or _plain(one, value) is None)
            for one, value in values
            if not isinstance(value, str | tuple | Mapping)
        )
        return object() if live else hash(repr(keys)) if keys else None

    def explain(self, error: Any) -> Any:
        """Return *error*; if it refuses a login, and a pickle has lost the keys, with the reason and the way out."""
        is_refusal = isinstance(error, MissingCredentialsError | CloudPathPermissionError)
        if not is_refusal or not self.has_lost_keys or _GIVE_KEYS in str(error):
            return error
        return error.extended(". The keys of this client stayed behind: its pickle has none", hint=_GIVE_KEYS)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__}: it may contain keys: pickle a client or a path instead")

    def shell_options(self) -> list[str]:
        """Return the options of the command, without secrets, for these settings."""
        return []

    @contextlib.contextmanager
    def checking(self, client: str, *errors: type[Exception]) -> Iterator[None]:
        """Raise InvalidConfigurationException if the SDK refuses the settings of *client* with one of *errors*."""
        try:
            yield
        except CloudPathException:
            raise
        except errors as error:
            self.scrub(error)
            message = f"{client} refuses these settings: {redacted(str(error))}"
            raise InvalidConfigurationException(message) from error


class Connected:
    """Mixin for a client that is configured by its *connection*."""

    connection: Any

    @property
    def origin(self) -> str:
        """Provider plus endpoint or account; see `pathapi.backend.Backend.origin`."""
        return str(self.connection.origin)

    @property
    def push_options(self) -> str:
        """See `pathapi.client.Client.push_options`."""
        return shlex.join(self.connection.shell_options())

    def _settings(self) -> dict[str, Any]:
        return dict(self.connection.plain_settings())

    def _secrets(self) -> dict[str, Any]:
        return dict(self.connection.secret_settings())

    def _login(self) -> object:
        return self.connection.login()

    def _lose_keys(self) -> None:
        self.has_lost_keys = True
        object.__setattr__(self.connection, "has_lost_keys", True)


@contextlib.contextmanager
def importing(need: str) -> Iterator[None]:
    """Raise MissingDependenciesError with the message *need* if the block cannot import a package."""
    try:
        yield
    except ImportError as error:
        raise MissingDependenciesError(need) from error


def _plain(one: Field[Any], value: Any) -> Any:
    """Return what any pickle may contain of the field's *value*."""
    plain = one.metadata.get("plain")
    return value if plain is None else plain(value)


def _arguments(settings: Any) -> list[Field[Any]]:
    return [one for one in fields(settings) if one.init]
