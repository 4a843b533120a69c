"""What the commands that need a cloud share: how to reach it, and errors and progress in the shell's manner."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import click

from casstore import Cache, Entry
from pathapi import bars
from pathapi.client import Client
from pathapi.exceptions import (
    CloudPathException,
    CloudPathIsADirectoryError,
    InvalidConfigurationException,
    InvalidPrefixError,
    InvalidUriError,
)
from pathapi.path import CloudPath
from pathapi.progress import Progress
from pathapi.registry import implementation_registry

_S3_OPTIONS: Final = ("endpoint_url", "profile_name", "no_sign_request")
_USAGE: Final = (InvalidPrefixError, InvalidUriError, InvalidConfigurationException)
_OPTIONS: Final = {
    "no_sign_request=True": "--no-sign-request",
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
        self._s3 = {name: options[name] for name in _S3_OPTIONS if options[name]}
        self._made: dict[type, Client[Any]] = {}

    def path(self, uri: str) -> CloudPath:
        """A path with the options' client. Raises what `CloudPath` and the client's class do."""
        cls = implementation_registry.path_class(uri)
        client = self._made.get(cls)
        if client is None:
            made = implementation_registry.client_class(cls)
            client = self._made[cls] = made(**self._habits, **(self._s3 if cls.cloud_prefix == "s3://" else {}))
            client.origin  # noqa: B018 (a malformed endpoint is wrong usage, and known here)
        path: CloudPath = cls(uri, client=client)
        return path

    def paths(self, uris: Sequence[str]) -> list[CloudPath]:
        """Raises also click.UsageError for options that none of *uris* takes."""
        paths = [self.path(uri) for uri in dict.fromkeys(uris)]
        if self._s3 and not any(path.cloud_prefix == "s3://" for path in paths):
            option = next(iter(self._s3)).removesuffix("_name").replace("_", "-")
            raise click.UsageError(f"--{option} is for s3:// URIs, and there is none")
        return paths


def cloud_command(call: Callable[..., Result]) -> Callable[..., Result]:
    """The options that say how to reach a cloud, and errors in the shell's manner. The command's own come below it."""

    @click.option("--endpoint-url", metavar="URL", help="An S3 server other than Amazon's.")
    @click.option("--profile", "profile_name", metavar="NAME", help="A profile of the AWS configuration files.")
    @click.option("--no-sign-request", is_flag=True, help="Use a public bucket without credentials.")
    @functools.wraps(call)
    def wrapped(shell: Shell, /, **options: Any) -> Result:
        try:
            return call(shell, **options)
        except _USAGE as error:
            raise click.UsageError(str(error)) from error
        except CloudPathException as error:
            raise click.ClickException(in_the_shell(shell, error)) from error

    return click.pass_obj(wrapped)


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
