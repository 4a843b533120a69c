"""Two fillers, two readers and a collector with a tiny budget, beside each other for a minute: nobody loses anything.

And the same race with one protection taken away, where it must find out.
"""

from __future__ import annotations

import glob
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from casstore import Cache
from casstore.format.keys import BLOB, ENTRY, USER
from casstore.format.layout import PATHS_NAME
from casstore.format.records import unpack_entry
from casstore.index.transactions import Txn
from tests.casstore.support.fill import run
from tests.casstore.support.race import Race
from tests.casstore.support.race_workers import BUDGET, LOST_PATH, WRONG_READ, Count
from tests.casstore.support.stores import stored
from tests.harness import nolocks

DANGLING = 5
"""Of the kinds of violations: an entry whose blob has no file."""

_ALL_ROWS = 1 << 20

_LEAVES_A_SLOT = """
import os, signal, sys, casstore
casstore.open(sys.argv[1]).index.read(lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""
_LEAVES_TRASH = """
import os, signal, sys, casstore
from casstore.fs import files
from tests.casstore.support.fill import fill, key_of
cache = casstore.open(sys.argv[1])
fill(cache, key_of("last"), b"bytes")
files.unlink_quietly = lambda _: os.kill(os.getpid(), signal.SIGKILL)
cache.evict(lambda _: True)
"""


def _look(cache: Cache) -> list[int]:
    """What is wrong with the rows, inside a write transaction, in which nobody publishes and nobody sweeps."""

    def look(txn: Txn) -> list[int]:
        entries = [unpack_entry(row, record) for row, record in txn.scan(ENTRY, ENTRY, _ALL_ROWS)]
        return [DANGLING for entry in entries if entry is None or not os.path.exists(cache.blob_path(entry))]

    return cache.index.write_once(look)


def _watch(race: Race, cache: Cache, goes_on: Callable[[], bool]) -> list[int]:
    """Let them race until it is over or something is wrong: what."""
    while goes_on():
        race.tend()
        found = race.violations + _look(cache)
        if found:
            return found
        time.sleep(0.01)
    return []


def _has_everybody_worked(race: Race) -> bool:
    return all(
        race.did(role, count)
        for role, counts in {
            "filler": (Count.FILLS, Count.LINKS, Count.SHARED),
            "reader": (Count.READS, Count.PATHS, Count.REREADS),
            "collector": (Count.COLLECTIONS, Count.REMOVED),
        }.items()
        for count in counts
    )


def _collect(cache: Cache, max_size: int) -> None:
    """Two cycles in which nothing else happens: what the first could not take, the second does."""
    for _ in range(2):
        cache.execute(cache.plan(max_size=max_size, min_free=0))


def _leaks(cache: Cache) -> list[str]:
    """What lies in the store and should not, where no process uses it."""
    layout = cache.layout
    own = None if cache.leases.taken is None else cache.leases.taken.name
    directories = (layout.trash, layout.quarantine, layout.write_locks, layout.leases)
    found = [f"{name}/{file}" for name in directories for file in os.listdir(name) if file != own]
    if not os.environ.get(nolocks.VARIABLE):  # there a process may take a path that another one makes for an edit
        found += [path for path in glob.glob(f"{layout.pending_directory}/*/*") if not path.endswith(PATHS_NAME)]
    found += [path for path in glob.glob(f"{layout.local}/e*") if own is None or own not in path]
    env = cache.index._env
    assert env is not None
    slots = [line.split()[0] for line in env.readers().splitlines()[1:]]
    return found + [f"a slot of {pid}" for pid in slots if pid != str(os.getpid())]


@pytest.mark.parametrize(
    "seconds", [1, pytest.param(20, marks=pytest.mark.slow), pytest.param(600, marks=pytest.mark.torture)]
)
def test_a_race_of_fills_reads_and_collections_loses_nothing_and_leaves_nothing(
    cache: Cache, tmp_path: Path, seconds: int
) -> None:
    # Where locks are for show nobody is ever taken for dead: there, all end by themselves.
    kills = not os.environ.get(nolocks.VARIABLE)
    with Race(tmp_path, kills=kills) as race:
        assert _watch(race, cache, lambda: not _has_everybody_worked(race)) == []
        ends = time.monotonic() + seconds
        assert _watch(race, cache, lambda: time.monotonic() < ends) == []
        race.stop()
        assert race.violations + _look(cache) == []
    print({count.name.lower(): race.board.total(count) for count in Count})
    # Each reader does both in turn.
    assert race.board.total(Count.PATHS) >= race.board.total(Count.READS) - race.readers
    for code in (_LEAVES_A_SLOT, _LEAVES_TRASH):  # which in a race one may, and mostly does not
        assert run(code, cache.root).returncode == -signal.SIGKILL
    _collect(cache, BUDGET)
    assert (_look(cache), _leaks(cache), cache.verify().problems) == ([], [], ())
    assert stored(cache) <= BUDGET
    # What has no row was counted, and goes as everything does.
    _collect(cache, 0)
    assert not cache.index.write_once(lambda txn: any(txn.has(kind) for kind in (ENTRY, BLOB, USER)))
    assert (stored(cache), _leaks(cache)) == (0, [])


@pytest.mark.parametrize(
    ("control", "violation"),
    [
        ("mark and sweep", DANGLING),
        pytest.param("grace", DANGLING, marks=pytest.mark.slow),
        ("bare path", LOST_PATH),
        pytest.param("sweep unchecked", DANGLING, marks=pytest.mark.slow),
        pytest.param("publish unchecked", DANGLING, marks=pytest.mark.slow),
        pytest.param("mixed up", WRONG_READ, marks=pytest.mark.slow),
    ],
)
def test_without_a_protection_the_race_finds_out(cache: Cache, tmp_path: Path, control: str, violation: int) -> None:
    hang = time.monotonic() + 1_000
    with Race(tmp_path, kills=False, control=control) as race:
        found = _watch(race, cache, lambda: time.monotonic() < hang)
    assert violation in found
