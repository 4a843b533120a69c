"""Pending writes and local edits: bytes that the server does not have, or may not have.

    pending/<uri hash>/<lease>-<random>.data    the bytes, mode 0444; a link of the staging file, so no second copy
                       <lease>-<random>.json    the record: URI, digest, base version, state

Nothing here can be downloaded again, so every step is synced before the next. The data is created first, then its JSON
by link, then both directories are synced; the JSON is deleted first. So JSON without data is void. Data without JSON
was never promised to a caller, and may be deleted once the lease in its name is dead.

Reading needs no lock. A process that changes something has the URI's write lock, to save work, and re-reads. Without
the lock, two writers of a URI leave two records, and the upload's condition decides between them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Unpack

from casstore.blobs.blob_store import OPEN_FLAGS
from casstore.blobs.staging import Staging
from casstore.errors import PendingDamagedError, StoreUnavailableError
from casstore.format.digest import Digest, hash_descriptor, strong_digest
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout
from casstore.format.records import Validator
from casstore.fs import copying, files
from casstore.locks.lock_files import locks_are_exclusive, try_lock_existing
from casstore.pending.records import (
    UNKNOWN,
    Condition,
    PendingChanges,
    PendingDetails,
    PendingState,
    PendingWrite,
    UnknownKey,
    key_in,
)

_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_NO_LEASE: Final = "0" * 16


class Pending:
    """The pending writes of one store. Knows no index and no backend; thread-safe; keeps no file open."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._are_exclusive: bool | None = None

    def has(self, key: Key) -> bool:
        """Return whether *key* may have pending writes; costs one failed ``access`` if it has none."""
        return os.access(self._layout.pending(key.name), os.F_OK)

    def of(self, key: Key) -> list[PendingWrite]:
        """Return the pending writes of *key*, oldest first; those with an unreadable record, too."""
        return self._in(key.name, key)

    def all(self) -> Iterator[PendingWrite]:
        """Yield all pending writes by URI, oldest first, except the `unidentified` ones."""
        found = (write for write in self._everything() if not isinstance(write.key, UnknownKey))
        yield from sorted(found, key=lambda write: (write.uri, write.key.origin, write.created_ns))

    def unidentified(self) -> list[PendingWrite]:
        """Return the pending writes whose URI is unknown, because their records are damaged or of a newer format.

        They still block that URI: `of` returns them.
        """
        found = (write for write in self._everything() if isinstance(write.key, UnknownKey))
        return sorted(found, key=self.record_path)

    def count(self) -> int:
        """Return the number of pending writes, `unidentified` ones included."""
        return sum(1 for _ in self._everything())

    def unreadable(self) -> list[str]:
        """Return the paths of the records of `unidentified` writes."""
        return [self.record_path(write) for write in self.unidentified()]

    def record_path(self, write: PendingWrite) -> str:
        return self._layout.pending_record(write.key.name, write.name)

    def _everything(self) -> Iterator[PendingWrite]:
        for directory in files.list_names(self._layout.pending_directory):
            yield from self._in(directory)

    def _in(self, directory: str, key: Key | None = None) -> list[PendingWrite]:
        found = []
        for name in self._records(directory):
            with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
                found.append(self._read(directory, name, key))
        return sorted(found, key=lambda write: (write.created_ns, write.name))

    def _records(self, directory: str) -> list[str]:
        names = set(files.list_names(self._layout.pending(directory)))
        stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return [stem for stem in stems if _NAME.fullmatch(stem) and f"{stem}.data" in names]

    def _read(self, directory: str, name: str, key: Key | None) -> PendingWrite:
        """Read a record of *key*, or of the key that it names. An unreadable record is a pending write, too."""
        with open(self._layout.pending_record(directory, name), "rb") as file:
            data = file.read()
        with contextlib.suppress(ValueError):
            write = PendingWrite.parse(name, data)
            if write.key.name == directory and (key is None or write.key == key):
                return write
        status = os.stat(self._layout.pending_data(directory, name))
        return PendingWrite(
            key or key_in(data, directory),
            name,
            PendingState.UNREADABLE,
            UNKNOWN,
            status.st_size,
            Condition.ABSENT,
            None,
            name[:16],
            status.st_mtime_ns,
            "its record is damaged, or was written by a newer casstore",
        )

    def path(self, write: PendingWrite) -> str:
        """Return the path of the bytes; never write to it. It is removed with the write."""
        return self._layout.pending_data(write.key.name, write.name)

    def open(self, write: PendingWrite) -> int:
        """Open the bytes for reading. Raises: FileNotFoundError."""
        return os.open(self.path(write), OPEN_FLAGS)

    def has_bytes(self, write: PendingWrite, descriptor: int) -> bool:
        """Return whether *write* has exactly the bytes of an open file: compared, since digests can be made equal."""
        with contextlib.suppress(FileNotFoundError), files.opened(self.path(write), OPEN_FLAGS) as data:
            return os.fstat(data).st_size == os.fstat(descriptor).st_size and copying.same_bytes(data, descriptor)
        return False

    def have_same_bytes(self, one: PendingWrite, other: PendingWrite) -> bool:
        """Return whether both have the same bytes, compared."""
        if one.size != other.size:
            return False
        with contextlib.suppress(FileNotFoundError), files.opened(self.path(other), OPEN_FLAGS) as descriptor:
            return self.has_bytes(one, descriptor)
        return False

    def strong_digest(self, write: PendingWrite) -> Digest:
        """Return a cryptographic digest of the bytes. Raises: FileNotFoundError."""
        with files.opened(self.path(write), OPEN_FLAGS) as descriptor:
            return strong_digest(descriptor)

    def is_interrupted(self, write: PendingWrite) -> bool:
        """Return whether *write* was being uploaded by a process that is proved dead, so that its result is unknown.

        If locks do not exclude, only if its lease is gone. May start a process, once.
        """
        if write.state is not PendingState.UPLOADING:
            return False
        lock = LeaseLayout(self._layout.lease(write.lease)).lock
        try:
            file = try_lock_existing(lock)
        except FileNotFoundError:
            return not os.path.isdir(self._layout.lease(write.lease))
        if file is None:
            return False
        file.close()
        if self._are_exclusive is None:
            self._are_exclusive = locks_are_exclusive(self._layout.locks)
        return self._are_exclusive

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
        **details: Unpack[PendingDetails],
    ) -> PendingWrite:
        """Record all bytes of *staging*, already hashed, and sync them. The caller closes *staging*.

        Raises: StoreFullError, OSError: nothing is recorded. StoreUnavailableError: the disk failed, and the bytes may
        be lost from memory too.
        """
        digest = staging.digest()
        name = f"{lease or _NO_LEASE}-{os.urandom(8).hex()}"
        write = PendingWrite(
            key, name, state, digest, staging.size, condition, base, lease, time.time_ns(), why, **details
        )
        staging.finalize(digest)
        try:
            files.sync(staging.descriptor)
        except OSError as error:
            # Never retry, nor use the bytes: they may be lost, and a second sync would not report it.
            message = f"the disk failed to store a write to {key.uri} ({os.strerror(error.errno or 0)})"
            raise StoreUnavailableError(error.errno, message, self._layout.root) from error
        with files.full_disk(self._layout.root):
            try:
                self._put(write, staging)
            except BaseException:
                # JSON first, as in `discard`: it may exist already.
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
                # The data is linked last but one, after any error of a full disk: an unnamed file that loses its only
                # name cannot get another.
                files.create_synced(path, write.encode(), before_link=lambda: staging.link(self.path(write)))
                break
            except (FileNotFoundError, FileExistsError):
                # Another process has discarded the URI's last write and removed the directory. FileExistsError: mkdir
                # found it, and makedirs then did not.
                if attempt == 99:
                    raise
        files.sync_directory(self._layout.pending_directory)

    def mark(self, write: PendingWrite, state: PendingState, **changes: Unpack[PendingChanges]) -> PendingWrite:
        """Change the state, synced. Raises: FileNotFoundError if the write was pushed or dropped meanwhile."""
        changed = replace(write, state=state, **changes)
        if write.state is PendingState.UNREADABLE:
            with files.opened(self.path(write), OPEN_FLAGS) as descriptor:
                changed = replace(changed, digest=hash_descriptor(descriptor, UNKNOWN.algorithm))
        path = self.record_path(write)
        if not os.path.lexists(path):
            raise FileNotFoundError(errno.ENOENT, "the pending write was pushed or dropped meanwhile", path)
        with files.full_disk(self._layout.root):
            files.replace_synced(path, changed.encode())
        return changed

    def discard(self, write: PendingWrite) -> None:
        """Remove it from the disk, because it is uploaded or unwanted."""
        directory = self._layout.pending(write.key.name)
        try:
            os.unlink(self.record_path(write))
        except FileNotFoundError:
            pass
        else:
            # Before the data: after a power cut, data without JSON may be deleted, but JSON without data would be void.
            files.sync_directory(directory)
        files.unlink_quietly(self.path(write))
        self._remove_directory(write.key.name)

    def _remove_directory(self, name: str) -> None:
        # Removed so that the next open of the URI fails one `access`. Not empty: more are pending.
        with contextlib.suppress(OSError):
            os.rmdir(self._layout.pending(name))

    def adopt(self, write: PendingWrite) -> Staging:
        """Return the bytes, checked against their digest if it is known, as a staging file that keeps its name.

        Raises: PendingDamagedError if they are damaged, FileNotFoundError if they are gone.
        """
        descriptor = self.open(write)
        try:
            is_known = write.state is not PendingState.UNREADABLE
            if is_known and hash_descriptor(descriptor, write.digest.algorithm) != write.digest:
                raise PendingDamagedError(
                    errno.EIO,
                    f"the pending bytes of {write.uri} were changed or damaged on this disk",
                    self.path(write),
                )
            staging = Staging(descriptor, self.path(write), write.digest.algorithm, has_mode=True, keeps_name=True)
            staging.rehash()
        except BaseException:
            os.close(descriptor)
            raise
        return staging

    def save(self, write: PendingWrite, destination: str) -> None:
        """Move the bytes to the local file *destination*, replaced as a whole and synced first.

        Raises: as `adopt`; OSError if *destination* cannot store them (a pipe, a directory, a path in the store) or
        cannot be written. The write stays pending then.
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
            raise IsADirectoryError(errno.EISDIR, "is a directory: choose a file in it", destination)
        if not os.path.isdir(os.path.dirname(path)):
            raise FileNotFoundError(errno.ENOENT, "the directory does not exist: create it first", destination)
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, "is not a regular file: choose another path", destination)
        if os.path.commonpath((path, os.path.realpath(self._layout.root))) == os.path.realpath(self._layout.root):
            # This includes the data's own name: saved there, the bytes would be deleted with the record.
            raise OSError(errno.EINVAL, "is in the store: choose a path outside of it", destination)

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Yield path and lease name of files that were never promised: data or JSON without the other, temporary names.

        Temporary names have an empty lease name. A record may still be in the making: check whether the lease is alive.
        """
        for directory in files.list_names(self._layout.pending_directory):
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
        """Remove empty directories that killed processes left."""
        for directory in files.list_names(self._layout.pending_directory):
            self._remove_directory(directory)
