"""Plans, sweeps and `ls` of a store of a million entries (sparse files), and how long a writer waits for them.

--dir keeps the store; the next run only adds what this one deleted. --only selects some of plan, ls and sweep. The
memory of a plan is the peak of its process's anonymous pages.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness import sparse_store as sparse
from harness.rounds import Contestant, options, race, report

import casstore
from casstore.eviction.collector import EntryRemoval
from casstore.eviction.plan import Plan

PLAN: Final = """
import json, re, sys, threading, time
import casstore
from casstore.eviction.budget import Budget
from casstore.eviction.plan import make_plan
from casstore.config.settings import Rule

def anonymous():
    with open("/proc/self/status") as status:
        found = re.search(r"RssAnon:\\s+(\\d+)", status.read())
    return int(found[1]) * 1024

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.02)

peak = 0
root, budget, rules = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
cache = casstore.open(root)
cache.index.read(lambda txn: None)
if sys.platform == "linux":
    threading.Thread(target=watch, daemon=True).start()
start, used = time.perf_counter(), time.process_time()
plan = make_plan(cache.index, cache.layout, Budget(min_free=0, rules=tuple(Rule(*rule) for rule in rules), **budget))
print(json.dumps([time.perf_counter() - start, time.process_time() - used, peak, len(plan.victims)]))
"""

WRITER: Final = """
import json, os, sys, threading, time
import casstore

cache = casstore.open(sys.argv[1])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
waits, commits = [], []
while not stop.is_set():
    start = time.perf_counter()
    cache.index.write_once(lambda txn: waits.append(time.perf_counter() - start))
    start = time.perf_counter()
    with cache.begin(casstore.Key(f"{sys.argv[2]}{len(commits)}", "s3|bench")) as fill:
        fill.write(os.urandom(1000))
        stored = fill.publish(casstore.Validator(1000, "etag"))
    os.close(stored.descriptor)
    cache.flush()
    commits.append(time.perf_counter() - start)
    time.sleep(0.01)
print(json.dumps([max(waits), sorted(commits)[len(commits) // 2], max(commits)]))
"""

WRITTEN: Final = "s3://bench/written/"


@dataclass(slots=True)
class Figures:
    """Processor time and memory of a plan, a value for each round."""

    name: str
    budget: dict[str, Any]
    rules: list[list[Any]] = field(default_factory=list)
    pins: int = 0
    processor: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def plan(self, cache: casstore.Cache) -> float:
        pinned = [sparse.uri_of(number * 7) for number in range(self.pins)]
        if pinned:
            cache.pin(*pinned)
        arguments = [cache.root, json.dumps(self.budget), json.dumps(self.rules)]
        seconds, processor, memory, _ = json.loads(_run(PLAN, *arguments))
        if pinned:
            cache.unpin(*pinned)
        self.processor.append(processor)
        self.memory.append(memory)
        return float(seconds)


def plans(cache: casstore.Cache, entries: int, rounds: int, *, as_json: bool) -> None:
    stored = sum(sparse.size_of(number) for number in range(entries))
    most, now = stored * 9 // 10, int(time.time())
    tenth = now - (sparse.FIRST_HOUR + sparse.HOURS // 10) * 3600
    rules = [
        ["s3://bench/data/part-0000", None, stored // 200, False],
        ["s3://bench/data/part-00", tenth, None, True],
        ["s3://bench/other/", 3600, None, True],
    ]
    kinds = [
        Figures("lru, evict a tenth", {"max_size": most, "policy": "lru"}),
        Figures("adaptive, evict a tenth", {"max_size": most}),
        Figures("adaptive, max_age, 3 rules, 100 pins", {"max_size": most, "max_age": tenth}, rules, 100),
        Figures("adaptive, evict everything", {"max_size": 0}),
    ]
    wall = [Contestant(kind.name, lambda _, kind=kind: kind.plan(cache), budget="<= 10") for kind in kinds]
    race(wall, rounds)
    title = f"plan, {entries:,} entries and blobs"
    report(title, wall, as_json=as_json)
    processor = [_measured(kind.name, kind.processor) for kind in kinds]
    report(f"{title}: processor time", processor, as_json=as_json)
    if all(kind.memory[0] for kind in kinds):
        memory = [_measured(kind.name, kind.memory, "<= 300") for kind in kinds]
        report(f"{title}: private memory", memory, unit=1e-6, unit_name="MB", as_json=as_json)


def listings(cache: casstore.Cache, entries: int, rounds: int, *, as_json: bool) -> None:
    ls = [sys.executable, "-m", "casstore", "--dir", cache.root, "ls", sparse.prefix_of(entries // 2)]
    commands = {
        "the interpreter, doing nothing": [sys.executable, "-c", "pass"],
        f"casstore ls of {sparse.PER_PREFIX:,} entries": ls,
    }
    processor: dict[str, list[float]] = {name: [] for name in commands}

    def run(name: str) -> float:
        start, used = time.perf_counter(), _children_seconds()
        lines = subprocess.run(commands[name], check=True, capture_output=True).stdout.count(b"\n")
        seconds = time.perf_counter() - start
        processor[name].append(_children_seconds() - used)
        assert lines == (min(entries, sparse.PER_PREFIX) if commands[name] is ls else 0), lines
        return seconds

    nothing, listing = commands
    contestants = [
        Contestant(nothing, lambda _: run(nothing)),
        Contestant(listing, lambda _: run(listing), nothing, "<= 0.3 s"),
    ]
    race(contestants, 5 * rounds)
    title = f"ls, {entries:,} entries, the whole command"
    report(title, contestants, as_json=as_json)
    used = [_measured(nothing, processor[nothing]), _measured(listing, processor[listing], against=nothing)]
    report(f"{title}: processor time", used, as_json=as_json)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Sweeps:
    """Deletions of *count* blobs, different ones each time, and the waits of a concurrent writer."""

    def __init__(self, cache: casstore.Cache, entries: int, count: int) -> None:
        self.cache = cache
        self.entries = entries
        self.count = count
        self.seed = 0
        self.took = 0.0
        self.alone: list[list[float]] = []
        self.beside: list[list[float]] = []

    def _unused(self, *, rows: bool) -> list[bytes]:
        self.seed += 1
        digests = sparse.add_unused(self.cache, self.count, self.seed, rows=rows)
        os.sync()
        return digests

    def unlink(self, _: Path) -> float:
        paths = [self.cache.layout.blob(digest) for digest in self._unused(rows=False)]
        start = time.perf_counter()
        for path in paths:
            os.unlink(path)
        return time.perf_counter() - start

    def sweep(self, _: Path) -> float:
        digests = self._unused(rows=True)
        start = time.perf_counter()
        freed = EntryRemoval(self.cache.index, self.cache.layout).sweep(digests)
        seconds = time.perf_counter() - start
        assert len(freed) == self.count
        return seconds

    def _plan(self) -> Plan:
        sparse.build(Path(self.cache.root), self.entries)
        numbers = sorted(range(self.entries), key=sparse.hour_of)[: self.count]
        going = sum(sparse.size_of(number) for number in numbers)
        plan = self.cache.plan(min_free=0, at_least=going * 100 // 101)
        os.sync()
        return plan

    def _execute(self, plan: Plan) -> float:
        start = time.perf_counter()
        freed = self.cache.execute(plan)
        self.took = time.perf_counter() - start
        assert freed.blobs == len(plan.victims)
        return self.took * self.count / freed.blobs

    def collect(self, _: Path) -> float:
        return self._execute(self._plan())

    def collect_beside_writer(self, _: Path) -> float:
        plan = self._plan()
        with self._writing(self.alone):
            time.sleep(max(2.0, min(20.0, self.took)))
        with self._writing(self.beside):
            return self._execute(plan)

    @contextlib.contextmanager
    def _writing(self, figures: list[list[float]]) -> Iterator[None]:
        command = [sys.executable, "-c", WRITER, self.cache.root, WRITTEN]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield
        finally:
            answer, _ = writer.communicate()
        figures.append(json.loads(answer))
        self.cache.evict(lambda _: True, WRITTEN)


def sweeps(cache: casstore.Cache, entries: int, count: int, rounds: int, *, as_json: bool) -> None:
    done = Sweeps(cache, entries, count)
    bare = f"os.unlink of {count:,} such files"
    contestants = [
        Contestant(bare, done.unlink),
        Contestant("sweep of as many unused blobs", done.sweep, bare, "<= 10"),
        Contestant("gc of as many: entries, then blobs", done.collect, bare),
        Contestant("gc beside a writer", done.collect_beside_writer, bare),
    ]
    race(contestants, rounds)
    report(f"deleting, {entries:,} entries and blobs", contestants, as_json=as_json)
    names = ("the writer lock, longest wait", "a small fill and its commit, median", "a small fill, longest")
    waits = []
    for which, name in enumerate(names):
        alone = f"{name}, alone"
        waits.append(_measured(alone, [figures[which] for figures in done.alone]))
        budget = None if which else "<= 100 ms"
        waits.append(_measured(f"{name}, beside gc", [figures[which] for figures in done.beside], budget, alone))
    report("waits of a writer", waits, unit=1e3, unit_name="ms", as_json=as_json)


def _measured(name: str, values: list[float], budget: str | None = None, against: str | None = None) -> Contestant:
    return Contestant(name, lambda _: 0.0, against, budget, list(values))


def _run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    parts = {"plan", "ls", "sweep"}
    args = options(__doc__ or "", entries=1_000_000, sweeps=100_000, rounds=3, dir="", only=",".join(sorted(parts)))
    chosen = set(args.only.split(","))
    if not chosen <= parts:
        sys.exit(f"--only takes some of {', '.join(sorted(parts))}")
    root = Path(args.dir or tempfile.mkdtemp(prefix="casstore-bench-"))
    start = time.perf_counter()
    try:
        cache = sparse.build(root, args.entries)
        print(f"{args.entries:,} entries and blobs after {time.perf_counter() - start:.0f} s", file=sys.stderr)
        if "plan" in chosen:
            plans(cache, args.entries, args.rounds, as_json=args.json)
        if "ls" in chosen:
            listings(cache, args.entries, args.rounds, as_json=args.json)
        if "sweep" in chosen:
            sweeps(cache, args.entries, args.sweeps, args.rounds, as_json=args.json)
        cache.close()
    finally:
        if not args.dir:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
