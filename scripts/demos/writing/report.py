"""Compare what `close()` promised with what the server has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.table import Table

from demos.shared.terminal import wide_console
from demos.writing.writers import PLAIN, Note


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of lines; *shown* and *pending_at_end* count writes that `casstore pending` listed.

    *killed* lines were being uploaded by a process that was killed. *lost* lines were acknowledged, *not_pushed* lines
    were kept; both are missing on the server. *plain* lines were acknowledged by plain boto3; *plain_lost* of them are
    missing.
    """

    acknowledged: int
    kept: int
    killed: int
    refused: int
    in_cloud: int
    lost: int
    not_pushed: int
    twice: int
    foreign: int
    shown: int
    pending_at_end: int
    plain: int
    plain_lost: int

    @classmethod
    def of(
        cls, notes: Iterable[Note], objects: Mapping[str, Iterable[str]], *, shown: int, pending_at_end: int
    ) -> Figures:
        """Compare the *notes* of the journals with the lines of the *objects* on the server."""
        promised: dict[str, set[tuple[str, str]]] = {}
        for note in notes:
            state = "plain" if note.key == PLAIN else note.state
            promised.setdefault(state, set()).update((note.key, line) for line in note.lines)
        there = Counter((key, line) for key, lines in objects.items() for line in lines)
        ours = Counter({found: count for found, count in there.items() if found[0] != PLAIN})
        acknowledged, kept, killed, refused, plain = (
            promised.get(state, set()) for state in ("acknowledged", "kept", "closing", "refused", "plain")
        )
        return cls(
            len(acknowledged),
            len(kept),
            len(killed),
            len(refused),
            ours.total(),
            len(acknowledged - ours.keys()),
            len((kept | killed) - ours.keys()),
            ours.total() - len(ours),
            len(ours.keys() - acknowledged - kept - killed),
            shown,
            pending_at_end,
            len(plain),
            len(plain - there.keys()),
        )

    def rows(self) -> list[tuple[str, int, int | None] | None]:
        """Return (name, measured, target) of each row; None is a line between two groups."""
        return [
            ("lines whose close() returned", self.acknowledged, None),
            ("lines whose close() raised, and named the kept bytes", self.kept, None),
            ("lines whose process was killed in close()", self.killed, None),
            ("lines that could not be started", self.refused, 0),
            ("writes that casstore pending listed", self.shown, None),
            None,
            ("lines on the server", self.in_cloud, self.acknowledged + self.kept + self.killed),
            ("  acknowledged and lost", self.lost, 0),
            ("  kept and missing after casstore push", self.not_pushed, 0),
            ("  stored twice", self.twice, 0),
            ("  written by no process", self.foreign, 0),
            ("writes pending at the end", self.pending_at_end, 0),
            None,
            ("plain boto3 (get, append, put): lines acknowledged", self.plain, None),
            ("  acknowledged and lost by boto3", self.plain_lost, None),
        ]

    @property
    def missed(self) -> list[str]:
        """Return the names of the rows that missed their target."""
        return [row[0].strip() for row in self.rows() if row is not None and row[2] not in (None, row[1])]

    @property
    def verdict(self) -> str:
        """The last line: whether every target was met, else which were missed."""
        count = sum(row is not None and row[2] is not None for row in self.rows())
        if self.missed:
            return f"Verdict: MISSED {len(self.missed)} of {count} targets: {'; '.join(self.missed)}."
        return f"Verdict: ok, no line was lost or stored twice; plain boto3 lost {self.plain_lost:,} of {self.plain:,}."


def show(figures: Figures, title: str) -> None:
    """Print the table to standard output."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in figures.rows():
        if row is None:
            table.add_section()
            continue
        name, value, target = row
        verdict = "" if target is None else "[green]ok[/]" if value == target else "[bold red]MISSED[/]"
        table.add_row(name, f"{value:,}", "" if target is None else f"{target:,}", verdict)
    wide_console().print(table)


def as_json(figures: Figures) -> str:
    """Return the figures as JSON, for programs."""
    names = (name for name in Figures.__slots__)
    return json.dumps({**{name: getattr(figures, name) for name in names}, "missed": figures.missed}, indent=2)
