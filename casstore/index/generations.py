"""The generations of the index: which one serves, which followed which, and what their files are. Knows no LMDB.

A damaged or vanished index is replaced, never repaired in place: an empty generation n+1 is made, and its name is
linked as ``<n>/NEXT``; the first link wins and losers adopt it. CURRENT is a hint that is repaired from that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import page_check as pages

PROCESS_LIMITS: Final = frozenset((errno.EMFILE, errno.ENFILE))
"""Errors that say nothing of the store."""


@dataclass(frozen=True, slots=True)
class HintState:
    """What CURRENT looked like."""

    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class IndexFiles:
    """Which files an environment is made of, and how long the data file was."""

    data: tuple[int, int]
    lock: tuple[int, int]
    size: int

    def are_still(self, now: IndexFiles | None) -> bool:
        """Whether they are the same files; LMDB never makes one shorter."""
        return now is not None and (self.data, self.lock) == (now.data, now.lock) and now.size >= self.size


class Generations:
    """Those of one store. *on_vanished* makes the store's directories anew, or raises."""

    def __init__(self, layout: Layout, on_vanished: Callable[[], None]) -> None:
        self._layout = layout
        self._on_vanished = on_vanished

    def newest(self) -> int:
        """The number of the live generation, found without mending anything; 0 where there is none."""
        number = self._start()
        while number and (following := self._next_of(number)) is not None:
            number = following
        return number

    def live(self) -> int:
        """Follow NEXT from the hint to the newest; make the first where there is none."""
        if not os.path.isdir(self._layout.index):
            self._on_vanished()
        number = self._start()
        if not number:
            os.makedirs(self._layout.generation(1), 0o700, exist_ok=True)
            number = 1
        while (following := self._next_of(number)) is not None:
            number = following
        if number != self._read_hint():
            files.replace_synced(self._layout.current, str(number).encode())
        return number

    def _read_hint(self) -> int:
        """What CURRENT says; 0 for nothing of use."""
        try:
            with open(self._layout.current, encoding="ascii") as file:
                return int(file.read())
        except ValueError:
            return 0
        except OSError as error:
            if error.errno in PROCESS_LIMITS:
                raise  # what it says is not known: another generation than the live one must not be taken for it
            return 0

    def _start(self) -> int:
        """What CURRENT says, or the newest there is where it says nothing of use; 0 for none."""
        number = self._read_hint()
        if not number or not os.path.isdir(self._layout.generation(number)):
            numbers = self._numbers()
            # One without a data file may have been made by somebody who never came to name it as the next.
            used = [number for number in numbers if os.path.exists(self._layout.index_file(number))]
            number = max(used or numbers, default=0)
        return number

    def _numbers(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            # A temporary name has 16 digits, which may all be decimal ones.
            return [int(name) for name in os.listdir(self._layout.index) if name.isdecimal() and len(name) < 16]
        return []

    def superseded(self) -> list[int]:
        """Numbers of the generations that nobody opens any more: those before the one that CURRENT names.

        None of them where CURRENT names no generation that is there: a damaged hint must not take the live one away.
        """
        number = self._read_hint()
        if not os.path.isdir(self._layout.generation(number)):
            return []
        return sorted(older for older in self._numbers() if older < number)

    def _next_of(self, number: int) -> int | None:
        try:
            with open(self._layout.successor(number), encoding="ascii") as file:
                return max(int(file.read()), number + 1)
        except FileNotFoundError:
            return None
        except ValueError:
            return number + 1  # its bytes are damaged; what it says is known

    def supersede(self, number: int) -> bool:
        """Make an empty generation after *number*; False where somebody had. The old files stay: some still read."""
        following = number + 1
        with contextlib.suppress(FileNotFoundError):  # the whole store went away: the next look makes it anew
            os.makedirs(self._layout.generation(following), 0o700, exist_ok=True)
            return files.create_synced(self._layout.successor(number), str(following).encode())
        return False

    def hint_state(self) -> HintState | None:
        """What CURRENT looks like now; None where it is not there."""
        try:
            status = os.stat(self._layout.current)
        except FileNotFoundError:
            return None
        return HintState(status.st_ino, status.st_mtime_ns)

    def files_of(self, number: int) -> IndexFiles | None:
        """None where one of them is gone. The lock file is never opened: closing it would drop LMDB's locks."""
        try:
            data, lock = os.stat(self._layout.index_file(number)), os.stat(self._layout.index_lock(number))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return IndexFiles((data.st_dev, data.st_ino), (lock.st_dev, lock.st_ino), data.st_size)

    def is_damaged(self, number: int) -> bool:
        """After an error that may come of damage as well as of the disk or of ourselves: all pages are looked at."""
        try:
            pages.check(self._layout.index_file(number), whole=True)
        except pages.UnsoundError:
            return True
        except OSError:
            pass
        return False
