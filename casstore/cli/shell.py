"""What every command shares: options, output and errors. Data goes to stdout, everything else to stderr.

Keys may contain control characters: text is escaped before a terminal shows it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click

import casstore
from casstore.cli.facts import entry_facts
from casstore.config.units import format_size
from casstore.errors import printable

if TYPE_CHECKING:
    from casstore import Cache
import contextlib
from collections.abc import Iterator
from typing import TypeAlias

Value = TypeVar("Value")

INTERRUPTED: Final = 130
"""The status after an interrupt, or after the user declined a prompt."""

AGE_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))
_UNLIMITED_WIDTH: Final = 100_000
"""The width of tables in files and pipes: no line is broken or cut."""


class Parsed(click.ParamType[Value]):
    """A value that a function parses; its ValueError is a usage error."""

    def __init__(self, name: str, parse: Callable[[str], Value]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Value:
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


json_document_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
json_lines_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")


def describe(error: BaseException) -> str:
    """Return one line for *error*, with the file first if it names one."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return text.replace("CASSTORE_DIR, local_cache_dir", "--dir, CASSTORE_DIR")


def say(message: str) -> None:
    print(f"casstore: {printable(message)}", file=sys.stderr, flush=True)  # noqa: T201 (the command's own voice)


class Shell:
    """The terminal and the store of one command, also of a plug-in's; click passes it as ``ctx.obj``.

    *directory* is the value of ``--dir``; None means the default store.
    """

    def __init__(self, directory: str | None) -> None:
        self.directory = directory

    def command(self, text: str) -> str:
        """Return the command line *text*, with this command's store."""
        if self.directory is None:
            return text
        return text.replace("casstore ", f"casstore --dir {shlex.quote(self.directory)} ", 1)

    def open_cache(self) -> Cache:
        """Open the store, and do not create one. Raises what `casstore.open` raises."""
        return casstore.open(self.directory, create=False)

    def json_line(self, value: object) -> None:
        """Write *value* to one line of stdout, in ASCII."""
        sys.stdout.write(json.dumps(value) + "\n")

    def json_document(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")

    def text(self, text: str) -> None:
        """Write *text* to stdout unchanged."""
        sys.stdout.write(text)

    def line(self, text: str) -> None:
        """Write a line to stdout, with control characters escaped."""
        sys.stdout.write(printable(text) + "\n")

    def note_no_match(self, what: str, prefix: str) -> None:
        """Say on stderr that nothing *what* (``cached``, ``pending``) has this prefix, and how one is written."""
        why = ""
        if "://" not in prefix:
            why = f": write it as in the URIs, such as s3://{prefix}"
        elif "*" in prefix or "?" in prefix:
            why = ": it is no pattern, and * and ? are part of it"
        self.note(f"nothing {what} starts with {prefix}{why}")

    def table(
        self,
        columns: Iterable[str],
        rows: Iterable[Sequence[str]],
        total: Sequence[str] | None = None,
        numbers: Container[str] = (),
    ) -> None:
        """Write a table to stdout, as wide as the terminal; *total* is its last row, below a rule.

        The columns that are *numbers* are aligned to the right.
        """
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        is_terminal = sys.stdout.isatty()
        table = Table(box=box.SIMPLE_HEAD if is_terminal else None, pad_edge=False, show_edge=False)
        for column in columns:
            is_number = column in numbers
            table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        if total is not None:
            table.add_section()
            table.add_row(*(Text(printable(cell), "bold") for cell in total))
        console = Console(file=sys.stdout, highlight=False, width=None if is_terminal else _UNLIMITED_WIDTH)
        with console.capture() as capture:
            console.print(table)
        sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())

    def error(self, message: str) -> None:
        """Report a failure on stderr; the command continues, or exits with status 1."""
        say(f"error: {message}")

    def confirm(self, question: str) -> None:
        """Ask on stderr; exit with status 130 unless the answer is yes."""
        if not click.confirm(printable(question), err=True):
            self.note("nothing was changed")
            raise click.exceptions.Exit(INTERRUPTED)

    # The same functions, for the commands of other packages.
    facts = staticmethod(entry_facts)
    size = staticmethod(format_size)
    shown = staticmethod(printable)
    describe = staticmethod(describe)
    note = staticmethod(say)


def age_text(seconds: float) -> str:
    """Format an age: ``now``, ``40s``, ``5m``, ``3h``, ``12d``; ``?`` for a time in the future."""
    if seconds < -1:
        return "?"
    for length, unit in AGE_UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 1 else "now"


def prepare_streams() -> None:
    """Escape what a stream cannot encode, and show a warning as one line."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")


def drop_stdout() -> None:
    """Discard what is still buffered for a closed pipe, so that the interpreter's exit does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


Draw: TypeAlias = Callable[[str, str, int, int | None], None]
"""Draws the bar: a count, a size, how much is done, and of how much (None if that is not known)."""


@contextlib.contextmanager
def progress_bar(*, prints_lines: bool = False) -> Iterator[Draw]:
    """Show a bar on stderr during the block; yield the function that draws it, which draws nothing without a terminal.

    ``CASSTORE_DISABLE_PROGRESS`` and a dumb terminal switch the bar off, and so does a block that prints lines to one.
    """
    # Redrawing the bar after each of a million lines would take longer than the work.
    is_disabled = os.environ.get("CASSTORE_DISABLE_PROGRESS") or os.environ.get("TERM") == "dumb"
    if is_disabled or not sys.stderr.isatty() or (prints_lines and sys.stdout.isatty()):
        yield lambda *_: None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    def column(field: str) -> bars.TextColumn:
        return bars.TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Column(no_wrap=True))

    columns = (column("count"), bars.BarColumn(bar_width=None), column("size"), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, count="", size="")

        def draw(count: str, size: str, done: int, total: int | None) -> None:
            bar.update(task, count=count, size=size, completed=done, total=total)

        yield draw
