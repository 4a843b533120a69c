"""What `tests/end_to_end/test_interrupts.py` interrupts, and what must be so afterwards; one process for each scene.

    python -m tests.harness.interrupt_scenes SCENE raise|handle COUNT CONTROL DIRECTORY

COUNT points are drawn, all with 0; with a control, all until one is noticed. It writes a line of JSON: the number of
points, and for each violation the point and what is wrong.
"""

from __future__ import annotations

import contextlib
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

import pathapi
from casstore import CasstoreError, Fill, Flights, ReentrantCallError
from casstore.index import committer
from casstore.locks.byte_locks import ByteLocks
from pathapi.backends.file import metadata
from pathapi.exceptions import CloudPathException
from pathapi.writing import unclosed
from pathapi.writing.writer import CloudTextWriter
from tests.harness.interrupt_stages import OLD, HttpStage, Stage
from tests.harness.interrupts import Interrupted, Interrupter
from tests.harness.sampling import draw

NEW: Final = b"new! " * 5_000
OTHER: Final = b"other"
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


class Scene:
    """One public call: prepared, made and checked for each point, on an object of its own."""

    stage_type: type[Stage] = Stage
    is_first_use = False
    """Whether each point has a new store, of which nothing is open and no thread runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def prepare(self, name: str) -> None:
        """Plant the object."""
        self.stage.plant(name)

    def run(self, name: str) -> None:
        """Make the call."""
        raise NotImplementedError

    def check(self, name: str, is_done: bool) -> str | None:
        """Return what is wrong in the cloud; *is_done*: the call has returned."""
        content = self.stage.content(name)
        return None if content == OLD else f"the object has changed: {content!r:.40}"


class ColdRead(Scene):
    def run(self, name: str) -> None:
        if self.stage.path(name).read_bytes() != OLD:
            raise AssertionError("wrong bytes")


class ColdOpen(Scene):
    def run(self, name: str) -> None:
        with self.stage.path(name).open("rb") as file:
            if file.read() != OLD:
                raise AssertionError("wrong bytes")


class WarmRead(ColdRead):
    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.path(name).read_bytes()
        self.stage.cache.flush()


class WarmHit(WarmRead):
    """Without a request."""

    def run(self, name: str) -> None:
        with self.stage.path(name).open("rb", freshness="immutable") as file:
            if file.read() != OLD:
                raise AssertionError("wrong bytes")


class Fspath(WarmRead):
    def run(self, name: str) -> None:
        assert Path(self.stage.path(name)).read_bytes() == OLD


class LocalDirectory(WarmRead):
    def run(self, name: str) -> None:
        self.stage.client.directories.clear()
        assert Path(self.stage.path(name).parent, name).read_bytes() == OLD


class Write(Scene):
    new = NEW

    def run(self, name: str) -> None:
        self.stage.path(name).write_bytes(NEW)

    def check(self, name: str, is_done: bool) -> str | None:
        content = self.stage.content(name)
        if is_done and content != self.new:
            return f"it returned, and the cloud has {content!r:.40}"
        if content not in (OLD, self.new):
            return f"a half object: {len(content or b'')} bytes"
        path = self.stage.path(name)
        for write in path.pending:
            path.drop(write)
        return None


class TextWrite(Write):
    def run(self, name: str) -> None:
        with self.stage.path(name).open("w") as file:
            for _ in range(50):
                file.write("new! " * 100)


class TextClose(TextWrite):
    """As a script without a ``with`` does."""

    def run(self, name: str) -> None:
        file = self.stage.path(name).open("w")
        try:
            file.write(NEW.decode()[:7_000])
            file.write(NEW.decode()[7_000:])
        finally:
            file.close()

    def check(self, name: str, is_done: bool) -> str | None:
        # An exception between two writes is the script's: what it closes is uploaded.
        content = self.stage.content(name)
        if content in (b"", NEW[:7_000]) and not is_done:
            return None
        return super().check(name, is_done)


class Append(Write):
    new = OLD + OTHER

    def run(self, name: str) -> None:
        with self.stage.path(name).open("ab") as file:
            file.write(OTHER)


class Rename(Scene):
    def run(self, name: str) -> None:
        self.stage.path(name).rename(self.stage.path(f"{name}-renamed"))

    def check(self, name: str, is_done: bool) -> str | None:
        contents = self.stage.content(name), self.stage.content(f"{name}-renamed")
        if contents not in ((OLD, None), (None, OLD), (OLD, OLD)) or (is_done and contents != (None, OLD)):
            return f"after the move: {contents!r:.80}"
        with contextlib.suppress(FileNotFoundError):
            (self.stage.files / f"{name}-renamed").rename(self.stage.files / name)
        return None


class Unlink(Scene):
    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.path(name).read_bytes()

    def run(self, name: str) -> None:
        self.stage.path(name).unlink()

    def check(self, name: str, is_done: bool) -> str | None:
        content = self.stage.content(name)
        if content is not None and (is_done or content != OLD):
            return f"after the deletion: {content!r:.40}"
        self.stage.plant(name)
        return None


class Listing(Scene):
    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.plant(f"{name}-dir/one")
        self.stage.plant(f"{name}-dir/two")

    def run(self, name: str) -> None:
        directory = self.stage.path(f"{name}-dir")
        if len(list(directory.iterdir())) != 2 or len(list(directory.glob("*"))) != 2:
            raise AssertionError("a wrong listing")


class Prefetch(Listing):
    def run(self, name: str) -> None:
        pathapi.prefetch([self.stage.path(f"{name}-dir/{one}") for one in ("one", "two")])


class Collect(WarmRead):
    def run(self, name: str) -> None:
        self.stage.cache.execute(self.stage.cache.plan(max_size=0))


class Clear(WarmRead):
    def run(self, name: str) -> None:
        self.stage.cache.clear(f"file://{self.stage.files}/{name}")


class Edit(Write):
    way = "edit"

    def run(self, name: str) -> None:
        with getattr(self.stage.path(name), self.way)() as path:
            Path(path).write_bytes(NEW)


class WriteByName(Edit):
    way = "writing"


class HttpRead(ColdRead):
    stage_type = HttpStage


class HttpWrite(Write):
    stage_type = HttpStage


class FirstRead(ColdRead):
    is_first_use = True


class FirstWrite(Write):
    is_first_use = True

    def prepare(self, name: str) -> None:
        super().prepare(name)
        unclosed._queue._begin_process()


SCENES: Final[dict[str, type[Scene]]] = {
    "warm-hit": WarmHit,
    "warm-read": WarmRead,
    "cold-read": ColdRead,
    "cold-open": ColdOpen,
    "fspath": Fspath,
    "directory": LocalDirectory,
    "write": Write,
    "text-write": TextWrite,
    "text-close": TextClose,
    "append": Append,
    "edit": Edit,
    "writing": WriteByName,
    "rename": Rename,
    "unlink": Unlink,
    "listing": Listing,
    "prefetch": Prefetch,
    "collect": Collect,
    "clear": Clear,
    "http-read": HttpRead,
    "http-write": HttpWrite,
    "first-read": FirstRead,
    "first-write": FirstWrite,
}


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
    scene = SCENES[name](SCENES[name].stage_type(Path(directory)))
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
    chosen = draw(points, count, f"{name} {how}") if count else points
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
        if interrupter.where.endswith(LEFT_OPEN):
            sys.last_value = None
        wrong += what_is_left(stage) if control == "none" else what_is_left(stage, 0.1)
        wrong.append(scene.check(key, is_done))
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
