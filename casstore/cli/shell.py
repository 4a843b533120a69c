"""What every command shares: the options before its name, and how it talks. Data to stdout, all else to stderr.

Whatever comes from outside (keys may hold control characters) is made harmless before a terminal sees it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

import casstore
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore import Cache, Entry

STOPPED: Final = 130
"""The status of a command that somebody stopped: by an interrupt, or by his answer."""

_AGES: Final = ((86400, "d"), (3600, "h"), (60, "m"))
_WIDEST: Final = 100_000
"""Columns where no terminal limits them: a line of a file or a pipe is never broken or cut."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its heading, and whether it holds numbers."""

    name: str
    is_number: bool = False


class Shell:
    """The terminal, and the store that the options name. Every command, of other packages too, gets it as ``ctx.obj``.

    *directory* is the store's root as ``--dir`` gave it; None for the default.
    """

    def __init__(self, directory: str | None) -> None:
        self.directory = directory

    def open_cache(self) -> Cache:
        """The store, which must be there: looking makes none. Raises what `casstore.open` does."""
        return casstore.open(self.directory, create=False)

    def facts(self, cache: Cache, entry: Entry) -> dict[str, Any]:
        """An entry as every command's ``--json`` shows it."""
        from casstore.cli.facts import entry_facts

        return dict(entry_facts(cache, entry))

    def json_line(self, value: object) -> None:
        """*value* on one line of stdout, in ASCII."""
        sys.stdout.write(json.dumps(value) + "\n")

    def json_document(self, value: object) -> None:
        """*value* on stdout, indented, in ASCII."""
        sys.stdout.write(json.dumps(value, indent=2) + "\n")

    def text(self, text: str) -> None:
        """Lines of a format of their own on stdout, as they are."""
        sys.stdout.write(text)

    def line(self, text: str) -> None:
        """A line of data for people, its control characters escaped."""
        sys.stdout.write(shown(text) + "\n")

    def table(
        self, columns: Sequence[Column], rows: Iterable[Sequence[str]], total: Sequence[str] | None = None
    ) -> None:
        """A table on stdout, as wide as the terminal; *total* stands below a rule."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        is_terminal = sys.stdout.isatty()
        table = Table(box=box.SIMPLE_HEAD if is_terminal else None, pad_edge=False, show_edge=False)
        for column in columns:
            if column.is_number:
                table.add_column(column.name, justify="right", no_wrap=True)
            else:
                table.add_column(column.name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(shown(cell)) for cell in row))
        if total is not None:
            table.add_section()
            table.add_row(*(Text(shown(cell), "bold") for cell in total))
        console = Console(file=sys.stdout, highlight=False, width=None if is_terminal else _WIDEST)
        with console.capture() as capture:
            console.print(table)
        sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())

    def error(self, message: str) -> None:
        """Something failed and the command goes on, or ends with status 1."""
        say(f"error: {message}")

    def note(self, message: str) -> None:
        """What people may want to know, and no script."""
        say(message)

    def confirm(self, question: str) -> None:
        """Ask at the terminal, on stderr; only a yes lets the command go on."""
        if not click.confirm(question, err=True):
            self.note("nothing was changed")
            raise click.exceptions.Exit(STOPPED)

    def size(self, count: int) -> str:
        """*count* bytes for people: ``1.5 MiB``."""
        return format_size(count)

    def shown(self, text: str) -> str:
        """*text* as a terminal may see it."""
        return shown(text)

    def describe(self, error: BaseException) -> str:
        """One line for *error*, with the ways out as the shell knows them."""
        return describe(error)


def shown(text: str) -> str:
    """*text* with everything escaped that is not printable: a key must not move the cursor or fake a line."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def describe(error: BaseException) -> str:
    """One line that says what *error* does, the file first where it names one; with options instead of arguments."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return text.replace("CASSTORE_DIR, local_cache_dir", "--dir, CASSTORE_DIR")


def say(message: str) -> None:
    """A line on stderr."""
    print(f"casstore: {shown(message)}", file=sys.stderr, flush=True)  # noqa: T201 (the command's own voice)


def age_text(seconds: float) -> str:
    """How long ago: ``now``, ``40s``, ``5m``, ``3h``, ``12d``; ``?`` for what lies in the future."""
    if seconds < -1:
        return "?"
    for length, unit in _AGES:
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 1 else "now"


def prepare_streams() -> None:
    """Let no character and no warning spoil the output: what stdout cannot encode is escaped, warnings are one line."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")


def shows_progress() -> bool:
    """Whether bars are wanted: stderr is a terminal that can draw them, and nobody said no."""
    is_unwanted = os.environ.get("CASSTORE_DISABLE_PROGRESS") or os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not is_unwanted


def drop_stdout() -> None:
    """Nobody reads stdout any more: let what is still buffered go nowhere, without an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
