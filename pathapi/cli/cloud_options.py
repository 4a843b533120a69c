"""What the commands that need a cloud share: how to reach it, and errors and progress in the shell's manner."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import click

from casstore import Cache, Entry
from pathapi.backends.azure.backend import Login
from pathapi.client import Client
from pathapi.exceptions import (
    CloudPathException,
    CloudPathIsADirectoryError,
    InvalidConfigurationException,
    InvalidPrefixError,
    InvalidUriError,
)
from pathapi.parallel import progress_bar as bars
from pathapi.parallel.progress import Progress
from pathapi.path import CloudPath
from pathapi.registry import implementation_registry

_OPTIONS_OF: Final = {
    "s3://": ("endpoint_url", "profile_name", "no_sign_request"),
    "gs://": ("endpoint_url", "application_credentials", "no_sign_request"),
    "az://": ("account_url", "no_sign_request"),
}
"""Which clouds' clients know which of the options; the names are the arguments'."""
_SPELT: Final = {"profile_name": "--profile", "application_credentials": "--credentials"}
_USAGE: Final = (InvalidPrefixError, InvalidUriError, InvalidConfigurationException)
_OPTIONS: Final = {
    "no_sign_request=True": "--no-sign-request",
    "give the client a connection_string, or an account_url and a credential (an account_url alone reads public "
    "containers), or set": "give --account-url (with --no-sign-request for a public container), or set",
    "or give the client credentials that have": "or give --credentials of an account that has",
    "give the client a credential or a connection string, or set": "set",
    "freshness='offline'": "--freshness offline",
    "push() (`casstore push`; force_overwrite_to_cloud=True, `--force`, ": "`casstore push` (`--force` ",
    "push() uploads them (with force_overwrite_to_cloud=True ": "`casstore push` uploads them (with `--force` ",
    "read with force_overwrite_from_cloud=True, or drop()": "`casstore drop`",
    "save_pending(PATH)": "`casstore drop --save-to PATH`",
    "save_pending()": "`casstore drop --save-to PATH`",
    "drop()": "`casstore drop`",
    ". At the shell: casstore pending, push, drop": "",
    "are pending, name one: ": "are pending, choose one by --name: ",
}
"""How the shell says what messages say in Python."""


Result = TypeVar("Result")


class Shell(Protocol):
    """What `casstore.cli_output.Shell` gives, as far as these commands need it."""

    directory: str | None

    def open_cache(self) -> Cache:
        """The store, which must be there."""
        ...

    def facts(self, cache: Cache, entry: Entry) -> dict[str, Any]:
        """An entry in JSON's types."""
        ...

    def json_line(self, value: object) -> None:
        """One line of JSON on stdout."""
        ...

    def json_document(self, value: object) -> None:
        """One document of JSON on stdout."""
        ...

    def line(self, text: str) -> None:
        """One line of data for people."""
        ...

    def error(self, message: str) -> None:
        """One line on stderr."""
        ...

    def note(self, message: str) -> None:
        """One line on stderr that only informs."""
        ...

    def size(self, count: int) -> str:
        """Bytes for people."""
        ...

    def shown(self, text: str) -> str:
        """Text that a terminal may see."""
        ...

    def describe(self, error: BaseException) -> str:
        """One line for an error."""
        ...


class Clients:
    """One client for each scheme, made of the options; on the store in *directory*, the shell's unless given."""

    def __init__(self, shell: Shell, options: dict[str, Any], directory: str | None = None) -> None:
        self._habits = {"local_cache_dir": directory or shell.directory, "freshness": options.get("freshness")}
        known = {name for names in _OPTIONS_OF.values() for name in names}
        self._given = {name: value for name, value in options.items() if name in known and value}
        self._made: dict[type, Client[Any]] = {}

    def path(self, uri: str) -> CloudPath:
        """A path with the options' client. Raises what `CloudPath` and the client's class do."""
        cls = implementation_registry.path_class(uri)
        client = self._made.get(cls)
        if client is None:
            made = implementation_registry.client_class(cls)
            client = self._made[cls] = made(**self._habits, **self._arguments(cls.cloud_prefix))
            client.origin  # noqa: B018 (a malformed endpoint is wrong usage, and known here)
        path: CloudPath = cls(uri, client=client)
        return path

    def paths(self, uris: Sequence[str]) -> list[CloudPath]:
        """Raises also click.UsageError for options that none of *uris* takes."""
        prefixes = {implementation_registry.path_class(uri).cloud_prefix for uri in uris}
        for name in self._given:
            takers = [prefix for prefix, names in _OPTIONS_OF.items() if name in names]
            if not prefixes.intersection(takers):
                some = f"{', '.join(takers[:-1])} and {takers[-1]}" if len(takers) > 1 else takers[0]
                raise click.UsageError(f"{_spelt(name)} is for {some} URIs, and there is none")
        if "endpoint_url" in self._given and prefixes >= {"s3://", "gs://"}:
            raise click.UsageError("--endpoint-url is one server's, and these URIs are of two clouds; get them apart")
        return [self.path(uri) for uri in dict.fromkeys(uris)]

    def _arguments(self, prefix: str) -> dict[str, Any]:
        found = {name: self._given[name] for name in _OPTIONS_OF.get(prefix, ()) if name in self._given}
        if prefix == "az://":
            # Its client takes an account's URL alone for an anonymous one; here that has an option of its own.
            is_anonymous = found.pop("no_sign_request", False)
            found.setdefault("account_url", os.environ.get("AZURE_STORAGE_ACCOUNT_URL") if is_anonymous else None)
            if is_anonymous and not found["account_url"]:
                raise click.UsageError("--no-sign-request of az:// URIs needs --account-url")
            if found["account_url"] and not is_anonymous and "?" not in found["account_url"]:
                found["credential"] = Login.ENVIRONMENT
        return found


def cloud_command(call: Callable[..., Result]) -> Callable[..., Result]:
    """The options that say how to reach a cloud, and errors in the shell's manner. The command's own come below it."""

    @click.option("--endpoint-url", metavar="URL", help="For s3:// or gs://, another server than theirs.")
    @click.option("--profile", "profile_name", metavar="NAME", help="For s3://, a profile of the AWS configuration.")
    @click.option(
        "--credentials",
        "application_credentials",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="For gs://, a file of Google's credentials.",
    )
    @click.option(
        "--account-url",
        metavar="URL",
        help="For az://, the account: https://ACCOUNT.blob.core.windows.net, with the environment's credentials.",
    )
    @click.option("--no-sign-request", is_flag=True, help="Use a public bucket or container without credentials.")
    @functools.wraps(call)
    def wrapped(shell: Shell, /, **options: Any) -> Result:
        try:
            return call(shell, **options)
        except _USAGE as error:
            raise click.UsageError(str(error)) from error
        except CloudPathException as error:
            raise click.ClickException(in_the_shell(shell, error)) from error

    return click.pass_obj(wrapped)


def _spelt(name: str) -> str:
    return _SPELT.get(name) or f"--{name.replace('_', '-')}"


def in_the_shell(shell: Shell, error: Exception) -> str:
    """One line for *error*, with options and commands instead of arguments and methods."""
    text = shell.describe(error)
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    if isinstance(error, CloudPathIsADirectoryError):
        text += "; casstore prefetch gets what is below"
    return text


def error_facts(shell: Shell, error: Exception) -> dict[str, str]:
    """*error* for a script."""
    return {"error": type(error).__name__, "message": in_the_shell(shell, error)}


def report_errors(shell: Shell, errors: Sequence[tuple[str, Exception]]) -> int:
    """A line on stderr for each different error; the status that they mean."""
    uris_of: dict[str, list[str]] = {}
    for uri, error in errors:
        uris_of.setdefault(in_the_shell(shell, error), []).append(uri)
    for text, uris in uris_of.items():
        if len(uris) > 1:
            shell.error(f"{uris[0]} and {len(uris) - 1:,} more: {text}")
        else:
            shell.error(text if uris[0] in text else f"{uris[0]}: {text}")
    if len(errors) > 1:
        shell.note(f"{len(errors):,} failed")
    return 1 if errors else 0


def progress_bar(shell: Shell, title: str) -> contextlib.AbstractContextManager[Callable[[Progress], None] | None]:
    """A progress bar on stderr while the block runs; nothing where stderr is no terminal."""
    return bars.progress_bar(shell.shown(title), size=shell.size)
