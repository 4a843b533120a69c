"""Leases of processes that live or have died, and the reaper of a store."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import casstore
from casstore import Place
from casstore.eviction.reaper import ReapResult, reap
from tests.casstore.support.fill import eventually, fill, fork, key_of, status_of


def reap_store(cache: casstore.Cache) -> ReapResult:
    return reap(cache.layout, cache.index, cache.changes)


def make_private(cache: casstore.Cache, name: str = "k") -> Path:
    """A private path, whose file goes with its process."""
    entry = fill(cache, key_of(name), b"bytes of " + name.encode())
    with open(cache.blob_path(entry), "rb") as blob:
        return Path(cache.local.private_path(Place(entry.key, "bucket", name), entry.validator, blob.fileno()))


def lease_of(path: Path) -> str:
    """The name of the lease of a private path."""
    return path.parts[path.parts.index("local") + 1][1:17]


@contextlib.contextmanager
def living_process(cache: casstore.Cache, tmp_path: Path, stop: int = 0) -> Iterator[tuple[int, Path]]:
    """A process that has a private path: its pid and the path. With *stop*, that signal is sent to it."""
    said = tmp_path / "its path"

    def live() -> None:
        path = make_private(cache)
        (tmp_path / "saying").write_text(str(path))
        (tmp_path / "saying").rename(said)
        time.sleep(600)

    pid = fork(live)
    try:
        eventually(said.exists)
        if stop:
            os.kill(pid, stop)
        yield pid, Path(said.read_text())
    finally:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):  # a test may have done that already
            os.kill(pid, signal.SIGKILL)
            status_of(pid)
