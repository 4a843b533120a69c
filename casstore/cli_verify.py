"""``casstore verify``: says what is wrong with a store, with status 1 if anything is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from casstore.cli_output import Column, Shell
from casstore.figures import size_text

if TYPE_CHECKING:
    from casstore.findings import Checked, Leftovers, Problem, Verified


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def verify(shell: Shell, as_json: bool) -> int:
    """Hash every blob again, hold every row of the index against a file and every file against a row.

    Changes nothing, and may run while the store is in use. The status is 1 if anything is wrong.
    """
    cache = shell.open_cache()
    with _bar(shell) as progress:
        verified = cache.verify(progress)
    if as_json:
        shell.json_document({"root": cache.root, **_facts(verified)})
    else:
        _print(shell, verified)
    return 0 if verified.is_sound else 1


def _facts(verified: Verified) -> dict[str, Any]:
    facts = {field.name: getattr(verified, field.name) for field in dataclasses.fields(verified)}
    facts["problems"] = [_problem_facts(problem) for problem in verified.problems]
    facts["leftovers"] = dataclasses.asdict(verified.leftovers)
    return {"is_sound": verified.is_sound, **facts}


def _problem_facts(problem: Problem) -> dict[str, str | None]:
    return {
        "kind": problem.kind.value,
        "uri": problem.uri,
        "origin": problem.origin,
        "digest": None if problem.digest is None else str(problem.digest),
        "path": problem.path,
        "detail": problem.detail,
    }


def _print(shell: Shell, verified: Verified) -> None:
    if verified.problems:
        rows = [[problem.kind.value, problem.uri or problem.path, problem.detail] for problem in verified.problems]
        shell.table([Column("PROBLEM"), Column("WHERE"), Column("WHAT")], rows)
        if verified.wrong > len(verified.problems):
            shell.line(f"and {verified.wrong - len(verified.problems):,} more")
    shell.line(
        f"{verified.blobs:,} blobs of {size_text(verified.bytes)} hashed, {verified.entries:,} entries looked up: "
        + (f"{verified.wrong:,} wrong" if verified.wrong else "nothing is wrong")
    )
    leftovers = _leftovers_text(verified.leftovers)
    if leftovers:
        shell.line(f"left over, and no damage: {', '.join(leftovers)}")


def _leftovers_text(left: Leftovers) -> list[str]:
    counts = [
        (left.unknown, f"{left.unknown:,} unknown blobs of {size_text(left.unknown_bytes)}"),
        (left.unused, f"{left.unused:,} unused blobs of {size_text(left.unused_bytes)}"),
        (left.stale_rows, f"{left.stale_rows:,} rows of blobs that are gone"),
        (left.trash, f"{left.trash:,} files of {size_text(left.trash_bytes)} in the trash"),
        (left.quarantine, f"{left.quarantine:,} files of {size_text(left.quarantine_bytes)} in quarantine"),
    ]
    return [text for count, text in counts if count]


@contextlib.contextmanager
def _bar(shell: Shell) -> Iterator[Callable[[Checked], None] | None]:
    """A progress bar on stderr while the block runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty() or os.environ.get("CASSTORE_DISABLE_PROGRESS") or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column as Cell

    def column(field: str) -> bars.TextColumn:
        return bars.TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Cell(no_wrap=True))

    columns = (
        column("files"),
        bars.BarColumn(bar_width=None),
        column("size"),
        column("rate"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, files="", size="", rate="")

        def show(now: Checked) -> None:
            speed = bar.tasks[0].speed
            is_hashing = now.blobs or now.bytes
            bar.update(
                task,
                completed=now.bytes,
                # Blobs without a row may make it more than the index knows of.
                total=max(now.total_bytes, now.bytes) if is_hashing and now.total_bytes else None,
                files=f"{now.blobs:,}/{now.total_blobs:,} blobs" if is_hashing else f"{now.rows:,} rows",
                size=f"{shell.size(now.bytes)} of {shell.size(now.total_bytes)}" if now.total_bytes else "",
                rate=f"{shell.size(int(speed))}/s" if speed else "",
            )

        yield show
