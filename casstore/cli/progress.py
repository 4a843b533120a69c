"""The progress bar of the commands that work through a store: verify, gc, clear."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

Draw: TypeAlias = Callable[[str, str, int, int | None], None]
"""Draws the bar: a count, a size, how much is done, and of how much (None if that is not known)."""


@contextlib.contextmanager
def progress_bar() -> Iterator[Draw]:
    """Show a bar on stderr during the block; yield the function that draws it, which draws nothing without a terminal.

    ``CASSTORE_DISABLE_PROGRESS`` and a dumb terminal switch the bar off.
    """
    if not sys.stderr.isatty() or os.environ.get("CASSTORE_DISABLE_PROGRESS") or os.environ.get("TERM") == "dumb":
        yield lambda *_: None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    def column(field: str) -> bars.TextColumn:
        return bars.TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Column(no_wrap=True))

    columns = (column("count"), bars.BarColumn(bar_width=None), column("size"), bars.TimeRemainingColumn())
    # Lines for a terminal appear above the bar, unbroken. A file or a pipe gets its lines directly.
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with bars.Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=None, count="", size="")

        def draw(count: str, size: str, done: int, total: int | None) -> None:
            bar.update(task, count=count, size=size, completed=done, total=total)

        yield draw
