"""Changes at local paths become pending writes: edits of copies, and files that tools made.

The bytes are copied and hashed from the copy, and the file must be the same before and after. The pending write is
synced first. Then the object's record says of this state of the file that it is saved, so that no process saves it
again, even after the write was pushed or dropped. The pending write of an older state of the file is deleted last.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from casstore.blobs.staging import Inode, Staging
from casstore.errors import CasstoreError, StillBeingWrittenError, printable
from casstore.format.digest import Digest, hash_descriptor, strong_digest
from casstore.format.keys import Key
from casstore.format.layout import Layout
from casstore.format.records import Entry
from casstore.fs import copying, files
from casstore.fs.stable import OPEN_FLAGS, may_be_written, stable_read
from casstore.local.names import Place, directory_name, key_of, local_name
from casstore.local.paths import Content, LocalPaths
from casstore.local.record import Kind, LocalFile, PathRecord, records
from casstore.pending.records import Condition, PendingState, PendingWrite
from casstore.pending.store import Pending

REASON_EDITED: Final = "its local copy was changed outside the API"
REASON_LEFT: Final = "a file was put at its local path and never uploaded"
_UNFINISHED: Final = "an edit was never finished"
_MAX_NAMED: Final = 3  # files that a warning names
_REPLACEABLE: Final = frozenset((PendingState.EDIT, PendingState.INCOMPLETE))
"""States of writes that a newer write of the same file replaces. In other states, a process is handling it."""


class ChangeRecorder:
    """Records changes at the local paths of one store; *lookup* returns the entry of an object, if there is one."""

    def __init__(
        self, paths: LocalPaths, pending: Pending, lookup: Callable[[Key], Entry | None] = lambda _: None
    ) -> None:
        self.paths, self._pending, self._lookup = paths, pending, lookup
        self._layout = paths.layout

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Make pending writes of the changes of *key*'s files since the last look; return the new ones.

        A touch is no change, nor are the same bytes again. Looks at every file before it raises the first error:
        StillBeingWrittenError, StoreFullError, or OSError for a file that cannot be read.
        """
        if not self.paths.has_changes(key):
            return []
        return self._record(key, lambda file: file.kind is not Kind.PRIVATE)

    def _record(self, key: Key, is_meant: Callable[[LocalFile], bool]) -> list[PendingWrite]:
        writes: list[PendingWrite] = []
        errors: list[OSError] = []
        owner = self.paths.locked(key)
        with owner, owner as record:
            for file in filter(is_meant, tuple(record.files)):
                if file.is_changed(self._layout, self.paths.boot):
                    try:
                        writes += self._record_file(record, file)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        errors.append(error)
        if errors:
            raise errors[0]
        return writes

    def _record_file(self, record: PathRecord, file: LocalFile) -> list[PendingWrite]:
        path = self._layout.local_path(file.name)
        write, staging = None, None
        older: list[PendingWrite] = []
        try:
            with stable_read(path) as (descriptor, (size, mtime_ns, ctime_ns)):
                is_known = file.digest is not None and has_bytes(self._layout, descriptor, file.digest)
                if not is_known:
                    staging = self.paths.leases.stage()
                    staging.copy_from(descriptor)
                    staging.rehash()
            changed = replace(file, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, boot=self.paths.boot)
            if staging is not None:
                source = f"/local/{file.name}"
                before = [write for write in self._pending.of(record.key) if (write.source or "").endswith(source)]
                older = [other for other in before if not self._pending.has_bytes(other, staging.descriptor)]
                if len(older) == len(before):
                    write = self._add(record.key, path, file, staging)
                changed = replace(changed, kind=Kind.SAVED, digest=strong_digest(staging.descriptor))
        finally:
            if staging is not None:
                staging.close()
        if changed != file:
            record.put(changed)
            record.write(self._layout)
        for other in older:
            if other.state in _REPLACEABLE:
                self._pending.discard(other)
        return [] if write is None else [write]

    def _add(self, key: Key, path: str, file: LocalFile, staging: Staging) -> PendingWrite:
        is_edit = file.base is not None and file.kind is not Kind.PRIVATE
        return self._pending.record(
            key,
            staging,
            PendingState.EDIT if is_edit else PendingState.INCOMPLETE,
            # The base is unknown, so no version may be overwritten.
            Condition.ABSENT if file.base is None else Condition.MATCH,
            file.base,
            lease=self.paths.leases.get().name,
            why=REASON_EDITED if is_edit else _UNFINISHED if file.kind is Kind.PRIVATE else REASON_LEFT,
            source=path,
            outcome_unknown=file.kind is Kind.PRIVATE,  # its process may have died after the upload
        )

    def record_linked(self, blob: str, keys: Iterable[Key]) -> bool:
        """Record edits of those objects of *keys* whose local files are links to *blob*, a changed file.

        Returns False if there is none: a link that a user moved out of the store is the user's. Raises: as
        `record_changes`.
        """
        inode, is_edit = Inode.at(blob), False
        for key in keys:
            record = PathRecord.read(self._layout, key.name, key)
            for file in record.files if record is not None else ():
                path = self._layout.local_path(file.name)
                is_changed = file.is_changed(self._layout, self.paths.boot)
                if (is_changed or file.kind is Kind.SAVED) and Inode.at(path) == inode:
                    self.record_changes(key)
                    is_edit = True
        return is_edit

    # --- files that no record knows -----------------------------------------------------------------------------------

    def record_made(self, directory: str | None = None, prefix: str = "") -> list[PendingWrite]:
        """Make pending writes of files that tools made, of all or at or below *directory*; return the new ones.

        Only of names in the directory that begin with *prefix*. What is being written, or cannot be recorded, stays.
        """
        writes: list[PendingWrite] = []
        for tree in [directory] if directory else map(self._layout.local_path, self.paths.trees()):
            for name, key in list(self._unrecorded(tree, prefix)):
                with contextlib.suppress(OSError, CasstoreError):
                    self._adopt(key, name)
                    writes += self._record(key, lambda file, name=name: file.name == name)  # type: ignore[misc]
        return writes

    def record_made_of(self, place: Place) -> list[PendingWrite]:
        """Make pending writes of what tools made at, beside and below the paths of *place*; return the new ones."""
        below = directory_name(place) or local_name(place)
        found = (os.path.split(self._layout.local_path(f"{tree}/{below}")) for tree in self.paths.trees())
        return [write for directory, name in found for write in self.record_made(directory, name)]

    def _unrecorded(self, directory: str, prefix: str = "") -> Iterator[tuple[str, Key]]:
        """Yield the names below ``local/`` of files whose bytes are in no record, and their objects' keys."""
        for name in self.paths.files_below(directory, prefix):
            record = self.paths.record_at(name)
            file = None if record is None else record.at(name)
            key = key_of(name.partition("/")[2]) if record is None else record.key
            if key is not None and (file is None or file.is_changed(self._layout, self.paths.boot)):
                yield name, key

    def _adopt(self, key: Key, name: str) -> None:
        """Add a file to the record of its object: a tool made it, or a power cut took the record."""
        entry = self._lookup(key)
        owner = self.paths.locked(key)
        with files.opened(self._layout.local_path(name), OPEN_FLAGS) as descriptor, owner, owner as record:
            if record.at(name) is not None or may_be_written(descriptor):
                return
            file, status = LocalFile(name, Kind.ABSENT), os.fstat(descriptor)
            if entry is not None:
                has_right = has_bytes(self._layout, descriptor, entry.digest)
                # Only the store gives its copies this time: a power cut took this one's record, and perhaps its bytes.
                is_ours = status.st_mtime_ns == Content.of_entry(entry).file_mtime_ns
                if has_right or is_ours or (entry.size and not status.st_size):
                    boot = self.paths.boot if has_right else 0
                    state = status.st_size, status.st_mtime_ns, entry.digest, entry.validator, boot
                    file = LocalFile(name, Kind.OBJECT, *state)
            record.put(file)
            record.write(self._layout)

    def record_everything(self) -> list[PendingWrite]:
        """Make pending writes of all changes, and of all files that tools made; return the new ones.

        What cannot be recorded now stays as it is.
        """
        writes: list[PendingWrite] = []
        for _, record in records(self._layout):
            with contextlib.suppress(OSError, CasstoreError):
                writes += self.record_changes(record.key)
        return writes + self.record_made()

    # --- the end of a process -----------------------------------------------------------------------------------------

    def close(self) -> list[str]:
        """Record what changed at the paths that this process was given, and what was made beside; warn of it.

        Return the files that could not be recorded.
        """
        writes: list[PendingWrite] = []
        failed: list[str] = []
        for key in list(self.paths.handed_out):
            try:
                writes += self.record_changes(key)
            except (OSError, CasstoreError):
                record = PathRecord.read(self._layout, key.name, key) or PathRecord(key)
                changed = (file for file in record.files if file.is_changed(self._layout, self.paths.boot))
                failed += [self._layout.local_path(file.name) for file in changed]
        for path in list(self.paths.made_at):
            near = os.path.dirname(path), os.path.basename(path)
            writes += self.record_made(*near)
            failed += [self._layout.local_path(name) for name, _ in self._unrecorded(*near)]
        lease = self.paths.leases.taken
        for tree in lease.private_trees(self._layout, lease.name) if lease is not None else ():
            try:
                writes += self.remove_private(tree)
            except (OSError, CasstoreError):
                names = self.paths.files_below(self._layout.local_path(tree))
                failed += map(self._layout.local_path, names)
        self.paths.close()
        if failed:
            _warn("local files were changed or created, and not uploaded; they are kept at", failed)
        if writes:
            uris = [write.uri for write in writes]
            _warn("local files were changed or created, and not uploaded; casstore pending lists them", uris)
        return failed

    def remove_private(self, tree: str) -> list[PendingWrite]:
        """Record what was changed in a private tree of a process that has ended, and remove the tree.

        Raises OSError, StillBeingWrittenError: the tree stays.
        """
        writes: list[PendingWrite] = []
        for name in list(self.paths.files_below(self._layout.local_path(tree))):
            found = self.paths.record_at(name)
            key = key_of(name.partition("/")[2]) if found is None else found.key
            path = self._layout.local_path(name)
            if found is not None and _is_evicted(found, name, os.lstat(path)):
                os.unlink(path)
                continue
            if key is not None and (found is None or found.at(name) is None):
                self._adopt(key, name)
            if key is not None:
                writes += self._record(key, lambda file, name=name: file.name == name)  # type: ignore[misc]
            if key is None or not self.paths.release(key, path):
                raise StillBeingWrittenError(errno.EBUSY, "the file cannot be recorded: move it away", path)
        files.remove(self._layout.local_path(tree))  # directories without files
        return writes

    @contextlib.contextmanager
    def releasing_source(self, write: PendingWrite) -> Iterator[None]:
        """After the block, remove the local file that *write* came from, if it still has these bytes."""
        proof = None
        if write.source is not None:
            with contextlib.suppress(FileNotFoundError):
                proof = self._pending.strong_digest(write)
        yield
        if write.source is not None and proof is not None:
            self.paths.release(write.key, write.source, proof)

    def copy_privately(self, path: str) -> Staging:
        """Return a private copy of a local file that others may write to, hashed; the caller closes it.

        Raises: as `stable_read`.
        """
        staging = self.paths.leases.stage()
        try:
            with stable_read(path) as (descriptor, _):
                staging.copy_from(descriptor)
                staging.rehash()
            return staging
        except BaseException:
            staging.close()
            raise


def _is_evicted(record: PathRecord, name: str, status: os.stat_result) -> bool:
    """Whether the file *name* in a private tree is a copy that was being removed from a shared tree, unchanged."""
    _, _, below = name.partition("/")
    shared = (file for file in record.files if file.tree.isdigit() and file.name.partition("/")[2] == below)
    # Its rename has changed the ctime.
    known = (file for file in shared if file.kind in (Kind.OBJECT, Kind.SAVED))
    return any(replace(file, ctime_ns=0).is_as_left(status) for file in known)


def has_bytes(layout: Layout, descriptor: int, digest: Digest) -> bool:
    """Return whether an open file certainly has the bytes of *digest*: by a strong digest, or compared with the blob.

    False in doubt: unequal bytes with equal XXH3 digests can be made on purpose. A hard link to the blob can only be
    compared with its digest.
    """
    with contextlib.suppress(OSError, CasstoreError):
        if hash_descriptor(descriptor, digest.algorithm) != digest:
            return False
        if digest.is_cryptographic:
            return True
        with files.opened(layout.blob(digest.value), OPEN_FLAGS) as blob:
            return os.path.sameopenfile(descriptor, blob) or copying.same_bytes(descriptor, blob)
    return False


def _warn(message: str, names: Iterable[str]) -> None:
    import warnings

    shown = sorted(set(names))
    more = f" and {len(shown) - _MAX_NAMED:,} more" if len(shown) > _MAX_NAMED else ""
    warnings.warn(printable(f"{message}: {', '.join(shown[:_MAX_NAMED])}{more}"), stacklevel=4)
