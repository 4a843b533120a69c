"""Interleaved rounds of contestants, and a table of medians, spreads and ratios.

On a shared and noisy machine, a single time says little. Every contestant does the same work in every round, in a new
random order. The result is the median over the rounds of its time divided by the reference's time in the same round.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Contestant:
    """One way to do the work. *run* takes an empty directory and returns the seconds of the measured part, already
    divided by *share* where it did only that share of the work. *budget*: the ratio to *against* that the design
    allows, and whether more or less than it is wanted.
    """

    name: str
    run: Callable[[Path], float]
    against: str | None = None
    budget: str | None = None
    seconds: list[float] = field(default_factory=list)


def options(description: str, **defaults: int | str) -> argparse.Namespace:
    """Parse a benchmark's command line: an option for each of *defaults*, and ``--json``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    return parser.parse_args()


def compete(title: str, contestants: Sequence[Contestant], rounds: int, *, unit: float = 1.0, unit_name: str = "s",
            as_json: bool = False) -> None:  # fmt: skip
    """Run all contestants *rounds* times and print the table; times are multiplied by *unit* for display."""
    race(contestants, rounds)
    report(title, contestants, unit=unit, unit_name=unit_name, as_json=as_json)


def race(contestants: Sequence[Contestant], rounds: int) -> None:
    """Run all contestants *rounds* times."""
    root = Path(tempfile.mkdtemp(prefix="casstore-bench-"))
    try:
        for number in range(rounds):
            for contestant in random.sample(contestants, len(contestants)):
                work = root / f"{number}-{contestant.name.replace(' ', '-').replace('/', '-')}"
                work.mkdir()
                _say(f"round {number + 1} of {rounds}: {contestant.name}")
                contestant.seconds.append(contestant.run(work))
        _say("")
    finally:
        # At the end only: ext4 creates files several times slower right after thousands were deleted.
        shutil.rmtree(root, ignore_errors=True)


def report(title: str, contestants: Sequence[Contestant], *, unit: float = 1.0, unit_name: str = "s",
           as_json: bool = False) -> None:  # fmt: skip
    """Print the table; times are multiplied by *unit* for display."""
    rounds = max(len(contestant.seconds) for contestant in contestants)
    figures = [_figures(contestant, contestants, unit) for contestant in contestants]
    if as_json:
        print(json.dumps({"title": title, "rounds": rounds, "unit": unit_name, "figures": figures}, indent=2))
    else:
        _print_table(title, figures, rounds, unit_name)


def _figures(contestant: Contestant, contestants: Sequence[Contestant], unit: float) -> dict[str, object]:
    by_name = {other.name: other for other in contestants}
    times = sorted(second * unit for second in contestant.seconds)
    found: dict[str, object] = {
        "name": contestant.name,
        "median": statistics.median(times),
        "min": times[0],
        "max": times[-1],
    }
    if contestant.against is not None:
        reference = by_name[contestant.against]
        ratios = sorted(own / other for own, other in zip(contestant.seconds, reference.seconds, strict=True))
        found |= {
            "against": contestant.against,
            "ratio": statistics.median(ratios),
            "ratio_min": ratios[0],
            "ratio_max": ratios[-1],
        }
    return found | {"budget": contestant.budget}


def _print_table(title: str, figures: Sequence[dict[str, object]], rounds: int, unit_name: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title} ({rounds} interleaved rounds, Python {platform.python_version()})")
    table.add_column("")
    for name in (f"median {unit_name}", "min .. max", "time over", "ratio", "min .. max", "budget"):
        table.add_column(name, justify="left" if name == "time over" else "right")
    for row in figures:
        ratio = "" if "ratio" not in row else f"{row['ratio']:.2f}"
        spread = "" if "ratio" not in row else f"{row['ratio_min']:.2f} .. {row['ratio_max']:.2f}"
        table.add_row(
            str(row["name"]),
            f"{row['median']:.3g}",
            f"{row['min']:.3g} .. {row['max']:.3g}",
            str(row.get("against") or ""),
            ratio,
            spread,
            str(row.get("budget") or ""),
        )
    Console(width=130 if not sys.stdout.isatty() else None).print(table)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
