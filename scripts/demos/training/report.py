"""The table of the training job: one line for each start method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from demos.shared.terminal import wide_console
from demos.training.gc_loop import Run

_COLUMNS: Final = (
    "samples",
    "s per epoch",
    "GETs",
    "gc runs",
    "bytes evicted",
    "stored / budget",
    "wrong bytes",
    "errors",
)
_SHOWN_ERRORS: Final = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The figures of one start method.

    *seconds* of each epoch include the start of its workers. *gets* is None if requests were not counted. *gc* has all
    runs of the command; the last one started after the workers had ended. *stored_bytes* were stored after it.
    """

    start_method: str
    samples: int
    expected_samples: int
    seconds: list[float]
    gets: int | None
    gc: list[Run]
    budget: int
    stored_bytes: int
    wrong_bytes: int
    errors: list[str]

    @property
    def evicted_bytes(self) -> int:
        return sum(int(run.facts.get("freed_bytes", 0)) for run in self.gc)

    @property
    def missed(self) -> list[str]:
        """Return the names of the missed targets."""
        targets = {
            "samples": self.samples == self.expected_samples,
            "wrong bytes": self.wrong_bytes == 0,
            "errors": not self.errors,
            # A run without evictions would prove nothing.
            "evicted": self.evicted_bytes > 0,
            "stored": self.stored_bytes <= self.budget,
        }
        return [name for name, is_met in targets.items() if not is_met]

    @property
    def is_met(self) -> bool:
        return not self.missed


def show(readings: Sequence[Reading], title: str) -> None:
    """Print the table to standard output, and the first errors below it."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("start method", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("")
    for reading in readings:
        table.add_row(
            reading.start_method,
            f"{reading.samples:,}",
            ", ".join(f"{seconds:.1f}" for seconds in reading.seconds),
            "-" if reading.gets is None else f"{reading.gets:,}",
            f"{len(reading.gc):,}",
            f"{reading.evicted_bytes:,}",
            f"{reading.stored_bytes / max(1, reading.budget):.0%}",
            f"{reading.wrong_bytes:,}",
            f"{len(reading.errors):,}",
            "[bold red]MISSED[/]" if reading.missed else "[green]ok[/]",
        )
    console = wide_console()
    console.print(table)
    for reading in readings:
        if reading.missed:
            console.print(f"{reading.start_method}: missed {', '.join(reading.missed)}", highlight=False)
        for error in reading.errors[:_SHOWN_ERRORS]:
            console.print(f"{reading.start_method}: {error.rstrip()}", markup=False, highlight=False)


def verdict(readings: Sequence[Reading]) -> str:
    """Return the last line: whether every start method met its targets."""
    missed = [f"{reading.start_method} ({', '.join(reading.missed)})" for reading in readings if reading.missed]
    if missed:
        return f"Verdict: MISSED by {len(missed)} of {len(readings)} start methods: {'; '.join(missed)}."
    samples = sum(reading.samples for reading in readings)
    return f"Verdict: ok, all {samples:,} samples were right, and the store stayed within its budget."


def as_json(readings: Sequence[Reading]) -> str:
    """Return the figures as JSON, for programs."""
    return json.dumps([_facts(reading) for reading in readings], indent=2)


def _facts(reading: Reading) -> dict[str, Any]:
    return {
        "start_method": reading.start_method,
        "samples": reading.samples,
        "seconds": reading.seconds,
        "gets": reading.gets,
        "gc_runs": len(reading.gc),
        "evicted_bytes": reading.evicted_bytes,
        "budget": reading.budget,
        "stored_bytes": reading.stored_bytes,
        "wrong_bytes": reading.wrong_bytes,
        "errors": reading.errors,
        "missed": reading.missed,
    }
