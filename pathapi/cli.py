"""The commands that need a cloud: ``get`` and ``prefetch``. They join ``casstore`` through its entry points.

Each is a thin caller of `pathapi.prefetch`. What they print with comes from ``casstore``, as ``ctx.obj``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import click

from casstore import Cache, Entry, copy_out
from pathapi.client import Client
from pathapi.exceptions import (
    CloudPathException,
    CloudPathIsADirectoryError,
    InvalidConfigurationException,
    InvalidPrefixError,
    InvalidUriError,
)
from pathapi.path import CloudPath
from pathapi.prefetching import THREADS, Prefetched, PrefetchedObject, Progress, prefetch
from pathapi.registry import implementation_registry

_S3_OPTIONS: Final = ("endpoint_url", "profile_name", "no_sign_request")
_USAGE: Final = (InvalidPrefixError, InvalidUriError, InvalidConfigurationException)
_OPTIONS: Final = {"no_sign_request=True": "--no-sign-request", "freshness='offline'": "--freshness offline"}
"""How the shell says what messages say in Python."""
_DIGITS: Final = 12
_TITLE_CELLS: Final = 40
_FIGURES_CELLS: Final = 64
"""What the bar needs beside its title: objects, bytes, rate and time left, and a few cells of bar."""


class Shell(Protocol):
    """What `casstore.cli_output.Shell` gives, as far as these commands need it."""

    directory: str | None

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


class _Clients:
    """One client for each scheme, made of the options."""

    def __init__(self, shell: Shell, options: dict[str, Any]) -> None:
        self._habits = {"local_cache_dir": shell.directory, "freshness": options["freshness"]}
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


def _cloud_command(call: Callable[..., int]) -> Callable[..., int]:
    """The options that say how to reach a cloud, and errors in the shell's manner."""

    @click.option("--endpoint-url", metavar="URL", help="An S3 server other than Amazon's.")
    @click.option("--profile", "profile_name", metavar="NAME", help="A profile of the AWS configuration files.")
    @click.option("--no-sign-request", is_flag=True, help="Read a public bucket without credentials.")
    @click.option(
        "--freshness",
        metavar="POLICY",
        help="When to ask about what is held: always, immutable, offline, or an age in seconds.  "
        "[default: $CASSTORE_FRESHNESS, else always]",
    )
    @click.option(
        "--threads", type=click.IntRange(1, 256), default=THREADS, show_default=True, help="Objects at a time."
    )
    @functools.wraps(call)
    def wrapped(shell: Shell, /, **options: Any) -> int:
        try:
            return call(shell, **options)
        except _USAGE as error:
            raise click.UsageError(str(error)) from error
        except CloudPathException as error:
            raise click.ClickException(_in_the_shell(shell, error)) from error

    return click.pass_obj(wrapped)


def _in_the_shell(shell: Shell, error: Exception) -> str:
    text = shell.describe(error)
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    if isinstance(error, CloudPathIsADirectoryError):
        text += "; casstore prefetch gets what is below"
    return text


@click.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="Also copy the bytes to this file, into this directory, or to stdout (-). A file is replaced as a whole.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, as objects arrive.")
@_cloud_command
def get(shell: Shell, /, uris: tuple[str, ...], output: str | None, as_json: bool, threads: int, **options: Any) -> int:
    """Have these objects in the store, and say what is held where.

    An object whose copy is still right is not downloaded again. Objects that fail do not stop the others; the status
    is then 1.
    """
    paths = _Clients(shell, options).paths(uris)
    targets = _targets(paths, output)
    # A store that cannot be used is one error, not one for each object.
    cache = paths[0].client.cache
    quiet = output == "-"

    def arrived(item: PrefetchedObject) -> None:
        if as_json and not quiet:
            shell.json_line(_facts(shell, cache, item))
        else:
            lines[str(item.path)] = _line(shell, item)

    lines: dict[str, str] = {}
    with _bar(shell, "Getting") as progress:
        done = prefetch(paths, threads=threads, progress=progress, recursive=False, on_object=arrived)
    failed = {uri for uri, _ in done.errors}
    for path in paths:
        if path.uri.canonical in failed:
            continue
        if targets:
            _copy(path, targets[path])
        if not as_json and not quiet:
            shell.line(lines[str(path)])
    for uri, error in done.errors:
        if as_json and not quiet:
            shell.json_line({"uri": uri, **_error_facts(shell, error)})
    return _report_errors(shell, done.errors)


def _targets(paths: Sequence[CloudPath], output: str | None) -> dict[CloudPath, str]:
    """Where each object's bytes go; all that can be refused is refused before anything is fetched."""
    if output is None:
        return {}
    if output == "-" or not (os.path.isdir(output) or output.endswith("/")):
        if len(paths) > 1:
            raise click.UsageError(f"-o {output} takes one URI, not {len(paths)}; name an existing directory for more")
        if output != "-" and not os.path.isdir(os.path.dirname(output) or "."):
            raise click.UsageError(f"-o {output}: there is no such directory")
        return {paths[0]: output}
    if not os.path.isdir(output):
        raise click.UsageError(f"-o {output}: there is no such directory")
    targets: dict[CloudPath, str] = {}
    for path in paths:
        name = "" if path.key.endswith("/") else path.name
        if name in ("", ".", ".."):
            raise click.UsageError(f"{path.uri.shown} ends in no name for a file; give one with -o")
        target = os.path.join(output, name)
        if target in targets.values():
            raise click.UsageError(f"two of the objects are named {name}; get them into different directories")
        targets[path] = target
    return targets


def _copy(path: CloudPath, target: str) -> None:
    # Checked a moment ago; if it was evicted since, it is fetched again.
    with path.open("rb", freshness="immutable") as file:
        if target != "-":
            copy_out(file.fileno(), target)
            return
        out = sys.stdout.buffer
        while data := file.read(1 << 20):
            out.write(data)
        out.flush()


def _facts(shell: Shell, cache: Cache, item: PrefetchedObject) -> dict[str, Any]:
    if item.entry is None:
        return {"uri": item.path.uri.canonical, "path": None, "was_held": False}
    return {**shell.facts(cache, item.entry), "was_held": item.was_held}


def _line(shell: Shell, item: PrefetchedObject) -> str:
    if item.entry is None:
        return f"{'':>9}  {'streamed':<8}  {'':{_DIGITS}}  {item.path.uri.canonical}"
    state = "held" if item.was_held else "fetched"
    digest = item.entry.digest.value.hex()[:_DIGITS]
    return f"{shell.size(item.entry.size):>9}  {state:<8}  {digest}  {item.path.uri.canonical}"


@click.command("prefetch")
@click.argument("uris", nargs=-1, required=True, metavar="URI-OR-PREFIX...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@_cloud_command
def prefetch_command(shell: Shell, /, uris: tuple[str, ...], as_json: bool, threads: int, **options: Any) -> int:
    """Have these objects, and all below these prefixes, in the store.

    What the listing shows to be held already is not downloaded again, under whatever name it is held.
    """
    paths = _Clients(shell, options).paths(uris)
    paths[0].client.cache  # noqa: B018 (a store that cannot be used is one error, not one for each prefix)
    files = size = held = 0
    errors: list[tuple[str, Exception]] = []
    for path in paths:
        with _bar(shell, path.uri.canonical) as progress:
            try:
                done = prefetch(path, threads=threads, progress=progress)
            except (CloudPathException, OSError) as error:
                done = Prefetched(0, 0, 0, [(path.uri.canonical, error)])
        files, size, held = files + done.files, size + done.bytes, held + done.held
        errors += done.errors
    if as_json:
        shell.json_document(
            {
                "files": files,
                "bytes": size,
                "held": held,
                "errors": [{"uri": uri, **_error_facts(shell, error)} for uri, error in errors],
            }
        )
    else:
        shell.line(f"{files:,} objects of {shell.size(size)} are in the store, {held:,} were held before")
    return _report_errors(shell, errors)


def _error_facts(shell: Shell, error: Exception) -> dict[str, str]:
    return {"error": type(error).__name__, "message": _in_the_shell(shell, error)}


def _report_errors(shell: Shell, errors: Sequence[tuple[str, Exception]]) -> int:
    uris_of: dict[str, list[str]] = {}
    for uri, error in errors:
        uris_of.setdefault(_in_the_shell(shell, error), []).append(uri)
    for text, uris in uris_of.items():
        if len(uris) > 1:
            shell.error(f"{uris[0]} and {len(uris) - 1:,} more: {text}")
        else:
            shell.error(text if uris[0] in text else f"{uris[0]}: {text}")
    if len(errors) > 1:
        shell.note(f"{len(errors):,} failed")
    return 1 if errors else 0


@contextlib.contextmanager
def _bar(shell: Shell, title: str) -> Iterator[Callable[[Progress], None] | None]:
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
    with bars.Progress(*columns, console=console, transient=True) as bar:
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


commands: Final[Sequence[click.Command]] = (get, prefetch_command)
"""What joins the command ``casstore``."""
