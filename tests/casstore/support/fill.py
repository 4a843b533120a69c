"""Filling a store without a cloud, and doing things in other processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from casstore import Cache, Entry, Key, ProviderChecksum, Validator
from casstore.index.updates import IndexUpdate, PublishEntry
from casstore.local.names import Place
from casstore.local.paths import Content
from casstore.local.record import records

REPOSITORY = Path(__file__).parents[3]


def key_of(name: str, origin: str = "s3") -> Key:
    """Of an object in a bucket."""
    return Key(f"s3://bucket/{name}", origin)


def fill(cache: Cache, key: Key, data: bytes, etag: str = "e1", stated: tuple[ProviderChecksum, ...] = ()) -> Entry:
    """Publish *data* as *key*'s object and wait for the commit."""
    with cache.begin(key) as filling:
        filling.write(data)
        stored = filling.publish(Validator(len(data), etag), stated)
    os.close(stored.descriptor)
    cache.flush()
    assert stored.entry is not None
    return stored.entry


def read(cache: Cache, key: Key) -> bytes | None:
    """The bytes by the warm path, else by the careful one; None for a miss."""
    descriptor = cache.open_fresh(key, None)
    if descriptor is None:
        entry = cache.lookup(key)
        descriptor = None if entry is None else cache.open_entry(entry)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:
        return file.read()


def hand_out(cache: Cache, entry: Entry, mode: str) -> Path:
    """A local path of the object, as a "copy" or a "link"."""
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    try:
        return Path(view(cache, entry, descriptor, entry.uri.removeprefix("s3://bucket/"), mode))
    finally:
        os.close(descriptor)


def view(cache: Cache, entry: Entry, descriptor: int, name: str, mode: str | None = None) -> str:
    """A local path of an object of the bucket "bucket"."""
    return cache.local.path(Place(entry.key, "bucket", name), Content.of_entry(entry), descriptor, mode)


def release(cache: Cache, path: str | Path) -> None:
    """Give a local path back."""
    for _, record in records(cache.layout):
        if record.of_path(str(path)) is not None:
            cache.local.release(record.key, str(path))


def edited_files(cache: Cache) -> list[str]:
    """The local files that exist and have other bytes than the store gave them."""
    return [
        cache.layout.local_path(file.name)
        for _, record in records(cache.layout)
        for file in record.files
        if file.is_changed(cache.layout, cache.boot_mount)
    ]


def fork(work: Callable[[], object]) -> int:
    """Run *work* in a forked child; the pid. Its status is 0 unless it raised."""
    pid = os.fork()
    if pid == 0:
        _work_and_exit(work)
    return pid


def _work_and_exit(work: Callable[[], object]) -> NoReturn:
    status = 1
    # Where it hangs is said before the test's own time is over. (faulthandler's watch would hang after a fork itself.)
    signal.signal(signal.SIGALRM, lambda _, frame: traceback.print_stack(frame))
    signal.alarm(1_000)
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it was is printed, and told by the status
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def fork_without_hooks(work: Callable[[], object]) -> int:
    """`fork` as a library in C does it, around Python's hooks; to be called where there is one thread only.

    A child of a process with threads may begin with the interpreter's lock in the hands of one that it has not got, and
    hang. See `alone`.
    """
    pid: int = ctypes.PyDLL(None).fork()  # PyDLL: this thread keeps the interpreter's lock, in the child as well
    if pid == 0:
        _work_and_exit(work)
    return pid


def alone(work: Callable[[], object]) -> int:
    """Run *work* in a process with no other thread, a forked child; its status."""
    return forked(work)


def status_of(pid: int) -> int:
    """Wait for a child: its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(work: Callable[[], object]) -> int:
    """`fork` and `status_of`."""
    return status_of(fork(work))


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a fresh Python."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=1_000,
    )


def replace_in(owner: object, **functions: object) -> None:
    """For a process that ends by it: nothing is put back. What is not there cannot be replaced, so that is an error."""
    for name, function in functions.items():
        assert hasattr(owner, name), f"{owner} has no {name}: it is elsewhere now"
        setattr(owner, name, function)


def queue(waiting: list[IndexUpdate], update: IndexUpdate) -> None:
    """What `Committer.submit` does, without a commit."""
    if isinstance(update, PublishEntry):
        update.is_queued = True
    waiting.append(update)


def eventually(condition: Callable[[], object], seconds: float = 300.0) -> None:
    """Wait until *condition* holds; the time is a bound against hanging, not a claim."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
