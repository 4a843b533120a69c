"""Clocks that were ahead, boots without a name, and containers with a boot clock of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import casstore
from casstore import Cache, Moment, clock
from casstore import opening as processes
from casstore.fs import mounts
from casstore.index.entries import put_entry
from casstore.index.updates import TouchEntry
from tests.casstore.support.fill import fill, key_of, read
from tests.casstore.support.stores import used_at

YEARS_NS = 30 * 365 * 86400 * 10**9


@pytest.fixture
def opened(root: Path) -> Callable[[], Cache]:
    """Open the store as a new process does."""

    def open_store() -> Cache:
        for name, cache in list(processes._caches.items()):
            if os.fspath(root) in repr(name):
                cache.close()
                del processes._caches[name]
        return casstore.open(root)

    return open_store


def _commits(cache: Cache) -> int:
    return int(cache.index.read(lambda txn: txn._txn.id()))


def _warm_read(cache: Cache, name: str) -> bytes | None:
    data = read(cache, key_of(name))
    cache.flush()
    return data


@pytest.mark.parametrize("ahead_ns", [YEARS_NS, 3600 * 10**9])
def test_a_use_by_a_clock_that_was_ahead_is_corrected_once(
    cache: Cache, ahead_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time_ns
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: right() + ahead_ns)
        fill(cache, key_of("a"), b"bytes")
        assert _warm_read(cache, "a") == b"bytes"
    now = right()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    assert _warm_read(cache, "a") == b"bytes"
    (entry,) = cache.entries()
    assert entry.last_used_hour == clock.current_hour()
    before = _commits(cache)
    for _ in range(10):
        assert _warm_read(cache, "a") == b"bytes"
    assert _commits(cache) == before


def test_an_earlier_use_does_not_replace_a_later_one(cache: Cache) -> None:
    now = clock.current_hour()
    entry = used_at(cache, fill(cache, key_of("a"), b"bytes"), now)
    cache.committer.submit(TouchEntry(entry, last_used_hour=now - 1))
    cache.flush()
    (entry,) = cache.entries()
    assert entry.last_used_hour == now


def test_a_validation_by_a_boot_clock_that_is_ahead_is_replaced(cache: Cache) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    now = cache.now()
    ahead = replace(entry, validated=replace(now, boot_ns=now.boot_ns + YEARS_NS))
    cache.index.write(lambda txn: put_entry(txn, ahead, entry, None))
    cache.committer.submit(TouchEntry(ahead, validated=now))
    cache.flush()
    (entry,) = cache.entries()
    assert entry.validated == now


def test_moments_are_compared_within_one_boot_clock() -> None:
    first, second, third = (Moment(0, boot_ns, 7) for boot_ns in (1, 2, 3))
    assert second.is_between(first, third)
    assert second.is_between(second, second)
    assert not third.is_between(first, second)
    assert not first.is_between(second, third)
    assert not replace(second, boot=8).is_between(first, third)


def test_without_a_boot_id_nothing_of_another_process_counts_as_of_this_boot(
    opened: Callable[[], Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "boot_id", lambda: b"")
    cache = opened()
    entry = fill(cache, key_of("a"), b"right bytes")
    assert read(cache, key_of("a")) == b"right bytes"
    validated = cache.now()
    cache = opened()
    assert not cache.now().is_since(validated)
    blob = Path(cache.layout.blob(entry.digest.value))
    status = blob.stat()
    # What file systems leave of data that was not synced, after a power cut.
    blob.chmod(0o644)
    blob.write_bytes(bytes(11))
    blob.chmod(0o444)
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read(cache, key_of("a")) is None


def test_a_time_namespace_has_a_boot_clock_of_its_own(
    opened: Callable[[], Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "boot_id", lambda: b"this boot")
    monkeypatch.setattr(mounts, "time_namespace", lambda: b"time:[1]")
    cache = opened()
    tag, validated = cache.boot_mount, cache.now()
    fill(cache, key_of("a"), b"bytes")
    assert opened().now().is_since(validated)
    monkeypatch.setattr(mounts, "time_namespace", lambda: b"time:[2]")
    cache = opened()
    assert not cache.now().is_since(validated)
    assert cache.boot_mount == tag, "the disk has been the same since that boot"
    descriptor = cache.open_fresh(key_of("a"), None)
    assert descriptor is not None
    os.close(descriptor)
