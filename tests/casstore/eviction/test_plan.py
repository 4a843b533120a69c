"""A plan says what goes: least recently used first, only what frees something, and nothing more than is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

import casstore
from casstore.eviction import budget
from casstore.eviction import inventory as surveys
from casstore.eviction.inventory import hour_of, recency_key
from casstore.eviction.plan import Plan
from casstore.eviction.victims import Reason, Victim
from casstore.format.keys import BLOB, blob_row
from casstore.format.records import pack_entry, row_checksum
from casstore.index.eviction_history import LRU_EXPERT
from tests.casstore.support.fill import fill, key_of, release, view
from tests.casstore.support.stores import HOUR, add_orphan, tree_of, used_at


def _uris(cache: casstore.Cache, plan: Plan) -> list[tuple[str, ...]]:
    return [cache.uris_of(blob.digest) for blob in plan.victims]


def _fill_aged(cache: casstore.Cache, **hours: int) -> list[casstore.Entry]:
    """Objects of 1000 bytes, last used so many hours after `HOUR`."""
    return [
        used_at(cache, fill(cache, key_of(name), name.encode() * 1000), HOUR + hour) for name, hour in hours.items()
    ]


def test_least_recently_used_goes_first_and_no_more_than_is_asked(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=3, b=1, c=2, d=4)
    plan = cache.plan(max_size=2500, min_free=0)
    assert _uris(cache, plan) == [("s3://bucket/b",), ("s3://bucket/c",)]
    assert (
        plan.stored,
        plan.blobs,
        plan.requested_bytes,
        plan.reclaimable_bytes,
        plan.shortfall(plan.reclaimable_bytes),
    ) == (4000, 4, 1500, 2000, 0)


def test_what_was_used_while_a_clock_was_ahead_counts_as_of_unknown_use(cache: casstore.Cache) -> None:
    ahead = int(time.time()) // 3600 + 30 * 365 * 24
    _fill_aged(cache, a=3, b=1)
    used_at(cache, fill(cache, key_of("future"), b"f" * 1000), ahead)
    assert _uris(cache, cache.plan(max_size=2500, min_free=0)) == [("s3://bucket/future",)]
    assert _uris(cache, cache.plan(max_age=10 * 365 * 86400, min_free=0)) == [("s3://bucket/future",)]


def test_a_clock_that_was_slightly_ahead_evicts_nothing_early(cache: casstore.Cache) -> None:
    used_at(cache, fill(cache, key_of("ahead"), b"f" * 1000), int(time.time()) // 3600 + 2)
    _fill_aged(cache, old=1)
    assert _uris(cache, cache.plan(max_size=1500, min_free=0)) == [("s3://bucket/old",)]
    assert _uris(cache, cache.plan(max_age=86400, min_free=0)) == [("s3://bucket/old",)]


def test_within_the_budget_nothing_goes(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1, b=2)
    assert not cache.plan(max_size=2000, min_free=0).victims
    assert not cache.plan(min_free=0).victims


def test_within_an_hour_the_last_validation_decides(cache: casstore.Cache) -> None:
    for name in ("b", "a", "c"):
        _fill_aged(cache, **{name: 0})
    plan = cache.plan(max_size=1100, min_free=0)
    assert _uris(cache, plan) == [("s3://bucket/b",), ("s3://bucket/a",)]


def test_a_blob_counts_once_and_as_used_as_the_newest_of_its_users(cache: casstore.Cache) -> None:
    for name, hour in {"old": 0, "new": 5}.items():
        used_at(cache, fill(cache, key_of(name), b"x" * 1000), HOUR + hour)
    _fill_aged(cache, b=3)
    plan = cache.plan(max_size=1500, min_free=0)
    assert (plan.stored, _uris(cache, plan)) == (2000, [("s3://bucket/b",)])
    plan = cache.plan(max_size=0, min_free=0)
    assert [sorted(uris) for uris in _uris(cache, plan)] == [["s3://bucket/b"], ["s3://bucket/new", "s3://bucket/old"]]


def test_a_hundredth_more_goes_than_has_to(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1, b=2, c=3)
    assert len(cache.plan(max_size=2000, min_free=0).victims) == 2  # one would leave not a byte of room


def test_blobs_without_users_go_first(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1)
    fill(cache, key_of("replaced"), b"v" * 1000, "e1")
    fill(cache, key_of("replaced"), b"w" * 1000, "e2")
    plan = cache.plan(max_size=2100, min_free=0)
    assert _uris(cache, plan) == [()]
    assert plan.victims[0].size == 1000


def test_files_without_a_row_go_oldest_first_and_one_that_may_be_in_flight_last(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill_aged(cache, a=1)
    orphans = [add_orphan(cache, name * 1000).value for name in (b"z", b"y")]
    assert [blob.digest for blob in cache.plan(max_size=0, min_free=0).victims][1:] == orphans
    monkeypatch.setattr(surveys, "IN_FLIGHT_SECONDS", -1)  # as if they were a day old
    assert [blob.digest for blob in cache.plan(max_size=0, min_free=0).victims][:2] == orphans
    assert [blob.digest for blob in cache.plan(max_size=2000, min_free=0).victims] == orphans


def test_what_has_no_name_of_a_blob_is_no_business_of_the_collectors(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1)
    for name in ("README", "aa/notes.txt", "aa/beef", "aa/" + "F" * 30, "aa/" + "f" * 28 + " f", "aaff/" + "f" * 28):
        path = f"{cache.layout.blobs}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("mine")
    plan = cache.plan(max_size=0, min_free=0)
    assert (plan.stored, len(plan.victims)) == (1000, 1)


def test_a_blob_that_a_view_is_linked_to_frees_nothing_and_is_held_by_name(cache: casstore.Cache) -> None:
    entry = used_at(cache, fill(cache, key_of("a"), b"a" * 1000), HOUR)
    _fill_aged(cache, b=1)
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    path = view(cache, entry, descriptor, "a", "link")
    os.close(descriptor)
    use = cache.local.use(entry.key)
    plan = cache.plan(max_size=0, min_free=0)
    assert _uris(cache, plan) == [("s3://bucket/b",)]
    (held,) = plan.retained
    assert (held.digest, held.size, held.holders) == (entry.digest.value, 1000, (path,))
    assert plan.shortfall(plan.reclaimable_bytes) == 1000
    # A link that no lease knows of.
    os.link(path, f"{cache.root}/elsewhere")
    release(cache, path)
    del use
    assert cache.plan(max_size=0, min_free=0).retained[0].holders == ("links outside of the store",)


def test_a_row_without_a_file_and_without_users_goes_whatever_the_budget(cache: casstore.Cache) -> None:
    digest = fill(cache, key_of("a"), b"old", "e1").digest
    fill(cache, key_of("a"), b"new", "e2")
    os.unlink(cache.layout.blob(digest.value))
    plan = cache.plan(min_free=0)
    assert [(blob.digest, blob.size) for blob in plan.victims] == [(digest.value, 0)]
    cache.execute(plan)
    assert len(list(cache.index.scan(BLOB))) == 1


def test_an_entry_without_a_file_is_not_the_collectors_to_drop(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("a"), b"bytes")
    os.unlink(cache.blob_path(entry))
    plan = cache.plan(max_size=0, min_free=0)
    assert (plan.stored, len(plan.victims)) == (0, 0)


def test_free_disk_is_asked_for_in_the_same_way(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1, b=2)
    free = budget.free_bytes(cache.root)
    plan = cache.plan(min_free=2 * free)
    assert plan.requested_bytes == 2 * free - plan.free
    assert len(plan.victims) == 2
    assert plan.shortfall(plan.reclaimable_bytes) == plan.requested_bytes - 2000
    assert plan.shortfall(plan.reclaimable_bytes, beside=plan.requested_bytes) == 0


def test_so_much_goes_at_least_where_that_is_asked(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1, b=2)
    plan = cache.plan(min_free=0, at_least=500)
    assert _uris(cache, plan) == [("s3://bucket/a",)]
    assert (plan.shortfall(0), plan.shortfall(1000)) == (500, 0)


def test_what_is_to_go_is_a_sequence_whose_members_are_as_they_were_seen(cache: casstore.Cache) -> None:
    entries = _fill_aged(cache, a=1, b=2, c=3)
    doomed = cache.plan(max_size=0, min_free=0).victims
    assert [blob.digest for blob in doomed] == [entry.digest.value for entry in entries]
    status = os.stat(cache.blob_path(entries[1]))
    assert doomed[1] == Victim(
        entries[1].digest.value,
        1000,
        recency_key(entries[1].last_used_hour, entries[1].validated.wall_ns // 1_000_000),
        row_checksum(pack_entry(entries[1])),
        status.st_ino,
        status.st_ctime_ns,
        Reason.SIZE,
        LRU_EXPERT,
    )
    assert (list(doomed[1:]), doomed[-1]) == ([doomed[1], doomed[2]], doomed[2])
    assert (len(doomed), doomed.bytes) == (3, 3000)
    with pytest.raises(IndexError):
        doomed[3]


def test_planning_changes_nothing(cache: casstore.Cache) -> None:
    _fill_aged(cache, a=1, b=2)
    add_orphan(cache, b"orphan")
    before = tree_of(cache.root)
    assert cache.plan(max_size=0, min_free=0).victims
    assert tree_of(cache.root) == before


def test_a_damaged_entry_does_not_keep_its_blob(cache: casstore.Cache) -> None:
    entry = fill(cache, key_of("a"), b"a" * 1000)
    _fill_aged(cache, b=1)
    record = cache.index.get(entry.key.row_key)
    assert record is not None
    cache.index.write(lambda txn: txn.put(entry.key.row_key, bytes([record[0], record[1] ^ 1]) + record[2:]))
    plan = cache.plan(max_size=1100, min_free=0)
    assert [blob.digest for blob in plan.victims] == [entry.digest.value]
    assert cache.execute(plan).bytes == 1000


@pytest.mark.parametrize("damage", [lambda _: b"damaged", lambda record: record[:1] + b"\xff" + record[2:]])
def test_a_blob_whose_row_is_damaged_is_still_as_used_as_its_entries(
    cache: casstore.Cache, damage: Callable[[bytes], bytes]
) -> None:
    entry = used_at(cache, fill(cache, key_of("a"), b"a" * 1000), HOUR + 2)
    _fill_aged(cache, b=1, c=3)
    row = blob_row(entry.digest.value)
    record = cache.index.get(row)
    assert record is not None
    damaged = damage(record)
    cache.index.write(lambda txn: txn.put(row, damaged))
    plan = cache.plan(max_size=0, min_free=0)
    assert _uris(cache, plan) == [("s3://bucket/b",), (entry.uri,), ("s3://bucket/c",)]
    assert plan.stored == 3000


def test_uses_are_ordered_by_hour_and_then_by_validation() -> None:
    assert recency_key(1, 0) > recency_key(0, 10**13)
    assert recency_key(1, 2) > recency_key(1, 1)
    assert recency_key(1, -5) == recency_key(1, 0)  # a clock before 1970
    assert hour_of(recency_key(HOUR, 1_700_000_000_000)) == HOUR
    assert recency_key(1 << 40, 1 << 60) < 1 << 64
