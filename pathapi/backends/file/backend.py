"""A directory tree as a bucket: ``file:///data/a.txt`` is the object ``data/a.txt`` below the root ``/``.

This backend does what a server would do. Inode, size and both times, to the nanosecond, identify a version. A
conditional write compares and renames under a `flock` on the parent directory. That excludes every other user of this
backend; a program that writes in place is detected by the times. A changed mapping (`mmap`) sets the times only once,
until the kernel has written the page to the disk. Therefore a young file that any program has open or mapped for
writing is read again. Three cases go unnoticed: tmpfs, which never writes pages; overlayfs, once the descriptor of the
mapping is closed; and macOS.

Where files and objects differ:

* An object is a regular file; symbolic links are followed. FIFOs, sockets, devices and dangling links are no objects.
* As in an object store, a directory exists only while an object is below it. A delete leaves the directories behind,
  invisible; a write creates them as needed.
* A link to a parent directory would have endlessly many keys: it can be read through, and is never listed.
* A key that no file can have (``a//b``, ``a/``, ``..``, a NUL) does not exist, and cannot be written.
* A new version is a new file with the permissions of the old one: hard links to the old one keep the old bytes. A copy
  under a new name has those of its source. Until then, no other user can read the new file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final
from urllib.parse import quote

from casstore import Validator, copy_permissions, sync_directory, write_all
from pathapi.backend import Absent, ListItem, ObjectInfo, Prefix, WriteCondition, delete_each
from pathapi.backends.bodies import RangedBody
from pathapi.backends.error_table import translating
from pathapi.backends.file.atomic import TEMPORARY, DirectoryLock, Temporary, link_new
from pathapi.backends.file.metadata import (
    ABSENT_ERRNOS,
    identity,
    info_of,
    info_of_open,
    mismatch,
    problem_of,
    stat_object,
    stat_settled,
    translate,
    validator_of,
)
from pathapi.backends.parallel_parts import read_parts
from pathapi.exceptions import (
    BucketNotFoundError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotADirectoryError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    InvalidUriError,
    VersionMismatchError,
)

_CHUNK: Final = 1 << 20
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class _UnchangedFile:
    """An open file, read only as long as it has not changed since *opened*, its status when it was opened."""

    file: io.FileIO
    opened: os.stat_result
    uri: str

    def read(self, amount: int) -> bytes:
        """Read at most *amount* bytes. Raises VersionMismatchError instead of returning bytes of a changed file."""
        data = self.file.read(amount)
        now, before = os.fstat(self.file.fileno()), self.opened
        # Replacing or deleting a file changes its ctime and its link count, and not its bytes.
        kept = now.st_ctime_ns == before.st_ctime_ns or now.st_nlink < before.st_nlink
        if not kept or now.st_size != before.st_size or now.st_mtime_ns != before.st_mtime_ns:
            raise VersionMismatchError(f"{self.uri}: the file was changed during the read: read it again")
        return data

    def close(self) -> None:
        self.file.close()


class FileBackend:
    """The files below *root*; see `pathapi.backend.Backend`. It keeps no descriptor open between calls."""

    origin = "file"
    bucket = ""

    def __init__(self, root: str = "/", lock_timeout: Callable[[], float] = lambda: 60.0) -> None:
        """*lock_timeout* returns the seconds that a write waits for the lock of its directory."""
        self._base = os.path.abspath(root).rstrip("/") + "/"
        self._root_uri = "file://" + self._base
        self._lock_timeout = lock_timeout

    def head(self, key: str) -> ObjectInfo:
        path, uri = self._path_of_existing(key), self._uri(key)
        with self._translating(uri):
            return info_of(key, stat_object(path, uri))

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> RangedBody | None:
        path, uri = self._path_of_existing(key), self._uri(key)
        with self._translating(uri):
            stat_object(path, uri)  # opening a FIFO would wake its writer
            file = io.FileIO(os.open(path, _OPEN_FLAGS), "rb")
        try:
            opened = stat_settled(file.fileno(), uri)
            info = info_of_open(key, file.fileno(), opened)
            if expect is not None and not expect.same_version(info.validator):
                raise VersionMismatchError(f"{uri}: the file is no longer the expected version: read it again")
            # With a racy validator a changed file may look the same.
            racy = unless is None or unless.racy or info.validator.racy
            if unless is not None and not racy and unless.same_version(info.validator):
                file.close()
                return None
            stop = info.size if end is None else min(end, info.size)
            file.seek(start)
            stream = _UnchangedFile(file, opened, uri)
            length = max(0, stop - start)
            return RangedBody(
                info, length, stream, lambda error: self._explain(error, uri), uri, is_cut=stop < info.size
            )
        except BaseException:
            file.close()
            raise

    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        def fill(descriptor: int) -> None:
            for chunk in read_parts(source, size, _CHUNK, self._uri(key)):
                write_all(descriptor, chunk)

        return self._publish(key, fill, expect)

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        return itertools.islice(self._list(prefix, delimited=delimited), limit)

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        if source == target:
            return self._touch(source, expect, over)
        body = self.read(source, expect=expect)
        assert body is not None, "only with `unless` a read returns None"

        def fill(descriptor: int) -> None:
            view = memoryview(bytearray(_CHUNK))
            while count := body.readinto(view):
                write_all(descriptor, view[:count])

        with contextlib.closing(body):
            return self._publish(target, fill, over, copied=body.stream.file.fileno())

    def _touch(self, key: str, *versions: WriteCondition) -> ObjectInfo:
        path, uri = os.path.realpath(self._path_of_existing(key)), self._uri(key)
        guard = self._lock(os.path.dirname(path), uri)
        with self._translating(uri), guard as lock, lock:
            for version in versions:
                self._require_version(path, uri, version)
            stat_object(path, uri)
            now = time.time_ns()
            os.utime(path, ns=(now, now))
            return info_of(key, stat_object(path, uri))

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        if versions:
            delete_each(self, keys, versions)
            return
        for key in keys:
            self._delete(key, expect)

    def _delete(self, key: str, expect: Validator | None) -> None:
        uri = self._uri(key)
        try:
            path = self._path_of_existing(key)
            with self._translating(uri), self._lock(os.path.dirname(path), uri) as lock, lock:
                self._require_version(path, uri, expect)
                stat_object(path, uri)
                os.unlink(path)
                sync_directory(os.path.dirname(path))
        except CloudPathFileNotFoundError as error:
            if expect is not None:
                raise mismatch(uri, expect) from error

    def url(self, key: str) -> str:
        return f"file://{quote(os.fsencode(self._base + key), safe='/~:')}"

    def signed_url(self, key: str, seconds: int) -> str:
        raise CloudPathNotImplementedError(f"{self._uri(key)}: files have no signed URLs: use as_url()")

    def _uri(self, key: str) -> str:
        return (self._root_uri + key).encode("utf-8", "backslashreplace").decode()

    def _has_root(self) -> bool:
        return os.path.isdir(self._base)

    def _path_of_existing(self, key: str) -> str:
        problem = problem_of(key)
        if problem is not None:
            raise CloudPathFileNotFoundError(f"{self._uri(key)!r} does not exist: {problem}")
        return self._base + key

    def _translating(self, uri: str) -> contextlib.AbstractContextManager[None]:
        return translating(lambda error: self._explain(error, uri))

    def _explain(self, error: Exception, uri: str) -> Exception:
        if not isinstance(error, OSError) or isinstance(error, CloudPathException):
            return error
        if error.errno in ABSENT_ERRNOS and not self._has_root():
            return BucketNotFoundError(f"{uri} does not exist: there is no root directory {self._base}")
        return translate(error, uri)

    def _publish(
        self, key: str, fill: Callable[[int], None], expect: WriteCondition, *, copied: int | None = None
    ) -> ObjectInfo:
        """Make a file of what *fill* writes; a new object has the permissions of the file *copied*, if given."""
        uri = self._uri(key)
        problem = problem_of(key)
        if problem is not None:
            raise InvalidUriError(f"{uri!r}: this name cannot be written: {problem}")
        if not self._has_root():
            raise BucketNotFoundError(f"{uri}: there is no root directory {self._base}: create it first")
        try:
            # Through a link, like open("w"): the link is kept, and the lock is the real directory's.
            path = os.path.realpath(self._base + key)
            if os.path.isdir(path):
                raise CloudPathIsADirectoryError(f"{uri} is a directory: choose another name for the object")
            directory = os.path.dirname(path)
            os.makedirs(directory, exist_ok=True)
            self._require_version(path, uri, expect)  # before the bytes are copied in vain
            is_new = copied is None and not os.path.lexists(path)
            temporary = Temporary(directory, 0o666 if is_new else 0o600)
            with temporary, temporary as (descriptor, name):
                fill(descriptor)
                self._sync_and_link(descriptor, name, path, uri, expect, copied)
                return info_of(key, os.fstat(descriptor))
        except OSError as error:
            if isinstance(error, CloudPathException):
                raise
            if isinstance(error, NotADirectoryError | FileExistsError):
                message = f"{uri}: a parent of this path is a file, not a directory: choose another path"
                raise CloudPathNotADirectoryError(message) from error
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidUriError(
                    f"{uri}: the name is too long for this file system: choose a shorter one"
                ) from error
            raise translate(error, uri) from error

    def _sync_and_link(
        self, descriptor: int, temporary: str, path: str, uri: str, expect: WriteCondition, copied: int | None
    ) -> None:
        directory = os.path.dirname(path)
        # The kernel's own times have the resolution of a tick: two versions in one inode and tick would look the same.
        now = time.time_ns()
        os.utime(descriptor if os.utime in os.supports_fd else temporary, ns=(now, now))
        os.fsync(descriptor)
        with self._lock(directory, uri) as lock, lock:
            self._require_version(path, uri, expect)
            try:
                copy_permissions(descriptor, path)
            except FileNotFoundError:
                if copied is not None:
                    copy_permissions(descriptor, copied, owner=False)
            is_linked = isinstance(expect, Absent) and link_new(temporary, path, uri)
            if not is_linked:
                os.replace(temporary, path)
            try:
                if is_linked:
                    os.unlink(temporary)
                sync_directory(directory)
            except OSError as error:
                failure = translate(error, uri)
                failure.outcome_unknown = True  # other processes see the new object
                raise failure from error

    def _lock(self, directory: str, uri: str) -> DirectoryLock:
        return DirectoryLock(directory, uri, self._lock_timeout())

    def _require_version(self, path: str, uri: str, expect: WriteCondition) -> None:
        if expect is None:
            return
        try:
            current = validator_of(os.stat(path))
        except FileNotFoundError as error:
            if isinstance(expect, Absent):
                return
            raise mismatch(uri, expect) from error
        if isinstance(expect, Absent) or not expect.same_version(current):
            raise mismatch(uri, expect)

    def _list(self, prefix: str, *, delimited: bool) -> Iterator[ListItem]:
        folder, _, start = prefix.rpartition("/")
        if (folder and problem_of(folder) is not None) or prefix.startswith("/") or "\0" in start:
            return
        above = folder + "/" if folder else ""
        try:
            ancestors = self._ancestors(folder)
        except OSError as error:
            reason = self._explain(error, self._uri(prefix))
            if error.errno in ABSENT_ERRNOS and not isinstance(reason, BucketNotFoundError):
                return
            raise reason from error
        yield from self._walk(above, start, ancestors, delimited=delimited)

    def _ancestors(self, folder: str) -> frozenset[tuple[int, int]]:
        parts = folder.split("/") if folder else []
        paths = [self._base + "/".join(parts[:depth]) for depth in range(len(parts) + 1)]
        return frozenset(identity(os.stat(path)) for path in paths)

    def _walk(
        self, above: str, start: str, ancestors: frozenset[tuple[int, int]], *, delimited: bool
    ) -> Iterator[ListItem]:
        """Yield what is in the directory *above* and begins with *start*, in the order of the keys' bytes."""
        for name, is_directory in self._names(above, start):
            key = above + name
            try:
                status = os.stat(self._base + key)
            except OSError as error:
                if error.errno in ABSENT_ERRNOS:  # deleted since, or a dangling link
                    continue
                raise translate(error, self._uri(key)) from error
            if stat.S_ISREG(status.st_mode) and not is_directory:
                yield info_of(key, status)
            elif stat.S_ISDIR(status.st_mode) and is_directory and identity(status) not in ancestors:
                below = self._walk(key + "/", "", ancestors | {identity(status)}, delimited=False)
                if not delimited:
                    yield from below
                elif self._holds_object(below):
                    yield Prefix(key + "/")

    def _holds_object(self, below: Iterator[ListItem]) -> bool:
        try:
            return next(below, None) is not None
        except CloudPathPermissionError:
            return True  # unknown: show it

    def _names(self, above: str, start: str) -> Sequence[tuple[str, bool]]:
        try:
            with os.scandir(self._base + above) as entries:
                found = [
                    (entry.name, _leads_to_directory(entry))
                    for entry in entries
                    if entry.name.startswith(start) and not TEMPORARY.fullmatch(entry.name)
                ]
        except OSError as error:
            if error.errno in ABSENT_ERRNOS:
                return ()
            raise translate(error, self._uri(above)) from error
        # A directory is sorted as its keys are: after "a.txt", before "a0".
        return sorted(found, key=lambda item: os.fsencode(item[0] + "/" * item[1]))


def _leads_to_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
