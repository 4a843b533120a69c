"""Single flight: one download however many ask, and never a wait for somebody who is gone."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

import casstore
from casstore import Flight, Validator
from casstore.index import committer
from casstore.locks import single_flight
from casstore.locks.byte_locks import ByteLocks
from casstore.locks.single_flight import SingleFlight
from tests.casstore.support.fill import eventually, fill, fork, key_of, read, status_of

pytestmark = pytest.mark.needs_locks

KEY = key_of("k")

Found = TypeVar("Found")


def _find(flight: Flight, look: Callable[[], Found | None]) -> Found | None:
    """What *look* finds before *flight* is granted; None once it is."""
    for _ in flight.polls():
        found = look()
        if found is not None:
            return found
    return None


def _try_acquire(flights: SingleFlight, name: bytes) -> Flight | None:
    """The flight, granted without waiting; None if another reader is downloading."""
    flight = flights.acquire(name)
    return flight if flights.try_grant(flight) else None


def _granted(cache: casstore.Cache, look: Callable[[], object] = lambda: None) -> Flight:
    """The flight, granted."""
    flight = cache.flights.acquire(KEY.row_key)
    assert _find(flight, look) is None
    return flight


def _granted_elsewhere(cache: casstore.Cache) -> Flight:
    """The flight, granted to another thread: to its own holder, it would be granted again."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_granted, cache).result()


def _get(cache: casstore.Cache, log: Path) -> bytes:
    """What a reader does: look, acquire, look again, download."""
    found = read(cache, KEY)
    if found is not None:
        return found
    with contextlib.ExitStack() as flights:
        flight = flights.enter_context(cache.flights.acquire(KEY.row_key))
        found = _find(flight, lambda: read(cache, KEY))
        if found is not None:
            return found
        with cache.begin(KEY, [flight]) as filling:
            flights.pop_all()
            with open(log, "a") as file:
                file.write("download\n")
            time.sleep(0.02)
            filling.write(b"bytes")
            os.close(filling.publish(Validator(5, "e")).descriptor)
    return b"bytes"


def test_many_threads_and_processes_make_one_download(cache: casstore.Cache, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def work() -> None:
        got: list[bytes] = []
        threads = [threading.Thread(target=lambda: got.append(_get(cache, log))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [b"bytes"] * 6
        cache.flush()

    pids = [fork(work) for _ in range(4)]
    work()
    assert [status_of(pid) for pid in pids] == [0] * 4
    assert log.read_text() == "download\n"


def test_when_the_holder_is_killed_the_next_one_flies(cache: casstore.Cache, tmp_path: Path) -> None:
    def hold() -> None:
        _granted(cache)
        (tmp_path / "held").touch()
        time.sleep(60)

    pid = fork(hold)
    got: list[Flight] = []
    thread = threading.Thread(target=lambda: got.append(_granted(cache)))
    try:
        eventually((tmp_path / "held").exists)
        thread.start()
        eventually(lambda: cache.flights.waits)
        assert got == []
    finally:
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
    thread.join()
    got[0].release()


@pytest.mark.parametrize("holder", ["thread", "process"])
def test_a_holder_that_stands_still_is_passed_by(
    root: Path, tmp_path: Path, holder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASSTORE_LOCK_TIMEOUT", "0.05")
    cache = casstore.open(root)

    def hold() -> None:
        _granted(cache)
        (tmp_path / "held").touch()
        time.sleep(60)

    if holder == "thread":
        hold_flight = _granted_elsewhere(cache)
        pid = 0
    else:
        hold_flight = None
        pid = fork(hold)
        eventually((tmp_path / "held").exists)
    _granted(cache).release()
    if pid:
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
    elif hold_flight is not None:
        # The one who was passed by still has the flight.
        assert _try_acquire(cache.flights, KEY.row_key) is None
        hold_flight.release()
    assert isinstance(_try_acquire(cache.flights, KEY.row_key), Flight)


def test_a_signal_handler_does_not_wait_for_the_download_that_it_interrupted(cache: casstore.Cache) -> None:
    flight = _granted(cache)
    polls: list[None] = []
    with cache.flights.acquire(KEY.row_key) as mine:
        polls.extend(mine.polls())
        assert len(polls) == 1
    # The download that it interrupted still has the flight.
    assert _try_acquire(cache.flights, KEY.row_key) is None
    flight.release()
    assert isinstance(_try_acquire(cache.flights, KEY.row_key), Flight)


def test_progress_keeps_waiters_patient(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_LOCK_TIMEOUT", "0.3")
    cache = casstore.open(root)
    flight = _granted_elsewhere(cache)
    began, count = time.monotonic(), itertools.count(1)

    def look() -> str | None:
        # Each look finds the download further on, so that no pause of this machine looks like one that stands still.
        cache.lease.report_progress(flight.progress_name, next(count))
        return "result" if time.monotonic() - began > 1.5 else None

    assert _find(cache.flights.acquire(KEY.row_key), look) == "result"
    flight.release()


def test_a_result_is_seen_by_threads_before_it_is_committed(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "WINDOW_QUIET", 30.0)
    flight = _granted(cache)
    with cache.begin(KEY, [flight]) as filling:
        filling.write(b"bytes")
        os.close(filling.publish(Validator(5, "e")).descriptor)
    assert _find(cache.flights.acquire(KEY.row_key), lambda: cache.lookup(KEY)) is not None
    assert cache.index.get(KEY.row_key) is None
    cache.flush()


def test_a_follower_that_can_use_no_result_gets_its_turn_without_spinning(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a policy that always asks, a result from before the call is none."""
    monkeypatch.setattr(committer, "WINDOW_QUIET", 0.3)
    flight = _granted(cache)
    with cache.begin(KEY, [flight]) as filling:
        filling.write(b"bytes")
        os.close(filling.publish(Validator(5, "e")).descriptor)
    looks: list[int] = []
    _granted(cache, lambda: looks.append(1)).release()
    assert len(looks) < 100


def test_a_failed_download_hands_the_flight_on(cache: casstore.Cache) -> None:
    flight = _granted(cache)
    with contextlib.suppress(ConnectionError), cache.begin(KEY, [flight]) as filling:
        filling.write(b"half")
        raise ConnectionError
    assert isinstance(_try_acquire(cache.flights, KEY.row_key), Flight)


def test_a_look_that_raises_leaves_the_flight_to_others(cache: casstore.Cache) -> None:
    def look() -> None:
        raise ValueError("bad look")

    with pytest.raises(ValueError, match="bad look"), cache.flights.acquire(KEY.row_key) as flight:
        _find(flight, look)
    assert isinstance(_try_acquire(cache.flights, KEY.row_key), Flight)


def test_a_forked_child_starts_without_its_parents_flights(cache: casstore.Cache) -> None:
    flight = _try_acquire(cache.flights, KEY.row_key)
    assert flight is not None

    def work() -> None:
        assert _try_acquire(cache.flights, KEY.row_key) is None  # another process has it: the parent
        flight.release()
        assert _try_acquire(cache.flights, KEY.row_key) is None
        fill(cache, key_of("other"), b"bytes")

    assert status_of(fork(work)) == 0
    assert _try_acquire(cache.flights, KEY.row_key) is None


def test_the_end_of_a_flight_that_was_not_granted_ends_no_other(cache: casstore.Cache) -> None:
    with cache.flights.acquire(KEY.row_key) as first:
        for _ in first.polls():
            pass
        with cache.flights.acquire(KEY.row_key):
            pass  # it does not wait for its turn
        assert cache.flights.under_way[KEY.row_key] is first
        assert _try_acquire(cache.flights, KEY.row_key) is None
    again = _try_acquire(cache.flights, KEY.row_key)
    assert again is not None
    again.release()


def test_a_download_that_stalls_in_another_process_is_waited_for_no_longer(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ByteLocks(cache.layout)
    lock = others.try_acquire(KEY.row_key)
    assert lock is not None
    monkeypatch.setattr(single_flight, "_LOOK_AT_PROGRESS", 0.0)
    monkeypatch.setattr(cache.flights, "timeout", 0.0)
    with cache.flights.acquire(KEY.row_key) as flight:
        for polls, _ in enumerate(flight.polls()):
            assert polls < 100, "it is waited for without end"
    lock.release()
