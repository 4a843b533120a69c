"""What a verification finds: problems, each of one kind; what is merely left over; how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from casstore.digest import Digest


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
class Problem:
    """One thing that is wrong with the file or directory *path*; what a row says is about the index's file or a blob's.

    *uri* and *origin* name an entry that is concerned, where one is known; *detail* is for people.
    """

    kind: ProblemKind
    path: str
    detail: str
    digest: Digest | None = None
    uri: str | None = None
    origin: str | None = None


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
class Verified:
    """What a verification did and found: *blobs* files of *bytes* were hashed, *entries* rows held against them.

    *wrong* counts problems; *problems* holds the first `MOST_PROBLEMS` of them. *generation* is the index's, 0 for
    none.
    """

    blobs: int
    bytes: int
    entries: int
    generation: int
    wrong: int
    problems: tuple[Problem, ...]
    leftovers: Leftovers

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.wrong == 0


@dataclass(frozen=True, slots=True)
class Checked:
    """How far a verification is: rows are looked at first; then *blobs* are hashed, in bytes *bytes*.

    The totals are what the index says; 0 where it does not.
    """

    rows: int
    blobs: int
    bytes: int
    total_blobs: int
    total_bytes: int


MOST_PROBLEMS = 10_000
"""How many problems are kept; the rest is counted."""


class Findings:
    """Collects problems in bounded memory; used by one thread."""

    __slots__ = ("problems", "wrong")

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.wrong = 0

    def add(self, problem: Problem) -> None:
        """Count it, and keep it among the first."""
        self.wrong += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


Tell = Callable[[], None]
"""Called now and then by whoever takes long."""
