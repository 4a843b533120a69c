"""Files of this machine on their way into a cloud."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from pathapi.exceptions import StaleReadError
from pathapi.moving import upload
from pathapi.uploading import Base, Target

THREADS: Final = 8
"""Files of one directory that are under way at a time."""

Where = TypeVar("Where")

_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def upload_file(target: Target, path: str, base: Base) -> None:
    """Upload the file at *path* as it was at one moment; for whoever has the target's write lock.

    Raises StaleReadError where somebody wrote to it meanwhile, and what writing does.
    """
    descriptor = os.open(path, _OPEN_FLAGS)  # not blocking: a pipe would wait for its writer
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise ValueError(f"{path} is no regular file; only those and directories are uploaded")

        def check() -> None:
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise StaleReadError(f"{path} is still being written; nothing was uploaded, try again when it is done")

        upload(target, descriptor, base, check)
    finally:
        os.close(descriptor)


def files_below(directory: str) -> Iterator[tuple[str, str]]:
    """The regular files below *directory*, links followed, as paths and as names from there with slashes."""
    yield from _files_below(directory, "", frozenset())


def _files_below(directory: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    status = os.stat(directory)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return  # a link to a directory above itself
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(entry.path, f"{prefix}{entry.name}/", above | {identity})
        elif entry.is_file():
            yield entry.path, prefix + entry.name


def upload_all(pairs: Iterable[tuple[str, Where]], one: Callable[[str, Where], object]) -> None:
    """Call ``one(path, target)`` for all *pairs*, `THREADS` at a time; after a failure, which is raised, no more."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait  # loads logging

    pending: set[Future[object]] = set()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pathapi-upload")
    try:
        for path, target in pairs:
            pending.add(pool.submit(one, path, target))
            if len(pending) >= 2 * THREADS:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in pending:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
