"""Pending writes and local edits: bytes that a user wrote and that the cloud does not have, or is not known to have.

    pending/<uri hash>/<lease>-<random>.data    the bytes, mode 0444; a link of the staging file, so no second copy
                       <lease>-<random>.json    what they are: URI, digest, the version they started from, the state

Here lies the truth about writes, and nothing of it can be fetched again: every step is synced before the next. Data
first, then its JSON by link, then both directories; away goes the JSON first. So JSON without data is void, and data
without JSON was never promised to anybody: it is debris once the lease that its name begins with is dead.

No lock is needed to read. Whoever changes something holds the URI's write lock, to save work, and re-reads: without
the lock two writers of one URI leave two records, and the cloud's condition decides between them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from casstore.blobs.blob_store import OPEN_FLAGS
from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import Staging
from casstore.errors import PendingDamagedError, StoreUnavailableError
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout
from casstore.format.records import Validator
from casstore.fs import copying, files
from casstore.locks.lock_files import locks_are_exclusive, try_lock_existing
from casstore.pending.records import Condition, PendingState, PendingWrite

_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_NO_LEASE: Final = "0" * 16


class Pending:
    """The pending writes of one store. Knows no index and no cloud; thread-safe, holds nothing open."""

    __slots__ = ("_are_exclusive", "_layout")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._are_exclusive: bool | None = None

    # --- looking -----------------------------------------------------------------------------------------------------

    def has(self, key: Key) -> bool:
        """Whether there may be any of *key*: one failed ``access`` where there is none."""
        return os.access(self._layout.pending(key.name), os.F_OK)

    def of(self, key: Key) -> list[PendingWrite]:
        """Those of *key*, oldest first."""
        return [write for write in self._in(key.name) if write.key == key]

    def all(self) -> Iterator[PendingWrite]:
        """Every one, URI by URI, oldest first."""
        found = [write for name in sorted(files.list_names(self._layout.pending(""))) for write in self._in(name)]
        yield from sorted(found, key=lambda write: (write.uri, write.key.origin, write.created_ns))

    def unreadable(self) -> list[str]:
        """Paths of records that cannot be read although their bytes are there: a newer format, or damage."""
        found = []
        for directory in files.list_names(self._layout.pending("")):
            for name in self._records(directory):
                with contextlib.suppress(OSError):
                    try:
                        self._read(directory, name)
                    except ValueError:
                        found.append(self._layout.pending_record(directory, name))
        return sorted(found)

    def _in(self, directory: str) -> list[PendingWrite]:
        found = []
        for name in self._records(directory):
            with contextlib.suppress(FileNotFoundError, ValueError):  # discarded meanwhile; see `unreadable`
                found.append(self._read(directory, name))
        return sorted(found, key=lambda write: (write.created_ns, write.name))

    def _records(self, directory: str) -> list[str]:
        names = set(files.list_names(self._layout.pending(directory)))
        stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return [stem for stem in stems if _NAME.fullmatch(stem) and f"{stem}.data" in names]

    def _read(self, directory: str, name: str) -> PendingWrite:
        with open(self._layout.pending_record(directory, name), "rb") as file:
            return PendingWrite.parse(name, file.read())

    def path(self, write: PendingWrite) -> str:
        """Where the bytes lie, never to be written to; gone once the write is dealt with."""
        return self._layout.pending_data(write.key.name, write.name)

    def open(self, write: PendingWrite) -> int:
        """A descriptor for reading the bytes, which is the caller's. Raises FileNotFoundError."""
        return os.open(self.path(write), OPEN_FLAGS)

    def is_interrupted(self, write: PendingWrite) -> bool:
        """Whether *write* was being uploaded by a process that is proved dead, so that nobody knows if it arrived.

        Where locks do not exclude, only where its lease is gone. May start a process, once.
        """
        if write.state is not PendingState.UPLOADING:
            return False
        lock = LeaseLayout(self._layout.lease(write.lease)).lock
        try:
            descriptor = try_lock_existing(lock)
        except FileNotFoundError:
            return not os.path.isdir(self._layout.lease(write.lease))
        if descriptor is None:
            return False
        os.close(descriptor)
        return self._locks_exclude()

    def _locks_exclude(self) -> bool:
        if self._are_exclusive is None:
            self._are_exclusive = locks_are_exclusive(self._layout.locks)
        return self._are_exclusive

    # --- changing ----------------------------------------------------------------------------------------------------

    def record(
        self,
        key: Key,
        staging: Staging,
        state: PendingState,
        condition: Condition,
        base: Validator | None,
        *,
        lease: str,
        why: str,
        exclusive: bool = False,
        source: str | None = None,
    ) -> PendingWrite:
        """Keep *staging*'s bytes, all of them hashed, on the disk when this returns; *staging* stays the caller's.

        Raises StoreFullError and other OSErrors; nothing is kept then. StoreUnavailableError says that the disk failed
        to take the bytes, which may be lost from memory as well.
        """
        digest = staging.digest()
        name = f"{lease or _NO_LEASE}-{os.urandom(8).hex()}"
        write = PendingWrite(
            key, name, state, digest, staging.size, condition, base, lease, time.time_ns(), why, exclusive, source
        )
        staging.finalize(digest)
        try:
            files.sync(staging.descriptor)
        except OSError as error:
            # Nobody may try that again, or use the bytes: they may be lost, and a second sync would not say so.
            message = f"the disk could not keep what was written to {key.uri} ({os.strerror(error.errno or 0)})"
            raise StoreUnavailableError(error.errno, message, self._layout.root) from error
        with files.full_disk(self._layout.root):
            try:
                self._put(write, staging)
            except BaseException:
                # JSON first, as in `discard`: it may have its name already.
                files.unlink_quietly(self._layout.pending_record(key.name, name))
                files.unlink_quietly(self.path(write))
                self._remove_directory(key.name)
                raise
        return write

    def _put(self, write: PendingWrite, staging: Staging) -> None:
        directory = self._layout.pending(write.key.name)
        path = self._layout.pending_record(write.key.name, write.name)
        for attempt in range(100):
            try:
                os.makedirs(directory, 0o700, exist_ok=True)
                # The data gets its name last but one, when a full disk has had its say: an unnamed file that loses its
                # only name could not be given another.
                files.create_synced(path, write.encode(), before_link=lambda: staging.link(self.path(write)))
                break
            except (FileNotFoundError, FileExistsError):
                # Whoever discarded the last one of this URI has just removed the directory; FileExistsError says that
                # it was there for mkdir, and no more when makedirs looked at what was there.
                if attempt == 99:
                    raise
        files.sync_directory(self._layout.pending(""))

    def mark(
        self, write: PendingWrite, state: PendingState, *, why: str | None = None, lease: str | None = None
    ) -> PendingWrite:
        """Change the state, synced. Raises FileNotFoundError where somebody has dealt with it meanwhile."""
        changed = replace(
            write,
            state=state,
            why=write.why if why is None else why,
            lease=write.lease if lease is None else lease,
        )
        path = self._layout.pending_record(write.key.name, write.name)
        if not os.path.lexists(path):
            raise FileNotFoundError(errno.ENOENT, "the pending write is not there any more", path)
        with files.full_disk(self._layout.root):
            files.replace_synced(path, changed.encode())
        return changed

    def discard(self, write: PendingWrite) -> None:
        """Forget it: the cloud has the bytes, or nobody wants them. Gone from the disk when this returns."""
        directory = self._layout.pending(write.key.name)
        try:
            os.unlink(self._layout.pending_record(write.key.name, write.name))
        except FileNotFoundError:
            pass
        else:
            # Before the data: after a power cut, data without JSON is debris, and JSON without data would be void.
            files.sync_directory(directory)
        files.unlink_quietly(self.path(write))
        self._remove_directory(write.key.name)

    def _remove_directory(self, name: str) -> None:
        # So that the next open of the URI fails one `access` and goes on. Not empty: there are more.
        with contextlib.suppress(OSError):
            os.rmdir(self._layout.pending(name))

    def adopt(self, write: PendingWrite) -> Staging:
        """The bytes, checked against their digest, as a staging file whose name stays.

        Raises PendingDamagedError where they are not what was written, FileNotFoundError where they are gone.
        """
        descriptor = self.open(write)
        try:
            if hash_descriptor(descriptor, write.digest.algorithm) != write.digest:
                raise PendingDamagedError(
                    errno.EIO,
                    f"the bytes written to {write.uri} were changed or damaged on this disk",
                    self.path(write),
                )
            staging = Staging(descriptor, self.path(write), write.digest.algorithm, has_mode=True, keeps_name=True)
            staging.rehash()
        except BaseException:
            os.close(descriptor)
            raise
        return staging

    def save(self, write: PendingWrite, destination: str) -> None:
        """Move the bytes to the local file *destination*, replaced as a whole; on the disk there before they go here.

        Raises as `adopt` does, and OSError for a destination that cannot keep them (a pipe, a directory, a path in the
        store) or cannot be written: the write is still pending then.
        """
        self._refuse_destination(destination)
        staging = self.adopt(write)
        try:
            copying.copy_out(staging.descriptor, destination, durable=True)
        finally:
            staging.close()
        self.discard(write)

    def _refuse_destination(self, destination: str) -> None:
        path = os.path.realpath(destination)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "is a directory: name a file in it", destination)
        if not os.path.isdir(os.path.dirname(path)):
            raise FileNotFoundError(errno.ENOENT, "there is no such directory", destination)
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, "is no regular file, which could keep the bytes", destination)
        if os.path.commonpath((path, os.path.realpath(self._layout.root))) == os.path.realpath(self._layout.root):
            # The bytes' own name among it: saved there, they would go with the record.
            raise OSError(errno.EINVAL, "lies in the store: save to a path outside of it", destination)

    # --- what killed processes left ----------------------------------------------------------------------------------

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Path, and the name of its lease, of what was never promised: data without JSON, JSON without data, and files
        on their way to their name (of no lease). It may be a record that is being made: ask whether the lease lives.
        """
        for directory in files.list_names(self._layout.pending("")):
            path = self._layout.pending(directory)
            names = set(files.list_names(path))
            for name in sorted(names):
                stem, _, suffix = name.partition(".")
                other = {"json": "data", "data": "json"}.get(suffix)
                if other is None:
                    yield f"{path}/{name}", ""
                elif _NAME.fullmatch(stem) and f"{stem}.{other}" not in names:
                    yield f"{path}/{name}", stem[:16]

    def remove_empty_directories(self) -> None:
        """Those that a process was killed in before it could."""
        for directory in files.list_names(self._layout.pending("")):
            self._remove_directory(directory)
