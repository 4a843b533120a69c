"""Processes that may open few files."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_MARGIN = 64


def limit_descriptors() -> None:
    """Let this process open few files more than it has, for good; to be called in a child."""
    limit = max(map(int, os.listdir("/proc/self/fd"))) + _MARGIN
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@contextmanager
def spare_descriptors(spare: int) -> Iterator[None]:
    """In the block, this process may open *spare* files and no more; after `limit_descriptors`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    taken = [os.open("/dev/null", os.O_RDONLY)]
    try:
        while taken[-1] < limit - 1:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        while spare and taken:
            os.close(taken.pop())
            spare -= 1
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


def is_about_descriptors(error: BaseException | None) -> bool:
    """Whether *error*, or what it comes from, says that too many files are open."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        if "Too many open files" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
