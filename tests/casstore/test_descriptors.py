"""Collections and verifications of a process that may open too few files: all is done, or an error says why not."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import Cache, ProblemKind
from casstore.eviction import reaper
from tests.casstore.support.fill import edited_files, fill, fork, forked, key_of, read, status_of, view
from tests.casstore.support.limits import is_about_descriptors, limit_descriptors, spare_descriptors
from tests.casstore.support.stores import add_orphan, dangling

ENOUGH = 20
"""Spare descriptors that suffice for anything here."""

PINNED = "s3://bucket/pinned"


def _leave_an_edit(cache: Cache) -> None:
    """Of a process that died."""

    def edit_and_die() -> None:
        entry = cache.stat(PINNED)
        assert entry is not None
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        path = view(cache, entry, descriptor, "pinned", "copy")
        os.chmod(path, 0o600)
        Path(path).write_bytes(b"edited")
        os._exit(0)

    assert status_of(fork(edit_and_die)) == 0


def _damage(cache: Cache) -> None:
    """One blob has wrong bytes, one is gone, and one has no row."""
    wrong, missing, _ = (
        Path(cache.blob_path(fill(cache, key_of(name), name.encode() * 100))) for name in ("wrong", "missing", "sound")
    )
    wrong.chmod(0o644)
    wrong.write_bytes(b"x")
    wrong.chmod(0o444)
    missing.unlink()
    add_orphan(cache, b"orphan")


def _sweep(
    cache: Cache,
    prepare: Callable[[Cache], object],
    work: Callable[[Cache], bool],
    check: Callable[[Cache], object] = lambda _: None,
) -> None:
    """*work*, which says whether it did all, with no descriptor to spare, one, two and so on, until it does all three
    times; each time after *prepare* and before *check*.
    """
    fill(cache, key_of("pinned"), b"pinned")
    cache.pin(PINNED)
    outcomes = Counter[str]()
    warnings.simplefilter("error")
    limit_descriptors()
    for spare in range(ENOUGH):
        prepare(cache)
        cache.close()  # so that all is opened anew
        cache._locks.after_fork_in_child()
        try:
            with spare_descriptors(spare):
                outcomes["all" if work(cache) else "a part"] += 1
        except (casstore.CasstoreError, OSError) as error:
            outcomes["error" if is_about_descriptors(error) else repr(error)] += 1
        assert [pin.uri for pin in cache.pins()] == [PINNED]
        assert read(cache, key_of("pinned")) == b"pinned"
        check(cache)
        if outcomes["all"] == 3:
            break
    assert set(outcomes) <= {"all", "a part", "error"}, outcomes
    assert outcomes["all"] == 3 and outcomes["error"] > 2, outcomes


@pytest.mark.needs_locks
def test_a_collection_without_descriptors_is_that_error_and_loses_no_edit(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Starting a process takes more descriptors than all the rest: nobody would be reaped without them.
    monkeypatch.setattr(reaper, "locks_are_exclusive", lambda _: True)
    edited = 0

    def prepare(cache: Cache) -> None:
        nonlocal edited
        for name in ("a", "b"):
            fill(cache, key_of(name), name.encode())
        _leave_an_edit(cache)
        edited += 1

    def collect(cache: Cache) -> bool:
        freed = cache.execute(cache.plan(max_size=0, min_free=0))
        return freed.entries >= 2 and freed.reaped is not None and freed.reaped.leases > 0

    def check(cache: Cache) -> None:
        assert dangling(cache) == []
        # What could not be recorded is where it was, for the next collection, which records nothing twice.
        assert len(list(cache.pending.all())) + len(edited_files(cache)) == edited

    def collect_and_count() -> None:
        _sweep(cache, prepare, collect, check)
        assert len(list(cache.pending.all())) == edited

    assert forked(collect_and_count) == 0


def test_a_verification_without_descriptors_is_that_error_and_no_verdict(cache: Cache) -> None:
    def verify(cache: Cache) -> bool:
        kinds = [problem.kind for problem in cache.verify().problems]
        assert kinds == [ProblemKind.MISSING_BLOB, ProblemKind.WRONG_BYTES]
        return True

    assert forked(lambda: _sweep(cache, _damage, verify)) == 0


def test_a_repair_without_descriptors_is_that_error_or_says_what_is_left_and_condemns_no_sound_blob(
    cache: Cache,
) -> None:
    def repair(cache: Cache) -> bool:
        verified = cache.verify(repair=True)
        assert {problem.kind for problem in verified.problems} <= {ProblemKind.MISSING_BLOB, ProblemKind.WRONG_BYTES}
        for problem in verified.problems:
            assert problem.repair is not None
            assert problem.repair.is_done or "Too many open files" in problem.repair.action
        return not verified.left

    def check(cache: Cache) -> None:
        assert read(cache, key_of("sound")) == b"sound" * 100

    assert forked(lambda: _sweep(cache, _damage, repair, check)) == 0
