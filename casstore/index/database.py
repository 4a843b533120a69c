"""The index: one LMDB database, shared by all processes that use a store. The only module that touches `lmdb`.

Engine 0.9 with its default, synchronous commits and no writemap: the file is intact after any crash. A large sparse map
makes growing it a matter of the file system. One unnamed database, since py-lmdb opens a named one only in a write
transaction, and then every process's first read would queue behind the writers.

**Gate.** A process must not fork with an environment open: the child's use of it leaks reader slots, and its close
clears the parent's. So every call goes through a gate, which is a count and a flag. Before a fork, the flag goes up,
the forking thread waits until the count is 0 and closes the environment; both sides open it again on next use. Calls do
not exclude each other, and nothing inside the gate logs, imports, calls user code or takes another lock.

**Generations.** A damaged or vanished index is replaced by an empty one (`casstore.generations`). A read looks at
CURRENT if its last look is over a second old, a commit before and after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import lmdb

from casstore.errors import IndexDamagedError, IndexUnavailableError, LockTimeoutError, StoreFullError
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import page_check as pages
from casstore.index.environment import DAMAGE, open_environment
from casstore.index.generations import Generations, HintState, IndexFiles
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLocks

HINT_SECONDS: Final = 1.0
"""How old the last look at CURRENT may be for a read."""

WRITER_TIMEOUT: Final = 60.0
"""Seconds that a writer queues before it says that another does not move on."""

PAGE_ROWS: Final = 1000
"""Rows that a scan reads in one transaction: long ones would pin pages that writers free."""

_GATE_SECONDS: Final = 30.0
_TRIES: Final = 5
_LOW_SPACE: Final = 1 << 20
"""Bytes: more than one commit of ours writes at a time."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Health:
    """How full an index is: *rows* in *used* bytes of a map of *map_size*, and read transactions of all processes."""

    generation: int
    rows: int
    used: int
    map_size: int
    readers: int
    max_readers: int


class Index:
    """One store's index in this process; thread-safe; closed and opened again around forks."""

    def __init__(
        self,
        layout: Layout,
        locks: ByteLocks,
        on_replaced: Callable[[str], None],
        on_vanished: Callable[[], None] = lambda: None,
    ) -> None:
        """*on_replaced* gets a message for the user; *on_vanished* makes the store's directories anew, or raises."""
        self._layout = layout
        self._locks = locks
        self._on_replaced = on_replaced
        self.generations = Generations(layout, on_vanished)
        self._messages: deque[str] = deque()
        self._calls: deque[None] = deque()
        self._closing = False
        self._env: lmdb.Environment | None = None
        self._pid = os.getpid()
        self._opening = threading.Lock()
        self._writer = threading.Lock()
        self._hint: HintState | None = None
        self._files: IndexFiles | None = None
        self._checked_at = 0.0
        self.generation = 0

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, row: bytes) -> bytes | None:
        """One record in a transaction of its own; None where there is no such row.

        Raises IndexUnavailableError in a process that was forked without Python's hooks.
        """
        inside = self._calls
        inside.append(None)
        try:
            env = self._env
            if (
                env is not None
                and not self._closing
                and self._pid == os.getpid()
                and time.monotonic() - self._checked_at < HINT_SECONDS
            ):
                with env.begin() as txn:
                    return txn.get(row)
        except lmdb.Error:
            pass  # said again, and dealt with, by the way below
        finally:
            inside.pop()
        return self.read(lambda txn: txn.get(row))

    def read(self, work: Callable[[Txn], Result]) -> Result:
        """What *work* gives in one read transaction; it is short, does nothing else, and may be called again.

        Raises IndexUnavailableError. A damaged index is replaced and read again: then it is empty.
        """
        failure: lmdb.Error | None = None
        for _ in range(_TRIES):
            try:
                with self._enter() as env, env.begin() as txn:
                    return work(Txn(txn))
            except lmdb.Error as error:
                failure = error
            # Outside the gate, which `_recover` closes.
            self._recover(failure)
        raise IndexUnavailableError(
            errno.EAGAIN, f"the index cannot be read: {failure}", self._layout.index
        ) from failure

    def inspect(self, work: Callable[[Txn], Result]) -> Result:
        """`read` for whoever must change nothing: nothing is made, replaced or mended.

        Raises IndexDamagedError for a damaged index, FileNotFoundError for none, IndexUnavailableError.
        """
        failure: lmdb.Error | None = None
        for _ in range(_TRIES):
            # Each time: a generation that was superseded says of blobs what is no longer so.
            self._check_hint(force=True)
            try:
                with self._enter(self._open_unchanged) as env, env.begin() as txn:
                    return work(Txn(txn))
            except DAMAGE as error:
                raise IndexDamagedError(errno.EIO, f"the index is damaged: {error}", self._layout.index) from error
            except (lmdb.ReadersFullError, lmdb.PanicError, lmdb.MapResizedError) as error:
                failure = error
            except lmdb.Error as error:
                raise IndexUnavailableError(errno.EIO, f"the index failed: {error}", self._layout.index) from error
            self._recover(failure)  # which replaces nothing for these
        raise IndexUnavailableError(
            errno.EAGAIN, f"the index cannot be read: {failure}", self._layout.index
        ) from failure

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All rows that begin with *prefix*, in order; a page of them per transaction, so not one snapshot."""
        start = prefix
        while True:
            rows = self._scan_page(prefix, start)
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            start = rows[-1][0] + b"\0"

    def _scan_page(self, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        return self.read(lambda txn: txn.scan(prefix, start, PAGE_ROWS))

    # --- writing -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, timeout: float = WRITER_TIMEOUT) -> Iterator[Txn]:
        """A write transaction: committed at the end of the block, dropped on any exception.

        Queues for *timeout* seconds outside LMDB, where waiting could not be interrupted: raises LockTimeoutError.
        Raises IndexDamagedError if the generation was superseded meanwhile: nothing of the block counts then; do it
        again.
        """
        if not self._writer.acquire(timeout=timeout):
            message = f"another thread is writing to the index and does not move on (waited {timeout:g} s)"
            raise LockTimeoutError(message)
        writer = self._writer
        try:
            with files.full_disk(self._layout.root):
                turn = self._locks.acquire_writer(timeout)
            try:
                self._check_hint(force=True)
                with self._enter() as env:
                    generation, known, seen = self.generation, self._files, self._hint
                    with env.begin(write=True) as txn:
                        rows = Txn(txn)
                        yield rows
                        rows.flush()
                if self._was_superseded(generation, known, seen):
                    self._check_hint(force=True)
                    raise IndexDamagedError(errno.ESTALE, "the index was replaced during a commit", self._layout.index)
            except (lmdb.MapFullError, lmdb.DiskError) as error:
                raise StoreFullError(errno.ENOSPC, f"no room for the index: {error}", self._layout.index) from error
            except lmdb.Error as error:
                if self._is_disk_full(error):
                    raise StoreFullError(errno.ENOSPC, f"no room for the index: {error}", self._layout.index) from error
                if os.strerror(errno.EROFS) in str(error):
                    raise files.read_only(self._layout.root) from error
                self._recover(error)
                raise IndexDamagedError(
                    errno.EIO, f"the index failed in a commit: {error}", self._layout.index
                ) from error
            finally:
                turn.release()
        finally:
            writer.release()

    def _is_disk_full(self, error: lmdb.Error) -> bool:
        """Whether a commit failed for want of room: by LMDB's words, or since the disk is full now. It says EIO where
        some of its pages were taken.
        """
        if any(os.strerror(number) in str(error) for number in files.NO_SPACE):
            return True
        if os.strerror(errno.EIO) not in str(error):
            return False
        space = os.statvfs(self._layout.index)
        return space.f_bavail * space.f_frsize < _LOW_SPACE

    def _was_superseded(self, generation: int, known: IndexFiles | None, seen: HintState | None) -> bool:
        """After a commit: whether it went into files that others do not read any more, or never did."""
        if os.path.lexists(self._layout.successor(generation)):
            return True
        # A superseded generation may have been removed meanwhile, with its NEXT.
        if known is not None and not known.are_still(self.generations.files_of(generation)):
            return True
        return self.generations.hint_state() != seen and self.generations.newest() != generation

    def write(self, work: Callable[[Txn], Result], timeout: float = WRITER_TIMEOUT) -> Result:
        """What *work* gives in one write transaction, done again if the index was replaced meanwhile."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(IndexDamagedError), self.writing(timeout) as txn:
                return work(txn)
        with self.writing(timeout) as txn:
            return work(txn)

    def sync(self) -> None:
        """Commits are synchronous; this is for tests that want to be sure of an environment."""
        with self._enter() as env:
            env.sync(True)

    # --- the gate ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _enter(self, open_env: Callable[[], lmdb.Environment] | None = None) -> Iterator[lmdb.Environment]:
        while True:
            self._ensure_open(open_env or self._open)
            self._calls.append(None)
            env = self._env
            if not self._closing and env is not None:
                break
            self._calls.pop()
        try:
            yield env
        finally:
            self._calls.pop()

    def _ensure_open(self, open_env: Callable[[], lmdb.Environment]) -> lmdb.Environment:
        """An open environment of the live generation; waits for a fork that is going on."""
        if self._pid != os.getpid():
            raise IndexUnavailableError(
                errno.ECHILD,
                "this process was forked without Python's fork hooks and cannot use its parent's index; "
                "use os.fork, multiprocessing or subprocess, or open the store in the child only",
                self._layout.index,
            )
        deadline = time.monotonic() + _GATE_SECONDS
        while self._closing:
            if time.monotonic() > deadline:
                raise IndexUnavailableError(errno.EBUSY, "a fork in this process does not end", self._layout.index)
            time.sleep(0.0005)
        if time.monotonic() - self._checked_at > HINT_SECONDS:
            self._check_hint()
        env = self._env
        if env is None:
            env = open_env()
            self._deliver_messages()
        return env

    def _deliver_messages(self) -> None:
        """Tell the user what happened under a lock or in the gate, where no code of his may run."""
        while self._messages:
            with contextlib.suppress(IndexError):
                self._on_replaced(self._messages.popleft())

    def _close(self) -> None:
        """Close the environment once nobody is inside; callers come in again by `_ready`."""
        self._closing = True
        try:
            deadline = time.monotonic() + _GATE_SECONDS
            while self._calls:
                if time.monotonic() > deadline:
                    raise IndexUnavailableError(errno.EBUSY, "a call into the index does not end", self._layout.index)
                time.sleep(0.0002)
            env, self._env = self._env, None
            if env is not None:
                env.close()
        finally:
            self._closing = False

    def close(self) -> None:
        """Close the environment; the next use opens it again."""
        with self._opening:
            self._close()

    def before_fork(self) -> None:
        """Raise the flag and close; `after_fork` lowers it."""
        # A writer that queues is outside the gate and holds only its own lock, which the child replaces.
        self._opening.acquire()
        with contextlib.suppress(IndexUnavailableError):
            self._close()
        self._closing = True

    def after_fork(self, *, in_child: bool) -> None:
        """Lower the flag. An environment that could not be closed is not used again in the child."""
        if in_child:
            self._opening, self._writer = threading.Lock(), threading.Lock()
            self._calls = deque()
            self._pid = os.getpid() if self._env is None else -1
        else:
            self._opening.release()
        self._closing = False

    # --- opening and generations -------------------------------------------------------------------------------------

    def _open(self) -> lmdb.Environment:
        with self._opening:
            if self._env is not None:
                return self._env
            missing = 0
            for _ in range(20):
                # Before following NEXT: whoever replaces CURRENT meanwhile is noticed at the next look.
                seen = self.generations.hint_state()
                number = self.generations.live()
                path = self._layout.generation(number)
                if number == self.generation and self._files is not None:
                    now = self.generations.files_of(number)
                    if not self._files.are_still(now):
                        # Others may have the old files open, and two data files with one lock file, or the other way
                        # round, exclude nobody: everybody goes on to a new pair.
                        self._supersede(number, "its files were removed, replaced or cut", say=now is not None)
                        self._files = None
                        continue
                try:
                    pages.check(self._layout.index_file(number))
                    with files.full_disk(self._layout.root):
                        env = open_environment(path, reserves=True)
                except (*DAMAGE, pages.UnsoundError) as error:
                    self._supersede(number, str(error), say=not isinstance(error, pages.UnfinishedError))
                    continue
                except FileNotFoundError:
                    if number == missing:
                        # Not removed since it was superseded, for then another number would have been found by now.
                        with contextlib.suppress(FileExistsError, FileNotFoundError):
                            os.mkdir(path, 0o700)
                    missing = number
                    continue
                env.reader_check()
                self.generation = number
                self._files = self.generations.files_of(number)
                self._hint = seen
                self._checked_at = time.monotonic()
                self._env = env
                return env
            raise IndexUnavailableError(errno.EAGAIN, "the index is replaced again and again", self._layout.index)

    def _open_unchanged(self) -> lmdb.Environment:
        """`_open` that writes nothing: raises FileNotFoundError where there is no index, IndexDamagedError."""
        with self._opening:
            if self._env is not None:
                return self._env
            seen = self.generations.hint_state()
            number = self.generations.newest()
            file = self._layout.index_file(number)
            if os.stat(file).st_size == 0:
                raise FileNotFoundError(errno.ENOENT, "there is no index yet", file)  # LMDB would fill it
            try:
                pages.check(file)
                with files.full_disk(self._layout.root):
                    env = open_environment(self._layout.generation(number))
            except (*DAMAGE, pages.UnsoundError) as error:
                raise IndexDamagedError(errno.EIO, f"the index is damaged: {error}", file) from error
            self.generation = number
            self._files = self.generations.files_of(number)
            self._hint = seen
            self._checked_at = time.monotonic()
            self._env = env
            return env

    def _supersede(self, number: int, why: str, *, say: bool = True) -> None:
        """Make an empty generation after *number* unless somebody has."""
        if self.generations.supersede(number) and say:
            self._messages.append(f"the index was damaged and was replaced by an empty one ({why}); blobs are kept")

    def replace_damaged(self) -> int:
        """Make an empty generation after one that is damaged anywhere, and mend the hint; the live one's number."""
        number = self.generations.newest()
        if number and self.generations.is_damaged(number):
            with self._opening:
                self._close()
                self._supersede(number, "its pages contradict each other")
        self.close()
        return self.read(lambda _: self.generation)

    def _check_hint(self, *, force: bool = False) -> None:
        """Close the environment if CURRENT names another generation than it did, or its files are not what they were.

        What then has to be replaced, the next opening finds out.
        """
        if self._env is None:
            return
        seen = self.generations.hint_state()
        self._checked_at = time.monotonic()
        superseded = force and os.path.lexists(self._layout.successor(self.generation))
        known = self._files
        now = self.generations.files_of(self.generation)
        if seen != self._hint or superseded or (known is not None and not known.are_still(now)):
            with self._opening:
                self._close()

    def _recover(self, error: lmdb.Error) -> None:
        """After a failed call, outside the gate: mend what can be mended; raises IndexUnavailableError for the rest."""
        number = self.generation
        if isinstance(error, lmdb.ReadersFullError):
            # Slots of dead processes are freed by a check; those of live ones by their owners, in a moment.
            with self._enter() as env:
                env.reader_check()
            time.sleep(0.01)
        elif isinstance(error, lmdb.PanicError | lmdb.MapResizedError):
            # The environment is of no use any more, but the file is intact; another process mapped more of it.
            self.close()
        elif isinstance(error, DAMAGE) or self.generations.is_damaged(number):
            with self._opening:
                if self.generation == number:
                    self._close()
                    self._supersede(number, str(error))
            self._deliver_messages()
        else:
            raise IndexUnavailableError(errno.EIO, f"the index failed: {error}", self._layout.index) from error

    def check_readers(self) -> int:
        """Free the reader slots of dead processes, which keep pages from being used again; how many there were."""
        with self._enter() as env:
            return int(env.reader_check())

    def usage(self) -> tuple[int, int]:
        """Rows of all kinds, and bytes of the file in use."""
        with self._enter() as env:
            info, stat = env.info(), env.stat()
            return int(stat["entries"]), (int(info["last_pgno"]) + 1) * int(stat["psize"])

    def health(self) -> Health:
        """How full it is, every page looked at; raises what `inspect` does, and replaces nothing."""
        number = self.generations.newest()
        if number and self.generations.is_damaged(number):
            raise IndexDamagedError(errno.EIO, "its pages contradict each other", self._layout.index_file(number))
        self.inspect(Txn.count)
        with self._enter(self._open_unchanged) as env:
            info, stat = env.info(), env.stat()
            return Health(
                self.generation,
                int(stat["entries"]),
                (int(info["last_pgno"]) + 1) * int(stat["psize"]),
                int(info["map_size"]),
                int(info["num_readers"]),
                int(info["max_readers"]),
            )
