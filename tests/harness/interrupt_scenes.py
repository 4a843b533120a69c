"""What `tests/end_to_end/test_interrupts.py` interrupts, and what must be so afterwards; one process for each scene.

    python -m tests.harness.interrupt_scenes SCENE raise|handle COUNT CONTROL DIRECTORY

COUNT points are drawn, all with 0; with a control, all until one is noticed. It writes a line of JSON: the number of
points, and for each violation the point and what is wrong.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import lmdb

from casstore import CasstoreError, Fill, Flights, ReentrantCallError
from casstore.index import committer
from casstore.locks.byte_locks import ByteLocks
from pathapi.backends.file import metadata
from pathapi.exceptions import CloudPathException
from pathapi.writing import unclosed
from pathapi.writing.writer import CloudTextWriter
from tests.harness.interrupt_calls import OTHER, SAMPLED, SCENES
from tests.harness.interrupt_stages import Stage
from tests.harness.interrupts import Interrupted, Interrupter
from tests.harness.sampling import draw

HANGS_AFTER: Final = 120
"""Seconds for one point: against hanging only."""
MOST: Final = 10
"""Violations, after which it ends: each may have waited for a time-out."""

LEFT_OPEN: Final = (
    "in _UploadingBuffer.__exit__",
    "in _UploadingBuffer.close",
    "in CloudTextWriter.__exit__",
    "in CloudTextWriter.close",
    "in Edit.__exit__",
)
"""Nothing of their own has begun: the caller's file stays open, as every file of Python does, until it is dropped."""
STAY_PATCHED: Final = "in Patch.__enter__", "in Patch.__exit__"
"""The same: patches stay, as those that no block ends."""


def what_is_left(stage: Stage, seconds: float = HANGS_AFTER / 4) -> list[str]:
    """Return what is locked, open or in a table although no call is running."""
    cache = stage.cache
    if cache.unavailable is not None:
        return [f"the store is bypassed: {cache.unavailable}"]
    deadline = time.monotonic() + seconds
    while True:
        unclosed.process_queue()
        cache.flush()
        left = [
            *(f"a flight of {flight.name!r:.60}" for flight in cache.flights.under_way.values()),
            *(f"a byte lock: {byte}" for byte in cache._locks._held),
            *(f"a write lock of {key.uri}" for key in cache.write_locks._held),
            *(f"a call in the gate of thread {thread}" for thread in cache.index._calls.values()),
            *(f"an entry that is never committed: {key.uri}" for key in cache.recent._entries),
            *(["a fill"] if cache.publisher.fills else []),
            *(["the gate is closed"] if cache.index._closing else []),
        ]
        if not left or time.monotonic() > deadline:
            break
        gc.collect()  # only now: a collection takes longer than all the rest
        time.sleep(0.01)  # a finaliser's thread may be about it
    # As another process would see it: an open file description of its own.
    others = ByteLocks(cache.layout)
    try:
        others.acquire_writer(1.0).release()
    except CasstoreError as error:
        left.append(f"for other processes: {error}")
    others.after_fork_in_child()
    file = cache.evictor.lock.acquire(0)
    if not file.is_locked:
        left.append("the collector's lock")
    file.close()
    return left


def try_again(stage: Stage, name: str) -> list[str]:
    """Read and write the same object; return what goes wrong."""
    path = stage.path(name)
    wrong = []
    try:
        expected = stage.content(name)
        if path.read_bytes() != expected:
            wrong.append("a read afterwards returns other bytes")
        path.write_bytes(OTHER)
        if stage.content(name) != OTHER or path.read_bytes() != OTHER:
            wrong.append("a write afterwards does not arrive")
        path.unlink()
    except Exception as error:  # noqa: BLE001 (reported)
        wrong.append(f"a call afterwards: {type(error).__name__}: {error}")
    return wrong


def in_another_thread(work: Callable[[], list[str]]) -> list[str]:
    """Return what *work* returns in another thread: the interrupted one may lock again what it has left locked."""
    results: SimpleQueue[list[str]] = SimpleQueue()
    threading.Thread(target=lambda: results.put(work()), daemon=True).start()
    return results.get(timeout=HANGS_AFTER * 2)


def fork_and_read(stage: Stage, name: str) -> list[str]:
    """Read in a forked child; return what goes wrong."""
    expected = stage.content(name)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = int(stage.path(name).read_bytes() != expected)
        finally:
            os._exit(status)
    return ["a forked child cannot read"] if os.waitpid(pid, 0)[1] else []


class Handler:
    """A signal handler that uses the library: it reads two objects and writes one."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._count = 0
        self._is_refused = False
        self._failures: list[str] = []
        self._written = stage.path("handler-written")
        stage.plant("handler-warm").read_bytes()

    def __call__(self) -> None:
        self._count += 1
        cold = self._stage.plant(f"handler-{self._count}")
        for work in (
            lambda: self._stage.path("handler-warm").read_bytes(),
            cold.read_bytes,
            lambda: self._written.write_bytes(b"%d" % self._count),
        ):
            began = time.monotonic()
            try:
                work()
            except ReentrantCallError:
                self._is_refused = True
            except (CasstoreError, CloudPathException) as error:
                self._failures.append(f"in the handler: {type(error).__name__}: {error}")
            if time.monotonic() - began > HANGS_AFTER / 4:
                self._failures.append("the handler waited for long")

    def end(self) -> list[str]:
        """Return what went wrong in the handler, and drop what it could not upload, as the next one finds it."""
        failures, self._failures = self._failures, []
        if not self._is_refused and (self._written.pending or self._written.read_bytes() != b"%d" % self._count):
            failures.append("what the handler wrote is not in the cloud")
        self._is_refused = False
        self._written.drop()
        return failures


def weaken(control: str) -> None:
    """Take a mending away: what the checks must notice."""
    if control == "flights":
        Fill.__exit__ = lambda *_: None  # type: ignore[method-assign]
        Flights.__exit__ = lambda *_: None  # type: ignore[method-assign]
    elif control == "text":
        CloudTextWriter.close = io.TextIOWrapper.close  # type: ignore[method-assign]


def main(name: str, how: str, count: int, control: str, directory: str) -> None:
    # No power is cut here, no batch waits for more, and no object is changed in the tick in which it was read.
    metadata.TICK_NS = 0  # type: ignore[misc]
    committer.WINDOW_QUIET = committer.WINDOW_WAITED = 0.0  # type: ignore[misc]
    setattr(lmdb, "open", partial(lmdb.open, sync=False))  # noqa: B010 (a class, for mypy)
    setattr(os, "fsync", lambda _: None)  # noqa: B010
    weaken(control)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # an interrupt inside of a finaliser is lost, in every program
    kind = (SCENES | SAMPLED)[name]
    scene = kind(kind.stage_type(Path(directory)))
    stage = scene.stage
    handler = Handler(stage) if how == "handle" else None
    for number in range(2):  # imports, and what is made once
        scene.prepare(f"warm-up-{number}")
        scene.run(f"warm-up-{number}")
        stage.cache.flush()
        what_is_left(stage)
        try_again(stage, f"warm-up-{number}") if name != "rename" else None
    if scene.is_first_use:
        scene.stage = Stage(Path(directory) / "count")
    scene.prepare("count")
    with Interrupter() as counter:
        scene.run("count")
    violations: list[dict[str, Any]] = []
    leaks: list[str] = []
    descriptors = len(os.listdir("/proc/self/fd"))
    points = range(1, counter.count + 1)
    # All, and up to 100 that a call has more than the counted one: its last ones release what it has.
    chosen = draw(points, count, f"{name} {how}") if count else range(1, counter.count + 101)
    for number in chosen if control == "none" else reversed(points):
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        key = f"point-{number}"
        if scene.is_first_use:
            stage.cache.close()
            stage = scene.stage = Stage(Path(directory) / key)
        scene.prepare(key)
        is_done = False
        wrong: list[str | None] = []
        interrupter = Interrupter(number) if handler is None else Interrupter(number, handler)
        try:
            with interrupter:
                scene.run(key)
                is_done = True
        except Interrupted as error:
            sys.last_value = error  # as a notebook does: its traceback has the frames, and their variables
        except Exception as error:  # noqa: BLE001 (reported)
            wrong.append(f"{type(error).__name__} instead of the interrupt: {error}")
        if number > counter.count and not interrupter.where:
            break
        if interrupter.where.endswith(LEFT_OPEN):
            sys.last_value = None
        wrong += what_is_left(stage) if control == "none" else what_is_left(stage, 0.1)
        found = scene.check(key, is_done)
        wrong.append(None if interrupter.where.endswith(STAY_PATCHED) else found)
        wrong += in_another_thread(partial(try_again, stage, key))
        if number % 50 == 0:
            stage.plant(key)
            wrong += fork_and_read(stage, key)
        if handler is not None:
            wrong += handler.end()
        if (now := len(os.listdir("/proc/self/fd"))) > descriptors:
            leaks.append(f"{now - descriptors} {interrupter.where}")
        descriptors = now
        if any(wrong):
            concise = [one[:300] for one in wrong if one]
            violations.append({"point": number, "where": interrupter.where, "wrong": concise})
            if len(violations) == (MOST if control == "none" else 1):
                break
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"points": counter.count, "leaks": leaks, "violations": violations}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
