"""What the commands that need a server share: connection options, errors, progress."""

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
from pathapi.parallel import progress as bars
from pathapi.parallel.progress import Progress
from pathapi.path.cloud_path import CloudPath
from pathapi.registry import implementation_registry

_OPTIONS_OF: Final = {
    "s3://": ("endpoint_url", "profile_name", "no_sign_request"),
    "gs://": ("endpoint_url", "application_credentials", "no_sign_request"),
    "az://": ("account_url", "no_sign_request"),
}
"""The options that each cloud's client accepts, by argument name."""
_OPTION_NAMES: Final = {"profile_name": "--profile", "application_credentials": "--credentials"}
_USAGE_ERRORS: Final = (InvalidPrefixError, InvalidUriError, InvalidConfigurationException)

Result = TypeVar("Result")


class Shell(Protocol):
    """The part of `casstore.cli.shell.Shell` that these commands use; its methods are documented there."""

    directory: str | None

    def open_cache(self) -> Cache: ...
    def facts(self, cache: Cache, entry: Entry) -> dict[str, Any]: ...
    def json_line(self, value: object) -> None: ...
    def json_document(self, value: object) -> None: ...
    def line(self, text: str) -> None: ...
    def error(self, message: str) -> None: ...
    def note(self, message: str) -> None: ...
    def size(self, count: int) -> str: ...
    def shown(self, text: str) -> str: ...
    def describe(self, error: BaseException) -> str: ...


class Clients:
    """One client for each scheme, with the options of the command, on the store in *directory* or the shell's."""

    def __init__(self, shell: Shell, options: dict[str, Any], directory: str | None = None) -> None:
        self._client_options = {"local_cache_dir": directory or shell.directory, "freshness": options.get("freshness")}
        known = {name for names in _OPTIONS_OF.values() for name in names}
        self._given = {name: value for name, value in options.items() if name in known and value}
        self._clients: dict[type, Client[Any]] = {}

    def path(self, uri: str) -> CloudPath:
        """Return a path. Raises what `CloudPath` and the client's class raise."""
        cls = implementation_registry.path_class(uri)
        client = self._clients.get(cls)
        if client is None:
            client_class = implementation_registry.client_class(cls)
            client = client_class(**self._client_options, **self._arguments(cls.cloud_prefix))
            self._clients[cls] = client
            client.origin  # noqa: B018 (raises the usage error of a malformed endpoint now)
        path: CloudPath = cls(uri, client=client)
        return path

    def paths(self, uris: Sequence[str]) -> list[CloudPath]:
        """Return the paths, each once. Raises click.UsageError for an option that applies to none of *uris*."""
        prefixes = {implementation_registry.path_class(uri).cloud_prefix for uri in uris}
        for name in self._given:
            schemes = [prefix for prefix, names in _OPTIONS_OF.items() if name in names]
            if not prefixes.intersection(schemes):
                some = f"{', '.join(schemes[:-1])} and {schemes[-1]}" if len(schemes) > 1 else schemes[0]
                raise click.UsageError(f"{_option_name(name)} is for {some} URIs, and there are none: omit it")
        if "endpoint_url" in self._given and prefixes >= {"s3://", "gs://"}:
            raise click.UsageError("--endpoint-url cannot be both an s3:// and a gs:// server: run two commands")
        return [self.path(uri) for uri in dict.fromkeys(uris)]

    def _arguments(self, prefix: str) -> dict[str, Any]:
        found = {name: self._given[name] for name in _OPTIONS_OF.get(prefix, ()) if name in self._given}
        if prefix == "az://":
            # An AzureClient with only an account URL is anonymous. Here, anonymous access has an option of its own.
            is_anonymous = found.pop("no_sign_request", False)
            found.setdefault("account_url", os.environ.get("AZURE_STORAGE_ACCOUNT_URL") if is_anonymous else None)
            if is_anonymous and not found["account_url"]:
                raise click.UsageError("--no-sign-request of az:// URIs needs --account-url")
            if found["account_url"] and not is_anonymous and "?" not in found["account_url"]:
                found["credential"] = Login.ENVIRONMENT
        return found


def cloud_command(call: Callable[..., Result]) -> Callable[..., Result]:
    """Add the connection options, and turn errors into one line. Apply it above the command's own options."""

    @click.option("--endpoint-url", metavar="URL", help="The server, for s3:// and gs:// URIs.")
    @click.option("--profile", "profile_name", metavar="NAME", help="An AWS profile, for s3:// URIs.")
    @click.option(
        "--credentials",
        "application_credentials",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="A Google credentials file, for gs:// URIs.",
    )
    @click.option(
        "--account-url", metavar="URL", help="The account, for az:// URIs: https://ACCOUNT.blob.core.windows.net"
    )
    @click.option("--no-sign-request", is_flag=True, help="Send no credentials: for public buckets and containers.")
    @functools.wraps(call)
    def wrapped(shell: Shell, /, **options: Any) -> Result:
        try:
            return call(shell, **options)
        except _USAGE_ERRORS as error:
            raise click.UsageError(str(error)) from error
        except CloudPathException as error:
            raise click.ClickException(describe(shell, error)) from error

    return click.pass_obj(wrapped)


def _option_name(name: str) -> str:
    return _OPTION_NAMES.get(name) or f"--{name.replace('_', '-')}"


def describe(shell: Shell, error: Exception) -> str:
    """Return one line for *error*, with options and commands instead of arguments and methods."""
    if isinstance(error, CloudPathException) and error.shell_message is not None:
        return error.shell_message
    text = shell.describe(error)
    if isinstance(error, CloudPathIsADirectoryError):
        text += ": `casstore prefetch` downloads what is below it"
    return text


def name_in(shell: Shell, uri: str, text: str) -> str:
    """Return *text* with *uri* first, unless it names it. Both are escaped on their own, so that neither is twice."""
    uri, text = shell.shown(uri), shell.shown(text)
    return text if uri in text else f"{uri}: {text}"


def error_facts(shell: Shell, error: Exception) -> dict[str, str]:
    """Return *error* for JSON."""
    return {"error": type(error).__name__, "message": describe(shell, error)}


def report_errors(shell: Shell, errors: Sequence[tuple[str, Exception]]) -> int:
    """Print a line on stderr for each different error; return the exit status."""
    uris_of: dict[str, list[str]] = {}
    for uri, error in errors:
        uris_of.setdefault(describe(shell, error), []).append(uri)
    for text, uris in uris_of.items():
        if len(uris) > 1:
            shell.error(f"{shell.shown(uris[0])} and {len(uris) - 1:,} more: {shell.shown(text)}")
        else:
            shell.error(name_in(shell, uris[0], text))
    if len(errors) > 1:
        shell.note(f"{len(errors):,} failed")
    return 1 if errors else 0


def progress_bar(shell: Shell, title: str) -> contextlib.AbstractContextManager[Callable[[Progress], None] | None]:
    """Show a progress bar on stderr during the block, if stderr is a terminal."""
    return bars.progress_bar(shell.shown(title), size=shell.size)
