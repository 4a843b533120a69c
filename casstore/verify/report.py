"""What a verification finds: problems, each of one kind, and what was done about them; what is merely left over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from casstore.format.digest import Digest

if TYPE_CHECKING:
    from casstore.leases.reaper import ReapResult


class ProblemKind(StrEnum):
    """What can be wrong. The values are words for people, and what ``casstore verify --json`` prints."""

    MISSING_BLOB = "missing blob"
    """An entry names a blob that is not there: reading it is a miss."""
    WRONG_BYTES = "wrong bytes"
    """A blob does not hold the bytes of its name."""
    TOUCHED_BLOB = "touched blob"
    """A blob's bytes are right; its mode or mtime is not as it was made."""
    FOREIGN_NAME = "foreign name"
    """Something lies among the blobs whose name is no blob's."""
    WRONG_TYPE = "wrong type"
    """A symbolic link, a directory or the like has a blob's name, or a file a directory's."""
    BAD_RECORD = "bad record"
    """A row of the index that does not decode, since its checksum is wrong."""
    ROWS_DISAGREE = "rows disagree"
    """Two rows, or a row and a file, contradict each other."""
    DAMAGED_INDEX = "damaged index"
    """The index cannot be used, or is gone while blobs are there; the next use begins an empty one."""
    DAMAGED_MARKER = "damaged marker"
    """The file that describes the store is gone, damaged, or another store's."""
    UNREADABLE = "unreadable"
    """The system refuses or fails to read something."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done about a problem, in words; of the entries *uris*. *path* is where a blob went, if it is kept.

    Without *is_done* it was tried in vain, and the words say why.
    """

    action: str
    uris: tuple[str, ...] = ()
    path: str | None = None
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the file or directory *path*; what a row says is about the index's file or a blob's.

    *uri* and *origin* name an entry that is concerned, where one is known; *detail* is for people. *repair* is None
    where none was asked for, or there is none.
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
    """What is no damage; a collection takes it away some day.

    *unknown* blobs have no row (a fill was killed, or is just going on; an index was replaced), *unused* ones a row and
    no entry. *stale_rows* are rows of blobs that are gone and that no entry names. *trash* and *quarantine* count
    files, *leases* directories of processes that live or died.
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
    """What a verification that repairs did: *problems* were mended, and of what is no damage, *adopted* blobs without a
    row were given one, and *stale_rows* were dropped. *reaped* is what dead processes had left; None where another
    process is collecting just now, and takes it away itself.
    """

    problems: int
    adopted: int
    adopted_bytes: int
    stale_rows: int
    reaped: ReapResult | None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification did and found: *blobs* files of *bytes* were hashed, *entries* rows held against them.

    *wrong* counts problems; *problems* holds the first `MOST_PROBLEMS` of them, and all that were to be repaired.
    *generation* is the index's, 0 for none. *skipped* blobs were not hashed, since a sample was asked for; *mended* is
    None where no repair was.
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
        """Whether nothing was wrong."""
        return self.wrong == 0

    @property
    def left(self) -> int:
        """How many problems are still there."""
        return self.wrong - (0 if self.repairs is None else self.repairs.problems)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far a verification is: rows are looked at first; then *blobs* are hashed, in bytes *bytes*, and others are
    passed over, as a sample wants it.

    The totals are what the index says; 0 where it does not.
    """

    rows: int
    blobs: int
    bytes: int
    total_blobs: int
    total_bytes: int
    skipped: int = 0
    skipped_bytes: int = 0


MOST_PROBLEMS = 10_000
"""How many problems are kept; the rest is counted."""


class Findings:
    """Collects problems in bounded memory; used by one thread."""

    __slots__ = ("mended", "problems", "wrong")

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.wrong = self.mended = 0

    def add(self, problem: Problem) -> None:
        """Count it, and keep it among the first; if something was done about it, in any case."""
        self.wrong += 1
        self.mended += problem.repair is not None and problem.repair.is_done
        if len(self.problems) < MOST_PROBLEMS or problem.repair is not None:
            self.problems.append(problem)

    def settle(self, kind: ProblemKind, repair: Repair) -> None:
        """All problems of one *kind* found so far met with one *repair*."""
        for number, problem in enumerate(self.problems):
            if problem.kind is kind and problem.repair is None:
                self.problems[number] = replace(problem, repair=repair)
                self.mended += repair.is_done


class Repairer(Protocol):
    """Repairs, as far as those who find problems ask for them. Each looks again, in a transaction, before it acts."""

    def repair_rows(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Repair]:
        """Put right, or drop, rows that were seen with these records."""
        ...

    def repair_blob(self, digest: Digest) -> Repair:
        """Whatever has that blob's name: its bytes, its mtime, its type, the size in its row."""
        ...

    def adopt(self, digest: Digest, size: int) -> bool:
        """Give a blob with right bytes and no row a row; whether it has one now."""
        ...

    def replace_index(self) -> Repair:
        """Begin a new index after one that is damaged or gone."""
        ...


ProgressCallback = Callable[[], None]
"""Called now and then by whoever takes long."""
