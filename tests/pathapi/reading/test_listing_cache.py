"""What a client remembers of listings, for how long, and what makes it forget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from casstore import Moment, Validator
from pathapi.backend import Listing, ListItem, ObjectInfo, Prefix
from pathapi.reading import listing_cache as module
from pathapi.reading.listing_cache import SECONDS, Listings


class Clock:
    """The boot clock, by hand."""

    def __init__(self) -> None:
        self.ns = 10**12

    def __call__(self) -> int:
        return self.ns

    def now(self) -> Moment:
        self.ns += 1
        return Moment(0, self.ns, 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "boot_clock_ns", clock)
    return clock


def list_(known: Listings, clock: Clock, prefix: str, items: Iterable[str], stop: int | None = None) -> None:
    """A listing of *prefix*, broken off after *stop* items."""
    found = (Prefix(key) if key.endswith("/") else ObjectInfo(key, Validator(1, "e")) for key in items)
    for number, _ in enumerate(known.remember("b", prefix, clock.now(), found), 1):
        if number == stop:
            return


def knows(known: Listings, key: str) -> bool:
    return known.recall("b", key, None) is not None


def test_what_was_listed_is_known_for_ten_seconds(clock: Clock) -> None:
    known = Listings()
    list_(known, clock, "d/", ["d/a", "d/e/"])
    assert knows(known, "d/a") and knows(known, "d/e/") and not known.is_absent("b", "d/a")
    assert known.is_absent("b", "d/missing") and not known.is_absent("other", "d/missing")
    clock.ns += int(SECONDS * 1e9) + 1
    assert not knows(known, "d/a") and not known.is_absent("b", "d/missing")


def test_ten_seconds_count_from_the_page(clock: Clock) -> None:
    """A long listing goes on for longer: what it said last was said just now."""
    known, asked_ns, second = Listings(), [clock.ns], 10**9

    def pages() -> Iterator[ListItem]:
        for key in ("d/a", "d/b"):
            asked_ns[:] = [clock.ns]
            yield ObjectInfo(key, Validator(1, "e"))
            clock.ns += 8 * second

    listing = known.remember("b", "d/", clock.now(), Listing(pages(), asked_ns))
    facts = [fact for _, fact in listing]
    assert [knows(known, key) for key in ("d/a", "d/b")] == [False, True]
    assert [fact.moment.wall_ns for fact in facts] == [0, 8 * second]
    assert not known.is_absent("b", "d/missing"), "an earlier page said so"


@pytest.mark.parametrize("prefix", ["d/a", "d", "d/e/"])
def test_absence_is_known_from_a_listing_of_that_directory_alone(clock: Clock, prefix: str) -> None:
    known = Listings()
    list_(known, clock, prefix, [prefix + "x"])
    assert not known.is_absent("b", "d/missing")


def test_absence_is_known_from_a_complete_listing_alone(clock: Clock) -> None:
    known = Listings()
    list_(known, clock, "d/", ["d/a", "d/b"], stop=1)
    assert not known.is_absent("b", "d/b") and not known.is_absent("b", "d/missing")
    assert knows(known, "d/a")


def test_a_recursive_listing_tells_absence_at_its_top_only(clock: Clock) -> None:
    known = Listings()
    list_(known, clock, "d/", ["d/a", "d/e/f"])
    assert known.is_absent("b", "d/missing") and not known.is_absent("b", "d/e/missing")


def test_what_is_written_is_not_known_any_more(clock: Clock) -> None:
    known = Listings()
    list_(known, clock, "d/", ["d/a", "d/e/"])
    clock.now()
    known.forget("b", "d/a")
    known.forget("b", "d/new")
    assert not knows(known, "d/a") and not known.is_absent("b", "d/a") and not known.is_absent("b", "d/new")
    list_(known, clock, "d/", ["d/a", "d/new"])
    assert knows(known, "d/a") and knows(known, "d/new")


def test_a_listing_that_was_under_way_during_a_write_tells_nothing_of_it(clock: Clock) -> None:
    known = Listings()
    listing = known.remember("b", "d/", clock.now(), [ObjectInfo("d/a", Validator(1, "e"))])
    next(listing)
    clock.now()
    known.forget("b", "d/a")
    known.forget("b", "d/new")
    assert list(listing) == []
    assert not knows(known, "d/a") and not known.is_absent("b", "d/new")


def test_the_directories_above_a_deleted_object_are_in_doubt(clock: Clock) -> None:
    known = Listings()
    moment = clock.now()
    ((_, child),) = known.remember("b", "", moment, [Prefix("d/")])
    assert known.recall("b", "d", child) is child
    clock.now()
    known.forget("b", "d/e/a")
    assert known.recall("b", "d", child) is None


def test_the_later_listing_counts(clock: Clock) -> None:
    known = Listings()
    ((_, child),) = known.remember("b", "d/", clock.now(), [ObjectInfo("d/a", Validator(1, "old"))])
    list_(known, clock, "d/", [])
    assert known.recall("b", "d/a", child) is None and not knows(known, "d/a") and known.is_absent("b", "d/a")
    list_(known, clock, "d/", ["d/a"])
    newer = known.recall("b", "d/a", child)
    assert newer is not None and newer is not child and not known.is_absent("b", "d/a")


def test_a_slow_listing_does_not_undo_a_later_one(clock: Clock) -> None:
    known = Listings()
    slow = known.remember("b", "d/", clock.now(), [ObjectInfo("d/a", Validator(1, "old"))])
    list_(known, clock, "d/", ["d/a", "d/b"])
    assert len(list(slow)) == 1
    found = known.recall("b", "d/a", None)
    assert found is not None and found.info is not None and found.info.validator.etag == "e"
    assert not known.is_absent("b", "d/b")


def test_memory_has_a_bound_and_what_is_forgotten_is_not_taken_for_absent(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 10)
    monkeypatch.setattr(module, "MOST_IN_ALL", 25)
    known = Listings()
    list_(known, clock, "long/", [f"long/{number:02}" for number in range(11)])
    assert not known.is_absent("b", "long/missing") and not known.is_absent("b", "long/10")
    for directory in range(10):
        names = [f"{directory}/{number}" for number in range(9)]
        list_(known, clock, f"{directory}/", names)
        assert len(known._listed) <= 25
        assert not any(known.is_absent("b", name) for name in names)
