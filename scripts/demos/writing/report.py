"""What was promised, what is in the cloud, and whether that is the same."""

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
    """Lines, but for *shown* and *pending_at_end*, which are writes that `casstore pending` listed.

    *killed* were being uploaded by a process that was killed. *not_pushed* were promised to be kept and are not in the
    cloud, *lost* were acknowledged and are not. *plain* lines were acknowledged by plain boto3, *plain_lost* of them
    are not there.
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
        """By the journals' *notes* and the lines of the *objects*, which plain boto3 has read past the proxy."""
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
        """Name, measured, target; None is a line between two groups."""
        return [
            ("lines whose close() returned", self.acknowledged, None),
            ("lines whose close() raised, and said where they are", self.kept, None),
            ("lines whose process was killed in close()", self.killed, None),
            ("lines that could not be begun", self.refused, 0),
            ("writes that casstore pending listed", self.shown, None),
            None,
            ("lines in the cloud", self.in_cloud, self.acknowledged + self.kept + self.killed),
            ("  acknowledged, and lost", self.lost, 0),
            ("  kept, and not there after casstore push", self.not_pushed, 0),
            ("  there twice", self.twice, 0),
            ("  that nobody wrote", self.foreign, 0),
            ("writes that are pending at the end", self.pending_at_end, 0),
            None,
            ("plain boto3 (get, add, put): lines acknowledged", self.plain, None),
            ("  and lost", self.plain_lost, None),
        ]

    @property
    def missed(self) -> list[str]:
        """The rows whose target was missed."""
        return [row[0].strip() for row in self.rows() if row is not None and row[2] not in (None, row[1])]


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
    """The figures for programs."""
    names = (name for name in Figures.__slots__)
    return json.dumps({**{name: getattr(figures, name) for name in names}, "missed": figures.missed}, indent=2)
