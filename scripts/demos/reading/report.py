"""The table of the demonstration: the figures, the targets, and the verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from rich.table import Table

from demos.reading.readers import Outcome
from demos.shared.bucket import Traffic
from demos.shared.dataset import Dataset
from demos.shared.terminal import wide_console

MOST_STORED: Final = 0.55
"""Stored bytes over logical bytes; two nearly equal versions of one dataset make half."""
MOST_SENT: Final = 1.05
"""Body bytes of epoch 1 over the bytes of distinct contents; over all bytes, if the listing states no checksums."""
SLOWEST: Final = 3.0
"""Processor time of a warm epoch over that of the same reads from plain files.

Processor time and not seconds: other programs on the machine must not decide about a target.
"""
SLOWEST_LARGE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Phase:
    """One task of all workers, and its requests; *traffic* is None if nothing counts them."""

    outcome: Outcome
    traffic: Traffic | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One warm epoch through the store, and the same from plain files."""

    ours: Outcome
    plain: Outcome


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demonstration measured; *warm* has several pairs for each choice of sizes.

    *place*, *note* and *states_checksums* are those of `demos.shared.bucket.Bucket`.
    """

    dataset: Dataset
    place: str
    note: str
    states_checksums: bool
    workers: int
    stored_bytes: int
    listing: Phase
    first: Phase
    always: Phase
    immutable: Traffic | None
    warm: dict[str, list[Pair]]
    mismatched_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """*is_met* is None if there is no target."""

    name: str
    value: str
    target: str = ""
    is_met: bool | None = None


def rows_of(figures: Figures) -> list[Row | None]:
    """Return all rows; None is a line between two groups."""
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
        *_listing_rows(figures),
        None,
        *_first_rows(figures),
        None,
        *_always_rows(figures),
        None,
        *_immutable_rows(figures),
        None,
        Row("mismatched bytes", f"{figures.mismatched_bytes:,}", "0", figures.mismatched_bytes == 0),
    ]


def _listing_rows(figures: Figures) -> list[Row]:
    """Listing, and `is_file` of each child: no request, until the listing is ten seconds old."""
    outlived, traffic = figures.listing.outcome.outlived, figures.listing.traffic
    rows = [Row("list, is_file of each child: seconds", f"{figures.listing.outcome.seconds:.2f}")]
    if traffic is None:
        return rows
    # On a slow machine some children are asked later than that. Then one HEAD for each of them is right.
    target = f"<= {outlived:,} (asked late)" if outlived else "0"
    return [
        *rows,
        Row("  LISTs", f"{traffic.lists:,}"),
        Row("  HEADs", f"{traffic.heads:,}", target, traffic.heads <= outlived),
    ]


def _first_rows(figures: Figures) -> list[Row]:
    traffic, dataset = figures.first.traffic, figures.dataset
    rows = [Row("epoch 1, always: seconds", f"{figures.first.outcome.seconds:.2f}")]
    if traffic is None:
        return rows
    which, needed = "distinct", dataset.distinct_bytes
    if not figures.states_checksums:
        which, needed = "logical", dataset.logical_bytes
    share = traffic.body_bytes / max(1, needed)
    return [
        *rows,
        Row("  GETs", f"{traffic.gets:,}"),
        Row("  HEADs and LISTs", f"{traffic.heads + traffic.lists:,}", "0", traffic.heads + traffic.lists == 0),
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
    traffic = figures.always.traffic
    rows = [Row("epoch 2, always: seconds", f"{figures.always.outcome.seconds:.2f}")]
    if traffic is None:
        return rows
    answered = traffic.requests - traffic.refusals
    return [
        *rows,
        Row("  GETs", f"{traffic.gets:,}"),
        Row("  HEADs and LISTs", f"{traffic.heads + traffic.lists:,}", "0", traffic.heads + traffic.lists == 0),
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
        Row("epoch 2, immutable: seconds", f"{median(pair.ours.seconds for pair in warm):.2f}"),
        *requests,
        Row("plain local files: seconds", f"{median(pair.plain.seconds for pair in warm):.2f}"),
        Row("  ratio of seconds", f"{median(pair.ours.seconds / pair.plain.seconds for pair in warm):.2f}"),
        *_ratio_rows("  ratio of processor time", warm, SLOWEST),
        *_ratio_rows("  files below 256 kB", figures.warm["small"], SLOWEST),
        *_ratio_rows("  files of 256 kB and more", figures.warm["large"], SLOWEST_LARGE),
    ]


def _ratio_rows(name: str, readings: list[Pair], slowest: float) -> list[Row]:
    if not readings:
        return []
    ratio = median(pair.ours.cpu_seconds / pair.plain.cpu_seconds for pair in readings)
    return [Row(name, f"{ratio:.2f}", f"<= {slowest:g}", ratio <= slowest)]


def missed(figures: Figures) -> list[str]:
    """Return the names of the rows that missed their target."""
    return [row.name.strip() for row in rows_of(figures) if row is not None and row.is_met is False]


def is_met(figures: Figures) -> bool:
    """Return whether every target was met."""
    return not missed(figures)


def verdict(figures: Figures) -> str:
    """Return the last line: whether every target was met, else which were missed."""
    count = sum(row is not None and row.is_met is not None for row in rows_of(figures))
    names = missed(figures)
    if names:
        return f"Verdict: MISSED {len(names)} of {count} targets: {'; '.join(names)}."
    return f"Verdict: ok, all {count} targets were met and every byte was right."


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
    """Return the figures as JSON, for programs."""
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
            "listing": {**_facts(figures.listing), "outlived": figures.listing.outcome.outlived},
            "epoch_1": _facts(figures.first),
            "epoch_2_always": _facts(figures.always),
            "epoch_2_immutable": {
                **_times({sizes: [pair.ours for pair in pairs] for sizes, pairs in figures.warm.items()}),
                "traffic": figures.immutable and asdict(figures.immutable),
            },
            "plain_files": _times({sizes: [pair.plain for pair in pairs] for sizes, pairs in figures.warm.items()}),
            "mismatched_bytes": figures.mismatched_bytes,
            "missed": missed(figures),
        },
        indent=2,
    )


def _facts(phase: Phase) -> dict[str, Any]:
    return {"seconds": phase.outcome.seconds, "traffic": phase.traffic and asdict(phase.traffic)}


def _times(outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    return {
        "seconds": {sizes: [item.seconds for item in items] for sizes, items in outcomes.items()},
        "cpu_seconds": {sizes: [item.cpu_seconds for item in items] for sizes, items in outcomes.items()},
    }
