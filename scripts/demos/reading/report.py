"""The one table: what was measured, what was to be reached, and whether it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

from rich.table import Table

from demos.shared.bucket import Traffic
from demos.shared.dataset import Dataset
from demos.shared.terminal import wide_console

MOST_STORED: Final = 0.55
"""Stored over logical bytes; two versions of one dataset, nearly equal, make half."""
MOST_SENT: Final = 1.05
"""Body bytes of epoch 1 over bytes of distinct contents; over all, where no listing tells which are equal."""
SLOWEST: Final = 3.0
"""Seconds of a warm epoch over seconds of the same reads from plain files."""
SLOWEST_LARGE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demonstration measured. Seconds are those from the first worker's start to the last one's end.

    The warm readings, by sizes of files, are several, each of ours beside one of plain files: (ours, plain). Traffic is
    None where nobody counted. *place*, *note* and *states_checksums* are those of `demos.shared.bucket.Bucket`.
    """

    dataset: Dataset
    place: str
    note: str
    states_checksums: bool
    workers: int
    stored_bytes: int
    first: Traffic | None
    first_seconds: float
    always: Traffic | None
    always_seconds: float
    immutable: Traffic | None
    warm: dict[str, list[tuple[float, float]]]
    mismatched_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """*is_met* is None where there is no target."""

    name: str
    value: str
    target: str = ""
    is_met: bool | None = None


def rows_of(figures: Figures) -> list[Row | None]:
    """All rows; None is a line between two groups."""
    dataset, stored = figures.dataset, figures.stored_bytes
    ratio = stored / max(1, dataset.logical_bytes)
    return [
        Row("objects, in v1/ and v2/", f"{len(dataset.objects):,}"),
        Row("distinct contents", f"{len(dataset.contents):,}"),
        Row("logical bytes", f"{dataset.logical_bytes:,}"),
        Row("bytes of distinct contents", f"{dataset.distinct_bytes:,}"),
        Row("stored bytes", f"{stored:,}"),
        Row("stored / logical", f"{ratio:.1%}", f"<= {MOST_STORED:.0%}", ratio <= MOST_STORED),
        None,
        *_first_rows(figures),
        None,
        *_always_rows(figures),
        None,
        *_immutable_rows(figures),
        None,
        Row("mismatched bytes", f"{figures.mismatched_bytes:,}", "0", figures.mismatched_bytes == 0),
    ]


def _first_rows(figures: Figures) -> list[Row]:
    traffic, dataset = figures.first, figures.dataset
    rows = [Row("epoch 1, always: seconds", f"{figures.first_seconds:.2f}")]
    if traffic is None:
        return rows
    which, needed = "distinct", dataset.distinct_bytes
    if not figures.states_checksums:
        which, needed = "logical", dataset.logical_bytes
    share = traffic.body_bytes / max(1, needed)
    return [
        *rows,
        Row("  LISTs", f"{traffic.lists:,}"),
        Row("  GETs", f"{traffic.gets:,}"),
        Row("  HEADs", f"{traffic.heads:,}", "0", traffic.heads == 0),
        Row("  304s", f"{traffic.not_modified:,}"),
        Row(
            "  body bytes from the server",
            f"{traffic.body_bytes:,}",
            f"<= {which} + {MOST_SENT - 1:.0%}",
            share <= MOST_SENT,
        ),
        Row("  of them sent twice", f"{traffic.extra_bytes:,}", "0", traffic.extra_bytes == 0),
        *_refusal_rows(traffic),
    ]


def _always_rows(figures: Figures) -> list[Row]:
    traffic = figures.always
    rows = [Row("epoch 2, always: seconds", f"{figures.always_seconds:.2f}")]
    if traffic is None:
        return rows
    answered = traffic.requests - traffic.refusals
    return [
        *rows,
        Row("  GETs", f"{traffic.gets:,}"),
        Row("  HEADs", f"{traffic.heads:,}", "0", traffic.heads == 0),
        Row("  304s", f"{traffic.not_modified:,}", "all requests", traffic.not_modified == answered),
        Row("  body bytes from the server", f"{traffic.body_bytes:,}", "0", traffic.body_bytes == 0),
        *_refusal_rows(traffic),
    ]


def _refusal_rows(traffic: Traffic) -> list[Row]:
    return [Row("  refused by the server, sent again", f"{traffic.refusals:,}")] if traffic.refusals else []


def _immutable_rows(figures: Figures) -> list[Row]:
    traffic = figures.immutable
    warm = figures.warm["all"]
    requests = [] if traffic is None else [Row("  requests", f"{traffic.requests:,}", "0", traffic.requests == 0)]
    return [
        Row("epoch 2, immutable: seconds", f"{median(ours for ours, _ in warm):.2f}"),
        *requests,
        Row("plain local files: seconds", f"{median(plain for _, plain in warm):.2f}"),
        *_ratio_rows("  ratio", warm, SLOWEST),
        *_ratio_rows("  ratio, files below 256 kB", figures.warm["small"], SLOWEST),
        *_ratio_rows("  ratio, files of 256 kB and more", figures.warm["large"], SLOWEST_LARGE),
    ]


def _ratio_rows(name: str, readings: list[tuple[float, float]], slowest: float) -> list[Row]:
    if not readings:
        return []
    ratio = median(ours / plain for ours, plain in readings)
    return [Row(name, f"{ratio:.2f}", f"<= {slowest:g}", ratio <= slowest)]


def is_met(figures: Figures) -> bool:
    """Whether no target was missed."""
    return all(row is None or row.is_met is not False for row in rows_of(figures))


def show(figures: Figures, title: str) -> None:
    """Print the table to standard output."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    verdicts = {None: "", True: "[green]ok[/]", False: "[bold red]MISSED[/]"}
    for row in rows_of(figures):
        if row is None:
            table.add_section()
        else:
            table.add_row(row.name, row.value, row.target, verdicts[row.is_met])
    wide_console().print(table)
    if figures.note:
        print(figures.note)


def as_json(figures: Figures, cloud: str, start_method: str) -> str:
    """The figures for programs."""
    dataset = figures.dataset
    return json.dumps(
        {
            "cloud": cloud,
            "start_method": start_method,
            "workers": figures.workers,
            "objects": len(dataset.objects),
            "distinct_contents": len(dataset.contents),
            "logical_bytes": dataset.logical_bytes,
            "distinct_bytes": dataset.distinct_bytes,
            "stored_bytes": figures.stored_bytes,
            "epoch_1": {"seconds": figures.first_seconds, "traffic": figures.first and asdict(figures.first)},
            "epoch_2_always": {"seconds": figures.always_seconds, "traffic": figures.always and asdict(figures.always)},
            "epoch_2_immutable": {
                "seconds": {sizes: [ours for ours, _ in readings] for sizes, readings in figures.warm.items()},
                "traffic": figures.immutable and asdict(figures.immutable),
            },
            "plain_files": {
                "seconds": {sizes: [plain for _, plain in readings] for sizes, readings in figures.warm.items()},
            },
            "mismatched_bytes": figures.mismatched_bytes,
            "missed": [row.name.strip() for row in rows_of(figures) if row is not None and row.is_met is False],
        },
        indent=2,
    )
