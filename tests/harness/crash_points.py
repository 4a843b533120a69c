"""Kills a process at every step of what it does: before and after each call that changes anything, by name.

One run records the names (``before link data #1``, ``after commit #2``); then, for each of them, another child does the
same, stands still right there, and is killed. Only for children that end by it: what is wrapped stays wrapped.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from casstore.locks import lock_files, write_locks
from tests.casstore.support.fill import fork

_CALLS: Final = (
    "link",
    "unlink",
    "rename",
    "replace",
    "rmdir",
    "mkdir",
    "fsync",
    "write",
    "utime",
    "fchmod",
    "ftruncate",
)
_OURS: Final = ("casstore", "pathapi", "os")
"""Whose calls count; `os` because of `os.makedirs`."""

_THINGS: Final = (
    (r"/pending/[^/]+/paths\.json", "record of paths"),
    (r"/local/e.*", "private copy"),
    (r"/local/.*", "local file"),
    (r"/pending/[^/]+/.*\.data", "data"),
    (r"/pending/[^/]+/.*\.json", "record"),
    (r"/pending/[^/]+/[^/]+", "unnamed record"),
    (r"/pending/[^/]+", "directory of the URI"),
    (r"/pending/?", "directory of all"),
    (r"/locks/write/[^/]+", "write lock"),
    (r"/locks/.*", "lock"),
    (r"/leases/.*/lock", "lock of a lease"),
    (r"/(leases|trash)/.*", "lease"),
    (r"/index-v1/.*", "index"),
    (r"/blobs/#.*", "staging"),
    (r"/blobs/../.*", "blob"),
    (r"/blobs/..", "shard"),
    (r"/\.casstore-[0-9a-f]+", "unnamed object"),
)


@dataclass(frozen=True)
class Run:
    """What a child passed through, in order, and what it said was done by then. *status* is negative for a signal."""

    points: list[str]
    said: list[str]
    status: int


class Steps:
    """In the child: every step is written to a log outside of what is under test, and the one numbered *last* is the
    last.
    """

    def __init__(self, log: Path, last: int | None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._write = os.write
        self._last = last
        self._seen: Counter[str] = Counter()
        self._count = 0
        self._mutex = threading.Lock()
        self._is_on = False

    def say(self, what: str) -> None:
        """Done, as far as the caller can tell."""
        self._write(self._log, f"said {what}\n".encode())

    def stop(self, name: str) -> None:
        """A point has been reached; whoever is to die here does not come back."""
        if not self._is_on:
            return
        with self._mutex:
            self._seen[name] += 1
            self._write(self._log, f"at {name} #{self._seen[name]}\n".encode())
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGSTOP)  # the parent looks, and then kills
                signal.pause()
            self._count += 1

    def begin(self) -> None:
        """From here on steps count."""
        self._is_on = True

    def wrap(self, owner: Any, name: str, label: Callable[..., str | None]) -> None:
        """Stop before and after each call of ``owner.name`` that *label* names."""
        real = getattr(owner, name)

        def stop_call_stop(*arguments: Any, **options: Any) -> Any:
            called = label(*arguments, **options)
            if called is None:
                return real(*arguments, **options)
            self.stop(f"before {called}")
            result = real(*arguments, **options)
            self.stop(f"after {called}")
            return result

        setattr(owner, name, stop_call_stop)

    def wrap_system_calls(self) -> None:
        """Those by which casstore and pathapi change names and bytes on the disk."""

        def label_of(name: str) -> Callable[..., str | None]:
            def label(*arguments: Any, **options: Any) -> str | None:
                if sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] not in _OURS:
                    return None
                what = arguments[1] if name in ("link", "rename", "replace") else arguments[0]
                return f"{name} {_thing(what)}"

            return label

        for name in _CALLS:
            self.wrap(os, name, label_of(name))

        def creates(path: Any, flags: int = 0, *_: Any, **__: Any) -> str | None:
            if sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] not in _OURS:
                return None
            return f"create {_thing(path)}" if flags & os.O_CREAT else None

        self.wrap(os, "open", creates)
        # `io` makes the calls for files that are locked: what opens them, and their methods, are wrapped instead.
        for module in (lock_files, write_locks):
            self.wrap(module, "open_private", creates)
        for name, call in (("write", "write"), ("truncate", "ftruncate")):
            self.wrap(lock_files.LockedFile, name, lambda file, *_, call=call: f"{call} {_thing(file.fileno())}")

    def wrap_transactions(self, owner: Any, name: str) -> None:
        """``owner.name`` is a call that does work in a transaction, and commits it."""
        real = getattr(owner, name)

        def write(self_: Any, work: Callable[[Any], Any], *arguments: Any, **options: Any) -> Any:
            def work_inside(txn: Any) -> Any:
                self.stop("after begin")
                result = work(txn)
                self.stop("before commit")
                return result

            self.stop("before begin")
            result = real(self_, work_inside, *arguments, **options)
            self.stop("after commit")
            return result

        setattr(owner, name, write)


def _thing(what: Any) -> str:
    path = what
    if isinstance(what, int):
        try:
            path = os.readlink(f"/proc/self/fd/{what}")
        except OSError:
            return "file"
    path = os.fsdecode(path)
    for pattern, name in _THINGS:
        if re.search(pattern + r"( \(deleted\))?$", path):
            return name
    return "object" if path.rpartition("/")[2].partition(".")[0] == "object" else "other"


def crash(
    work: Callable[[Steps], object], log: Path, last: int | None, look: Callable[[], object] | None = None
) -> Run:
    """Run *work* in a forked child up to its point number *last*, or, with None, to its end. Before it is killed there,
    it stands still while the caller takes a *look*.
    """

    def child() -> None:
        work(Steps(log, last))

    pid = fork(child)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        try:
            if look is not None:
                look()
        finally:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
    lines = log.read_text().splitlines() if log.exists() else []
    return Run(
        [line.removeprefix("at ") for line in lines if line.startswith("at ")],
        [line.removeprefix("said ") for line in lines if line.startswith("said ")],
        os.waitstatus_to_exitcode(status),
    )
