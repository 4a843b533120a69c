"""The report of a verification: problems, their repairs, and leftovers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from casstore.format.digest import Digest

if TYPE_CHECKING:
    from casstore.eviction.reaper import ReapResult


class ProblemKind(StrEnum):
    """The kind of a problem. The values are part of the JSON output."""

    MISSING_BLOB = "missing blob"
    """An entry's blob does not exist: a read downloads the object again."""
    WRONG_BYTES = "wrong bytes"
    """A blob's bytes do not match its name."""
    TOUCHED_BLOB = "touched blob"
    """A blob's bytes are right, but its mode or mtime was changed."""
    FOREIGN_NAME = "foreign name"
    """A file among the blobs has a name that no blob can have."""
    WRONG_TYPE = "wrong type"
    """A link, a directory or the like has a blob's name, or a file has a directory's."""
    BAD_RECORD = "bad record"
    """A row of the index does not decode, or its checksum is wrong."""
    ROWS_DISAGREE = "rows disagree"
    """Two rows, or a row and a file, contradict each other."""
    DAMAGED_INDEX = "damaged index"
    """The index cannot be used, or is missing although blobs exist; the next use creates an empty one."""
    DAMAGED_MARKER = "damaged marker"
    """The file that describes the store is missing, damaged, or belongs to another store."""
    UNREADABLE = "unreadable"
    """The operating system cannot read a file."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done about a problem that concerns the entries *uris*; *path* is the file of a quarantined blob.

    If *is_done* is false, the repair failed and *action* contains the reason.
    """

    action: str
    uris: tuple[str, ...] = ()
    path: str | None = None
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of the file *path*, which is the index or a blob for a problem of a row.

    *uri* and *origin* name an affected entry, if one is known. *repair* is None without ``--repair``, or if the problem
    cannot be repaired.
    """

    kind: ProblemKind
    path: str
    detail: str
    digest: Digest | None = None
    uri: str | None = None
    origin: str | None = None
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is not damaged, and removed by a later collection.

    *unknown* blobs have no row: a download is running or was killed, or the index was replaced. *unused* blobs have a
    row and no entry. *stale_rows* belong to deleted blobs without entries. *trash* and *quarantine* count files,
    *leases* the directories of live and dead processes.
    """

    unknown: int = 0
    unknown_bytes: int = 0
    unused: int = 0
    unused_bytes: int = 0
    stale_rows: int = 0
    trash: int = 0
    trash_bytes: int = 0
    quarantine: int = 0
    quarantine_bytes: int = 0
    leases: int = 0


@dataclass(frozen=True, slots=True)
class RepairSummary:
    """What was repaired: *problems*, *adopted* blobs that got a row, *stale_rows* that were dropped.

    *reaped* is what dead processes left behind; None if another process is collecting, which removes it itself.
    """

    problems: int
    adopted: int
    adopted_bytes: int
    stale_rows: int
    reaped: ReapResult | None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result: *blobs* of *bytes* were hashed, *entries* were checked, *skipped* blobs were not part of the sample.

    *wrong* counts the problems. *problems* has the first `MOST_PROBLEMS`, and all with a repair. *generation* is the
    index's, 0 without an index. *repairs* is None unless repairs were requested.
    """

    blobs: int
    bytes: int
    entries: int
    generation: int
    wrong: int
    problems: tuple[Problem, ...]
    leftovers: Leftovers
    skipped: int = 0
    skipped_bytes: int = 0
    repairs: RepairSummary | None = None

    @property
    def is_sound(self) -> bool:
        """Whether no problem was found."""
        return self.wrong == 0

    @property
    def left(self) -> int:
        """The number of problems that were not repaired."""
        return self.wrong - (0 if self.repairs is None else self.repairs.problems)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """The progress: first *rows* are checked, then *blobs* of *bytes* are hashed or skipped.

    The totals come from the index; they are 0 if it cannot be read.
    """

    rows: int
    blobs: int
    bytes: int
    total_blobs: int
    total_bytes: int
    skipped: int = 0
    skipped_bytes: int = 0


MOST_PROBLEMS = 10_000
"""Problems in a report; further ones are only counted."""


class Findings:
    """Collects problems in bounded memory; used by one thread."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.wrong = self.repaired = 0

    def add(self, problem: Problem) -> None:
        """Count *problem*, and keep it if it is among the first or has a repair."""
        self.wrong += 1
        self.repaired += problem.repair is not None and problem.repair.is_done
        if len(self.problems) < MOST_PROBLEMS or problem.repair is not None:
            self.problems.append(problem)

    def set_repair(self, kind: ProblemKind, repair: Repair) -> None:
        """Set *repair* for all problems of *kind* found so far."""
        for number, problem in enumerate(self.problems):
            if problem.kind is kind and problem.repair is None:
                self.problems[number] = replace(problem, repair=repair)
                self.repaired += repair.is_done
