"""Policies: what users may write, which one counts, and how old an answer may be."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from casstore import Digest, Entry, Key, Moment, Validator
from pathapi import FileClient
from pathapi.freshness import ALWAYS, IMMUTABLE, OFFLINE, Freshness, FreshnessPolicy, parse_freshness

SECOND = 10**9
BEGAN = Moment(1_000 * SECOND, 500 * SECOND, 7)


def entry_validated(wall: int, boot_ns: int, boot: int = 7) -> Entry:
    validated = Moment(wall * SECOND, boot_ns * SECOND, boot)
    return Entry(Key("s3://b/k", "s3"), Digest("xxh3-128", bytes(16)), Validator(1, "etag"), validated)


def test_a_policy_is_a_name_seconds_or_a_timedelta() -> None:
    assert parse_freshness(" Always ") is ALWAYS
    assert parse_freshness("immutable") is parse_freshness(float("inf")) is IMMUTABLE
    assert parse_freshness("offline") is OFFLINE
    assert parse_freshness("1.5") == parse_freshness(1.5) == parse_freshness(timedelta(seconds=1.5))
    assert parse_freshness(0) == Freshness(0)
    assert parse_freshness(pickle.loads(pickle.dumps(ALWAYS))) is ALWAYS


@pytest.mark.parametrize(
    ("wall", "served"), [(1_000, True), (990, True), (989, False), (1_001, False), (9_999_999, False)]
)
def test_an_answer_is_good_for_its_ttl_and_one_from_the_future_has_expired(wall: int, served: bool) -> None:
    assert Freshness(10 * SECOND).allows(entry_validated(wall, 400), BEGAN, BEGAN) == served


def test_an_answer_to_a_later_question_is_good_under_any_policy_of_the_same_boot() -> None:
    for policy in (ALWAYS, Freshness(0), Freshness(SECOND)):
        assert policy.allows(entry_validated(0, 500), BEGAN, BEGAN)
        assert not policy.allows(entry_validated(0, 499), BEGAN, BEGAN)
        assert not policy.allows(entry_validated(0, 600, boot=8), BEGAN, BEGAN)


def test_an_answer_from_a_boot_clock_that_is_ahead_proves_nothing() -> None:
    later = Moment(1_001 * SECOND, 501 * SECOND, 7)
    assert ALWAYS.allows(entry_validated(1_001, 501), later, BEGAN)
    for boot_ns in (502, 1_000_000):
        assert not ALWAYS.allows(entry_validated(1_000, boot_ns), later, BEGAN)


def test_the_longest_prefix_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASSTORE_OFFLINE", raising=False)
    policy = FreshnessPolicy({"s3://b/": 60, "s3://b/raw/": "immutable", "": "always"})
    assert policy.of("s3://b/raw/x") is IMMUTABLE
    assert policy.of("s3://b/x") == Freshness(60 * SECOND)
    assert policy.of("s3://c/x") is ALWAYS
    assert policy.of_call("s3://b/raw/x", "always") is ALWAYS
    assert FreshnessPolicy({"s3://b/": 60}).of("s3://c") is ALWAYS


def test_the_environment_gives_the_default_and_overrides_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_FRESHNESS", "60")
    assert FreshnessPolicy(None).default == Freshness(60 * SECOND)
    assert FreshnessPolicy("immutable").default is IMMUTABLE
    monkeypatch.setenv("CASSTORE_OFFLINE", "yes")
    policy = FreshnessPolicy({"s3://b/": "always"})
    assert policy.of("s3://b/k") is policy.of_call("s3://b/k", "always") is OFFLINE


def test_a_validation_in_the_future_is_corrected_by_the_next(tmp_path: Path) -> None:
    """A clock that was ahead and is set back must not make every read ask until it has caught up."""
    (tmp_path / "a").write_bytes(b"1")
    path = FileClient(local_cache_dir=tmp_path / "store", freshness=60).CloudPath(f"file://{tmp_path}/a")
    path.read_bytes()
    cache = path.client.cache
    cache.flush()
    (entry,) = cache.entries()
    ahead = replace(
        entry.validated, wall_ns=entry.validated.wall_ns + 3600 * SECOND, boot_ns=entry.validated.boot_ns + 1
    )
    cache.refresh(entry, ahead)
    cache.flush()
    assert [held.validated.wall_ns for held in cache.entries()] == [ahead.wall_ns]
    path.read_bytes()
    cache.flush()
    assert [held.validated.wall_ns < ahead.wall_ns for held in cache.entries()] == [True]
