"""Files that were opened for writing and never closed: nothing of theirs is uploaded, and nothing is lost.

One that is collected, superseded at a prompt, or still open at exit becomes an ``incomplete`` pending write, with a
ResourceWarning. A finaliser may run in the middle of anything, also of what holds a lock: it only queues the file,
and a thread does the rest. A file belongs to the process that opened it; a forked child knows none of its parent's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from casstore import at_exit

if TYPE_CHECKING:
    pass


_NEVER_CLOSED: Final = "it was opened for writing and never closed"
_MOMENT: Final = 0.005


class _Strays:
    """The open files of this process, and those that were left."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.open: dict[int, weakref.ref[WritableFile]] = {}
        self.left: SimpleQueue[WritableFile] = SimpleQueue()
        self.mutex = threading.Lock()
        self.thread: threading.Thread | None = None
        self.registered: set[str] = set()


_strays: _Strays = _Strays()


def _ours() -> _Strays:
    global _strays
    if _strays.pid != os.getpid():
        _strays = _Strays()
    return _strays


def track(file: WritableFile, root: str) -> None:
    """*file* was opened, on the store at *root*, whose lease is taken: so this runs before the store's own exit."""
    strays = _ours()
    with strays.mutex:
        strays.open[id(file)] = weakref.ref(file)
        if strays.thread is None:
            # Started here, because a finaliser cannot.
            strays.thread = threading.Thread(
                target=_settle_for_ever, args=(strays,), name="pathapi-strays", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                strays.thread.start()
        is_known = root in strays.registered
        strays.registered.add(root)
    if not is_known:
        at_exit(process_all)


def forget(file: WritableFile) -> None:
    """*file* was closed, or given up."""
    _strays.open.pop(id(file), None)


def queue_unclosed(file: WritableFile) -> None:
    """*file* is being collected: keep it alive until its bytes are safe. Takes no lock."""
    if _strays.pid == os.getpid():
        _strays.left.put(file)


def log_warning(message: str) -> None:
    """On the log, which shows it by default: Python hides a ResourceWarning, and this one matters."""
    import logging  # few processes leave a file open

    logging.getLogger(__name__).warning(message)


def process_queue() -> None:
    """Deal with what was left so far."""
    strays = _ours()
    early = []
    with contextlib.suppress(Empty):
        while True:
            file = strays.left.get_nowait()
            if file.text_flushed:
                file.keep_as_incomplete(_NEVER_CLOSED)
            else:
                early.append(file)
    for file in early:
        strays.left.put(file)


def process_all() -> None:
    """At exit: what was left, and what is still open."""
    process_queue()
    strays = _ours()
    with contextlib.suppress(Empty):
        while True:
            strays.left.get_nowait().keep_as_incomplete(_NEVER_CLOSED)
    for reference in list(strays.open.values()):
        file = reference()
        if file is not None:
            file.keep_as_incomplete("it was still open for writing when its process ended")


def _settle_for_ever(strays: _Strays) -> None:
    while True:
        file = strays.left.get()
        if file.text_flushed:
            file.keep_as_incomplete(_NEVER_CLOSED)
        else:
            time.sleep(_MOMENT)  # the collection that left it is still under way
            strays.left.put(file)
        del file


def _forget_in_child() -> None:
    global _strays
    _strays = _Strays()


_HAS_FORK: Final = hasattr(os, "register_at_fork")
if _HAS_FORK:
    os.register_at_fork(after_in_child=_forget_in_child)


class WritableFile(Protocol):
    """What `strays` needs of a file."""

    text_flushed: bool

    def keep_as_incomplete(self, why: str) -> None:
        """Keep the bytes as an ``incomplete`` pending write, and close."""
        ...
