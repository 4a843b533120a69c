"""The index: one LMDB database that all processes of a store share.

Engine 0.9 with synchronous commits and without writemap: the file is intact after any crash. The map is large and
sparse, so the file system grows the file. It has one unnamed database: py-lmdb opens a named one only in a write
transaction, for which every process's first read would queue.

**Gate.** A process must not fork with an environment open: using it in the child leaks reader slots, and closing it
there clears the parent's. So every call passes a gate, a count and a flag. Before a fork, the forking thread sets the
flag, waits until the count is 0 and closes the environment; parent and child open it again on next use. Calls do not
exclude each other. Nothing inside the gate logs, imports, calls user code or takes another lock.

**Generations.** A damaged or deleted index is replaced by an empty one (`casstore.index.generations`). A read checks
CURRENT if its last check is over a second ago; a commit checks it before and after.
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
from functools import partial
from typing import Final, TypeVar

import lmdb

from casstore.errors import IndexDamagedError, IndexUnavailableError, LockTimeoutError, StoreFullError
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index import page_check
from casstore.index.environment import DAMAGE, open_environment
from casstore.index.generations import Generations, HintState, IndexFiles
from casstore.index.transactions import Txn
from casstore.locks.byte_locks import ByteLocks

HINT_SECONDS: Final = 1.0
"""Maximum age of a read's last check of CURRENT."""
LEAST_TIMEOUT: Final = 1.0
"""Seconds that a writer queues for others at least: their commits take a part of it on any disk."""
PAGE_ROWS: Final = 1000
"""Rows per transaction of a scan: a long transaction would pin pages that writers free."""
_GATE_SECONDS: Final = 30.0
_TRIES: Final = 5
_LOW_SPACE: Final = 1 << 20  # bytes: more than one commit writes at a time

Result = TypeVar("Result")


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
        self._layout = layout
        self._locks = locks
        self._timeout = max(timeout, LEAST_TIMEOUT)
        self._on_replaced, self._on_open = on_replaced, on_open
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
        """Return one record, or None. Raises: IndexUnavailableError in a process forked without Python's hooks."""
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
            pass  # `read` meets it again and handles it
        finally:
            inside.pop()
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
                with self._enter(open_env) as env, env.begin() as txn:
                    return work(Txn(txn))
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

    @contextlib.contextmanager
    def writing(self, timeout: float | None = None) -> Iterator[Txn]:
        """Run a write transaction: commit at the end of the block, roll back on any exception.

        Queues outside LMDB, where waiting is interruptible. Raises: LockTimeoutError that names the writer, after
        *timeout* seconds (default: the store's ``lock_timeout``), sooner if that writer hangs. IndexDamagedError if the
        generation was superseded meanwhile: the commit is void; run the block again.
        """
        timeout = self._timeout if timeout is None else timeout
        if not self._writer.acquire(timeout=timeout):
            raise LockTimeoutError(
                f"{self._layout.index}: timed out after {timeout:g} s waiting for another thread that is writing to "
                "the index: restart this process if that thread hangs"
            )
        writer = self._writer  # a forked child replaces it
        try:
            with files.full_disk(self._layout.root):
                queue = self._locks.acquire_writer(timeout)
            try:
                self._check_hint(force=True)
                with self._enter() as env:
                    generation, files_before, hint = self.generation, self._files, self._hint
                    with env.begin(write=True) as txn:
                        rows = Txn(txn)
                        yield rows
                        rows.flush()
                if self._was_superseded(generation, files_before, hint):
                    self._check_hint(force=True)
                    raise IndexDamagedError(
                        errno.ESTALE, "the index was replaced during a commit: try again", self._layout.index
                    )
            except lmdb.Error as error:
                if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or self._is_disk_full(error):
                    raise StoreFullError(errno.ENOSPC, f"no room for the index: {error}", self._layout.index) from error
                if os.strerror(errno.EROFS) in str(error):
                    raise files.read_only(self._layout.root) from error
                self._recover(error)
                raise IndexDamagedError(errno.EIO, f"a commit failed: {error}", self._layout.index) from error
            finally:
                queue.release()
        finally:
            writer.release()

    def _is_disk_full(self, error: lmdb.Error) -> bool:
        """Return whether the disk was full: by LMDB's text, or by the free space after the EIO of a short write."""
        if any(os.strerror(number) in str(error) for number in files.NO_SPACE):
            return True
        if os.strerror(errno.EIO) not in str(error):
            return False
        space = os.statvfs(self._layout.index)
        return space.f_bavail * space.f_frsize < _LOW_SPACE

    def _was_superseded(self, generation: int, files_before: IndexFiles | None, hint: HintState | None) -> bool:
        """After a commit: return whether it went into files that other processes no longer read."""
        if os.path.lexists(self._layout.successor(generation)):
            return True
        # A superseded generation may have been deleted meanwhile, with its NEXT.
        if files_before is not None and not files_before.are_still(self.generations.files_of(generation)):
            return True
        return self.generations.hint_state() != hint and self.generations.newest() != generation

    def write(self, work: Callable[[Txn], Result], timeout: float | None = None) -> Result:
        """Return *work*'s result in one write transaction; repeat it if the index was replaced meanwhile."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(IndexDamagedError), self.writing(timeout) as txn:
                return work(txn)
        with self.writing(timeout) as txn:
            return work(txn)

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
            if time.monotonic() > deadline:
                raise self._unavailable(errno.EBUSY, "timed out waiting for a fork in this process")
            time.sleep(0.0005)
        if time.monotonic() - self._checked_at > HINT_SECONDS:
            self._check_hint()
        if self._env is None:
            open_env()
            self._deliver_messages()

    def _deliver_messages(self) -> None:
        """Pass messages to the user's code, which must not run inside the gate or a lock."""
        while self._messages:
            with contextlib.suppress(IndexError):
                self._on_replaced(self._messages.popleft())

    def _close(self) -> None:
        """Close the environment when no call is inside; later calls reopen it."""
        self._closing = True
        try:
            deadline = time.monotonic() + _GATE_SECONDS
            while self._calls:
                if time.monotonic() > deadline:
                    raise self._unavailable(errno.EBUSY, "timed out waiting for a call into the index")
                time.sleep(0.0002)
            env, self._env = self._env, None
            if env is not None:
                env.close()
        finally:
            self._closing = False

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
        self._closing = True

    def after_fork(self, *, in_child: bool) -> None:
        """Open the gate. The child never uses an environment that could not be closed."""
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
                # Before following NEXT: if another process replaces CURRENT meanwhile, the next check notices.
                hint = self.generations.hint_state()
                number = self.generations.live()
                path = self._layout.generation(number)
                if number == self.generation and self._files is not None:
                    now = self.generations.files_of(number)
                    if not self._files.are_still(now):
                        # Other processes may have the old files open. Two data files with one lock file, or the
                        # reverse, exclude no process: all must move to a new pair.
                        self._supersede(number, "its files were deleted, replaced or truncated", say=now is not None)
                        self._files = None
                        continue
                try:
                    page_check.check(self._layout.index_file(number))
                    with files.full_disk(self._layout.root):
                        env = open_environment(path, reserves=True)
                except (*DAMAGE, page_check.UnsoundError) as error:
                    self._supersede(number, str(error), say=not isinstance(error, page_check.UnfinishedError))
                    continue
                except FileNotFoundError:
                    if number == missing:
                        # Not deleted as superseded: then another number would have been found by now.
                        with contextlib.suppress(FileExistsError, FileNotFoundError):
                            os.mkdir(path, 0o700)
                    missing = number
                    continue
                env.reader_check()
                return self._use(env, number, hint)
            raise self._unavailable(errno.EAGAIN, "the index is replaced repeatedly")

    def _open_unchanged(self) -> lmdb.Environment:
        """As `_open`, but write nothing. Raises: FileNotFoundError if there is no index, IndexDamagedError."""
        with self._opening:
            if self._env is not None:
                return self._env
            hint = self.generations.hint_state()
            number = self.generations.newest()
            file = self._layout.index_file(number)
            if os.stat(file).st_size == 0:
                raise FileNotFoundError(errno.ENOENT, "there is no index yet", file)  # LMDB would initialize it
            try:
                page_check.check(file)
                with files.full_disk(self._layout.root):
                    env = open_environment(self._layout.generation(number))
            except (*DAMAGE, page_check.UnsoundError) as error:
                raise IndexDamagedError(errno.EIO, f"the index is damaged: {error}", file) from error
            return self._use(env, number, hint)

    def _use(self, env: lmdb.Environment, number: int, hint: HintState | None) -> lmdb.Environment:
        self.generation = number
        self._files = self.generations.files_of(number)
        self._hint = hint
        self._checked_at = time.monotonic()
        self._env = env
        self._on_open()
        return env

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
        superseded = force and os.path.lexists(self._layout.successor(self.generation))
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
            with self._enter() as env:
                env.reader_check()
            time.sleep(0.01)
        elif isinstance(error, lmdb.PanicError | lmdb.MapResizedError):
            # The environment is unusable but the file is intact; another process mapped more of it.
            self.close()
        elif isinstance(error, DAMAGE) and not replaces:
            raise IndexDamagedError(errno.EIO, f"the index is damaged: {error}", self._layout.index) from error
        elif replaces and (isinstance(error, DAMAGE) or self.generations.is_damaged(number)):
            with self._opening:
                if self.generation == number:
                    self._close()
                    self._supersede(number, str(error))
            self._deliver_messages()
        else:
            raise self._unavailable(errno.EIO, f"the index failed: {error}") from error

    def _unavailable(self, number: int, message: str) -> IndexUnavailableError:
        return IndexUnavailableError(number, message, self._layout.index)

    def check_readers(self) -> int:
        """Free the reader slots of dead processes, which prevent pages from being reused; return their number."""
        with self._enter() as env:
            return int(env.reader_check())

    def usage(self) -> tuple[int, int]:
        """Return the number of rows of all kinds, and the bytes in use."""
        with self._enter() as env:
            return _usage_of(env)

    def health(self) -> Health:
        """Return the index's size and use after checking every page. Raises: as `inspect`. Replaces nothing."""
        number = self.generations.newest()
        if number and self.generations.is_damaged(number):
            raise IndexDamagedError(errno.EIO, "its pages are inconsistent", self._layout.index_file(number))
        self.inspect(Txn.count)
        with self._enter(self._open_unchanged) as env:
            limits = (int(env.info()[name]) for name in ("map_size", "num_readers", "max_readers"))
            return Health(self.generation, *_usage_of(env), *limits)


def _usage_of(env: lmdb.Environment) -> tuple[int, int]:
    stat = env.stat()
    return int(stat["entries"]), (int(env.info()["last_pgno"]) + 1) * int(stat["psize"])
