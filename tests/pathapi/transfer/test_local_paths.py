"""A path handed out to a real process: readable through whatever takes things away, until that process ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

import casstore
from pathapi import FileClient
from tests.casstore.support.fill import REPOSITORY, eventually
from tests.casstore.support.stores import stored
from tests.harness import nolocks

SIZE: Final = 200_000
_BEFORE: Final = os.urandom(SIZE)
_AFTER: Final = os.urandom(SIZE)

_HOLD = """
import hashlib, os, sys
from pathapi import FileClient

path = os.fspath(FileClient(views=sys.argv[2]).CloudPath(sys.argv[1]))
print(path, flush=True)
for _ in sys.stdin:
    with open(path, "rb") as file:
        print(hashlib.sha256(file.read()).hexdigest(), flush=True)
"""
_READ = """
import sys
import time
from pathapi import FileClient

for uri in sys.argv[1:]:
    FileClient().CloudPath(uri).read_bytes()
"""


class Holder:
    """A process that asked for the local path of an object, and reads by it when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.path = self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process that holds the path failed; its error is above"
        return line.rstrip("\n")

    def digest(self) -> str:
        """Of what it reads now."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """By ``kill -9``."""
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL


@dataclass
class Bench:
    """A bucket of files and a store, and other processes that use them."""

    directory: Path
    environment: dict[str, str]
    cache: casstore.Cache

    def plant(self, name: str, data: bytes) -> None:
        (self.directory / "bucket" / name).write_bytes(data)

    def uri(self, name: str) -> str:
        return f"file://{self.directory}/bucket/{name}"

    def popen(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self, *names: str, **settings: str) -> None:
        """Another process reads these objects through the store."""
        command = [sys.executable, "-c", _READ, *map(self.uri, names)]
        subprocess.run(command, cwd=REPOSITORY, env=self.environment | settings, check=True)

    def command(self, *arguments: str) -> dict[str, Any]:
        """``casstore`` with these arguments, in a process of its own; what it says."""
        command = [sys.executable, "-m", "casstore", *arguments, "--yes", "--json"]
        done = subprocess.run(command, cwd=REPOSITORY, env=self.environment, stdout=subprocess.PIPE, text=True)
        said: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if said.get("within_budget", True) else 1)
        return said

    def collect(self) -> dict[str, Any]:
        """``casstore gc`` with room for nothing."""
        return self.command("gc", "--max-size", "0")

    def used(self) -> int:
        """Bytes of the disk that the files of the store take, once each; but for the index."""
        files = [file for file in Path(self.cache.root).rglob("*") if file.is_file() and "index-v1" not in file.parts]
        return sum({status.st_ino: status.st_blocks * 512 for status in (file.stat() for file in files)}.values())


@pytest.fixture
def bench(tmp_path: Path, environment: dict[str, str]) -> Iterator[Bench]:
    (tmp_path / "bucket").mkdir()
    if nolocks.VARIABLE in os.environ:
        environment[nolocks.VARIABLE] = os.environ[nolocks.VARIABLE]
    cache = casstore.open(environment["CASSTORE_DIR"])
    yield Bench(tmp_path, environment, cache)
    cache.close()


@pytest.fixture(params=["link", "copy", "auto"])
def holder(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Holder]:
    """Who holds the path of an object; as a hard link to the blob, a copy, or what the store thinks best."""
    bench.plant("object.bin", _BEFORE)
    with bench.popen("-c", _HOLD, bench.uri("object.bin"), request.param) as process:
        try:
            holder = Holder(process)
            is_linked = os.stat(holder.path).st_nlink > 1
            assert is_linked or request.param != "link"
            assert not is_linked or request.param != "copy"
            eventually(lambda: bench.cache.usage().entries)  # the path may come before the commit
            yield holder
        finally:
            process.kill()


def _evict(bench: Bench) -> None:
    assert bench.cache.evict(lambda _: True).entries == 1
    assert stored(bench.cache) == 0


def _fill_beyond_the_budget(bench: Bench) -> None:
    names = [f"other-{number}" for number in range(8)]
    for name in names:
        bench.plant(name, os.urandom(SIZE))

    def is_trimmed() -> bool:
        bench.read(*names, CASSTORE_MAX_SIZE=str(2 * SIZE))
        return bench.cache.usage().entries <= 3

    eventually(is_trimmed, 90)


def _replace(bench: Bench) -> None:
    before = bench.cache.stat(bench.uri("object.bin"))
    bench.plant("object.bin", _AFTER)
    bench.read("object.bin")
    after = bench.cache.stat(bench.uri("object.bin"))
    assert before is not None and after is not None and after.digest != before.digest
    bench.plant("object.bin", _BEFORE)


TAKING_AWAY: Final[dict[str, Callable[[Bench], object]]] = {
    "gc": Bench.collect,
    "evict": _evict,
    "clear": lambda bench: bench.command("clear"),
    "fills beyond the budget": _fill_beyond_the_budget,
    "another version": _replace,
    "gc again": Bench.collect,
}


@pytest.mark.sampled(2)
def test_a_path_keeps_its_bytes_whatever_is_taken_away(bench: Bench, holder: Holder) -> None:
    expected = hashlib.sha256(_BEFORE).hexdigest()
    assert Path(holder.path).name == "object.bin"
    for what, take_away in TAKING_AWAY.items():
        bench.read("object.bin")  # so that there is something to take
        take_away(bench)
        assert holder.digest() == expected, what


@pytest.mark.needs_locks
def test_what_a_killed_process_held_is_freed_by_the_next_collection(bench: Bench, holder: Holder) -> None:
    said = bench.collect()
    is_linked = os.stat(holder.path).st_nlink > 1
    assert [held["linked_from"] for held in said["held"]] == ([[holder.path]] if is_linked else [])
    assert said["within_budget"] is not is_linked
    assert bench.used() >= SIZE
    holder.kill()
    said = bench.collect()
    assert (said["within_budget"], said["held"], said["reaped"]["leases"]) == (True, [], 1)
    assert said["freed_bytes"] == SIZE
    assert not os.path.exists(holder.path)
    assert os.listdir(bench.cache.layout.leases) == []
    assert stored(bench.cache) == 0
    assert bench.used() < SIZE


@pytest.mark.needs_locks
def test_what_was_evicted_while_a_process_held_it_is_freed_once_that_is_killed(bench: Bench, holder: Holder) -> None:
    _evict(bench)
    assert bench.used() >= SIZE
    holder.kill()
    said = bench.collect()
    assert said["freed_bytes"] == SIZE
    assert os.listdir(bench.cache.layout.leases) == []
    assert bench.used() < SIZE


def test_the_text_of_a_directorys_path_is_good_for_half_the_time_of_grace_at_least(tmp_path: Path) -> None:
    (tmp_path / "bucket/d").mkdir(parents=True)
    (tmp_path / "bucket/d/a").write_bytes(b"a")
    client = FileClient(local_cache_dir=tmp_path / "store")
    local = os.fspath(client.CloudPath(f"file://{tmp_path}/bucket/d"))
    record = client.cache.layout.path_record(client.CloudPath(f"file://{tmp_path}/bucket/d/a").location.store_key.name)
    for seconds, again in ((4, False), (2, True)):
        ((directory, (path, since, use)),) = client.directories.items()
        client.directories[directory] = path, replace(since, boot_ns=since.boot_ns - seconds * 10**9), use
        before = time.time() - seconds
        os.utime(record, (before, before))
        assert os.fspath(client.CloudPath(f"file://{tmp_path}/bucket/d")) == local
        assert (os.stat(record).st_mtime > before + 1) == again
    client.cache.close()
