"""The scheduler plays every order of some threads, and tells where one is missing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from math import factorial, prod

import pytest

from tests.harness.scheduler import Points, Step, explore, unplayed


class _Place:
    """Where threads come by; *came* says who did."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._lock = threading.Lock()

    def come(self, who: int) -> None:
        self.came.append(who)

    def enter(self, work: Callable[[], object]) -> None:
        assert self._lock.acquire(blocking=False)
        work()
        self._lock.release()

    def walk(self, who: int, steps: int) -> None:
        """The first step ends before the first call."""
        for _ in range(steps - 1):
            self.come(who)

    def walk_inside(self, who: int) -> None:
        """One step outside, two inside."""
        self.enter(lambda: self.come(who))


def _play(points: Points, place: _Place, works: Sequence[Callable[[], object]], choices: Sequence[int]) -> list[Step]:
    place.came = []
    return points.run(works, choices)


def test_every_order_of_four_threads_is_played_once(monkeypatch: pytest.MonkeyPatch) -> None:
    place, steps = _Place(), (1, 2, 1, 3)
    points = Points(monkeypatch)
    points.wrap(place, "come")
    works = [partial(place.walk, who, count) for who, count in enumerate(steps)]
    runs = list(explore(partial(_play, points, place, works)))
    expected = factorial(sum(steps)) // prod(map(factorial, steps))
    assert expected == 420
    assert len({tuple(step.chosen for step in run) for run in runs}) == len(runs) == expected
    assert unplayed(runs) == set()


def test_who_waits_for_a_lock_is_in_no_order_inside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _Place()
    points = Points(monkeypatch)
    points.wrap_lock(place, "enter", lambda who, times: f"{who} enters")
    points.wrap(place, "come")
    works = [partial(place.walk_inside, 0), partial(place.walk_inside, 1)]
    runs = list(explore(partial(_play, points, place, works)))
    # Either is in first, and the other comes as far as the lock before, between or after his three steps.
    assert len(runs) == 2 * 4
    assert {step.at for run in runs for step in run} == {"the start", "0 enters", "1 enters", "come"}
    assert unplayed(runs) == set()


def test_a_run_that_is_left_out_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _Place()
    points = Points(monkeypatch)
    points.wrap(place, "come")
    works = [partial(place.walk, who, 2) for who in range(2)]
    runs = list(explore(partial(_play, points, place, works)))
    assert len(runs) == 6
    for number in range(len(runs)):
        assert unplayed(runs[:number] + runs[number + 1 :])
    assert unplayed([]) == {()}


def test_each_stops_where_he_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _Place()
    points = Points(monkeypatch, stops=[{"here"}, set()])
    points.wrap(place, "come", point="here")
    steps = points.run([partial(place.walk, 0, 3), partial(place.walk, 1, 3)], ())
    assert [(step.chosen, step.at) for step in steps] == [(0, "the start"), (0, "here"), (0, "here"), (1, "the start")]


def test_looking_happens_around_each_step_and_what_it_finds_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _Place()
    seen: list[int] = []

    def look() -> None:
        place.come(9)  # who looks does not stop
        seen.append(len(place.came))
        assert len(seen) < 4, "seen too much"

    points = Points(monkeypatch, look=look)
    points.wrap(place, "come")

    def walk_carefree() -> None:
        with contextlib.suppress(AssertionError):
            place.walk(0, 5)

    assert len(points.run([partial(place.walk, 0, 2)], ())) == 2
    assert seen == [1, 2, 4]
    with pytest.raises(AssertionError, match="seen too much"):
        points.run([walk_carefree], ())


def test_a_deadlock_and_what_a_thread_raises_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _Place()
    points = Points(monkeypatch)
    points.wrap_lock(place, "enter")

    def enter_twice() -> None:
        place.enter(lambda: place.enter(lambda: None))

    with pytest.raises(ZeroDivisionError):
        points.run([lambda: 1 // 0, partial(place.walk, 1, 1)], ())
    with pytest.raises(AssertionError, match="a deadlock"):
        points.run([enter_twice], ())
