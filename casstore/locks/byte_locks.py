"""Locks between processes. They save duplicate work; correctness never depends on one.

`ByteLocks` is one file whose bytes are locks: a byte for every URI being filled, one for the queue of index writers. A
lock file per URI costs as much as the blob itself. The locks are open-file-description locks: they belong to the
descriptor, so closing another descriptor of the file does not drop them (as it would drop POSIX locks), and the kernel
frees them when the process dies. Threads of one process share the descriptor and are told apart by a table.

`create_locked` is the lock of a lease, and `try_lock_existing` tells that its holder is dead, where
`locks_are_exclusive`. Writers of one URI have `casstore.write_locks`.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
import time
from typing import Final

from casstore.errors import LockTimeoutError
from casstore.format.digest import name_hash
from casstore.format.layout import Layout
from casstore.locks.lock_files import _BUSY, POLL_FIRST, POLL_LAST

_FLOCK: Final = struct.Struct("hhqqi4x")
_FALLBACK_FILES: Final = 64
_WRITER_BYTE: Final = 1 << 62
"""Just past the bytes that names hash to."""
_QUEUE_BYTE: Final = _WRITER_BYTE + 1

_HAS_BYTE_LOCKS: Final = sys.platform.startswith("linux") and hasattr(fcntl, "F_OFD_SETLK")
"""Elsewhere the structure has another shape, where there is one at all."""


def _byte_of(name: bytes) -> int:
    return int.from_bytes(name_hash(name)[:8], "big") >> 2


class ByteLock:
    """A held byte; releasing it a second time, or in a forked child, does nothing."""

    __slots__ = ("byte", "locks")

    def __init__(self, locks: ByteLocks, byte: int) -> None:
        self.locks = locks
        self.byte = byte

    def release(self) -> None:
        """Let the next one in; from any thread."""
        self.locks.release(self)


class ByteLocks:
    """The locks of one store in this process."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._mutex = threading.Lock()
        self._held: dict[int, ByteLock] = {}
        self._descriptor = -1
        self._files: dict[int, _SharedFile] = {}
        self._pid = os.getpid()

    def try_acquire(self, name: bytes) -> ByteLock | None:
        """The lock of *name*, or None while another process or thread has it."""
        return self._try_byte(_byte_of(name))

    def acquire_writer(self, timeout: float) -> ByteLock:
        """The head of the queue of index writers; LockTimeoutError after *timeout* seconds."""
        # Two locks make the polling fair: a writer that has just finished and wants to write again finds the first one
        # held by whoever waits for the second. With one it would nearly always be the quickest, and starve the others.
        deadline = time.monotonic() + timeout
        first = self._wait(_QUEUE_BYTE, timeout, deadline)
        try:
            second = self._wait(_WRITER_BYTE, timeout, deadline)
        except BaseException:
            first.release()
            raise
        try:
            first.release()
        except BaseException:
            second.release()  # nobody gets it, to release it later
            raise
        return second

    def _wait(self, byte: int, timeout: float, deadline: float) -> ByteLock:
        lock = self._try_byte(byte)
        pause = POLL_FIRST
        while lock is None:
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"another process is writing to the index and does not move on (waited {timeout:g} s): "
                    f"{self._layout.byte_lock_file}"
                )
            time.sleep(pause)
            pause = min(pause * 2, POLL_LAST)
            lock = self._try_byte(byte)
        return lock

    def _try_byte(self, byte: int) -> ByteLock | None:
        if self._pid != os.getpid():
            # A fork that ran no hooks. The lock belongs to the open file, which the parent shares: taking it again
            # through the inherited descriptor would succeed whoever has it.
            self.after_fork_in_child()
        with self._mutex:
            if byte in self._held or not self._lock(byte):
                return None
            lock = self._held[byte] = ByteLock(self, byte)
            return lock

    def release(self, lock: ByteLock) -> None:
        """See `ByteLock.release`."""
        if self._pid != os.getpid():
            return  # the parent's, inherited by a fork that ran no hooks
        with self._mutex:
            if self._held.get(lock.byte) is lock:
                del self._held[lock.byte]
                self._unlock(lock.byte)

    def _lock(self, byte: int) -> bool:
        if not _HAS_BYTE_LOCKS:
            return self._lock_file(byte)
        if self._descriptor < 0:
            self._descriptor = self._open(self._layout.byte_lock_file)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _unlock(self, byte: int) -> None:
        if _HAS_BYTE_LOCKS:
            free = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, free)
            except OSError:
                # Once more: it would keep all others out for as long as this process lives.
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, free)
            return
        number = _file_number(byte)
        file = self._files[number]
        file.users -= 1
        if not file.users:
            del self._files[number]
            os.close(file.descriptor)

    def _lock_file(self, byte: int) -> bool:
        # Several names share a file. This process waits for other processes only: a fill that holds one name of a file
        # and asks for another, or for a commit, would wait for itself.
        number = _file_number(byte)
        file = self._files.get(number)
        if file is not None:
            file.users += 1
            return True
        descriptor = self._open(self._layout.fallback_lock_file(number))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                return False
            raise
        self._files[number] = _SharedFile(descriptor)
        return True

    def _open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            return os.open(path, flags, 0o600)

    def after_fork_in_child(self) -> None:
        """In a forked child: let go of the parent's locks without freeing them: closing does that, unlocking frees."""
        self._mutex = threading.Lock()
        self._held = {}
        self._pid = os.getpid()
        files, self._files = self._files, {}
        descriptor, self._descriptor = self._descriptor, -1
        for inherited in (descriptor, *(file.descriptor for file in files.values())):
            if inherited >= 0:
                os.close(inherited)


class _SharedFile:
    """A lock file that this process holds, and how many of its names it holds by it."""

    __slots__ = ("descriptor", "users")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 1


def _file_number(byte: int) -> int:
    """Writers have files of their own: fills wait for their commit."""
    return byte % _FALLBACK_FILES if byte < _WRITER_BYTE else _FALLBACK_FILES + byte - _WRITER_BYTE
