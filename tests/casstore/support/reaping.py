"""Views of processes that live or have died, and the reaper of a store."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import casstore
from casstore.leases.reaper import ReapResult, reap
from tests.casstore.support.fill import eventually, fill, fork, hand_out, key_of, status_of


def reap_store(cache: casstore.Cache) -> ReapResult:
    return reap(cache.layout, cache.index, cache.blobs)


def make_view(cache: casstore.Cache, name: str = "k", mode: str = "copy") -> Path:
    entry = fill(cache, key_of(name), b"bytes of " + name.encode())
    return hand_out(cache, entry, mode)


@contextlib.contextmanager
def living_process(cache: casstore.Cache, tmp_path: Path, stop: int = 0) -> Iterator[tuple[int, Path]]:
    """A process that has a view: its pid and the view's path. With *stop*, that signal is sent to it."""
    said = tmp_path / "its view"

    def live() -> None:
        path = make_view(cache)
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
