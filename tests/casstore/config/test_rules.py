"""Ages and rules by prefix: what goes although there is room, and what it leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import casstore
from casstore import Cache
from casstore.config.settings import Rule, RuleMatcher
from casstore.eviction import background as trims
from casstore.eviction.budget import Budget
from casstore.eviction.plan import Plan, make_plan
from casstore.eviction.victims import Reason
from tests.casstore.support.fill import eventually, fill, key_of, read
from tests.casstore.support.stores import HOUR, add_orphan, dangling, stored, used_at


def this_hour() -> int:
    """Since the epoch; asked at each use, for a long run passes from one to the next."""
    return int(time.time()) // 3600


def _fill(cache: Cache, **ages: int) -> None:
    """Objects of 1000 bytes, last used so many hours ago; a ``_`` in a name stands for a slash."""
    for name, age in ages.items():
        used_at(cache, fill(cache, key_of(name.replace("_", "/")), (name.encode() * 1000)[:1000]), this_hour() - age)


def _plan(cache: Cache, *rules: Rule, max_age: int | None = None, max_size: int | None = None) -> Plan:
    return make_plan(cache.index, cache.layout, Budget(max_size, 0, max_age, rules))


def _going(cache: Cache, plan: Plan) -> dict[str, Reason]:
    return {
        uri.removeprefix("s3://bucket/"): blob.reason for blob in plan.victims for uri in cache.uris_of(blob.digest)
    }


def _age(prefix: str, hours: int | None) -> Rule:
    return Rule(f"s3://bucket/{prefix}", None if hours is None else hours * 3600, None, has_age=True)


def _size(prefix: str, size: int) -> Rule:
    return Rule(f"s3://bucket/{prefix}", None, size, has_age=False)


# --- ages ------------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_longer_goes_although_there_is_room(cache: Cache) -> None:
    _fill(cache, old=50, young=2)
    assert _going(cache, _plan(cache, max_age=24 * 3600)) == {"old": Reason.AGE}
    assert _going(cache, _plan(cache)) == {}


def test_the_hour_of_the_last_use_counts_to_its_end(cache: Cache) -> None:
    _fill(cache, a=2)
    assert _going(cache, _plan(cache, max_age=2 * 3600)) == {}  # it may have been used in its last second
    assert _going(cache, _plan(cache, max_age=0)) == {"a": Reason.AGE}


def test_a_blob_is_as_old_as_its_newest_user(cache: Cache) -> None:
    for name, age in {"old": 50, "new": 1}.items():
        used_at(cache, fill(cache, key_of(name), b"x" * 1000), this_hour() - age)
    assert _going(cache, _plan(cache, max_age=24 * 3600)) == {}
    assert set(_going(cache, _plan(cache, max_age=0))) == {"old", "new"}


def test_an_age_takes_a_file_without_a_row_by_its_own_age(cache: Cache) -> None:
    add_orphan(cache, b"orphan")
    assert not _plan(cache, max_age=3600).victims
    assert not _plan(cache, _age("x", 0)).victims  # it is below no prefix
    assert [blob.reason for blob in _plan(cache, max_age=0).victims] == [Reason.AGE]


def test_what_is_pinned_has_no_age(cache: Cache) -> None:
    _fill(cache, a=50, b=50)
    cache.pin("s3://bucket/a")
    plan = _plan(cache, max_age=3600)
    assert (_going(cache, plan), plan.retained, plan.rule_overrun) == ({"b": Reason.AGE}, (), 0)


def test_what_goes_by_age_counts_for_the_size_of_all(cache: Cache) -> None:
    _fill(cache, tmp_new=3, a=5, b=4)
    plan = _plan(cache, _age("tmp/", 1), max_size=2100)
    assert _going(cache, plan) == {"tmp/new": Reason.AGE}


# --- rules -----------------------------------------------------------------------------------------------------------


def test_the_rule_with_the_longest_prefix_holds(cache: Cache) -> None:
    _fill(cache, t_a=5, t_keep_b=50, other=50)
    rules = (_age("t/", 3), _age("t/keep/", None))
    assert _going(cache, _plan(cache, *rules)) == {"t/a": Reason.AGE}
    assert _going(cache, _plan(cache, *reversed(rules), max_age=10 * 3600)) == {"t/a": Reason.AGE, "other": Reason.AGE}


def test_a_rule_without_an_age_leaves_that_of_the_store(cache: Cache) -> None:
    _fill(cache, t_a=50)
    assert _going(cache, _plan(cache, _size("t/", 10_000), max_age=3600)) == {"t/a": Reason.AGE}


def test_a_size_of_a_rule_takes_what_was_used_longest_ago_below_its_prefix(cache: Cache) -> None:
    _fill(cache, t_aa=3, t_bb=9, t_cc=1, old=50)
    plan = _plan(cache, _size("t/", 2100))
    assert (_going(cache, plan), plan.rule_overrun, plan.requested_bytes) == ({"t/bb": Reason.RULE}, 0, 0)
    freed = cache.execute(plan)
    assert (freed.bytes, freed.rule_overrun) == (1000, 0)
    assert read(cache, key_of("old")) is not None


def test_what_goes_by_age_counts_for_the_size_of_its_rule(cache: Cache) -> None:
    _fill(cache, t_a=50, t_b=3, t_c=2)
    rule = Rule("s3://bucket/t/", 24 * 3600, 2000, has_age=True)
    assert _going(cache, _plan(cache, rule)) == {"t/a": Reason.AGE}


def test_a_size_counts_what_the_rule_alone_uses(cache: Cache) -> None:
    for name in ("t/a", "elsewhere"):
        used_at(cache, fill(cache, key_of(name), b"x" * 1000), this_hour() - 5)
    _fill(cache, t_b=1)
    assert _going(cache, _plan(cache, _size("t/", 1000))) == {}


def test_what_holds_a_rule_over_its_size_is_named(cache: Cache) -> None:
    _fill(cache, t_a=3, t_b=2)
    cache.pin("s3://bucket/t/a")
    plan = _plan(cache, _size("t/", 500))
    assert (_going(cache, plan), plan.rule_overrun) == ({"t/b": Reason.RULE}, 500)
    assert [held.is_pinned for held in plan.retained] == [True]
    assert cache.execute(plan).rule_overrun == 500


def test_a_rule_matches_the_beginning_of_long_uris_too() -> None:
    matcher = RuleMatcher([_age("", 1), _age("x" * 300, 2)])
    assert matcher.number(key_of("x" * 1000).row_key) == 2
    assert matcher.number(key_of("y" * 1000).row_key) == 1
    assert matcher.number(casstore.Key("gs://bucket/x", "gs").row_key) == 0


# --- while filling ---------------------------------------------------------------------------------------------------


def test_filling_keeps_ages_and_rules_without_a_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = casstore.open(root)
    used_at(cache, fill(cache, key_of("old"), b"old"), HOUR)
    fill(cache, key_of("kept"), b"kept")
    Path(cache.layout.config).write_text('max_age = "30d"\n[[rules]]\nprefix = "s3://bucket/t/"\nmax_size = 2000\n')
    cache.close()
    again = Cache(casstore.root.open_root(root, None, {}))
    try:
        fill(again, key_of("new"), b"new")
        eventually(lambda: again.lookup(key_of("old")) is None)  # a read would be a use
        eventually(lambda: not again.background._is_running)
        # The next look at rules is due in ten minutes, not with the next fill.
        for name in ("aa", "bb", "cc"):
            fill(again, key_of(f"t/{name}"), name.encode() * 500)
        monkeypatch.setattr(again.background, "_pause", 0.0)
        fill(again, key_of("next"), b"next")
        eventually(lambda: not again.background._is_running)
        assert stored(again) > 3000
        monkeypatch.setattr(trims, "RULE_SECONDS", 0.0)
        fill(again, key_of("last"), b"last")
        eventually(lambda: stored(again) < 3000)
        assert read(again, key_of("kept")) == b"kept"
        assert dangling(again) == []
    finally:
        again.close()
