"""Time-outs that hold, where those of `queue.SimpleQueue` do not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from queue import Empty
from typing import Final

import pytest

from casstore.locks.mutex import TimedQueue
from tests.casstore.support.fill import eventually

SHORT: Final = """
from queue import Empty, SimpleQueue
from casstore.locks.mutex import TimedQueue
queue = {}()
for _ in range(100_000):
    queue.put(None)
    queue.get_nowait()
    try:
        queue.get(timeout=1e-6)
    except Empty:
        pass
"""
HANDLER: Final = """
import signal, time
from queue import Empty, SimpleQueue
from casstore.locks.mutex import TimedQueue
queue = {}()
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
signal.setitimer(signal.ITIMER_REAL, 0.05)
queue.put(None)
queue.get()
try:
    queue.get(timeout=0.1)
except Empty:
    pass
"""


@pytest.mark.parametrize("program", [SHORT, HANDLER], ids=["short", "handler"])
def test_a_time_out_holds_however_little_is_left(program: str) -> None:
    """With `SimpleQueue` in place of the class, both hang (CPython 3.11 and 3.12)."""
    subprocess.run([sys.executable, "-c", program.format("TimedQueue")], check=True, timeout=300)


def test_items_come_in_their_order_and_then_none() -> None:
    queue: TimedQueue[int] = TimedQueue()
    for number in range(3):
        queue.put(number)
    assert [queue.get(), queue.get(timeout=0), queue.get_nowait()] == [0, 1, 2]
    for timeout in (0, 0.01):
        with pytest.raises(Empty):
            queue.get(timeout=timeout)
    with pytest.raises(Empty):
        queue.get_nowait()


def test_each_of_several_threads_gets_an_item() -> None:
    queue: TimedQueue[int] = TimedQueue()
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(queue.get()), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(8):
        queue.put(number)
    eventually(lambda: sorted(got) == list(range(8)))


def test_an_interrupt_ends_the_wait() -> None:
    queue: TimedQueue[int] = TimedQueue()

    def interrupt() -> None:
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        queue.get(timeout=600)
    queue.put(1)
    assert queue.get(timeout=600) == 1
