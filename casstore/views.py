"""Views: local paths with the objects' real names, what a lease's list says of them, and what became of them."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from casstore import files
from casstore.blobs import Inode, hash_descriptor
from casstore.digest import ALGORITHMS, MTIME_EPOCH, Digest
from casstore.errors import CasstoreError
from casstore.layout import LeaseLayout
from casstore.records import Key, Validator


class Kind(StrEnum):
    """For what a local path was handed out."""

    VIEW = "view"
    """To be read: it holds an object's bytes."""
    OUTBOX = "outbox"
    """To be made by a tool: the object does not exist."""
    EDIT = "edit"
    """To be changed inside a ``with`` block, at whose end it is uploaded."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file was written to: which one it is, its size and its mtime."""

    inode: Inode
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """From a stat or fstat."""
        return cls(Inode.of(status), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class View:
    """A path handed out: *path* holds the bytes of *digest*, as the file that *inode*, *size* and *mtime_ns*
    describe. *validator* is the version of the object that they are, where that is known.
    """

    kind: ClassVar[Kind] = Kind.VIEW

    key: Key
    path: str
    digest: Digest
    size: int
    inode: Inode
    mtime_ns: int
    validator: Validator | None = None

    @property
    def state(self) -> FileState:
        """The file as it was made."""
        return FileState(self.inode, self.size, self.mtime_ns)

    def is_untouched(self) -> bool:
        """Whether that very file is still there with its size and mtime."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return self.is_of(status)

    def is_of(self, status: os.stat_result) -> bool:
        """Whether *status* is of that very file, with its size and mtime."""
        return FileState.of(status) == self.state

    def has_its_bytes(self) -> bool:
        """Whether the path still holds the bytes of *digest*, whatever its mtime says."""
        return _digest_of(self.path, self.digest.algorithm) == self.digest

    def line(self) -> str:
        """As the lease's list has it."""
        return _line(self.kind, self.key, self.path, self.validator, self.state, self.digest)

    @classmethod
    def parse(cls, line: str) -> View | None:
        """The inverse of `line`; None for one that was torn by a crash, and for what is no view's."""
        found = _parse(line)
        return found if isinstance(found, View) else None


@dataclass(frozen=True, slots=True)
class Draft:
    """A path handed out for bytes that a user is to make or to change, of *kind* outbox or edit. *validator* is the
    version that he starts from; None for an object that does not exist.
    """

    key: Key
    path: str
    kind: Kind
    validator: Validator | None = None

    def line(self) -> str:
        """As the lease's list has it."""
        return _line(self.kind, self.key, self.path, self.validator)


@dataclass(frozen=True, slots=True)
class Settled:
    """What lies at *path*, in that *state*, needs no record: there was one already, or it is as it was handed out.

    With *digest*, the same bytes need none in another state either: a touch makes no difference.
    """

    path: str
    state: FileState
    digest: Digest | None = None

    def line(self) -> str:
        """As the lease's list has it."""
        return json.dumps({"settled": self.path, **_facts(self.state, self.digest)}) + "\n"


def _facts(state: FileState, digest: Digest | None) -> dict[str, Any]:
    return {
        "digest": None if digest is None else str(digest),
        "size": state.size,
        "device": state.inode.device,
        "inode": state.inode.number,
        "mtime_ns": state.mtime_ns,
    }


def _line(
    kind: Kind,
    key: Key,
    path: str,
    validator: Validator | None,
    state: FileState | None = None,
    digest: Digest | None = None,
) -> str:
    record: dict[str, Any] = {"kind": kind.value, "path": path, "uri": key.uri, "origin": key.origin}
    if state is not None:
        record |= _facts(state, digest)
    record["validator"] = None if validator is None else asdict(validator)
    return json.dumps(record) + "\n"


def _parse(line: str) -> View | Draft | Settled | None:
    try:
        record = json.loads(line)
        if "settled" in record:
            digest = None if record["digest"] is None else Digest.parse(record["digest"])
            return Settled(str(record["settled"]), _state_in(record), digest)
        key, path = Key(str(record["uri"]), str(record["origin"])), str(record["path"])
        # Lines of before views had a kind and a version are of views.
        kind = Kind(record.get("kind", Kind.VIEW))
        facts = record.get("validator")
        validator = None if facts is None else Validator(**facts)
        if kind is not Kind.VIEW:
            return Draft(key, path, kind, validator)
        state = _state_in(record)
        return View(key, path, Digest.parse(record["digest"]), state.size, state.inode, state.mtime_ns, validator)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _state_in(record: dict[str, Any]) -> FileState:
    inode = Inode(int(record["device"]), int(record["inode"]))
    return FileState(inode, int(record["size"]), int(record["mtime_ns"]))


def append(lease: LeaseLayout, line: str) -> None:
    """Add a line to a lease's list, its own process's or a dead one's. Raises FileNotFoundError for no lease."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(lease.views_list, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line  # a crash or a full disk has torn the last one
        files.write_all(descriptor, line.encode("ascii"))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Listed:
    """A lease's list, by path inside the lease: what was *handed* out there, oldest first, and how it is *settled*."""

    handed: dict[str, list[View | Draft]]
    settled: dict[str, Settled]


def read_list(lease: LeaseLayout) -> Listed:
    """What a lease's list says; of a path's states, only the last one counts."""
    found = Listed({}, {})
    with contextlib.suppress(FileNotFoundError), open(lease.views_list, encoding="utf-8", errors="replace") as file:
        for line in file:
            said = _parse(line)
            if isinstance(said, Settled):
                found.settled[name_in(lease, said.path)] = said
            elif said is not None:
                found.handed.setdefault(name_in(lease, said.path), []).append(said)
    return found


def name_in(lease: LeaseLayout, path: str) -> str:
    """A path of the list, from the lease on: the list has whole paths, and the store may have been moved since."""
    return path.partition(f"/leases/{os.path.basename(lease.path)}/")[2]


def listed(lease: LeaseLayout) -> Iterator[View]:
    """The views that a lease's list says were handed out."""
    for handed in read_list(lease).handed.values():
        yield from (view for view in handed if isinstance(view, View))


@dataclass(frozen=True, slots=True)
class Found:
    """A file at *path* whose bytes the store may have nowhere else: what is *handed* out there, if anything was, and
    the state in which it was last *settled*.
    """

    path: str
    handed: View | Draft | None
    settled: Settled | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a lease's trees: *found* are the files whose bytes the store may have nowhere else.

    *seen* tells every file as it was; a second survey that sees the same found nothing changed in between.
    """

    found: tuple[Found, ...]
    seen: frozenset[tuple[str, int, int, int]]

    @property
    def edited(self) -> tuple[str, ...]:
        """The paths of *found*."""
        return tuple(found.path for found in self.found)


_NOT_A_USERS: Final = frozenset(("lock", "staging", "progress", "views.list"))
"""What this package keeps in a lease for itself. Whatever else is there is taken for a user's."""


def survey(lease: LeaseLayout) -> Survey:
    """Look at every file of a lease; one that is no view any more, or never was, is found unless it is settled.

    A view is told by its inode, size and mtime, else by its bytes: a mere touch is no edit. Raises FileNotFoundError
    where there is no such lease.
    """
    said = read_list(lease)
    found: list[Found] = []
    seen: set[tuple[str, int, int, int]] = set()
    for path, status in _files_of(lease):
        name = path[len(lease.path) + 1 :]
        seen.add((name, status.st_ino, status.st_size, status.st_mtime_ns))
        handed, settled = said.handed.get(name, []), said.settled.get(name)
        if not stat.S_ISREG(status.st_mode) or not _is_known(path, status, handed, settled):
            found.append(Found(path, handed[-1] if handed else None, settled))
    return Survey(tuple(sorted(found, key=lambda file: file.path)), frozenset(seen))


def _files_of(lease: LeaseLayout) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(lease.path) as entries:
        found = [entry for entry in entries if entry.name not in _NOT_A_USERS]
    while found:
        entry = found.pop()
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as entries:
                    found.extend(entries)
            else:
                yield entry.path, entry.stat(follow_symlinks=False)


def _is_known(path: str, status: os.stat_result, handed: list[View | Draft], settled: Settled | None) -> bool:
    state = FileState.of(status)
    if settled is not None and settled.state == state:
        return True
    views = [view for view in handed if isinstance(view, View)]
    if any(view.state == state for view in views):
        return True
    digests = {view.digest for view in views if view.size == state.size}
    if settled is not None and settled.digest is not None and settled.state.size == state.size:
        digests.add(settled.digest)
    if any(digest == _digest_of(path, digest.algorithm) for digest in digests):
        return True
    # The list is not synced, and a power cut may have taken its end. But what the store makes carries an mtime that
    # follows from its bytes, in whole seconds, and no edit does.
    seconds, rest = divmod(status.st_mtime_ns, 1_000_000_000)
    if rest or seconds < MTIME_EPOCH:
        return False
    found = (_digest_of(path, algorithm) for algorithm in ALGORITHMS)
    return any(digest is not None and digest.mtime == seconds for digest in found)


def _digest_of(path: str, algorithm: str) -> Digest | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return hash_descriptor(descriptor, algorithm)
    except (OSError, CasstoreError):
        return None  # unreadable, or by an algorithm whose package is not installed
    finally:
        os.close(descriptor)
