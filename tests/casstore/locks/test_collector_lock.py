"""One collector at a time, whoever dies or forks meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

import casstore
from casstore import LockTimeoutError
from casstore.locks.lock_files import LockFile
from tests.casstore.support.fill import eventually, fork, forked, status_of

pytestmark = pytest.mark.needs_locks


def _is_free(cache: casstore.Cache) -> bool:
    with LockFile(cache.layout.collector_lock).acquire(0) as file:
        return file.is_locked


def test_who_comes_second_is_told_so(cache: casstore.Cache) -> None:
    with cache.evictor.lock.acquire(0) as file:
        assert file.is_locked
        assert not _is_free(cache)
        assert forked(lambda: _is_free(cache) and os._exit(3)) == 0
    assert _is_free(cache)


def test_a_turn_ends_with_the_process(cache: casstore.Cache) -> None:
    ready, done = os.pipe()

    def hold() -> None:
        with cache.evictor.lock.acquire(0):
            os.write(done, b"x")
            signal.pause()

    pid = fork(hold)
    os.read(ready, 1)
    assert not _is_free(cache)
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    assert _is_free(cache)
    os.close(ready)
    os.close(done)


def test_a_child_forked_meanwhile_neither_keeps_the_turn_nor_ends_it(cache: casstore.Cache) -> None:
    ready, done = os.pipe()
    with cache.evictor.lock.acquire(0):
        pid = fork(lambda: os.read(ready, 1))
        eventually(lambda: os.waitpid(pid, os.WNOHANG) == (0, 0))
        assert not _is_free(cache)
    try:
        eventually(lambda: _is_free(cache))
    finally:
        os.write(done, b"x")
    assert status_of(pid) == 0
    os.close(ready)
    os.close(done)


def test_a_collection_that_waits_too_long_says_so(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = cache.plan(max_size=0, min_free=0)
    monkeypatch.setattr(type(cache.settings), "lock_timeout", 0.01)
    with cache.evictor.lock.acquire(0), pytest.raises(LockTimeoutError, match="another process collects"):
        cache.execute(plan)
