"""Checks of the files in ``blobs/``: a few threads hash them, one thread lists them and compares them with their rows.

Symbolic links are not followed. Only a `StoreRepairer` changes anything.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import random
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Final

from casstore.blobs.blob_store import OPEN_FLAGS
from casstore.format.digest import Digest, new_hasher
from casstore.format.keys import blob_row
from casstore.format.records import unpack_blob
from casstore.fs import files
from casstore.locks.mutex import Task, TaskThreads, new_mutex
from casstore.verify.index_checks import PROCESS_ERRORS, IndexChecks
from casstore.verify.repair import reason
from casstore.verify.report import Problem, ProblemKind


class Sample:
    """A random *fraction* of the *newest* blobs (a number of them, or a maximum age).

    Raises:
        ValueError: *fraction* or *newest* is out of range.
    """

    def __init__(self, fraction: float | None = None, newest: int | timedelta | None = None) -> None:
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"sample must be greater than 0 and at most 1, not {fraction}")
        if newest is not None and (newest <= timedelta() if isinstance(newest, timedelta) else newest < 1):
            raise ValueError(f"newest must be at least 1, or a positive duration, not {newest}")
        self._fraction = fraction
        self._newest = newest
        self._paths: frozenset[str] = frozenset()
        self._since_ns = 0

    def select(self, blobs: str) -> None:
        """Find the newest files below *blobs*, if *newest* was given."""
        if isinstance(self._newest, timedelta):
            self._since_ns = time.time_ns() - int(self._newest.total_seconds() * 1e9)
        elif self._newest is not None:
            # The blob checks report directories that cannot be listed.
            paths = (f"{directory}/{name}" for directory, _, names in os.walk(blobs) for name in names)
            ages = ((changed, path) for path in paths if (changed := _changed_ns(path)) is not None)
            self._paths = frozenset(path for _, path in heapq.nlargest(self._newest, ages))

    def includes(self, path: str) -> bool:
        """Whether to hash that blob; True for a file without a readable status, so that the check reports it."""
        if self._paths and path not in self._paths:
            return False
        if self._since_ns and (_changed_ns(path) or self._since_ns) < self._since_ns:
            return False
        return self._fraction is None or random.random() < self._fraction


def _changed_ns(path: str) -> int | None:
    # The ctime is the time of the last link, and so of the download. The mtime is derived from the digest.
    with contextlib.suppress(OSError):
        return os.lstat(path).st_ctime_ns
    return None


THREADS: Final = min(4, os.cpu_count() or 1)

_CHUNK: Final = 1 << 20
_BATCH: Final = 256
"""Files whose rows are looked up in one transaction."""
_AHEAD: Final = 64
"""Files queued for the threads."""
_PROGRESS_SECONDS: Final = 0.2
_TYPES: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_SHARD_NAME: Final = re.compile(r"[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class _CheckedBlob:
    """What a thread found: the number of bytes, None if they could not be hashed; and the kind of a problem, if any."""

    size: int | None = None
    kind: ProblemKind | None = None
    detail: str = ""


_NOT_REGULAR: Final = _CheckedBlob(None, ProblemKind.WRONG_TYPE, "not a regular file")


@dataclass(frozen=True, slots=True)
class _Blob:
    """A file that is being checked: the digest in its name, and its row's record, if any."""

    path: str
    digest: Digest
    record: bytes | None
    result: Task[_CheckedBlob]


class BlobChecks:
    """One pass over all blobs, with counts of what was seen so far."""

    def __init__(self, rows: IndexChecks, sample: Sample) -> None:
        self._rows = rows
        self._layout, self._algorithm = rows.layout, rows.algorithm
        self._findings, self._repairer = rows.findings, rows.repairer
        self._sample = sample
        self._threads = TaskThreads(THREADS)
        self._local = threading.local()
        self._mutex = new_mutex()
        self.read = 0
        """Bytes that the threads have read so far."""
        self.files = self.bytes = 0
        self.unknown = self.unknown_bytes = 0
        self.skipped = self.skipped_bytes = 0
        self.adopted = self.adopted_bytes = 0

    def check(self, on_progress: Callable[[], None]) -> None:
        """Check every file below ``blobs/``."""
        self._sample.select(self._layout.blobs)
        try:
            self._check(on_progress)
        finally:
            # After an interrupt, the threads stop after their current chunk.
            self._threads.close()

    def _check(self, on_progress: Callable[[], None]) -> None:
        ahead: deque[_Blob] = deque()
        found = self._walk()
        while batch := list(islice(found, _BATCH)):
            # Looked up after the files were listed: a file without a row is not committed yet.
            records = self._rows.records([digest.value for _, digest in batch]) or {}
            for path, digest in batch:
                if not self._sample.includes(path):
                    self._skip(path, digest, records.get(digest.value))
                    continue
                result = self._threads.submit(partial(self._check_file, path, digest))
                ahead.append(_Blob(path, digest, records.get(digest.value), result))
                if len(ahead) > _AHEAD:
                    self._report(ahead.popleft(), on_progress)
        while ahead:
            self._report(ahead.popleft(), on_progress)

    def _skip(self, path: str, digest: Digest, record: bytes | None) -> None:
        known = unpack_blob(blob_row(digest.value), record)
        with contextlib.suppress(OSError):  # deleted since
            self.skipped_bytes += os.lstat(path).st_size if known is None else known.size
            self.skipped += 1

    def _walk(self) -> Iterator[tuple[str, Digest]]:
        """Yield the files with a blob's name; report everything else."""
        if os.path.islink(self._layout.blobs):
            self._add(ProblemKind.WRONG_TYPE, self._layout.blobs, "a symbolic link instead of a directory")
            return
        for shard in self._list(self._layout.blobs):
            if not _SHARD_NAME.fullmatch(shard.name):
                self._add(ProblemKind.FOREIGN_NAME, shard.path, "not the name of a directory of blobs")
            elif self._is_of_type(shard, stat.S_IFDIR):
                yield from self._walk_shard(shard)

    def _walk_shard(self, shard: os.DirEntry[str]) -> Iterator[tuple[str, Digest]]:
        for entry in self._list(shard.path, may_be_gone=True):
            try:
                digest = Digest(self._algorithm, bytes.fromhex(shard.name + entry.name))
            except ValueError:
                digest = None
            if digest is None or self._layout.blob(digest.value) != entry.path:
                self._add(ProblemKind.FOREIGN_NAME, entry.path, f"not the name of a {self._algorithm} blob")
            elif self._is_of_type(entry, stat.S_IFREG, digest):
                yield entry.path, digest

    def _is_of_type(self, entry: os.DirEntry[str], expected: int, digest: Digest | None = None) -> bool:
        """Return whether it is; report it if not."""
        has_type = entry.is_dir if expected == stat.S_IFDIR else entry.is_file
        try:
            if has_type(follow_symlinks=False):  # usually known from the listing, without a system call
                return True
            found = stat.S_IFMT(os.stat(entry.path, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False  # deleted since
        except OSError as error:
            self._add(ProblemKind.UNREADABLE, entry.path, reason(error), digest)
            return False
        if found == expected:
            return True
        detail = f"{_TYPES.get(found, 'a special file')} instead of {_TYPES[expected]}"
        self._add(ProblemKind.WRONG_TYPE, entry.path, detail, digest)
        return False

    def _list(self, directory: str, *, may_be_gone: bool = False) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                yield from entries
        except OSError as error:
            if error.errno in PROCESS_ERRORS:
                raise
            if not (may_be_gone and error.errno == errno.ENOENT):
                self._add(ProblemKind.UNREADABLE, directory, reason(error))

    def _check_file(self, path: str, digest: Digest) -> _CheckedBlob:
        """Check one file, in a thread of the pool."""
        try:
            with files.opened(path, OPEN_FLAGS) as descriptor:
                return self._hash(descriptor, digest)
        except FileNotFoundError:
            return _CheckedBlob()  # swept since it was listed; the index checks cover that
        except OSError as error:
            if error.errno in PROCESS_ERRORS:
                raise
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return _NOT_REGULAR
            return _CheckedBlob(None, ProblemKind.UNREADABLE, reason(error))

    def _hash(self, descriptor: int, digest: Digest) -> _CheckedBlob:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return _NOT_REGULAR
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(_CHUNK))
        hasher = new_hasher(self._algorithm)
        size = 0
        # Not beyond the size seen: another process may append without end.
        while size <= status.st_size and (count := os.preadv(descriptor, [buffer], size)):
            if self._threads.is_closed:
                break
            hasher.update(buffer[:count])
            size += count
            with self._mutex:
                self.read += count
        actual = hasher.digest()
        if actual != digest.value:
            detail = f"its {size:,} bytes have the digest {actual.hex()}"
            return _CheckedBlob(size, ProblemKind.WRONG_BYTES, detail)
        mode = stat.S_IMODE(status.st_mode)
        changes = [f"its mode is {mode:04o} instead of 0444"] if mode != 0o444 else []
        if status.st_mtime_ns != digest.mtime * 1_000_000_000:
            changes.append("its mtime was changed")
        if status.st_uid != os.geteuid():
            changes.append("it belongs to another user")
        if changes:
            return _CheckedBlob(size, ProblemKind.TOUCHED_BLOB, " and ".join(changes) + "; its bytes are right")
        return _CheckedBlob(size)

    def _report(self, blob: _Blob, on_progress: Callable[[], None]) -> None:
        while not blob.result.wait(_PROGRESS_SECONDS):
            on_progress()
        found = blob.result.result()
        on_progress()
        if found.kind is ProblemKind.WRONG_TYPE:
            self._add(found.kind, blob.path, found.detail, blob.digest)
        elif found.kind is not None:
            self._add_used(found.kind, blob, found.detail)
        if found.size is not None:
            self.files += 1
            self.bytes += found.size
            if found.kind is not ProblemKind.WRONG_BYTES:
                self._compare(blob, found.size)

    def _compare(self, blob: _Blob, size: int) -> None:
        if blob.record is None:
            if not self._rows.is_readable:
                return
            if self._repairer is not None and self._repairer.adopt(blob.digest, size):
                self.adopted += 1
                self.adopted_bytes += size
            else:
                self.unknown += 1
                self.unknown_bytes += size
            return
        row = blob_row(blob.digest.value)
        known = unpack_blob(row, blob.record)
        if known is None or known.size == size:
            return  # the index checks reported a row that does not decode
        # After a hash collision, the row may describe other bytes, which were swept between the two reads.
        again = self._rows.records([blob.digest.value])
        if again is not None and again[blob.digest.value] == blob.record:
            detail = f"its row has the size {known.size:,}, but the file's {size:,} bytes are right"
            self._add_used(ProblemKind.ROWS_DISAGREE, blob, detail)

    def _add_used(self, kind: ProblemKind, blob: _Blob, detail: str) -> None:
        key, users = self._rows.user_of(blob.digest.value)
        if users > 1:
            detail += f"; {users - 1:,} more entries use it" if users > 2 else "; another entry uses it"
        uri, origin = (None, None) if key is None else (key.uri, key.origin)
        self._add(kind, blob.path, detail, blob.digest, uri, origin)

    def _add(
        self,
        kind: ProblemKind,
        path: str,
        detail: str,
        digest: Digest | None = None,
        uri: str | None = None,
        origin: str | None = None,
    ) -> None:
        problem = Problem(kind, path, detail, digest, uri, origin)
        if self._repairer is not None and digest is not None:
            problem = replace(problem, repair=self._repairer.repair_blob(digest))
        self._findings.add(problem)
