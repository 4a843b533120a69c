"""The local paths that this process gave out of each object, and whether their files have changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from casstore.format.keys import Key
from casstore.format.layout import LeaseLayout
from casstore.leases.views import DraftPath, FileState, View, path_in_lease, read_manifest
from casstore.locks.mutex import new_mutex

if TYPE_CHECKING:
    from casstore.leases.edits import EditRecorder
    from casstore.leases.scan import UnrecordedFile
    from casstore.pending.records import PendingWrite


class ChangeTracker:
    """The paths of one lease that are checked when their object is used; thread-safe.

    *recorder* returns what records changes; if it returns None, none are recorded.
    """

    def __init__(self, lease: LeaseLayout, recorder: Callable[[], EditRecorder | None]) -> None:
        self._lease = lease
        self._recorder = recorder
        self._mutex = new_mutex()
        self._noticing = new_mutex()
        # Tuples, replaced as a whole: `has_changes` reads them without a lock.
        self._by_key: dict[Key, tuple[View | DraftPath, ...]] = {}
        self._keys: dict[str, Key] = {}
        self._states: dict[str, FileState] = {}

    def add(self, handed: View | DraftPath, state: FileState | None = None) -> None:
        """Track *handed*; *state* is the file's state as created, if it was created."""
        with self._mutex:
            if state is None:
                self._states.pop(handed.path, None)
            else:
                self._states[handed.path] = state
        self.replace(handed)

    def replace(self, handed: View | DraftPath) -> None:
        with self._mutex:
            others = (other for other in self._by_key.get(handed.key, ()) if other.path != handed.path)
            self._by_key[handed.key] = (*others, handed)
            self._keys[handed.path] = handed.key

    def drop(self, path: str) -> None:
        with self._mutex:
            key = self._keys.pop(path, None)
            self._states.pop(path, None)
            if key is not None:
                left = tuple(handed for handed in self._by_key[key] if handed.path != path)
                if left:
                    self._by_key[key] = left
                else:
                    del self._by_key[key]

    def views(self) -> list[View]:
        with self._mutex:
            return [handed for of_key in self._by_key.values() for handed in of_key if isinstance(handed, View)]

    def has_changes(self, key: Key) -> bool:
        """Return whether a file of *key* has changed since it was created or last checked. A missing file has not.

        Costs a stat per file, and no lock.
        """
        return any(self._state_of_changed(handed) is not None for handed in self._by_key.get(key, ()))

    def _state_of_changed(self, handed: View | DraftPath) -> os.stat_result | None:
        try:
            status = os.stat(handed.path, follow_symlinks=False)
        except OSError:
            return None
        return None if FileState.of(status) == self._states.get(handed.path) else status

    def record_changes(self, key: Key) -> list[PendingWrite]:
        """Record the changes of *key*'s files since the last check; return the new records.

        Checks every file before it raises the first error: StillBeingWrittenError, StoreFullError, OSError for a file
        that cannot be read.
        """
        recorder = self._recorder() if self.has_changes(key) else None
        if recorder is None:
            return []
        from casstore.leases.scan import UnrecordedFile  # few processes change a local path

        writes: list[PendingWrite] = []
        errors: list[OSError] = []
        # One thread at a time: a thread that waited finds the files reconciled.
        with self._noticing:
            changed = [handed for handed in self._by_key.get(key, ()) if self._state_of_changed(handed) is not None]
            reconciled = read_manifest(self._lease).reconciled if changed else {}
            for handed in changed:
                found = UnrecordedFile(handed.path, handed, reconciled.get(path_in_lease(self._lease, handed.path)))
                try:
                    writes += self._record_change(recorder, handed, found)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return writes

    def _record_change(
        self, recorder: EditRecorder, handed: View | DraftPath, found: UnrecordedFile
    ) -> list[PendingWrite]:
        status = self._state_of_changed(handed)
        if status is None:
            return []
        if not stat.S_ISREG(status.st_mode):
            # It has no bytes to record; the end of the process reports it.
            self._remember(handed.path, FileState.of(status))
            return []
        looked = recorder.record_file(self._lease, found)
        if looked is None:
            return []
        self._remember(handed.path, looked.reconciled.state)
        return [] if looked.write is None else [looked.write]

    def _remember(self, path: str, state: FileState) -> None:
        with self._mutex:
            if path in self._keys:
                self._states[path] = state
