"""The files in ``blobs/``, every one or a sample hashed and held against its row. Follows no symbolic link.

Changes nothing, but for what a `Repairer` does about the problems found.

A few threads hash, since hashing gives up the interpreter's lock; one thread walks, asks the index and judges.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import islice
from typing import Final

from casstore.format.digest import Digest, new_hasher
from casstore.format.keys import blob_row
from casstore.format.layout import Layout
from casstore.format.records import unpack_blob
from casstore.verify.index_checks import OURS, IndexChecks, reason
from casstore.verify.report import Findings, Problem, ProblemKind, ProgressCallback, Repairer
from casstore.verify.sampling import Sample

THREADS: Final = min(4, os.cpu_count() or 1)

_PIECE: Final = 1 << 20
_BATCH: Final = 256
"""Files whose rows are looked up in one transaction."""
_AHEAD: Final = 64
"""Files that wait for a thread."""
_TELL_SECONDS: Final = 0.2
_TYPES: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
# A pipe with a blob's name would make the open wait for a writer.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class _State(Enum):
    SOUND = auto()
    TOUCHED = auto()
    WRONG = auto()
    NO_FILE = auto()
    UNREADABLE = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class _Examined:
    """What a thread found of one file; *detail* says what is wrong, *size* how many bytes there were."""

    state: _State
    size: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Blob:
    """A file on its way through: its name says *digest*; *record* is its row, None where it has none."""

    path: str
    digest: Digest
    record: bytes | None
    result: Future[_Examined]


class BlobChecks:
    """One look at all blobs. The counts are of what was seen so far."""

    def __init__(
        self,
        layout: Layout,
        algorithm: str,
        rows: IndexChecks,
        findings: Findings,
        sample: Sample,
        repairer: Repairer | None = None,
    ) -> None:
        self._layout = layout
        self._sample = sample
        self._mender = repairer
        self._algorithm = algorithm
        self._rows = rows
        self._findings = findings
        self._stopped = threading.Event()
        self._own = threading.local()
        self._mutex = threading.Lock()
        self.read = 0
        """Bytes that the threads have read; a file that is being hashed counts as far as it is."""
        self.files = self.bytes = 0
        self.unknown = self.unknown_bytes = 0
        self.skipped = self.skipped_bytes = 0
        self.adopted = self.adopted_bytes = 0

    def check(self, on_progress: ProgressCallback) -> None:
        """Look at every file below ``blobs/``."""
        self._sample.look(self._layout.blobs)
        pool = ThreadPoolExecutor(THREADS, "casstore-verify")
        try:
            self._check(pool, on_progress)
        finally:
            # For whoever interrupts: threads stop after the piece that they have in hand.
            self._stopped.set()
            pool.shutdown(cancel_futures=True)

    def _check(self, pool: ThreadPoolExecutor, on_progress: ProgressCallback) -> None:
        ahead: deque[_Blob] = deque()
        files = self._walk()
        while batch := list(islice(files, _BATCH)):
            # After the files were listed: a file without a row is one that nobody has committed yet.
            records = self._rows.records([digest.value for _, digest in batch]) or {}
            for path, digest in batch:
                if not self._sample.includes(path):
                    self._skip(path, digest, records.get(digest.value))
                    continue
                result = pool.submit(self._examine, path, digest)
                ahead.append(_Blob(path, digest, records.get(digest.value), result))
                if len(ahead) > _AHEAD:
                    self._judge(ahead.popleft(), on_progress)
        while ahead:
            self._judge(ahead.popleft(), on_progress)

    def _skip(self, path: str, digest: Digest, record: bytes | None) -> None:
        known = None if record is None else unpack_blob(blob_row(digest.value), record)
        with contextlib.suppress(OSError):  # gone since
            self.skipped_bytes += os.lstat(path).st_size if known is None else known.size
            self.skipped += 1

    # --- finding files -----------------------------------------------------------------------------------------------

    def _walk(self) -> Iterator[tuple[str, Digest]]:
        """Everything that has a blob's name and may be a file; what does not is reported."""
        if os.path.islink(self._layout.blobs):
            self._add(ProblemKind.WRONG_TYPE, self._layout.blobs, "a symbolic link instead of a directory")
            return
        for shard in self._list(self._layout.blobs):
            try:
                first = bytes.fromhex(shard.name)
            except ValueError:
                first = b""
            if len(first) != 1 or self._layout.shard(first) != shard.path:
                self._add(ProblemKind.FOREIGN_NAME, shard.path, "no directory of blobs is named so")
            elif self._is_of_type(shard, stat.S_IFDIR):
                yield from self._walk_shard(shard)

    def _walk_shard(self, shard: os.DirEntry[str]) -> Iterator[tuple[str, Digest]]:
        for entry in self._list(shard.path, may_be_gone=True):
            digest = self._digest_of(shard.name + entry.name)
            if digest is None or self._layout.blob(digest.value) != entry.path:
                self._add(ProblemKind.FOREIGN_NAME, entry.path, f"no blob of {self._algorithm} is named so")
            elif self._is_of_type(entry, stat.S_IFREG, digest):
                yield entry.path, digest

    def _is_of_type(self, entry: os.DirEntry[str], expected: int, digest: Digest | None = None) -> bool:
        """Whether it is; reports it if not."""
        has_type = entry.is_dir if expected == stat.S_IFDIR else entry.is_file
        try:
            if has_type(follow_symlinks=False):  # what the listing said, as a rule: no system call
                return True
            found = stat.S_IFMT(os.stat(entry.path, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False  # gone since
        except OSError as error:
            self._add(ProblemKind.UNREADABLE, entry.path, reason(error), digest)
            return False
        if found == expected:
            return True
        detail = f"{_TYPES.get(found, 'no file')} instead of {_TYPES[expected]}"
        self._add(ProblemKind.WRONG_TYPE, entry.path, detail, digest)
        return False

    def _digest_of(self, name: str) -> Digest | None:
        try:
            return Digest(self._algorithm, bytes.fromhex(name))
        except ValueError:
            return None

    def _list(self, directory: str, *, may_be_gone: bool = False) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                yield from entries
        except OSError as error:
            if error.errno in OURS:
                raise
            if not (may_be_gone and error.errno == errno.ENOENT):
                self._add(ProblemKind.UNREADABLE, directory, reason(error))

    # --- looking at one, in a thread of the pool ---------------------------------------------------------------------

    def _examine(self, path: str, digest: Digest) -> _Examined:
        try:
            descriptor = os.open(path, _FLAGS)
        except FileNotFoundError:
            return _Examined(_State.GONE)  # swept since it was listed; the rows were asked about that
        except OSError as error:
            if error.errno in OURS:
                raise
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return _Examined(_State.NO_FILE)
            return _Examined(_State.UNREADABLE, detail=reason(error))
        try:
            return self._hash(descriptor, digest)
        except OSError as error:
            if error.errno in OURS:
                raise
            return _Examined(_State.UNREADABLE, detail=reason(error))
        finally:
            os.close(descriptor)

    def _hash(self, descriptor: int, digest: Digest) -> _Examined:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return _Examined(_State.NO_FILE)
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = memoryview(bytearray(_PIECE))
        hasher = new_hasher(self._algorithm)
        size = 0
        # No further than the end that was seen: somebody may append to a file without end.
        while size <= status.st_size and (count := os.preadv(descriptor, [buffer], size)):
            if self._stopped.is_set():
                break
            hasher.update(buffer[:count])
            size += count
            with self._mutex:
                self.read += count
        actual = hasher.digest()
        if actual != digest.value:
            return _Examined(_State.WRONG, size, f"its {size:,} bytes are those of {actual.hex()}")
        mode, mtime = stat.S_IMODE(status.st_mode), digest.mtime * 1_000_000_000
        changes = [f"its mode is {mode:04o} instead of 0444"] if mode != 0o444 else []
        if status.st_mtime_ns != mtime:
            changes.append("its mtime is not as it was made")
        if changes:
            return _Examined(_State.TOUCHED, size, " and ".join(changes) + "; its bytes are right")
        return _Examined(_State.SOUND, size)

    # --- judging -----------------------------------------------------------------------------------------------------

    def _judge(self, blob: _Blob, on_progress: ProgressCallback) -> None:
        while not blob.result.done():
            wait([blob.result], _TELL_SECONDS)
            on_progress()
        found = blob.result.result()
        on_progress()
        if found.state is _State.GONE:
            return
        if found.state is _State.NO_FILE:
            self._add(ProblemKind.WRONG_TYPE, blob.path, "something else instead of a file", blob.digest)
            return
        if found.state is _State.UNREADABLE:
            self._add_used(ProblemKind.UNREADABLE, blob, found.detail)
            return
        self.files += 1
        self.bytes += found.size
        if found.state is _State.WRONG:
            self._add_used(ProblemKind.WRONG_BYTES, blob, found.detail)
            return
        if found.state is _State.TOUCHED:
            self._add_used(ProblemKind.TOUCHED_BLOB, blob, found.detail)
        self._compare(blob, found.size)

    def _compare(self, blob: _Blob, size: int) -> None:
        """Hold right bytes against the row."""
        if blob.record is None:
            if not self._rows.is_readable:
                return
            if self._mender is not None and self._mender.adopt(blob.digest, size):
                self.adopted += 1
                self.adopted_bytes += size
            else:
                self.unknown += 1
                self.unknown_bytes += size
            return
        row = blob_row(blob.digest.value)
        known = unpack_blob(row, blob.record)
        if known is None or known.size == size:
            return  # one that does not decode was reported as a row
        # Under a hash that collides, the row may have been of other bytes, which were swept between the two looks.
        again = self._rows.records([blob.digest.value])
        if again is not None and again[blob.digest.value] == blob.record:
            detail = f"its row says {known.size:,} bytes, and it has {size:,}, which are right"
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
        if self._mender is not None and digest is not None:
            problem = replace(problem, repair=self._mender.repair_blob(digest))
        self._findings.add(problem)
