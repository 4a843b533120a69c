"""No lock of the packages can stay locked: not in a forked child, and not after an interrupt.

The packages use mutexes of `casstore.locks.mutex` only, which its fork hook knows; here all of them are enumerated.
"""

from __future__ import annotations

import ast
import gc
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from casstore import ReentrantCallError
from casstore.locks import mutex
from casstore.locks.mutex import is_interrupted, new_mutex, refuse_wait
from tests.casstore.support.fill import fork, status_of

ROOT: Final = Path(__file__).parents[1]
FORBIDDEN: Final = {
    "threading": {"Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Timer", "Thread"},
    "queue": {"Queue", "LifoQueue", "PriorityQueue"},
    "concurrent.futures": {"ThreadPoolExecutor", "ProcessPoolExecutor", "Future", "wait"},
    "functools": {"cached_property"},
    "multiprocessing": {"Lock", "RLock", "Condition", "Event", "Semaphore", "Queue", "Pool"},
}
"""What has an inner lock that an interrupt can leave locked, or that no fork hook knows."""
EXEMPT: Final = {"casstore/locks/mutex.py"}
"""The module that makes them; suites for other people's backends (`pathapi.testing`) run in tests only."""


def uses_of_locks(source: str, name: str) -> list[str]:
    """Return the places where a module makes, or imports, something that is forbidden."""
    found = []
    modules: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found += [
                f"{name}:{node.lineno}: {node.module}.{alias.name}"
                for alias in node.names
                if alias.name in FORBIDDEN.get(node.module or "", ())
            ]
        elif isinstance(node, ast.Attribute):
            owner = modules.get(ast.unparse(node.value), ast.unparse(node.value))
            if node.attr in FORBIDDEN.get(owner, ()):
                found.append(f"{name}:{node.lineno}: {owner}.{node.attr}")
    return found


def timed_gets(source: str, name: str) -> list[str]:
    """Return the places where a module waits for a `SimpleQueue` with a time-out, which may not hold."""
    nodes = list(ast.walk(ast.parse(source)))
    queues = {
        ast.unparse(target)
        for node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).endswith("SimpleQueue")
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    return [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and ast.unparse(node.func.value) in queues
        and (node.args or node.keywords)
    ]


def sources() -> Iterator[tuple[str, str]]:
    for package in ("casstore", "pathapi"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def test_the_packages_make_no_lock_of_their_own() -> None:
    found = []
    for name, source in sources():
        if name not in EXEMPT and not name.startswith("pathapi/testing/"):
            found += uses_of_locks(source, name)
    assert found == []


def test_no_time_out_is_that_of_a_simple_queue() -> None:
    assert [place for name, source in sources() for place in timed_gets(source, name)] == []
    assert timed_gets("q: SimpleQueue[int] = SimpleQueue()\nq.get()\nq.get(timeout=1)", "new.py") == [
        "new.py:3: q.get(timeout=1)"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nlock = threading.Lock()",
        "from threading import Condition",
        "import queue as q\nwork = q.Queue()",
        "from concurrent.futures import ThreadPoolExecutor as Pool",
        "import functools\n\nclass Lease:\n    @functools.cached_property\n    def drafts(self): ...",
    ],
)
def test_a_new_lock_would_be_noticed(source: str) -> None:
    assert len(uses_of_locks(source, "new.py")) == 1


EVERYTHING: Final = """
import gc, pkgutil, importlib, sys, tempfile, threading
import casstore, pathapi
for package in (casstore, pathapi):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".testing" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
from pathapi.clouds.file import FileClient
folder = tempfile.mkdtemp(dir=sys.argv[1])
client = FileClient(local_cache_dir=folder + "/store")
path = client.CloudPath(f"file://{folder}/object")
path.write_bytes(b"bytes" * 5_000_000)
client.cache.clear()
assert path.read_bytes() == b"bytes" * 5_000_000
list(path.parent.iterdir()), path.fspath, client.cache.verify(), client.cache.execute(client.cache.plan(max_size=0))
from casstore.locks.mutex import mutexes
known = {id(mutex) for mutex in mutexes()}
ours = ("casstore", "pathapi")
locks = (type(threading.Lock()), type(threading.RLock()))
for owner in gc.get_objects():
    module = type(owner).__module__ or ""
    values = owner if type(owner) is dict and str(owner.get("__name__", "")).partition(".")[0] in ours else None
    if module.partition(".")[0] in ours:
        slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
        values = {**getattr(owner, "__dict__", {}), **{name: getattr(owner, name, None) for name in slots}}
    for name, value in (values or {}).items():
        # A semaphore, which no thread owns, and for which nothing waits longer than a moment.
        is_wakeup = type(owner).__name__ == "TimedQueue" and name == "_wakeup"
        if isinstance(value, locks) and id(value) not in known and not is_wakeup:
            print(module or owner.get("__name__"), name)
"""


def test_every_lock_of_a_process_that_did_everything_is_known_to_the_fork_hook(tmp_path: Path) -> None:
    """By the objects, not by the source: locks that a class of ours inherits or is given count too."""
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def locked_by_another_thread(lock: Any) -> None:
    """Lock *lock* in a thread that never unlocks it."""
    is_locked = threading.Event()

    def stay() -> None:
        lock.acquire()
        is_locked.set()

    threading.Thread(target=stay).start()
    is_locked.wait()


def take_in_child(lock: Any) -> int:
    def take() -> None:
        if not lock.acquire(timeout=0.2):
            os._exit(7)

    return status_of(fork(take))


def test_a_mutex_that_another_thread_has_is_unlocked_in_a_forked_child() -> None:
    lock = new_mutex()
    locked_by_another_thread(lock)
    assert take_in_child(lock) == 0


def test_the_lock_of_tempfile_is_unlocked_in_a_forked_child() -> None:
    """The module looks for a directory while it has it."""
    lock = tempfile._once_lock  # type: ignore[attr-defined]
    lock.acquire()
    try:
        assert take_in_child(lock) == 0
    finally:
        lock.release()


def test_another_lock_stays_locked_in_a_forked_child() -> None:
    """The negative control."""
    lock = threading.RLock()
    locked_by_another_thread(lock)
    assert take_in_child(lock) != 0


def test_a_mutex_of_the_forking_thread_is_still_its_own_in_the_child() -> None:
    """A signal handler may fork inside of a block."""
    lock = new_mutex()

    def leave_the_block() -> None:
        lock.release()
        assert not is_interrupted()

    with lock:
        assert status_of(fork(leave_the_block)) == 0


def test_a_handler_inside_of_a_block_is_refused_a_wait() -> None:
    with new_mutex():
        assert is_interrupted()
        with pytest.raises(ReentrantCallError, match="a signal handler interrupted this thread"):
            refuse_wait("the store")
    assert not is_interrupted()
    with new_mutex(may_wait=True):
        refuse_wait("the store")


def test_a_mutex_that_nothing_uses_is_forgotten() -> None:
    lock = new_mutex()
    reference = weakref.ref(lock)
    assert lock in mutex.mutexes()
    del lock
    gc.collect()
    assert reference() is None
