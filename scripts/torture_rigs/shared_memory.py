"""Shared memory between a process that may be killed at any system call, and the process that checks it."""

from __future__ import annotations

import mmap
import pickle
import struct

from torture_rigs.oracle.recording_bucket import Ledger

_LENGTH = struct.Struct("<Q")


class Note:
    """One value that a child passes to its parent without a system call."""

    def __init__(self, size: int = 1 << 20) -> None:
        self._memory = mmap.mmap(-1, size)

    def leave(self, value: object) -> None:
        """Replace the value; a value that is too long is ignored."""
        data = pickle.dumps(value)
        if len(data) + _LENGTH.size <= len(self._memory):
            self._memory[_LENGTH.size : _LENGTH.size + len(data)] = data
            _LENGTH.pack_into(self._memory, 0, len(data))

    def take(self) -> object:
        """Return the value, or None."""
        (length,) = _LENGTH.unpack_from(self._memory, 0)
        return pickle.loads(self._memory[_LENGTH.size : _LENGTH.size + length]) if length else None


class SharedLedger(Ledger):
    """A ledger without system calls, so that the rig fails none of the bucket's."""

    slowest = 0.0

    def __init__(self, versions: dict[str, list[bytes | None]]) -> None:
        self._note = Note()
        self._note.leave(versions)

    def _versions(self) -> dict[str, list[bytes | None]]:
        found = self._note.take()
        assert isinstance(found, dict)
        return found

    def keys(self) -> list[str]:
        return sorted(self._versions())

    def latest(self, key: str) -> int:
        return len(self._versions().get(key, ()))

    def content(self, key: str, number: int) -> bytes | None:
        versions = self._versions().get(key, [])
        if number > len(versions):
            raise FileNotFoundError(key)
        return versions[number - 1] if number > 0 else None

    def put(self, key: str, data: bytes | None, number: int | None = None) -> int | None:
        versions = self._versions()
        held = versions.setdefault(key, [])
        if number not in (None, len(held) + 1):
            return None
        held.append(data)
        self._note.leave(versions)
        return len(held)
