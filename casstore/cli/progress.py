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
