"""Views: local paths with the objects' real names, what a lease's list says of them, and what became of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import Inode
from casstore.errors import CasstoreError
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.layout import LeaseLayout
from casstore.format.records import Validator
from casstore.fs import files


class PathKind(StrEnum):
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

    kind: ClassVar[PathKind] = PathKind.VIEW

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
        return self.matches(status)

    def matches(self, status: os.stat_result) -> bool:
        """Whether *status* is of that very file, with its size and mtime."""
        return FileState.of(status) == self.state

    def has_its_bytes(self) -> bool:
        """Whether the path still holds the bytes of *digest*, whatever its mtime says."""
        return digest_of(self.path, self.digest.algorithm) == self.digest

    def line(self) -> str:
        """As the lease's list has it."""
        return _line(self.kind, self.key, self.path, self.validator, self.state, self.digest)

    @classmethod
    def parse(cls, line: str) -> View | None:
        """The inverse of `line`; None for one that was torn by a crash, and for what is no view's."""
        found = _parse(line)
        return found if isinstance(found, View) else None


@dataclass(frozen=True, slots=True)
class DraftPath:
    """A path handed out for bytes that a user is to make or to change, of *kind* outbox or edit. *validator* is the
    version that he starts from; None for an object that does not exist.
    """

    key: Key
    path: str
    kind: PathKind
    validator: Validator | None = None

    def line(self) -> str:
        """As the lease's list has it."""
        return _line(self.kind, self.key, self.path, self.validator)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What lies at *path*, in that *state*, needs no record: there was one already, or it is as it was handed out.

    With *digest*, the same bytes need none in another state either: a touch makes no difference.
    """

    path: str
    state: FileState
    digest: Digest | None = None

    def line(self) -> str:
        """As the lease's list has it."""
        return json.dumps({"settled": self.path, **_state_fields(self.state, self.digest)}) + "\n"


def _state_fields(state: FileState, digest: Digest | None) -> dict[str, Any]:
    return {
        "digest": None if digest is None else str(digest),
        "size": state.size,
        "device": state.inode.device,
        "inode": state.inode.number,
        "mtime_ns": state.mtime_ns,
    }


def _line(
    kind: PathKind,
    key: Key,
    path: str,
    validator: Validator | None,
    state: FileState | None = None,
    digest: Digest | None = None,
) -> str:
    record: dict[str, Any] = {"kind": kind.value, "path": path, "uri": key.uri, "origin": key.origin}
    if state is not None:
        record |= _state_fields(state, digest)
    record["validator"] = None if validator is None else asdict(validator)
    return json.dumps(record) + "\n"


def _parse(line: str) -> View | DraftPath | Reconciled | None:
    try:
        record = json.loads(line)
        if "settled" in record:
            digest = None if record["digest"] is None else Digest.parse(record["digest"])
            return Reconciled(str(record["settled"]), _parse_state(record), digest)
        key, path = Key(str(record["uri"]), str(record["origin"])), str(record["path"])
        # Lines of before views had a kind and a version are of views.
        kind = PathKind(record.get("kind", PathKind.VIEW))
        facts = record.get("validator")
        validator = None if facts is None else Validator(**facts)
        if kind is not PathKind.VIEW:
            return DraftPath(key, path, kind, validator)
        state = _parse_state(record)
        return View(key, path, Digest.parse(record["digest"]), state.size, state.inode, state.mtime_ns, validator)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _parse_state(record: dict[str, Any]) -> FileState:
    inode = Inode(int(record["device"]), int(record["inode"]))
    return FileState(inode, int(record["size"]), int(record["mtime_ns"]))


def append_line(lease: LeaseLayout, line: str) -> None:
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
class LeaseManifest:
    """A lease's list, by path inside the lease: what was *handed* out there, oldest first, and how it is *settled*."""

    handed_out: dict[str, list[View | DraftPath]]
    reconciled: dict[str, Reconciled]


def read_manifest(lease: LeaseLayout) -> LeaseManifest:
    """What a lease's list says; of a path's states, only the last one counts."""
    found = LeaseManifest({}, {})
    with contextlib.suppress(FileNotFoundError), open(lease.views_list, encoding="utf-8", errors="replace") as file:
        for line in file:
            said = _parse(line)
            if isinstance(said, Reconciled):
                found.reconciled[path_in_lease(lease, said.path)] = said
            elif said is not None:
                found.handed_out.setdefault(path_in_lease(lease, said.path), []).append(said)
    return found


def path_in_lease(lease: LeaseLayout, path: str) -> str:
    """A path of the list, from the lease on: the list has whole paths, and the store may have been moved since."""
    return path.partition(f"/leases/{os.path.basename(lease.path)}/")[2]


def list_views(lease: LeaseLayout) -> Iterator[View]:
    """The views that a lease's list says were handed out."""
    for handed in read_manifest(lease).handed_out.values():
        yield from (view for view in handed if isinstance(view, View))


OWN_NAMES: Final = frozenset(("lock", "staging", "progress", "views.list"))
"""What this package keeps in a lease for itself. Whatever else is there is taken for a user's."""


def digest_of(path: str, algorithm: str) -> Digest | None:
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
