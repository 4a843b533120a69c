"""The reading processes: each lists, reads everything in its own order, and compares every byte."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import connection
from pathlib import Path
from typing import Any

from casstore import boot_clock_ns
from demos.shared.bucket import Bucket
from demos.shared.dataset import LARGE, Dataset, Planted
from demos.shared.terminal import children_ignore_interrupts
from pathapi.reading.listing_cache import SECONDS as LISTING_SECONDS

_POLL = 0.1
"""Seconds between two updates of the progress bar."""

Work = Sequence[tuple[Any, bytes]]
"""What to open, and the SHA-256 of its bytes."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task that all workers do at the same time.

    *source* is ``list``, ``always`` and ``immutable`` (through a client of that freshness), or ``plain``: the built-in
    ``open`` of the plain files. *sizes* is a choice of `chosen`. Equal *epoch* means equal order.
    """

    source: str
    epoch: int = 0
    sizes: str = "all"


@dataclass(frozen=True, slots=True)
class Done:
    """One worker's part: when it ran (by the monotonic clock, which all processes share), and what was wrong.

    *cpu_seconds* is the processor time of the worker, all threads together. *outlived* counts children that were asked
    when their listing was too old to answer for them. *failure* is a traceback.
    """

    began: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    mismatched_bytes: int = 0
    outlived: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of a worker: *always* and *immutable* are clients, made in the parent; *number* is the worker's.

    *root* is the bucket's URI, *uris* are those of its objects, by key.
    """

    number: int
    parent: int
    root: str
    uris: dict[str, str]
    always: Any
    immutable: Any
    dataset: Dataset


def chosen(dataset: Dataset, sizes: str) -> list[Planted]:
    """Return the objects that are ``small``, ``large`` (`LARGE` and more), or ``all``."""
    return [item for item in dataset.objects if sizes == "all" or (item.size >= LARGE) == (sizes == "large")]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What all workers did together; *seconds* are from the first one's start to the last one's end."""

    seconds: float
    cpu_seconds: float
    mismatched_bytes: int
    outlived: int

    @classmethod
    def of(cls, done: Sequence[Done]) -> Outcome:
        """Sum up the parts of all workers."""
        return cls(
            max(item.ended for item in done) - min(item.began for item in done),
            sum(item.cpu_seconds for item in done),
            sum(item.mismatched_bytes for item in done),
            sum(item.outlived for item in done),
        )


class WorkerError(Exception):
    """A worker failed; the message is its traceback or its exit code."""


class Workers:
    """The reading processes, as the parent sees them; see `started`."""

    def __init__(self, processes: list[Any], pipes: list[Any], progress: Any) -> None:
        self._processes, self._pipes, self._progress = processes, pipes, progress

    def run(self, task: Task, on_progress: Callable[[int], None]) -> Outcome:
        """Run *task* in all workers; *on_progress* is called with the number of objects that are done.

        Raises: WorkerError.
        """
        for number, pipe in enumerate(self._pipes):
            self._progress[number] = 0
            pipe.send(task)
        waiting: dict[Any, Any] = dict(zip(self._pipes, self._processes, strict=True))
        done: list[Done] = []
        while waiting:
            ready: list[Any] = connection.wait([*waiting, *(item.sentinel for item in waiting.values())], _POLL)
            for pipe in ready:
                if isinstance(pipe, int):
                    self._explain_death(waiting)
                    continue
                answer: Done = pipe.recv()
                if answer.failure:
                    raise WorkerError(answer.failure)
                done.append(answer)
                del waiting[pipe]
            on_progress(sum(self._progress))
        return Outcome.of(done)

    def _explain_death(self, waiting: dict[Any, Any]) -> None:
        for pipe, process in waiting.items():
            if not process.is_alive() and not pipe.poll():
                raise WorkerError(f"{process.name} died with exit code {process.exitcode}")


@contextlib.contextmanager
def started(
    count: int, method: str, bucket: Bucket, always: Any, immutable: Any, dataset: Dataset
) -> Iterator[Workers]:
    """Start *count* processes by *method*; kill all of them at the end."""
    context: Any = multiprocessing.get_context(method)
    progress = context.RawArray("Q", count)
    uris = {item.key: bucket.uri_of(item.key) for item in dataset.objects}
    processes, pipes = [], []
    try:
        with children_ignore_interrupts():
            for number in range(count):
                pipe, theirs = context.Pipe()
                job = Job(number, os.getpid(), bucket.uri, uris, always, immutable, dataset)
                arguments = (job, theirs, progress)
                process = context.Process(target=_serve, args=arguments, name=f"worker {number}", daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(pipe)
        yield Workers(processes, pipes, progress)
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


# --- the worker's side ------------------------------------------------------------------------------------------------


def _serve(job: Job, pipe: Any, progress: Any) -> None:
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    worker = _Worker(job, progress)
    while (task := pipe.recv()) is not None:
        try:
            pipe.send(worker.run(task))
        except Exception:  # noqa: BLE001 - sent to the parent, which ends the demonstration
            pipe.send(Done(failure=traceback.format_exc()))


def die_with_parent(parent: int) -> None:
    """Exit this process once *parent* has ended; runs in a thread of the child."""
    # With forkserver the parent is that server, which ends with the process that started it.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class _Worker:
    def __init__(self, job: Job, progress: Any) -> None:
        self._job, self._progress = job, progress
        self._truth = {item.key: item for item in job.dataset.objects}
        self._listed: dict[str, Any] = {}

    def run(self, task: Task) -> Done:
        if task.source == "list":
            return self._list()
        keys = [item.key for item in chosen(self._job.dataset, task.sizes)]
        random.Random(f"{self._job.number} {task.epoch}").shuffle(keys)
        opener = _open_plain if task.source == "plain" else _open_cloud
        work = [(self._named(task.source, key), self._truth[key].sha256) for key in keys]
        began, cpu_began = time.monotonic(), time.process_time()
        wrong = self._read(work, opener)
        ended, cpu_seconds = time.monotonic(), time.process_time() - cpu_began
        # Counted after the clock was read: the time of a run with mismatches does not matter.
        return Done(began, ended, cpu_seconds, sum(self._count_mismatch(keys[number], data) for number, data in wrong))

    def _list(self) -> Done:
        job = self._job
        began = time.monotonic()
        root = job.always.CloudPath(job.root)
        outlived, listed_ns = 0, boot_clock_ns()
        for path in root.rglob("*"):
            if path.is_file():
                self._listed[str(path)] = path
            # On a slow machine the listing expires meanwhile, and then a HEAD is right: it must not count as a miss.
            outlived += boot_clock_ns() - listed_ns > LISTING_SECONDS * 1e9
        ended = time.monotonic()
        if differing := sorted(self._listed.keys() ^ set(job.uris.values())):
            raise ValueError(f"the listing is wrong about {len(differing)} objects: {differing[:3]}")
        self._progress[job.number] = len(self._listed)
        return Done(began, ended, outlived=outlived)

    def _named(self, source: str, key: str) -> Any:
        if source == "plain":
            return str(self._job.dataset.directory / key)
        if source == "immutable":
            return self._job.immutable.CloudPath(self._job.uris[key])
        return self._listed[self._job.uris[key]]

    def _read(self, work: Work, opener: Callable[[Any], Any]) -> list[tuple[int, bytes]]:
        """Read and compare everything; return the numbers and the bytes of mismatches."""
        wrong = []
        for number, (name, truth) in enumerate(work):
            with opener(name) as file:
                data = file.read()
            if sha256(data).digest() != truth:
                wrong.append((number, data))
            self._progress[self._job.number] = number + 1
        return wrong

    def _count_mismatch(self, key: str, data: bytes) -> int:
        truth = Path(self._job.dataset.directory, key).read_bytes()
        differing = sum(ours != theirs for ours, theirs in zip(data, truth, strict=False))
        return differing + abs(len(data) - len(truth))


def _open_cloud(path: Any) -> Any:
    return path.open("rb")


def _open_plain(path: str) -> Any:
    return open(path, "rb")
