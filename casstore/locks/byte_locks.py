"""Byte-range locks between processes. They save duplicate work; correctness never depends on one.

Each byte of one file is a lock: one for every URI being filled, or given a local path, and two for the queue of index
writers. A lock file per URI would cost as much as the blob. They are open-file-description locks, which belong to the
descriptor. Unlike POSIX locks they survive the closing of another descriptor of the file, and the kernel frees them
when the process dies. Threads of a process share the descriptor; a table tells them apart.

The kernel does not tell who has such a lock. So an index writer describes itself in the file, for error messages, and
for others to see whether the queue advances.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from casstore.errors import LockTimeoutError, ReentrantCallError
from casstore.format.digest import name_hash
from casstore.format.layout import Layout
from casstore.locks.lock_files import BUSY, LockedFile, in_directory, open_lock_file, polls_until
from casstore.locks.mutex import new_mutex

_FLOCK: Final = struct.Struct("hhqqi4x")
_FALLBACK_FILES: Final = 64
_WRITER_BYTE: Final = 1 << 62  # just past the bytes that names hash to
_QUEUE_BYTE: Final = _WRITER_BYTE + 1
STALL_SECONDS: Final = 10.0
"""Seconds without a new index writer until those that wait give up: a writer needs milliseconds, unless it hangs."""
_KNOWN_STALL_SECONDS: Final = 0.1
"""The same, once this process has given up on this writer."""
_RECORD: Final = 160  # bytes of a writer's description
_HAS_BYTE_LOCKS: Final = sys.platform.startswith("linux") and hasattr(fcntl, "F_OFD_SETLK")
"""Other platforms have another structure, or none."""


@dataclass(eq=False, slots=True)
class ByteLock:
    locks: ByteLocks
    byte: int
    thread: int = field(default_factory=threading.get_ident)

    def acquire(self, timeout: float) -> bool:
        """Wait for it; False after *timeout* seconds. Raises ReentrantCallError if this thread has it."""
        return self.locks.acquire(self, timeout)

    def release(self) -> None:
        """Unlock it, from any thread. Does nothing a second time, or in a forked child."""
        self.locks.release(self)


class ByteLocks:
    """The byte-range locks of one store in this process; thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._mutex = new_mutex()
        self._held: dict[int, ByteLock] = {}
        self._descriptor = -1
        self._is_closing = False
        self._files: dict[int, LockedFile] = {}  # by number
        self._pid = os.getpid()
        self._name = b""
        self._stalled = b""
        """The description of the writer that this process gave up on."""

    def try_acquire(self, name: bytes) -> ByteLock | None:
        """Return the lock of *name*, or None if another process or thread has it."""
        return self.try_byte(_byte_of(name))

    def request(self, name: bytes) -> ByteLock:
        """Return the lock of *name*, which is not locked yet: its owner is there before it is."""
        return ByteLock(self, _byte_of(name))

    def acquire(self, lock: ByteLock, timeout: float) -> bool:
        for _ in polls_until(time.monotonic() + timeout):
            if self._try(lock):
                return True
            held = self._held.get(lock.byte)
            if held is not None and held.thread == threading.get_ident():
                raise ReentrantCallError(
                    f"{self._layout.root}: a signal handler interrupted this thread, and would wait for it: let the "
                    "handler set a flag, and do the work after it"
                )
        return False

    def acquire_writer(self, timeout: float) -> ByteLock:
        """Wait in the queue of index writers.

        Raises: LockTimeoutError that names the writer, after *timeout* seconds, or `STALL_SECONDS` without a new one;
        sooner if this process has given up on the same writer before. ReentrantCallError if this thread is writing.
        """
        self.refuse_reentry()
        # Two locks make polling fair. A writer that wants to write again finds the queue lock taken by the process that
        # waits for the writer. With one lock, it would nearly always poll queue and starve the others.
        wait = _Wait(self, timeout)
        queue = writer = None
        try:
            queue = wait.acquire(_QUEUE_BYTE)
            writer = wait.acquire(_WRITER_BYTE)
            queue.release()
            return writer
        except BaseException:
            for lock in (queue, writer):
                if lock is not None:
                    lock.release()
            raise

    def is_writing(self) -> bool:
        """Return whether this thread is writing to the index, or queues for it: a signal handler interrupted it."""
        held = self._held
        writers = (held.get(_WRITER_BYTE), held.get(_QUEUE_BYTE)) if held and self._pid == os.getpid() else ()
        return any(lock is not None and lock.thread == threading.get_ident() for lock in writers)

    def refuse_reentry(self) -> None:
        """Raise ReentrantCallError if `is_writing`: this thread would wait for itself."""
        if self.is_writing():
            raise ReentrantCallError(
                f"{self._layout.index}: this thread is writing to the index already, and a signal handler interrupted "
                "it: let the handler set a flag, and write after it"
            )

    def describe(self, byte: int) -> None:
        """Describe this process as the one that has *byte*."""
        if not self._name:
            program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
            self._name = f"process {os.getpid()} ({program}, host {os.uname().nodename})".encode()
        record = b"%d %s" % (time.time_ns(), self._name)
        with contextlib.suppress(OSError):  # a full disk: the message will have no name
            os.pwrite(self._descriptor, record[:_RECORD].ljust(_RECORD, b"\0"), _record_offset(byte))

    def description(self, byte: int) -> bytes:
        """Return how the process that has *byte*, or had it last, described itself."""
        with contextlib.suppress(OSError):
            return os.pread(self._descriptor, _RECORD, _record_offset(byte)).rstrip(b"\0")
        return b""

    def has_given_up_on(self, writer: bytes) -> bool:
        """Return whether this process gave up on the writer with this description."""
        return bool(writer) and writer == self._stalled

    def give_up(self, byte: int, seconds: float) -> LockTimeoutError:
        """Note that the writer is stalled; return the error that names the process that has *byte*."""
        self._stalled = self.description(_WRITER_BYTE)
        # The process that has the queue may be waiting, too.
        writer = self.try_byte(_WRITER_BYTE)
        if writer is None:
            byte = _WRITER_BYTE
        else:
            writer.release()
        when, _, name = self.description(byte).partition(b" ")
        holder = "another process"
        if when.isdigit():
            began = time.strftime("%H:%M:%S", time.localtime(int(when) / 1e9))
            holder = f"{name.decode('utf-8', 'replace')!s} since {began}"
        return LockTimeoutError(
            f"{self._layout.index}: timed out after {seconds:.3g} s waiting for {holder}, which is writing to the "
            "index: continue that process (kill -CONT) if it is stopped, or end it if it hangs"
        )

    def try_byte(self, byte: int) -> ByteLock | None:
        """Return the lock of *byte*, or None if another process or thread has it."""
        lock = ByteLock(self, byte)
        return lock if self._try(lock) else None

    def _try(self, lock: ByteLock) -> bool:
        if self._pid != os.getpid():
            # A fork without hooks. The parent shares the open file, so locking it again would always succeed.
            self.after_fork_in_child()
        try:
            with self._mutex:
                if lock.byte in self._held:
                    return False
                self._held[lock.byte] = lock  # before it is locked: what an interrupt leaves locked has an owner
                if self._lock(lock.byte):
                    return True
                del self._held[lock.byte]
            return False
        except BaseException:
            self.release(lock)
            raise

    def release(self, lock: ByteLock) -> None:
        if self._pid != os.getpid():
            return  # a fork without hooks: the lock is the parent's
        with self._mutex:
            # In this order: an interrupt leaves something that a second call releases.
            if self._held.get(lock.byte) is lock:
                self._unlock(lock.byte)
                del self._held[lock.byte]
                if self._is_closing:
                    self._close_if_unused()

    def close(self) -> None:
        """Close the descriptor, once no lock is held; the next use opens it again."""
        if self._pid == os.getpid():
            with self._mutex:
                self._is_closing = True
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._held and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _lock(self, byte: int) -> bool:
        if self._descriptor < 0:
            path, flags = self._layout.byte_lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = in_directory(path, lambda: os.open(path, flags, 0o600))
            self._is_closing = False
        if not _HAS_BYTE_LOCKS:
            return self._lock_file(byte)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            if error.errno in BUSY:
                return False
            raise
        return True

    def _unlock(self, byte: int) -> None:
        if _HAS_BYTE_LOCKS:
            if self._descriptor < 0:
                return  # it was interrupted before it was locked
            free = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, free)
            except OSError:
                # Retry: else the byte stays locked for the life of this process.
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, free)
            return
        number = _file_number(byte)
        if number in self._files and not any(_file_number(other) == number for other in self._held if other != byte):
            self._files[number].close()
            del self._files[number]

    def _lock_file(self, byte: int) -> bool:
        # Several names share a file, so it excludes other processes only. A fill that has one name of a file and needs
        # another, or a commit, would wait for itself.
        number = _file_number(byte)
        if number in self._files:
            return True
        file = open_lock_file(self._layout.fallback_lock_file(number))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._files[number] = file
        except BaseException as error:
            file.close()
            if isinstance(error, OSError) and error.errno in BUSY:
                return False
            raise
        return True

    def after_fork_in_child(self) -> None:
        """Close the parent's descriptors without unlocking: unlocking would free the parent's locks."""
        self._held = {}
        self._pid = os.getpid()
        self._name = b""
        files, self._files = self._files, {}
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        for file in files.values():
            file.close()


class _Wait:
    """One wait in the queue of index writers, and whether the queue still advances."""

    def __init__(self, locks: ByteLocks, timeout: float) -> None:
        self._locks = locks
        self._began = self._advanced_at = time.monotonic()
        self._timeout = timeout
        self._writer: bytes | None = None

    def acquire(self, byte: int) -> ByteLock:
        """Wait for one of the queue's two locks. Raises: LockTimeoutError."""
        locks = self._locks
        for tries, _ in enumerate(polls_until(self._began + self._timeout)):
            lock = locks.try_byte(byte)
            if lock is not None:
                try:
                    if byte == _WRITER_BYTE:
                        locks.describe(byte)
                    return lock
                except BaseException:
                    lock.release()
                    raise
            if byte == _WRITER_BYTE and not tries:
                locks.describe(_QUEUE_BYTE)  # it has that one, and keeps it for a while
            if self._is_stalled():
                break
        raise locks.give_up(byte, time.monotonic() - self._began)

    def _is_stalled(self) -> bool:
        now, writer = time.monotonic(), self._locks.description(_WRITER_BYTE)
        if writer != self._writer:
            if self._writer is not None:
                self._advanced_at = now
            self._writer = writer
        limit = _KNOWN_STALL_SECONDS if self._locks.has_given_up_on(writer) else STALL_SECONDS
        return now - self._advanced_at > limit


def _byte_of(name: bytes) -> int:
    return int.from_bytes(name_hash(name)[:8], "big") >> 2


def _record_offset(byte: int) -> int:
    return (byte - _WRITER_BYTE) * _RECORD


def _file_number(byte: int) -> int:
    """Return the file for a byte. Writers have their own files, since fills wait for their commit."""
    return byte % _FALLBACK_FILES if byte < _WRITER_BYTE else _FALLBACK_FILES + byte - _WRITER_BYTE
