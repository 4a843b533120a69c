"""The record of an object's local paths: a small JSON file beside its pending writes.

It says of each path which version its file has, and with which size and mtime the store made it: any other is a
change. Its own mtime is when a path was last handed out. It is not synced. If a power cut loses it, the files are
taken for a tool's, and compared with the object's entry.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from casstore.errors import LockTimeoutError
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Validator
from casstore.fs import files
from casstore.fs.stable import ctime_of
from casstore.locks.byte_locks import ByteLocks

_MOMENT_NS: Final = 1_000_000


class Kind(StrEnum):
    OBJECT = "object"
    """The bytes of a version of the object."""
    ABSENT = "absent"
    """Nothing: handed out for a tool to create the object."""
    PRIVATE = "private"
    """To be changed in a block, which uploads it."""
    SAVED = "saved"
    """A change whose bytes are a pending write, or were dropped on purpose."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """The file *name* below ``local/``, as the store left it: *size*, *mtime_ns*, and the *digest* of its bytes.

    *ctime_ns*, if it is not 0, tells of programs that write and then set the mtime back.
    *base* is the version that a change starts from. *boot* is a tag of the boot that wrote it.
    """

    name: str
    kind: Kind
    size: int = -1
    mtime_ns: int = -1
    digest: Digest | None = None
    base: Validator | None = None
    boot: int = 0
    ctime_ns: int = 0

    @property
    def tree(self) -> str:
        return self.name.partition("/")[0]

    def is_as_left(self, status: os.stat_result) -> bool:
        """Whether a file with this status was not written to since."""
        is_same = (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)
        return is_same and (not self.ctime_ns or ctime_of(status) in (0, self.ctime_ns))

    def is_changed(self, layout: Layout, boot: int) -> bool:
        """Whether something else is there than the store left. A missing file is no change, nor is one without all of
        its bytes, but with its mtime: a power cut before this *boot* did that.
        """
        status = _lstat(layout.local_path(self.name))
        if status is None or not stat.S_ISREG(status.st_mode) or self.is_as_left(status):
            return False  # a directory at the path of an object to be created: its files belong to other objects
        return status.st_mtime_ns != self.mtime_ns or status.st_size > self.size or self.boot in (0, boot)

    def is_changed_or_gone(self, layout: Layout) -> bool:
        status = _lstat(layout.local_path(self.name))
        return status is None or not self.is_as_left(status)

    def exists(self, layout: Layout) -> bool:
        return _lstat(layout.local_path(self.name)) is not None


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:  # missing, or a parent is a file by now
        return None


@dataclass(slots=True)
class PathRecord:
    """The local files of one object, by their order."""

    key: Key
    files: list[LocalFile] = field(default_factory=list)

    @classmethod
    def read(cls, layout: Layout, name: str, key: Key | None = None) -> Self | None:
        """Return the record of the object with this `Key.name`; None if there is none, or only a damaged one."""
        try:
            with open(layout.path_record(name), "rb") as file:
                record: dict[str, Any] = json.loads(file.read())
            found = cls(Key(str(record["uri"]), str(record["origin"])), list(map(_decode, record["files"])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return found if found.key.name == name and key in (None, found.key) else None

    def write(self, layout: Layout) -> None:
        """Replace the record on the disk; without files, remove it. What says that a change is saved is synced."""
        path = layout.path_record(self.key.name)
        if not self.files:
            files.unlink_quietly(path)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))
            return
        record = {"uri": self.key.uri, "origin": self.key.origin, "files": list(map(_encode, self.files))}
        durable = any(file.kind is Kind.SAVED for file in self.files)
        for attempt in range(100):
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            try:
                # By way of the trash, where a killed process may leave it.
                files.replace(path, json.dumps(record).encode("ascii"), durable=durable, by=layout.trash)
                if durable:
                    files.sync_directory(os.path.dirname(path))
                return
            # The directory's last pending write was removed, and it with it; or the trash was emptied.
            except FileNotFoundError:
                if attempt == 99:
                    raise

    def save(self, layout: Layout, file: LocalFile) -> None:
        """Add *file*, as `put` does, on the disk too."""
        self.put(file)
        self.write(layout)

    def put(self, file: LocalFile) -> None:
        """Add *file*, in the place of what the record says of its name."""
        self.files = [other for other in self.files if other.name != file.name] + [file]

    def drop(self, file: LocalFile) -> None:
        self.files = [other for other in self.files if other.name != file.name]

    def of_path(self, path: str) -> LocalFile | None:
        """Return the file at *path*, which names it in this store or where the store was before."""
        return next((file for file in self.files if path.endswith(f"/local/{file.name}")), None)

    def at(self, name: str) -> LocalFile | None:
        return next((file for file in self.files if file.name == name), None)


def _encode(file: LocalFile) -> dict[str, Any]:
    return {
        "name": file.name,
        "kind": file.kind.value,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "digest": None if file.digest is None else str(file.digest),
        "base": None if file.base is None else asdict(file.base),
        "boot": file.boot,
        "ctime_ns": file.ctime_ns,
    }


def _decode(record: dict[str, Any]) -> LocalFile:
    digest, base = record["digest"], record["base"]
    return LocalFile(
        str(record["name"]),
        Kind(record["kind"]),
        int(record["size"]),
        int(record["mtime_ns"]),
        None if digest is None else Digest.parse(digest),
        None if base is None else Validator(**base),
        int(record["boot"]),
        int(record["ctime_ns"]),
    )


def records(layout: Layout) -> Iterator[tuple[float, PathRecord]]:
    """Yield each record of local paths, and when a path of it was last handed out."""
    for name in files.list_names(layout.pending_directory):
        status = _lstat(layout.path_record(name))
        record = None if status is None else PathRecord.read(layout, name)
        if status is not None and record is not None:
            yield status.st_mtime, record


class LockedRecord:
    """The record of one object, locked for a block that uses it twice (`casstore.locks.mutex` says why)."""

    def __init__(self, layout: Layout, locks: ByteLocks, key: Key, timeout: float) -> None:
        self._layout, self._key, self._timeout = layout, key, timeout
        self._lock = locks.request(b"local\0" + key.encoded)
        self._is_released_after = False
        self._used_ns = 0
        self.record = PathRecord(key)

    def __enter__(self) -> PathRecord:
        if not self._is_released_after:
            self._is_released_after = True  # by the first `with`; the second locks it
        elif self._lock.acquire(self._timeout):
            status = _lstat(self._layout.path_record(self._key.name))
            self._used_ns = 0 if status is None else status.st_mtime_ns
            self.record = PathRecord.read(self._layout, self._key.name, self._key) or self.record
        else:
            raise LockTimeoutError(
                f"{self._key.uri}: timed out after {self._timeout:.3g} s: another process makes a local copy of "
                "it: wait for it, or end it if it hangs"
            )
        return self.record

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def touch(self, *, briefly: bool = False) -> None:
        """Note that a path is handed out now; *briefly* is only for those who are about to remove it."""
        moment = (self._used_ns or 1000 * _MOMENT_NS) - _MOMENT_NS if briefly else time.time_ns()
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._layout.path_record(self._key.name), ns=(moment, moment))
