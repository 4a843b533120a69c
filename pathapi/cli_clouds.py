"""What the commands that need a cloud share: how to reach it, and errors and progress in the shell's manner."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import click

from casstore import Cache, Entry
from pathapi.client import Client
from pathapi.exceptions import (
    CloudPathException,
    CloudPathIsADirectoryError,
    InvalidConfigurationException,
    InvalidPrefixError,
    InvalidUriError,
)
from pathapi.path import CloudPath
from pathapi.prefetching import Progress
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
_TITLE_CELLS: Final = 40
_FIGURES_CELLS: Final = 64
"""What the bar needs beside its title: objects, bytes, rate and time left, and a few cells of bar."""


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


def cloud_command(call: Callable[..., int]) -> Callable[..., int]:
    """The options that say how to reach a cloud, and errors in the shell's manner. The command's own come below it."""

    @click.option("--endpoint-url", metavar="URL", help="An S3 server other than Amazon's.")
    @click.option("--profile", "profile_name", metavar="NAME", help="A profile of the AWS configuration files.")
    @click.option("--no-sign-request", is_flag=True, help="Use a public bucket without credentials.")
    @functools.wraps(call)
    def wrapped(shell: Shell, /, **options: Any) -> int:
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


@contextlib.contextmanager
def progress_bar(shell: Shell, title: str) -> Iterator[Callable[[Progress], None] | None]:
    """A progress bar on stderr while the block runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty() or os.environ.get("CASSTORE_DISABLE_PROGRESS") or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    def column(field: str, **options: Any) -> bars.TextColumn:
        return bars.TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Column(no_wrap=True, **options))

    console = Console(stderr=True)
    columns = (
        column("title", max_width=max(8, min(_TITLE_CELLS, console.width - _FIGURES_CELLS)), overflow="ellipsis"),
        bars.BarColumn(bar_width=None),
        column("objects"),
        column("size"),
        column("rate", justify="right"),
        bars.TimeRemainingColumn(),
    )
    # At a terminal, lines come above the bar. Elsewhere stdout is data, and the bar's console is stderr.
    is_shown = sys.stdout.isatty()
    with bars.Progress(*columns, console=console, transient=True, redirect_stdout=is_shown) as bar:
        task = bar.add_task("", total=None, title=shell.shown(title), objects="", size="", rate="")

        def show(now: Progress) -> None:
            have = now.bytes + now.underway
            total = None if now.is_listing or not now.total_bytes else now.total_bytes
            speed = bar.tasks[0].speed
            bar.update(
                task,
                completed=have,
                total=total,
                objects=f"{now.files:,}/{now.total_files:,}{'+' if now.is_listing else ''} objects",
                size=shell.size(have) if total is None else f"{shell.size(have)} of {shell.size(total)}",
                rate=f"{shell.size(int(speed))}/s" if speed else "",
            )

        yield show
