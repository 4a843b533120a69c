"""Views: local paths with the objects' real names, and the lease's list of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple

from casstore.blobs.staging import Inode
from casstore.errors import CasstoreError
from casstore.format.digest import Digest, hash_descriptor
from casstore.format.keys import Key
from casstore.format.layout import LeaseLayout
from casstore.format.records import Validator
from casstore.fs import copying, files


class PathKind(StrEnum):
    VIEW = "view"
    """Reading: it has an object's bytes."""
    OUTBOX = "outbox"
    """Creation by a tool: the object does not exist."""
    EDIT = "edit"
    """Changes inside a ``with`` block, which uploads it at its end."""


class FileState(NamedTuple):
    """Inode, size and mtime of a file: they change if it is written to."""

    inode: Inode
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(Inode.of(status), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class View:
    """A path with the bytes of *digest*; *state* is the file's as created, *validator* the version, if known."""

    kind: ClassVar[PathKind] = PathKind.VIEW

    key: Key
    path: str
    digest: Digest
    state: FileState
    validator: Validator | None = None

    def is_untouched(self) -> bool:
        """Return whether the file is still there with its inode, size and mtime."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return FileState.of(status) == self.state

    def has_bytes_of(self, source: int) -> bool:
        """Return whether the path has the bytes of the open file *source*, with any mtime."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(OSError), files.opened(self.path, flags) as descriptor:
            return copying.same_bytes(descriptor, source)
        return False


class DraftPath(NamedTuple):
    """A path for bytes that a user creates or changes, of *kind* outbox or edit.

    *validator* is the version that the user starts from; None for an object that does not exist.
    """

    key: Key
    path: str
    kind: PathKind
    validator: Validator | None = None


class Reconciled(NamedTuple):
    """The file at *path* in *state* needs no record: it has one, or is as it was created.

    With *digest*, these bytes need none in another state either: a touch makes no difference.
    """

    path: str
    state: FileState
    digest: Digest | None = None


def encode_line(given: View | DraftPath | Reconciled) -> str:
    """Return the line of *given* in a lease's list."""
    if isinstance(given, Reconciled):
        record: dict[str, Any] = {"settled": given.path}
    else:
        record = {"kind": given.kind.value, "path": given.path, "uri": given.key.uri, "origin": given.key.origin}
    if not isinstance(given, DraftPath):
        record |= {
            "digest": None if given.digest is None else str(given.digest),
            "size": given.state.size,
            "device": given.state.inode.device,
            "inode": given.state.inode.number,
            "mtime_ns": given.state.mtime_ns,
        }
    if not isinstance(given, Reconciled):
        record["validator"] = None if given.validator is None else asdict(given.validator)
    return json.dumps(record) + "\n"


def parse_line(line: str) -> View | DraftPath | Reconciled | None:
    """Parse a line of a lease's list; return None if a crash truncated it."""
    try:
        record = json.loads(line)
        if "settled" in record:
            digest = None if record["digest"] is None else Digest.parse(record["digest"])
            return Reconciled(str(record["settled"]), _parse_state(record), digest)
        key, path = Key(str(record["uri"]), str(record["origin"])), str(record["path"])
        # Old lines without a kind are views.
        kind = PathKind(record.get("kind", PathKind.VIEW))
        facts = record.get("validator")
        validator = None if facts is None else Validator(**facts)
        if kind is not PathKind.VIEW:
            return DraftPath(key, path, kind, validator)
        return View(key, path, Digest.parse(record["digest"]), _parse_state(record), validator)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _parse_state(record: dict[str, Any]) -> FileState:
    inode = Inode(int(record["device"]), int(record["inode"]))
    return FileState(inode, int(record["size"]), int(record["mtime_ns"]))


def append_line(lease: LeaseLayout, given: View | DraftPath | Reconciled) -> None:
    """Append *given* to a lease's list, this process's or a dead one's. Raises: FileNotFoundError if it is gone."""
    line = encode_line(given)
    with files.opened(lease.views_list, os.O_RDWR | os.O_APPEND | os.O_CREAT) as descriptor:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line  # a crash or a full disk has truncated the last one
        files.write_all(descriptor, line.encode("ascii"))


class LeaseManifest(NamedTuple):
    """A lease's list by path inside the lease: what was *handed_out*, oldest first, and the *reconciled* states."""

    handed_out: dict[str, list[View | DraftPath]]
    reconciled: dict[str, Reconciled]


def read_manifest(lease: LeaseLayout) -> LeaseManifest:
    """Read a lease's list; the last state of a path counts."""
    manifest = LeaseManifest({}, {})
    with contextlib.suppress(FileNotFoundError), open(lease.views_list, encoding="utf-8", errors="replace") as file:
        for line in file:
            parsed = parse_line(line)
            if isinstance(parsed, Reconciled):
                manifest.reconciled[path_in_lease(lease, parsed.path)] = parsed
            elif parsed is not None:
                manifest.handed_out.setdefault(path_in_lease(lease, parsed.path), []).append(parsed)
    return manifest


def path_in_lease(lease: LeaseLayout, path: str) -> str:
    """Return a listed path relative to its lease: listed paths are absolute, and the store may have been moved."""
    return path.partition(f"/leases/{os.path.basename(lease.path)}/")[2]


def recorded_digests(
    size: int, handed_out: Iterable[View | DraftPath | None], reconciled: Reconciled | None
) -> list[Digest]:
    """Return the digests of *size* bytes that need no record: those of views, and of the reconciled state."""
    digests = [view.digest for view in handed_out if isinstance(view, View) and view.state.size == size]
    if reconciled is not None and reconciled.digest is not None and reconciled.state.size == size:
        digests.append(reconciled.digest)
    return digests


OWN_NAMES: Final = frozenset(("lock", "staging", "progress", "views.list"))
"""The store's own files in a lease. All others count as a user's."""


def digest_of(path: str, algorithm: str) -> Digest | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    # None for an unreadable file, or if the algorithm's package is not installed.
    with contextlib.suppress(OSError, CasstoreError), files.opened(path, flags) as descriptor:
        return hash_descriptor(descriptor, algorithm)
    return None
