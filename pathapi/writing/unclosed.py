"""Files that were opened for writing and never closed: nothing of theirs is uploaded, and nothing is lost.

A file that is collected, superseded at a prompt, or still open at exit becomes an ``incomplete`` pending write, with a
ResourceWarning. A finaliser only queues its file. A file belongs to the process that opened it; a forked child knows
none of its parent's.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Final, Protocol

from casstore import at_exit, printable
from pathapi.parallel.finalizer_queue import FinalizerQueue


class WritableFile(Protocol):
    """What this module uses of a file."""

    text_flushed: bool

    def keep_as_incomplete(self, why: str) -> None:
        """Keep the bytes as an ``incomplete`` pending write, and close."""
        ...


_files: Final[dict[int, weakref.ref[WritableFile]]] = {}
"""The open files of this process."""
_roots: Final[set[str]] = set()
"""The stores that they write to."""


def _keep(file: WritableFile, is_last: bool) -> bool:
    if not file.text_flushed and not is_last:
        return False  # the collection that queued it is still running
    file.keep_as_incomplete("it was opened for writing and never closed")
    return True


_queue: Final = FinalizerQueue(_keep)


def track(file: WritableFile, root: str) -> None:
    """Track *file*, open on the store at *root*, whose lease exists: `process_all` runs before the store's own exit."""
    _queue.start()
    _files[id(file)] = weakref.ref(file)
    if root not in _roots:
        _roots.add(root)
        at_exit(process_all)  # a second call does nothing, and nor does one for a parent's files


def forget(file: WritableFile) -> None:
    """Track *file* no longer: it was closed, or given up."""
    _files.pop(id(file), None)


def queue_unclosed(file: WritableFile) -> None:
    """Keep *file*, which is being collected, alive until its bytes are safe. Takes no lock."""
    _queue.put(file)


def log_warning(message: str) -> None:
    """Warn on the log, which shows warnings by default: Python hides a ResourceWarning, and this one matters."""
    import logging  # few processes leave a file open

    logging.getLogger(__name__).warning(printable(message))


def process_queue() -> None:
    """Keep the bytes of the files that were queued so far."""
    _queue.drain()


def process_all() -> None:
    """At exit, close the files of logs; keep the bytes of all files that were queued or are still open."""
    _queue.drain(is_last=True)
    _close_logs()
    for reference in list(_files.values()):
        file = reference()
        if file is not None:
            file.keep_as_incomplete("it was still open for writing when its process ended")


def _close_logs() -> None:
    """Close the handlers of `logging` that write to such a file: its own shutdown may come after ours."""
    logging = sys.modules.get("logging")
    if logging is None or not _files:
        return
    for reference in list(logging._handlerList):  # noqa: SLF001 (what its shutdown closes; there is no public list)
        handler = reference()
        stream = getattr(handler, "stream", None)
        if id(stream) in _files or id(getattr(stream, "buffer", None)) in _files:
            try:
                handler.close()
            except Exception as error:  # noqa: BLE001 (the others must be kept, too)
                log_warning(str(error))


os.register_at_fork(after_in_child=_files.clear)
os.register_at_fork(after_in_child=_roots.clear)
