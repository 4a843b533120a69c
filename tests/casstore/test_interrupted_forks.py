"""An interrupt at any point of the hooks of `os.fork`, which discards it: parent and child use the store afterwards."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from casstore import Cache, IndexUnavailableError, new_mutex
from casstore.locks.mutex import is_interrupted
from tests.casstore.support.fill import fill, key_of
from tests.harness.interrupts import Interrupted, Interrupter

pytestmark = pytest.mark.needs_locks

KEY = key_of("k")
FIRST = "in _before_fork"
"""Nothing of the hook has begun, so nothing can complete it: the child gets an error."""


class _InOneProcess(Interrupter):
    """Looks at the points of the parent only, or at those of the child only."""

    def __init__(self, at: int, *, in_child: bool) -> None:
        super().__init__(at)
        self._parent, self._in_child = os.getpid(), in_child

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        if (os.getpid() != self._parent) == self._in_child:
            super()._look(frame, event, argument)


@pytest.fixture
def locked() -> Iterator[Any]:
    """A mutex that another thread has while this one forks."""
    mutex, is_locked, done = new_mutex(), threading.Event(), threading.Event()

    def hold() -> None:
        with mutex:
            is_locked.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_locked.wait()
    yield mutex
    done.set()
    thread.join()


@pytest.mark.parametrize("in_child", [True, False], ids=["child", "parent"])
def test_after_an_interrupted_fork_both_sides_use_the_store(
    cache: Cache, locked: Any, monkeypatch: pytest.MonkeyPatch, in_child: bool
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    fill(cache, KEY, b"content")
    wrong, number, is_met = [], 0, True
    while is_met:
        number += 1
        cache.lookup(KEY)
        reading, writing = os.pipe()
        pid = None
        interrupter = _InOneProcess(number, in_child=in_child)
        try:
            with interrupter:
                pid = os.fork()
        except Interrupted:
            sys.setprofile(None)  # at the very end, outside of the hooks
        if os.getpid() != interrupter._parent:
            _report(cache, locked, interrupter, writing)
        lock: Any = logging._lock  # type: ignore[attr-defined]
        while lock._is_owned():
            lock.release()  # an interrupt in the hook of `logging` left it: no other thread could fork
        os.close(writing)
        with os.fdopen(reading) as report:
            where, is_wrong = report.read().split("\n")
        os.waitpid(-1 if pid is None else pid, 0)
        where = where if in_child else interrupter.where
        is_met = bool(where)
        if is_wrong and not where.endswith(FIRST):
            wrong.append(f"child: {where}: {is_wrong}")
        if is_interrupted() or not _can_be_used_by_another_thread(cache):
            wrong.append(f"parent: {where}")
            break
    assert wrong == []
    assert number > 40


def _report(cache: Cache, locked: Any, interrupter: Interrupter, writing: int) -> None:
    """Say in the child where it was interrupted, and what is wrong; end it."""
    wrong = "nothing was found out"
    try:
        sys.setprofile(None)
        entry = cache.lookup(KEY)
        is_free = locked.acquire(blocking=False)
        wrong = "" if entry is not None and is_free else f"{entry} {is_free}"
    except IndexUnavailableError as error:
        wrong = repr(error)
    finally:
        os.write(writing, f"{interrupter.where}\n{wrong}".encode())
        os._exit(0)


def _can_be_used_by_another_thread(cache: Cache) -> bool:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(cache.lookup(KEY)), daemon=True)
    thread.start()
    thread.join(60)
    return any(found)
