"""Threads beside a test, which end with it however it ends."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType, FunctionType
from typing import cast

from casstore import Cache, Key, WriteLock
from casstore.locks.write_locks import WriteLocks
from tests.casstore.support.fill import fill, key_of, read


def acquired(
    locks: WriteLocks, key: Key, timeout: float | None = None, on_poll: Callable[[], object] | None = None
) -> WriteLock:
    """Acquire the write lock of *key*, and return it."""
    lock = locks.request(key)
    lock.acquire(timeout, on_poll)
    return lock


def threads_in(function: Callable[..., object]) -> int:
    """Return how many threads are inside of *function*, which their start called; they have no names."""
    code, found = cast("FunctionType", function).__code__, 0
    for frame in sys._current_frames().values():
        below: FrameType | None = frame
        while below is not None and below.f_code is not code:
            below = below.f_back
        found += below is not None
    return found


@contextlib.contextmanager
def repeating(*rounds: Callable[[int], object]) -> Iterator[None]:
    """Run each of *rounds* over and over in a thread of its own until the block ends; it is passed its number, from 1.

    Raises AssertionError with what a round raised.
    """
    stop = threading.Event()
    wrong: list[BaseException] = []

    def repeat(one: Callable[[int], object]) -> None:
        try:
            for number in count(1):
                one(number)
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - the block's end shows it
            wrong.append(error)

    threads = [threading.Thread(target=repeat, args=(one,)) for one in rounds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def refilling(cache: Cache, name: str) -> Callable[[int], None]:
    """Return a round for `repeating`: it fills the key of *name* with new bytes and reads them."""

    def refill(number: int) -> None:
        fill(cache, key_of(name), b"%d" % number, f"e{number}")
        assert read(cache, key_of(name)) == b"%d" % number

    return refill
