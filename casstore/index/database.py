"""The index: one LMDB database that all processes of a store share.

Engine 0.9 with synchronous commits and without writemap: the file is intact after any crash. The map is large and
sparse, so the file system grows the file. It has one unnamed database: py-lmdb opens a named one only in a write
transaction, for which every process's first read would queue.

**Gate.** A process must not fork with an environment open: using it in the child leaks reader slots, and closing it
there clears the parent's. So every call passes a gate, a table of calls and a flag. Before a fork, the forking thread
sets the flag, waits until the table is empty and closes the environment; parent and child open it again on next use.
Calls do not exclude each other. Nothing inside the gate logs, imports, calls user code or takes another lock; a signal
handler may still run there. Each call leaves the table as the first step of a ``finally``, which nothing interrupts.

**Generations.** A damaged or deleted index is replaced by an empty one (`casstore.index.generations`). A read checks
CURRENT if its last check is over a second ago; a commit checks it before and after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Final, TypeAlias, TypeVar

import lmdb

from casstore.errors import IndexDamagedError, IndexUnavailableError, StoreFullError
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import page_check
from casstore.index.environment import DAMAGE, is_disk_full, open_environment, usage_of
from casstore.index.generations import Generations, HintState, IndexFiles
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLock, ByteLocks
from casstore.locks.mutex import new_mutex

HINT_SECONDS: Final = 1.0
"""Maximum age of a read's last check of CURRENT."""
LEAST_TIMEOUT: Final = 1.0
"""Seconds that a writer queues for others at least: their commits take a part of it on any disk."""
PAGE_ROWS: Final = 1000
"""Rows per transaction of a scan: a long transaction would pin pages that writers free."""
_GATE_SECONDS: Final = 30.0
_TRIES: Final = 5

Result = TypeVar("Result")
_State: TypeAlias = tuple[int, IndexFiles | None, HintState | None]
"""The generation before a commit, its files, and the state of CURRENT."""


@dataclass(frozen=True, slots=True)
class Health:
    """Size and use of an index: *used* bytes of *map_size*; *readers* counts read transactions of all processes."""

    generation: int
    rows: int
    used: int
    map_size: int
    readers: int
    max_readers: int


class Index:
    """One store's index in this process; thread-safe; closed and reopened around forks."""

    def __init__(
        self,
        layout: Layout,
        locks: ByteLocks,
        on_replaced: Callable[[str], None],
        on_vanished: Callable[[], None] = lambda: None,
        timeout: float = 60.0,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        """*on_replaced* gets a message for the user; *on_vanished* recreates the store's directories, or raises.

        *on_open* is called when the environment is open, inside a lock: it must return at once. A writer queues for
        *timeout* seconds while the queue advances; see `ByteLocks.acquire_writer`.
        """
        self.layout = layout
        self.locks = locks
        self._timeout = max(timeout, LEAST_TIMEOUT)
        self._on_replaced, self._on_open = on_replaced, on_open
        self.generations = Generations(layout, on_vanished)
        self._messages: deque[str] = deque()
        self._calls: dict[object, int] = {}  # by token: their threads
        self._closing = 0  # the thread that closes the gate
        self._env: lmdb.Environment | None = None
        self._pid = os.getpid()
        self._opening = new_mutex()
        self._is_opening = False
        self._hint: HintState | None = None
        self._files: IndexFiles | None = None
        self._checked_at = 0.0
        self.generation = 0

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, row: bytes) -> bytes | None:
        """Return one record, or None. Raises: IndexUnavailableError in a process forked without Python's hooks."""
        calls, token = self._calls, object()
        try:
            calls[token] = get_ident()
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
            pass  # `read` meets it again and handles it
        finally:
            calls.pop(token, None)
        return self.read(lambda txn: txn.get(row))

    def read(self, work: Callable[[Txn], Result]) -> Result:
        """Return *work*'s result in one read transaction. *work* must be short and repeatable.

        A damaged index is replaced and read again, empty. Raises: IndexUnavailableError.
        """
        return self._read(work, self._open, replaces=True)

    def inspect(self, work: Callable[[Txn], Result]) -> Result:
        """As `read`, but change nothing: create, replace and repair nothing.

        Raises: IndexDamagedError, FileNotFoundError if there is no index, IndexUnavailableError.
        """
        return self._read(work, self._open_unchanged, replaces=False)

    def _read(
        self, work: Callable[[Txn], Result], open_env: Callable[[], lmdb.Environment], *, replaces: bool
    ) -> Result:
        failure: lmdb.Error | None = None
        for _ in range(_TRIES):
            if not replaces:
                # Each time: a superseded generation may be wrong about blobs.
                self._check_hint(force=True)
            try:
                return self._call(partial(_read_in, work), open_env)
            except lmdb.Error as error:
                failure = error
            # Outside the gate, which `_recover` closes.
            self._recover(failure, replaces=replaces)
        raise self._unavailable(errno.EAGAIN, f"the index cannot be read: {failure}") from failure

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows with *prefix*, in order. Each page has its own transaction, so this is not one snapshot."""
        start = prefix
        while True:
            rows = self.read(partial(Txn.scan, prefix=prefix, start=start, limit=PAGE_ROWS))
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            start = rows[-1][0] + b"\0"

    # --- writing -----------------------------------------------------------------------------------------------------

    def write_once(self, work: Callable[[Txn], Result], timeout: float | None = None) -> Result:
        """Return *work*'s result in one write transaction, committed; rolled back on any exception.

        Queues outside LMDB, where waiting is interruptible. Raises: LockTimeoutError that names the writer, after
        *timeout* seconds (default: the store's ``lock_timeout``), sooner if that writer hangs. IndexDamagedError if the
        generation was superseded meanwhile: the commit is void; call it again. ReentrantCallError in a signal handler
        that interrupted a write.
        """
        timeout = self._timeout if timeout is None else timeout
        writer: ByteLock | None = None
        try:
            try:
                with files.full_disk(self.layout.root):
                    writer = self.locks.acquire_writer(timeout)
                return self._write_locked(work)
            finally:
                if writer is not None:
                    writer.release()
        except BaseException:
            if writer is not None:
                writer.release()  # again: an interrupt may have ended the first one
            raise

    def _write_locked(self, work: Callable[[Txn], Result]) -> Result:
        try:
            self._check_hint(force=True)
            result, state = self._call(partial(self._commit, work))
            if self._was_superseded(*state):
                self._check_hint(force=True)
                raise IndexDamagedError(
                    errno.ESTALE, "the index was replaced during a commit: try again", self.layout.index
                )
            return result
        except lmdb.Error as error:
            if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or is_disk_full(error, self.layout.index):
                raise StoreFullError(errno.ENOSPC, f"no room for the index: {error}", self.layout.index) from error
            if os.strerror(errno.EROFS) in str(error):
                raise files.read_only(self.layout.root) from error
            self._recover(error)
            raise IndexDamagedError(errno.EIO, f"a commit failed: {error}", self.layout.index) from error

    def _commit(self, work: Callable[[Txn], Result], env: lmdb.Environment) -> tuple[Result, _State]:
        state = self.generation, self._files, self._hint
        with env.begin(write=True) as txn:
            rows = Txn(txn)
            result = work(rows)
            rows.flush()
        return result, state

    def _was_superseded(self, generation: int, files_before: IndexFiles | None, hint: HintState | None) -> bool:
        """After a commit: return whether it went into files that other processes no longer read."""
        if os.path.lexists(self.layout.successor(generation)):
            return True
        # A superseded generation may have been deleted meanwhile, with its NEXT.
        if files_before is not None and not files_before.are_still(self.generations.files_of(generation)):
            return True
        return self.generations.hint_state() != hint and self.generations.newest() != generation

    def write(self, work: Callable[[Txn], Result], timeout: float | None = None) -> Result:
        """Return *work*'s result in one write transaction; repeat it if the index was replaced meanwhile."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(IndexDamagedError):
                return self.write_once(work, timeout)
        return self.write_once(work, timeout)

    # --- the gate ----------------------------------------------------------------------------------------------------

    def _call(
        self, work: Callable[[lmdb.Environment], Result], open_env: Callable[[], lmdb.Environment] | None = None
    ) -> Result:
        """Return *work*'s result with the environment, inside the gate."""
        calls, token = self._calls, object()
        try:
            while True:
                self._ensure_open(open_env or self._open)
                calls[token] = get_ident()
                env = self._env
                if not self._closing and env is not None:
                    return work(env)
                calls.pop(token, None)
        finally:
            calls.pop(token, None)

    def _ensure_open(self, open_env: Callable[[], lmdb.Environment]) -> None:
        """Open an environment of the live generation; wait for a fork in progress."""
        if self._pid != os.getpid():
            raise self._unavailable(
                errno.ECHILD,
                "this process was forked without Python's fork hooks and cannot use its parent's index: "
                "use os.fork, multiprocessing or subprocess, or open the store in the child only",
            )
        deadline = time.monotonic() + _GATE_SECONDS
        while self._closing:
            if time.monotonic() > deadline or self._closing == get_ident():
                raise self._unavailable(errno.EBUSY, "timed out waiting for a fork in this process")
            time.sleep(0.0005)
        if time.monotonic() - self._checked_at > HINT_SECONDS:
            self._check_hint()
        if self._env is None:
            with self._opening:
                if self._is_opening:
                    raise self._unavailable(errno.EBUSY, "a signal handler interrupted the opening of the index")
                try:
                    self._is_opening = True
                    open_env()
                finally:
                    self._is_opening = False
            self._deliver_messages()

    def _deliver_messages(self) -> None:
        """Pass messages to the user's code, which must not run inside the gate or a lock."""
        while self._messages:
            with contextlib.suppress(IndexError):
                self._on_replaced(self._messages.popleft())

    def _close(self) -> None:
        """Close the environment when no call is inside; later calls reopen it."""
        try:
            self._closing = get_ident()
            deadline = time.monotonic() + _GATE_SECONDS
            while self._calls:
                # A signal handler cannot wait for the call that it interrupted.
                if time.monotonic() > deadline or get_ident() in list(self._calls.values()):
                    raise self._unavailable(errno.EBUSY, "timed out waiting for a call into the index")
                time.sleep(0.0002)
            env, self._env = self._env, None
            if env is not None:
                env.close()
        finally:
            self._closing = 0

    def close(self) -> None:
        """Close the environment; the next use reopens it."""
        with self._opening:
            self._close()

    def before_fork(self) -> None:
        """Close the gate and the environment until `after_fork`."""
        # A queueing writer is outside the gate and has only its own lock, which the child replaces.
        self._opening.acquire()
        with contextlib.suppress(IndexUnavailableError):
            self._close()
        self._closing = get_ident()

    def after_fork(self, *, in_child: bool) -> None:
        """Open the gate. The child never uses an environment that could not be closed."""
        if in_child:
            self._calls = {}
            self._pid = os.getpid() if self._env is None else -1
        with contextlib.suppress(RuntimeError):  # an interrupt has ended `before_fork`
            self._opening.release()
        self._closing = 0

    # --- opening and generations -------------------------------------------------------------------------------------

    def _open(self) -> lmdb.Environment:
        if self._env is not None:
            return self._env
        missing = 0
        for _ in range(20):
            # Before following NEXT: if another process replaces CURRENT meanwhile, the next check notices.
            hint = self.generations.hint_state()
            number = self.generations.live()
            if number == self.generation and self._files is not None:
                now = self.generations.files_of(number)
                if not self._files.are_still(now):
                    # Others may have the old files open. Two data files with one lock file exclude no process, nor
                    # does the reverse: all must move to a new pair.
                    self._supersede(number, "its files were deleted, replaced or truncated", say=now is not None)
                    self._files = None
                    continue
            try:
                page_check.check(self.layout.index_file(number))
                return self._use(number, hint, reserves=True)
            except (*DAMAGE, page_check.UnsoundError) as error:
                self._supersede(number, str(error), say=not isinstance(error, page_check.UnfinishedError))
            except FileNotFoundError:
                if number == missing:
                    # Not deleted as superseded: then another number would have been found by now.
                    with contextlib.suppress(FileExistsError, FileNotFoundError):
                        os.mkdir(self.layout.generation(number), 0o700)
                missing = number
        raise self._unavailable(errno.EAGAIN, "the index is replaced repeatedly")

    def _open_unchanged(self) -> lmdb.Environment:
        """As `_open`, but write nothing. Raises: FileNotFoundError if there is no index, IndexDamagedError."""
        if self._env is not None:
            return self._env
        hint = self.generations.hint_state()
        number = self.generations.newest()
        file = self.layout.index_file(number)
        if os.stat(file).st_size == 0:
            raise FileNotFoundError(errno.ENOENT, "there is no index yet", file)  # LMDB would initialize it
        try:
            page_check.check(file)
            return self._use(number, hint)
        except (*DAMAGE, page_check.UnsoundError) as error:
            raise IndexDamagedError(errno.EIO, f"the index is damaged: {error}", file) from error

    def _use(self, number: int, hint: HintState | None, *, reserves: bool = False) -> lmdb.Environment:
        env = None
        try:
            with files.full_disk(self.layout.root):
                env = open_environment(self.layout.generation(number), reserves=reserves)
            if reserves:
                env.reader_check()
            self.generation, self._hint = number, hint
            self._files = self.generations.files_of(number)
            self._checked_at = time.monotonic()
            self._on_open()
            self._env = env
            return env
        except BaseException:
            if env is not None:  # a process can open it only once, and a traceback may live for long
                env.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether the environment is open."""
        return self._env is not None

    def _supersede(self, number: int, why: str, *, say: bool = True) -> None:
        """Make an empty generation after *number* unless another process did."""
        if self.generations.supersede(number) and say:
            self._messages.append(f"the index was damaged ({why}) and replaced by an empty one; blobs are kept")

    def replace_damaged(self) -> int:
        """Replace the live generation if it is damaged anywhere, and repair the hint; return the live one's number."""
        number = self.generations.newest()
        if number and self.generations.is_damaged(number):
            with self._opening:
                self._close()
                self._supersede(number, "its pages are inconsistent")
        self.close()
        return self.read(lambda _: self.generation)

    def _check_hint(self, *, force: bool = False) -> None:
        """Close the environment if CURRENT or its files have changed. The next opening replaces what is necessary."""
        if self._env is None:
            return
        hint = self.generations.hint_state()
        self._checked_at = time.monotonic()
        superseded = force and os.path.lexists(self.layout.successor(self.generation))
        files_before = self._files
        files_now = self.generations.files_of(self.generation)
        if hint != self._hint or superseded or (files_before is not None and not files_before.are_still(files_now)):
            with self._opening:
                self._close()

    def _recover(self, error: lmdb.Error, *, replaces: bool = True) -> None:
        """After a failed call, outside the gate: repair what is possible; replace a damaged index if *replaces*.

        Raises: IndexDamagedError for one that is not replaced, IndexUnavailableError otherwise.
        """
        number = self.generation
        if isinstance(error, lmdb.ReadersFullError):
            # A check frees the slots of dead processes; live ones free theirs in a moment.
            self._call(lmdb.Environment.reader_check)
            time.sleep(0.01)
        elif isinstance(error, lmdb.PanicError | lmdb.MapResizedError):
            # The environment is unusable but the file is intact; another process mapped more of it.
            self.close()
        elif isinstance(error, DAMAGE) and not replaces:
            raise IndexDamagedError(errno.EIO, f"the index is damaged: {error}", self.layout.index) from error
        elif replaces and (isinstance(error, DAMAGE) or self.generations.is_damaged(number)):
            with self._opening:
                if self.generation == number:
                    self._close()
                    self._supersede(number, str(error))
            self._deliver_messages()
        else:
            raise self._unavailable(errno.EIO, f"the index failed: {error}") from error

    def _unavailable(self, number: int, message: str) -> IndexUnavailableError:
        return IndexUnavailableError(number, message, self.layout.index)

    def check_readers(self) -> int:
        """Free the reader slots of dead processes, which prevent pages from being reused; return their number."""
        return int(self._call(lmdb.Environment.reader_check))

    def usage(self) -> tuple[int, int]:
        """Return the number of rows of all kinds, and the bytes in use."""
        return self._call(usage_of)

    def health(self) -> Health:
        """Return the index's size and use after checking every page. Raises: as `inspect`. Replaces nothing."""
        number = self.generations.newest()
        if number and self.generations.is_damaged(number):
            raise IndexDamagedError(errno.EIO, "its pages are inconsistent", self.layout.index_file(number))
        self.inspect(Txn.count)

        def measure(env: lmdb.Environment) -> Health:
            limits = (int(env.info()[name]) for name in ("map_size", "num_readers", "max_readers"))
            return Health(self.generation, *usage_of(env), *limits)

        return self._call(measure, self._open_unchanged)


def _read_in(work: Callable[[Txn], Result], env: lmdb.Environment) -> Result:
    with env.begin() as txn:
        return work(Txn(txn))
