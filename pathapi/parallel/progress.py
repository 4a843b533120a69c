"""The progress of an operation on many objects, and a bar that shows it, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

PROGRESS_SECONDS: Final = 0.1
"""The least time between two calls of a callback."""

_TITLE_CELLS: Final = 40
_FIGURES_CELLS: Final = 64
"""Cells for everything except the title: counts, rate, remaining time, and a short bar."""


@dataclass(slots=True)
class Progress:
    """Counts so far; the totals grow while a listing runs.

    *held* counts objects that needed no transfer, *underway* the bytes of this process's unfinished downloads.
    """

    files: int = 0
    total_files: int = 0
    bytes: int = 0
    total_bytes: int = 0
    held: int = 0
    underway: int = 0
    is_listing: bool = True


ProgressCallback: TypeAlias = Callable[[Progress], object]
"""Called about ten times a second and at the end, from the calling thread."""


@contextlib.contextmanager
def progress_bar(
    title: str = "", *, size: Callable[[int], str] | None = None
) -> Iterator[Callable[[Progress], None] | None]:
    """Show a progress bar during the block: on stderr if it is a terminal, or in a notebook.

        with pathapi.progress_bar("photos") as progress:
            path.download_to("photos", progress=progress)

    ``CASSTORE_DISABLE_PROGRESS`` switches it off.
    """
    in_notebook = "ipykernel" in sys.modules
    is_silent = os.environ.get("CASSTORE_DISABLE_PROGRESS") or os.environ.get("TERM") == "dumb"
    if is_silent or not (in_notebook or sys.stderr.isatty()):
        yield None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    from casstore import format_size, printable

    shown = size or format_size

    def column(field: str, **options: Any) -> bars.TextColumn:
        return bars.TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Column(no_wrap=True, **options))

    console = Console() if in_notebook else Console(stderr=True)
    columns = (
        column("title", max_width=max(8, min(_TITLE_CELLS, console.width - _FIGURES_CELLS)), overflow="ellipsis"),
        bars.BarColumn(bar_width=None),
        column("objects"),
        column("size"),
        column("rate", justify="right"),
        bars.TimeRemainingColumn(),
    )
    # On a terminal, printed lines appear above the bar. Otherwise stdout is data and must not go to the bar's console.
    is_shown = in_notebook or sys.stdout.isatty()
    with bars.Progress(*columns, console=console, transient=True, redirect_stdout=is_shown) as bar:
        task = bar.add_task("", total=None, title=printable(title), objects="", size="", rate="")

        def show(now: Progress) -> None:
            done = now.bytes + now.underway
            total = None if now.is_listing or not now.total_bytes else now.total_bytes
            speed = bar.tasks[0].speed
            bar.update(
                task,
                completed=done,
                total=total,
                objects=f"{now.files:,}/{now.total_files:,}{'+' if now.is_listing else ''} objects",
                size=shown(done) if total is None else f"{shown(done)} of {shown(total)}",
                rate=f"{shown(int(speed))}/s" if speed else "",
            )

        yield show
