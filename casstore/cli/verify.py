"""``casstore verify``: check a store, and repair it if asked to."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.facts import reaped_facts, reaped_lines
from casstore.cli.plugins import ExtensibleCommand, run_extension
from casstore.cli.shell import Parsed, Shell, json_document_option, progress_bar
from casstore.config.units import SECONDS, format_size

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.verify.report import Leftovers, Repair, RepairSummary, VerifyProgress, VerifyReport


def _parse_fraction(text: str) -> float:
    with contextlib.suppress(ValueError):
        fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 < fraction <= 1:
            return fraction
    raise ValueError("is not a fraction: use 5% or 0.05")


def _parse_newest(text: str) -> int | timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw]?)", text, re.ASCII)
    if found is None:
        raise ValueError("is neither a number of blobs nor a duration: use 1000 or 24h")
    return timedelta(seconds=int(found[1]) * SECONDS[found[2]]) if found[2] else int(found[1])


_FRACTION: Final = Parsed("fraction", _parse_fraction)
_NEWEST: Final = Parsed("newest", _parse_newest)


@click.command(cls=ExtensibleCommand)
@click.option("--sample", type=_FRACTION, metavar="FRACTION", help="Hash only a random fraction of the blobs: 5%.")
@click.option(
    "--newest", type=_NEWEST, metavar="N|TIME", help="Hash only the newest blobs: 1000, or those of the last 24h."
)
@click.option("--repair", is_flag=True, help="Fix, drop or quarantine what is wrong.")
@json_document_option
@click.pass_context
def verify(
    ctx: click.Context, sample: float | None, newest: int | timedelta | None, repair: bool, as_json: bool
) -> int:
    """Hash every blob, and compare the index with the files.

    Changes nothing without --repair. The store may be in use. Exits with status 1 if a problem was found and not
    repaired.

    \b
    Examples:
      casstore verify --sample 5%
      casstore verify --repair
      casstore verify --remote --prefix s3://bucket/photos/
    """
    shell: Shell = ctx.obj
    cache = shell.open_cache()
    # First, since it may raise a usage error. Its result has `facts` for JSON, `is_wrong` and `show(shell)`.
    remote = run_extension(ctx)
    verified = _verify(cache, sample, newest, repair=repair)
    if as_json:
        shell.json_document({"root": cache.root, **_facts(verified), **({} if remote is None else remote.facts)})
    else:
        _print(shell, verified)
        if remote is not None:
            remote.show(shell)
    return 1 if verified.left or (remote is not None and remote.is_wrong) else 0


def _verify(cache: Cache, sample: float | None, newest: int | timedelta | None, *, repair: bool) -> VerifyReport:
    started = time.monotonic()

    with progress_bar() as draw:

        def show(now: VerifyProgress) -> None:
            # Skipped blobs count as done, but not for the rate: a sample is spread evenly.
            done = now.bytes + now.skipped_bytes
            total = None
            count = f"{now.rows:,} rows"
            if now.blobs or done:
                count = f"{now.blobs + now.skipped:,}/{now.total_blobs:,} blobs"
                # Blobs without a row are not part of the index's total.
                total = max(now.total_bytes, done) if now.total_bytes else None
            size = f"{format_size(done)} of {format_size(now.total_bytes)}" if now.total_bytes else ""
            seconds = time.monotonic() - started
            rate = f"  {format_size(int(now.bytes / seconds))}/s" if now.bytes and seconds else ""
            draw(count, size + rate, done, total)

        return cache.verify(show, sample=sample, newest=newest, repair=repair)


def _facts(verified: VerifyReport) -> dict[str, Any]:
    facts = dataclasses.asdict(dataclasses.replace(verified, problems=(), repairs=None))
    facts["problems"] = [
        {**dataclasses.asdict(problem), "digest": None if problem.digest is None else str(problem.digest)}
        for problem in verified.problems
    ]
    del facts["repairs"]
    summary, mended = verified.repairs, None
    if summary is not None:
        mended = dataclasses.asdict(dataclasses.replace(summary, reaped=None))
        mended["reaped"] = reaped_facts(summary.reaped)
    return {"is_sound": verified.is_sound, "left": verified.left, **facts, "mended": mended}


def _print(shell: Shell, verified: VerifyReport) -> None:
    if verified.problems:
        columns = ["PROBLEM", "WHERE", "WHAT"]
        rows = [[problem.kind.value, problem.uri or problem.path, problem.detail] for problem in verified.problems]
        if verified.repairs is not None:
            columns.append("REPAIR")
            for row, problem in zip(rows, verified.problems, strict=True):
                row.append(_repair_text(problem.repair))
        shell.table(columns, rows)
        if verified.wrong > len(verified.problems):
            shell.line(f"and {verified.wrong - len(verified.problems):,} more")
    shell.line(
        f"hashed {verified.blobs:,} blobs ({format_size(verified.bytes)}), checked {verified.entries:,} entries: "
        + (f"{verified.wrong:,} problems" if verified.wrong else "no problems")
    )
    if verified.skipped:
        shell.line(f"skipped: {verified.skipped:,} blobs ({format_size(verified.skipped_bytes)})")
    if verified.repairs is not None:
        _print_repairs(shell, verified.repairs, verified.left)
    leftovers = _leftovers_text(verified.leftovers)
    if leftovers:
        shell.line(f"left over, but not damaged: {', '.join(leftovers)}")


def _repair_text(repair: Repair | None) -> str:
    if repair is None:
        return "none: inspect it manually"
    uris = f" ({', '.join(repair.uris)})" if repair.uris else ""
    return f"{repair.action}{uris}" + (f": {repair.path}" if repair.path else "")


def _print_repairs(shell: Shell, summary: RepairSummary, left: int) -> None:
    done = [
        (summary.problems, f"{summary.problems:,} problems fixed"),
        (left, f"{left:,} not fixed"),
        (summary.adopted, f"{summary.adopted:,} unindexed blobs added ({format_size(summary.adopted_bytes)})"),
        (summary.stale_rows, f"{summary.stale_rows:,} stale rows dropped"),
    ]
    text = ", ".join(text for count, text in done if count)
    if text:
        shell.line(f"repaired: {text}")
    for line in reaped_lines(summary.reaped):
        shell.line(line)


def _leftovers_text(left: Leftovers) -> list[str]:
    counts = [
        (left.unknown, f"{left.unknown:,} unindexed blobs ({format_size(left.unknown_bytes)})"),
        (left.unused, f"{left.unused:,} unused blobs ({format_size(left.unused_bytes)})"),
        (left.stale_rows, f"{left.stale_rows:,} stale rows"),
        (left.trash, f"{left.trash:,} files in the trash ({format_size(left.trash_bytes)})"),
        (left.quarantine, f"{left.quarantine:,} files in quarantine ({format_size(left.quarantine_bytes)})"),
    ]
    return [text for count, text in counts if count]
