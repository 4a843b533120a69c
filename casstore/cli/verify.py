"""``casstore verify``: says what is wrong with a store, with status 1 if anything is; repairs it if asked to."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.plugins import ExtensibleCommand, extension_report
from casstore.cli.reaped import reaped_facts, show_reaped
from casstore.cli.shell import Column, Shell, shows_progress
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.verify.report import Leftovers, Problem, Repair, RepairSummary, VerifyProgress, VerifyReport

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Part(click.ParamType[float]):
    """A part of something: ``5%`` or ``0.05``."""

    name = "part"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click.BadParameter."""
        text = str(value)
        try:
            part = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            part = -1.0
        if not 0 < part <= 1:
            self.fail(f"{text!r} is no part of the blobs: 5%, or 0.05", param, ctx)
        return part


class _Newest(click.ParamType["int | timedelta"]):
    """So many, or a duration: ``1000``, ``90m``, ``24h``, ``7d``."""

    name = "newest"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | timedelta:
        """Raises click.BadParameter."""
        found = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw]?)", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is neither a number of blobs nor a time: 1000, 90m, 24h, 7d", param, ctx)
        count, unit = int(found[1]), found[2]
        return timedelta(seconds=count * _SECONDS[unit]) if unit else count


@click.command(cls=ExtensibleCommand)
@click.option("--sample", type=_Part(), metavar="PART", help="Hash only this part of the blobs, at random: 5%.")
@click.option(
    "--newest", type=_Newest(), metavar="N|TIME", help="Hash only what was stored last: 1000 blobs, or those of 24h."
)
@click.option("--repair", is_flag=True, help="Put right, drop or quarantine what is wrong.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def verify(
    ctx: click.Context, sample: float | None, newest: int | timedelta | None, repair: bool, as_json: bool
) -> int:
    """Hash every blob again, hold every row of the index against a file and every file against a row.

    Changes nothing without --repair, and may run while the store is in use. The status is 1 if anything is wrong and
    was not repaired.
    """
    shell: Shell = ctx.obj
    cache = shell.open_cache()
    # First, since it may find that it was not asked rightly.
    part = extension_report(ctx)
    with _bar(shell) as progress:
        verified = cache.verify(progress, sample=sample, newest=newest, repair=repair)
    if as_json:
        shell.json_document({"root": cache.root, **_facts(verified), **({} if part is None else part.facts)})
    else:
        _print(shell, verified)
        if part is not None:
            part.show(shell)
    return 1 if verified.left or (part is not None and part.is_wrong) else 0


def _facts(verified: VerifyReport) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(verified) if field.name != "repairs")
    facts = {name: getattr(verified, name) for name in names}
    facts["problems"] = [_problem_facts(problem) for problem in verified.problems]
    facts["leftovers"] = dataclasses.asdict(verified.leftovers)
    facts["mended"] = None if verified.repairs is None else _mended_facts(verified.repairs)
    return {"is_sound": verified.is_sound, "left": verified.left, **facts}


def _problem_facts(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind.value,
        "uri": problem.uri,
        "origin": problem.origin,
        "digest": None if problem.digest is None else str(problem.digest),
        "path": problem.path,
        "detail": problem.detail,
        "repair": None if problem.repair is None else dataclasses.asdict(problem.repair),
    }


def _mended_facts(mended: RepairSummary) -> dict[str, Any]:
    facts = {field.name: getattr(mended, field.name) for field in dataclasses.fields(mended)}
    return {**facts, "reaped": None if mended.reaped is None else reaped_facts(mended.reaped)}


def _print(shell: Shell, verified: VerifyReport) -> None:
    if verified.problems:
        columns = [Column("PROBLEM"), Column("WHERE"), Column("WHAT")]
        rows = [[problem.kind.value, problem.uri or problem.path, problem.detail] for problem in verified.problems]
        if verified.repairs is not None:
            columns.append(Column("REPAIR"))
            for row, problem in zip(rows, verified.problems, strict=True):
                row.append(_repair_text(problem.repair))
        shell.table(columns, rows)
        if verified.wrong > len(verified.problems):
            shell.line(f"and {verified.wrong - len(verified.problems):,} more")
    shell.line(
        f"{verified.blobs:,} blobs of {format_size(verified.bytes)} hashed, {verified.entries:,} entries looked up: "
        + (f"{verified.wrong:,} wrong" if verified.wrong else "nothing is wrong")
    )
    if verified.skipped:
        shell.line(f"not looked at: {verified.skipped:,} blobs of {format_size(verified.skipped_bytes)}")
    if verified.repairs is not None:
        _print_mended(shell, verified.repairs, verified.left)
    leftovers = _leftovers_text(verified.leftovers)
    if leftovers:
        shell.line(f"left over, and no damage: {', '.join(leftovers)}")


def _repair_text(repair: Repair | None) -> str:
    if repair is None:
        return "none: look at it yourself"
    uris = f" ({', '.join(repair.uris)})" if repair.uris else ""
    return f"{repair.action}{uris}" + (f": {repair.path}" if repair.path else "")


def _print_mended(shell: Shell, mended: RepairSummary, left: int) -> None:
    done = [
        (mended.problems, f"{mended.problems:,} problems mended"),
        (left, f"{left:,} left"),
        (mended.adopted, f"{mended.adopted:,} unknown blobs of {format_size(mended.adopted_bytes)} given a row"),
        (mended.stale_rows, f"{mended.stale_rows:,} rows of blobs that are gone dropped"),
    ]
    text = ", ".join(text for count, text in done if count)
    if text:
        shell.line(f"repaired: {text}")
    if mended.reaped is not None:
        show_reaped(shell, mended.reaped)


def _leftovers_text(left: Leftovers) -> list[str]:
    counts = [
        (left.unknown, f"{left.unknown:,} unknown blobs of {format_size(left.unknown_bytes)}"),
        (left.unused, f"{left.unused:,} unused blobs of {format_size(left.unused_bytes)}"),
        (left.stale_rows, f"{left.stale_rows:,} rows of blobs that are gone"),
        (left.trash, f"{left.trash:,} files of {format_size(left.trash_bytes)} in the trash"),
        (left.quarantine, f"{left.quarantine:,} files of {format_size(left.quarantine_bytes)} in quarantine"),
    ]
    return [text for count, text in counts if count]


@contextlib.contextmanager
def _bar(shell: Shell) -> Iterator[Callable[[VerifyProgress], None] | None]:
    """A progress bar on stderr while the block runs; nothing where stderr is no terminal."""
    if not shows_progress():
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
        started = time.monotonic()
        task = bar.add_task("", total=None, files="", size="", rate="")

        def show(now: VerifyProgress) -> None:
            # What is passed over counts for the time that is left, and not for the rate: a sample is spread evenly.
            done = now.bytes + now.skipped_bytes
            is_hashing = now.blobs or done
            seconds = time.monotonic() - started
            bar.update(
                task,
                completed=done,
                # Blobs without a row may make it more than the index knows of.
                total=max(now.total_bytes, done) if is_hashing and now.total_bytes else None,
                files=f"{now.blobs + now.skipped:,}/{now.total_blobs:,} blobs" if is_hashing else f"{now.rows:,} rows",
                size=f"{shell.size(done)} of {shell.size(now.total_bytes)}" if now.total_bytes else "",
                rate=f"{shell.size(int(now.bytes / seconds))}/s" if now.bytes and seconds else "",
            )

        yield show
