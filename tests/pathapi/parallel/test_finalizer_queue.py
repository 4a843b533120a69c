"""What finalisers leave to a thread: handled once, in time, and in no child."""

from __future__ import annotations

import threading

from pathapi.parallel.finalizer_queue import FinalizerQueue
from tests.casstore.support.fill import eventually, forked


def test_an_item_is_handled_by_the_thread_or_by_a_drain() -> None:
    handled: list[tuple[str, str]] = []

    def handle(item: str, _: bool) -> bool:
        handled.append((item, threading.current_thread().name))
        return True

    queue = FinalizerQueue(handle)
    queue.put("before")
    queue.drain()
    assert handled == [("before", "MainThread")]
    queue.start()
    queue.put("after")
    eventually(lambda: len(handled) == 2)
    assert handled[1][0] == "after" and handled[1][1] != "MainThread"


def test_an_item_that_is_too_early_is_handled_again_and_at_exit_at_last() -> None:
    calls: list[bool] = []

    def handle(_: str, is_last: bool) -> bool:
        calls.append(is_last)
        return is_last or len(calls) > 2

    queue = FinalizerQueue(handle)
    queue.put("early")
    queue.drain()
    queue.drain(is_last=True)
    queue.drain(is_last=True)
    assert calls == [False, True]
    queue.start()
    calls.clear()
    queue.put("early")
    eventually(lambda: calls == [False] * 3)


def test_a_forked_child_handles_nothing_of_its_parents() -> None:
    handled: list[str] = []

    def handle(item: str, _: bool) -> bool:
        handled.append(item)
        return True

    queue = FinalizerQueue(handle)
    queue.put("the parent's")

    def work() -> None:
        queue.drain(is_last=True)
        assert handled == []
        queue.start()
        queue.put("the child's")
        eventually(lambda: handled == ["the child's"])

    assert forked(work) == 0
    queue.drain()
    assert handled == ["the parent's"]
