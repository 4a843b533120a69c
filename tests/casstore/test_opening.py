"""One cache per directory and process; every way to start a process."""

from __future__ import annotations

import builtins
import gc
import importlib
import multiprocessing
import multiprocessing.context
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import casstore
from casstore import opening as processes
from casstore import root as stores
from casstore.index.transactions import Txn
from casstore.ingest.fill import Fill
from tests.casstore.support.fill import (
    REPOSITORY,
    alone,
    eventually,
    fill,
    fork,
    fork_without_hooks,
    forked,
    key_of,
    read,
    run,
    status_of,
    view,
)
from tests.casstore.support.threads import refilling, repeating
from tests.harness.sampling import by_pass


def test_one_directory_is_one_cache_however_it_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = casstore.open(root)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASSTORE_DIR", str(root))
    assert casstore.open(str(root)) is casstore.open("store") is casstore.open(tmp_path / "link") is cache
    assert casstore.open() is cache
    with pytest.raises(casstore.StoreFormatError):
        casstore.open(root, digest="sha256")


def test_a_closed_store_leaves_no_descriptor_and_no_cache(tmp_path: Path) -> None:
    def descriptors() -> list[str]:
        paths = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return [path for path in paths if path.startswith(str(tmp_path))]

    caches: list[weakref.ref[casstore.Cache]] = []
    for number in range(5):
        cache = casstore.open(tmp_path / str(number))
        caches.append(weakref.ref(cache))
        fill(cache, key_of("k"), b"bytes")
        cache.flush()
        assert read(cache, key_of("k")) == b"bytes"
        cache.close()
        assert descriptors() == []
        del cache
    gc.collect()
    eventually(lambda: [one() for one in caches] == [None] * 5)  # a thread of the last one may just be ending


def test_a_closed_cache_that_is_used_again_stays_the_cache_of_its_directory(root: Path) -> None:
    cache = casstore.open(root)
    fill(cache, key_of("k"), b"bytes")
    cache.close()
    assert read(cache, key_of("k")) == b"bytes"  # opens the environment again
    kept = id(cache)
    del cache
    gc.collect()
    again = casstore.open(root)
    assert id(again) == kept
    assert again.index.is_open


def test_a_lock_that_is_released_after_the_close_takes_its_descriptor_along(root: Path) -> None:
    cache = casstore.open(root)
    with cache.flights.acquire(b"name") as flight:
        list(flight.polls())
        cache.close()
        assert cache._locks._descriptor >= 0
    assert cache._locks._descriptor < 0


def test_many_threads_open_one_cache(root: Path) -> None:
    caches: list[casstore.Cache] = []
    threads = [threading.Thread(target=lambda: caches.append(casstore.open(root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(cache) for cache in caches}) == 1


def test_another_store_that_took_the_directory_is_opened_as_what_it_is(root: Path) -> None:
    fill(casstore.open(root), key_of("k"), b"bytes")
    shutil.rmtree(root)
    assert run("import sys, casstore; casstore.open(sys.argv[1], digest='sha256')", str(root)).returncode == 0
    cache = casstore.open(root, digest="sha256")
    assert cache.algorithm == "sha256"
    assert fill(cache, key_of("k"), b"bytes").digest.algorithm == "sha256"
    assert read(cache, key_of("k")) == b"bytes"


def _read_and_fill(root: str, name: str) -> None:
    cache = casstore.open(root)
    assert read(cache, key_of("parent")) == b"parent"
    fill(cache, key_of(name), name.encode())
    descriptor = cache.open_entry(cache.stat(f"s3://bucket/{name}"))  # type: ignore[arg-type]
    assert descriptor is not None
    os.close(descriptor)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_share_the_store(cache: casstore.Cache, method: str) -> None:
    fill(cache, key_of("parent"), b"parent")
    context = cast("multiprocessing.context.SpawnContext", multiprocessing.get_context(method))
    children = [context.Process(target=_read_and_fill, args=(cache.root, f"{method}{n}")) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert cache.usage().entries == 3
    assert len(os.listdir(cache.layout.leases)) <= 1


def test_a_grandchild_shares_the_store(cache: casstore.Cache) -> None:
    fill(cache, key_of("parent"), b"parent")

    def child() -> None:
        _read_and_fill(cache.root, "child")
        assert status_of(fork(lambda: _read_and_fill(cache.root, "grandchild"))) == 0

    assert status_of(fork(child)) == 0
    assert cache.usage().entries == 3


def test_forks_while_threads_fill_lose_nothing_on_either_side(cache: casstore.Cache) -> None:
    fill(cache, key_of("parent"), b"parent")
    children = by_pass(quick=7, full=20)
    with repeating(*(refilling(cache, name) for name in "abcd")):
        statuses = [status_of(fork(lambda n=n: _read_and_fill(cache.root, f"child{n}"))) for n in range(children)]  # type: ignore[misc]
    assert statuses == [0] * children
    assert cache.usage().entries == 1 + 4 + children


def test_a_fork_waits_for_what_another_thread_imports(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of its module would stay locked in the child, whose first use of many functions imports modules."""
    (tmp_path / "imported_slowly.py").write_text("import time\nbegun.set()\nends.wait()\n")
    begun, ends = threading.Event(), threading.Event()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, event in (("begun", begun), ("ends", ends)):
        monkeypatch.setattr(builtins, name, event, raising=False)
    thread = threading.Thread(target=importlib.import_module, args=("imported_slowly",))
    thread.start()
    begun.wait()

    def import_it() -> None:
        signal.alarm(5)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # not in a thread: its number may be that of the thread that has the lock
        importlib.import_module("imported_slowly")

    # The fork looks again after a moment: the import ends then.
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: ends.set()))
    try:
        assert status_of(fork(import_it)) == 0
    finally:
        ends.set()
        thread.join()
        sys.modules.pop("imported_slowly", None)


def test_a_signal_handler_may_fork_while_its_thread_forks(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, key_of("parent"), b"parent")
    real, statuses = casstore.Cache.before_fork, list[int]()

    def interrupt(self: casstore.Cache) -> None:
        real(self)
        if not statuses:
            statuses.append(1)
            statuses[0] = status_of(fork(lambda: read(cache, key_of("parent"))))

    monkeypatch.setattr(casstore.Cache, "before_fork", interrupt)
    assert status_of(fork(lambda: _read_and_fill(cache.root, "child"))) == 0
    assert statuses == [0]
    _read_and_fill(cache.root, "parent too")
    thread = threading.Thread(target=_read_and_fill, args=(cache.root, "thread"), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert cache.usage().entries == 4


def test_a_thread_may_fork_while_another_one_shows_a_warning_of_a_store(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows it may need a lock that the forking thread has: that of `logging`, which no fork leaves locked."""
    real, statuses = stores.open_root, list[int]()

    def open_and_warn(path: Path, algorithm: None, environment: Any, warn: Callable[[str], object], **rest: Any) -> Any:
        warn("a warning")
        return real(path, algorithm, environment, warn, **rest)

    def show(*_: object, **__: object) -> None:
        thread = threading.Thread(target=lambda: statuses.append(status_of(fork(lambda: None))), daemon=True)
        thread.start()
        thread.join(10)

    monkeypatch.setattr(processes, "open_root", open_and_warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        casstore.open(root)
    assert statuses == [0]


def test_programs_that_are_started_share_the_store(cache: casstore.Cache) -> None:
    fill(cache, key_of("parent"), b"parent")
    code = """
import sys
from tests.casstore.test_opening import _read_and_fill
_read_and_fill(sys.argv[1], sys.argv[2])
"""
    for name in ("one", "two"):
        done = run(code, cache.root, name)
        assert done.returncode == 0, done.stderr
    assert cache.usage().entries == 3


def test_many_processes_make_open_and_fill_one_store_at_once(root: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def work(number: int) -> None:
        eventually(go.exists)
        cache = casstore.open(root)
        (tmp_path / f"id{number}").write_text(cache.store_id)
        fill(cache, key_of(f"k{number}"), b"%d" % number)
        fill(cache, key_of("shared"), b"shared")
        for name, data in ((f"k{number}", b"%d" % number), ("shared", b"shared")):
            assert read(cache, key_of(name)) == data
        cache.close()

    pids = [fork(lambda number=number: work(number)) for number in range(32)]  # type: ignore[misc]
    go.touch()
    assert [status_of(pid) for pid in pids] == [0] * 32
    cache = casstore.open(root)
    assert {path.read_text() for path in tmp_path.glob("id*")} == {cache.store_id}
    assert cache.usage().entries == 33
    assert all(read(cache, key_of(f"k{number}")) == b"%d" % number for number in range(32))
    assert [name for name in os.listdir(cache.layout.index) if name.isdecimal()] == ["1"]


def test_a_writer_that_is_killed_in_a_transaction_leaves_nothing_and_stops_nobody(
    cache: casstore.Cache, tmp_path: Path
) -> None:
    fill(cache, key_of("k"), b"bytes")
    inside = tmp_path / "inside"

    def write(txn: Txn) -> None:
        txn.delete(key_of("k").row_key)
        txn.put(b"Ehalf", b"record")
        txn.flush()
        inside.touch()
        time.sleep(600)

    pid = fork(lambda: cache.index.write_once(write))
    eventually(inside.exists)
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    fill(cache, key_of("next"), b"next")
    assert read(cache, key_of("k")) == b"bytes"
    assert cache.index.get(b"Ehalf") is None


def test_a_fork_without_hooks_gets_an_error_and_harms_nobody(cache: casstore.Cache) -> None:
    def parent() -> None:
        entry = fill(cache, key_of("k"), b"bytes")
        path = view(cache, entry, cache.open_entry(entry) or -1, "k")

        def child() -> None:
            with pytest.raises(casstore.IndexUnavailableError, match="forked without Python's fork hooks"):
                cache.lookup(key_of("k"))
            with pytest.raises(casstore.IndexUnavailableError, match="forked without Python's fork hooks"):
                cache.begin(key_of("other"))
            cache.close()

        assert status_of(fork_without_hooks(child)) == 0
        assert Path(path).read_bytes() == b"bytes"
        assert read(cache, key_of("k")) == b"bytes"
        fill(cache, key_of("other"), b"other")

    assert alone(parent) == 0


def test_a_forked_child_has_nothing_of_its_parents_unfinished_download(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddle() -> None:
        filling.write(b"child")

    def fail() -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            meddle()

    with cache.begin(key_of("k")) as filling:
        filling.write(b"by")
        assert forked(fail) == 0
        filling.write(b"tes")
        os.close(filling.publish(casstore.Validator(5, "e1")).descriptor)
    cache.flush()
    assert read(cache, key_of("k")) == b"bytes"
    # What it is for: a descriptor that both have is one file, and one position in it.
    monkeypatch.setattr(Fill, "after_fork_in_child", lambda _: None)
    with cache.begin(key_of("control")) as filling:
        filling.write(b"by")
        assert forked(meddle) == 0
        filling.write(b"tes")
        assert os.pread(filling.staging.descriptor, 100, 0) == b"bychildtes"


_ONE_PID = """
import os, sys, time, casstore
from tests.casstore.support.fill import eventually, fill, key_of, read
cache = casstore.open(sys.argv[1])
assert os.getpid() == int(sys.argv[2]), os.getpid()
if sys.argv[3] == "first":
    fill(cache, key_of("k"), b"bytes")
    assert read(cache, key_of("k")) == b"bytes"
    print("inside", flush=True)
    sys.stdin.readline()
    fill(cache, key_of("k"), b"later", "e2")
    assert read(cache, key_of("k")) == b"later"
else:
    try:
        cache.lookup(key_of("k"))
    except casstore.IndexUnavailableError as error:
        print(error)
"""


def _in_its_own_namespace(root: Path, role: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["unshare", "-p", "-f", "--mount-proc", sys.executable, "-c", _ONE_PID, str(root), "1", role],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.needs_root
def test_two_processes_with_one_pid_in_two_namespaces_are_told_the_cause_and_the_two_ways_out(root: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-p", "-f", "--mount-proc", "true"], check=False).returncode:
        pytest.skip("no PID namespaces here")
    with _in_its_own_namespace(root, "first") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        said, stderr = _in_its_own_namespace(root, "second").communicate(timeout=1_000)
        assert "PID namespace" in said, stderr
        assert "give each its own store (CASSTORE_DIR)" in said
        # And the first is none the worse for it.
        _, stderr = first.communicate("go on\n", timeout=1_000)
        assert first.returncode == 0, stderr
    assert read(casstore.open(root), key_of("k")) == b"later"
