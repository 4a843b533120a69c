"""The generations of the index: which is live, and what their files are. Makes no LMDB calls.

A damaged or deleted index is replaced, never repaired in place: an empty generation n+1 is made, and its name is linked
as ``<n>/NEXT``. The first link wins; other processes use that generation. CURRENT is a hint, repaired from NEXT.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import page_check

PROCESS_LIMITS: Final = frozenset((errno.EMFILE, errno.ENFILE))
"""Errors of this process, not of the store."""


class HintState(NamedTuple):
    """Identifies one state of CURRENT."""

    inode: int
    mtime_ns: int


class IndexFiles(NamedTuple):
    """The inodes of an environment's files, and the data file's size."""

    data: tuple[int, int]
    lock: tuple[int, int]
    size: int

    def are_still(self, now: IndexFiles | None) -> bool:
        """Whether *now* are the same files, not truncated: LMDB never shrinks one."""
        return now is not None and (self.data, self.lock) == (now.data, now.lock) and now.size >= self.size


class Generations:
    """The generations of one store. *on_vanished* recreates the store's directories, or raises."""

    def __init__(self, layout: Layout, on_vanished: Callable[[], None]) -> None:
        self._layout = layout
        self._on_vanished = on_vanished

    def newest(self) -> int:
        """Return the number of the live generation without changing anything; 0 if there is none."""
        number = self._start()
        return self._last_after(number) if number else 0

    def live(self) -> int:
        """Return the number of the live generation; make the first one, and repair the hint, if necessary."""
        if not os.path.isdir(self._layout.index):
            self._on_vanished()
        number = self._start()
        if not number:
            os.makedirs(self._layout.generation(1), 0o700, exist_ok=True)
            number = 1
        number = self._last_after(number)
        if number != self._read_hint():
            files.replace_synced(self._layout.current, str(number).encode())
        return number

    def _read_hint(self) -> int:
        """Return the number in CURRENT; 0 if it is missing or invalid."""
        try:
            with files.open_regular(self._layout.current) as file:
                return int(file.read())
        except ValueError:
            return 0
        except OSError as error:
            if error.errno in PROCESS_LIMITS:
                raise  # its number is unknown: a dead generation must not pass for the live one
            return 0

    def _start(self) -> int:
        """Return the number in CURRENT; if that is not usable, the newest generation's; 0 if there is none."""
        number = self._read_hint()
        if not number or not os.path.isdir(self._layout.generation(number)):
            numbers = self._numbers()
            # One without a data file may come from a process that was killed before it linked NEXT.
            used = [number for number in numbers if os.path.exists(self._layout.index_file(number))]
            number = max(used or numbers, default=0)
        return number

    def _numbers(self) -> list[int]:
        # A temporary name has 16 hex digits, perhaps all decimal.
        return [int(name) for name in files.list_names(self._layout.index) if name.isdecimal() and len(name) < 16]

    def superseded(self) -> list[int]:
        """Return the generations before CURRENT's, which no process opens again."""
        number = self._read_hint()
        if not os.path.isdir(self._layout.generation(number)):
            return []  # a damaged hint must not delete the live one
        return sorted(older for older in self._numbers() if older < number)

    def _last_after(self, number: int) -> int:
        while True:
            try:
                with files.open_regular(self._layout.successor(number)) as file:
                    number = max(int(file.read()), number + 1)
            except FileNotFoundError:
                return number
            except ValueError:
                number += 1  # damaged, but it can mean nothing else

    def supersede(self, number: int) -> bool:
        """Make an empty generation after *number*, or return False if another process did. Readers keep the old one."""
        following = number + 1
        with contextlib.suppress(FileNotFoundError):  # the store was deleted: the next check recreates it
            os.makedirs(self._layout.generation(following), 0o700, exist_ok=True)
            return files.create_synced(self._layout.successor(number), str(following).encode())
        return False

    def hint_state(self) -> HintState | None:
        try:
            status = os.stat(self._layout.current)
        except FileNotFoundError:
            return None
        return HintState(status.st_ino, status.st_mtime_ns)

    def files_of(self, number: int) -> IndexFiles | None:
        """Return a generation's files, or None. Only stats the lock file: closing it would drop LMDB's locks."""
        try:
            data, lock = os.stat(self._layout.index_file(number)), os.stat(self._layout.index_lock(number))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return IndexFiles((data.st_dev, data.st_ino), (lock.st_dev, lock.st_ino), data.st_size)

    def is_damaged(self, number: int) -> bool:
        """After an ambiguous error: check all pages."""
        try:
            page_check.check(self._layout.index_file(number), whole=True)
        except page_check.UnsoundError:
            return True
        except OSError:
            pass
        return False
