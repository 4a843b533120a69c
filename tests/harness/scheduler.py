"""Runs a few threads one step at a time, in every order, or in every one that a bound on preemptions leaves.

A step ends at a point, where a wrapped function is called (`Points.wrap`): there the thread stops, and a scheduler says
who goes on. So a run is a list of choices and can be had again, and all lists can be gone through: those in which
everybody runs to his end, those with one interruption, and so on (most races need one or two). What a lock would make a
thread wait for is told to the scheduler (`Points.wrap_lock`), which lets nobody run into a lock that is taken.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

PATIENCE = 60.0
"""Seconds without a step after which a run counts as hung; a bound, no claim."""


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass
class _Actor:
    number: int
    work: Callable[[], object]
    go: threading.Lock = field(default_factory=_taken)
    at: str = "the start"
    wants: str | None = None
    locked: Counter[str] = field(default_factory=Counter)
    is_done: bool = False
    error: BaseException | None = None


@dataclass(frozen=True)
class Step:
    """At this step *chosen* went on from the point *at*, of those that could (*able*); *current* had gone before."""

    able: tuple[int, ...]
    chosen: int
    current: int
    at: str

    @property
    def is_preemption(self) -> bool:
        return self.chosen != self.current and self.current in self.able


class _Run:
    """Whose turn it is. Whoever stops says himself who is next, so that no thread but that one's is woken."""

    def __init__(
        self,
        works: Sequence[Callable[[], object]],
        choices: Sequence[int],
        owners: dict[str, int],
        look: Callable[[], object] | None,
    ) -> None:
        self.actors = [_Actor(number, work) for number, work in enumerate(works)]
        self.steps: list[Step] = []
        self.ended = _taken()
        self.failure: BaseException | None = None
        self._choices = choices
        self._owners = owners
        self._look = look
        self._current = 0

    def go_on(self) -> _Actor | None:
        """Who goes next; None at the end, of which `ended` tells."""
        able = tuple(a.number for a in self.actors if not a.is_done and a.wants not in self._owners)
        if self.failure is None and self._look is not None:
            try:
                self._look()
            except BaseException as error:  # noqa: BLE001 - raised by `run`: whoever stops here may be about to catch it
                self.failure = error
        chosen = self._choose(able)
        if chosen is None:
            self.ended.release()
            return None
        actor = self.actors[chosen]
        self.steps.append(Step(able, chosen, self._current, actor.at))
        self._current = chosen
        if actor.wants is not None:
            self._owners[actor.wants] = chosen
        return actor

    def _choose(self, able: tuple[int, ...]) -> int | None:
        number = len(self.steps)
        if able and number < len(self._choices):
            if self._choices[number] in able:
                return self._choices[number]
            self.failure = AssertionError(f"the same choices led elsewhere: {self._choices} after {self.steps}")
        if self._current in able:
            return self._current
        if able:
            return able[0]
        if not self.is_over:
            self.failure = AssertionError(f"a deadlock: {[(actor.at, actor.wants) for actor in self.actors]}")
        return None

    @property
    def is_over(self) -> bool:
        """Whether all have come to their ends."""
        return all(actor.is_done for actor in self.actors)


class Points:
    """Where threads stop. Threads that are not of a run pass."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        stops: Sequence[Collection[str]] | None = None,
        look: Callable[[], object] | None = None,
    ) -> None:
        """With *stops*, the points at which each of those who run stops; he passes all others, but for locks.

        *look* is called before the first step and after each, while nobody moves. It must change nothing.
        """
        self._monkeypatch = monkeypatch
        self._stops = stops
        self._look = look
        self._local = threading.local()
        self._owners: dict[str, int] = {}
        self._run: _Run | None = None

    def wrap(self, owner: Any, name: str, *, after: bool = False, point: str | None = None) -> None:
        """Stop before, or *after*, each call of ``owner.name``; *point* is what that is called."""
        real = getattr(owner, name)
        point = point or (f"after {name}" if after else name)

        def stop_and_call(*arguments: Any, **options: Any) -> Any:
            if not after:
                self._come_to(point)
            result = real(*arguments, **options)
            if after:
                self._come_to(point)
            return result

        self._monkeypatch.setattr(owner, name, stop_and_call)

    def wrap_lock(self, owner: Any, name: str, point: Callable[[int, int], str] | None = None) -> None:
        """``owner.name`` is a call that one thread at a time may be in; stop before and after it.

        With *point*, only before; it says what that is called, by who comes there and how often he has been there.
        """
        real = getattr(owner, name)

        def stop_and_call(*arguments: Any, **options: Any) -> Any:
            actor: _Actor | None = getattr(self._local, "actor", None)
            if actor is not None:
                at = name if point is None else point(actor.number, actor.locked[name])
                actor.locked[name] += 1
                self._stop(actor, at, wants=name)
            try:
                result = real(*arguments, **options)
            finally:
                if actor is not None:
                    del self._owners[name]
            if point is None:
                self._come_to(f"after {name}")
            return result

        self._monkeypatch.setattr(owner, name, stop_and_call)

    def _come_to(self, point: str) -> None:
        actor: _Actor | None = getattr(self._local, "actor", None)
        if actor is not None and (self._stops is None or point in self._stops[actor.number]):
            self._stop(actor, point)

    def _stop(self, actor: _Actor, point: str, wants: str | None = None) -> None:
        actor.at, actor.wants = point, wants
        assert self._run is not None
        following = self._run.go_on()
        if following is not actor:
            if following is not None:
                following.go.release()
            actor.go.acquire()

    def _look_around(self) -> None:
        actor, self._local.actor = getattr(self._local, "actor", None), None
        try:
            if self._look is not None:
                self._look()
        finally:
            self._local.actor = actor

    def run(self, works: Sequence[Callable[[], object]], choices: Sequence[int]) -> list[Step]:
        """Run all of *works* to their ends: by *choices* first, then without preemption. Raises what they raised."""
        run = self._run = _Run(works, choices, self._owners, None if self._look is None else self._look_around)
        threads = [threading.Thread(target=self._act, args=(actor, run), daemon=True) for actor in run.actors]
        for thread in threads:
            thread.start()
        first = run.go_on()
        if first is not None:
            first.go.release()
        count = -1
        while not run.ended.acquire(timeout=PATIENCE):
            assert count != len(run.steps), "a thread neither stops nor ends"
            count = len(run.steps)
        if run.is_over:
            for thread in threads:
                thread.join()
        if run.failure is not None:
            raise run.failure
        for actor in run.actors:
            if actor.error is not None:
                raise actor.error
        return run.steps

    def _act(self, actor: _Actor, run: _Run) -> None:
        self._local.actor = actor
        actor.go.acquire()
        try:
            actor.work()
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            actor.error = error
        finally:
            actor.is_done = True
            following = run.go_on()
            if following is not None:
                following.go.release()


def explore(
    run: Callable[[Sequence[int]], list[Step]], preemptions: int | None = None, most: int | None = None, seed: int = 0
) -> Iterator[list[Step]]:
    """Call *run* with every list of choices, or with every one of at most so many *preemptions*; with *most*, with that
    many of them, taken at random by *seed*.
    """
    chance = random.Random(seed)
    left: list[tuple[int, ...]] = [()]
    count = 0
    while left and (most is None or count < most):
        choices = left.pop(chance.randrange(len(left)) if most is not None else -1)
        steps = run(choices)
        count += 1
        yield steps
        made = 0
        for number, step in enumerate(steps):
            if number >= len(choices):
                before = tuple(earlier.chosen for earlier in steps[:number])
                for other in step.able:
                    is_preemption = other != step.current and step.current in step.able
                    is_within = preemptions is None or made + is_preemption <= preemptions
                    if other != step.chosen and is_within:
                        left.append((*before, other))
            made += step.is_preemption


def unplayed(runs: Iterable[Sequence[Step]]) -> set[tuple[int, ...]]:
    """What is missing from *runs* to be every order that there is: at each step of each, whoever could have gone on
    must have done so in a run with the same beginning.
    """
    begun: set[tuple[int, ...]] = set()
    due: set[tuple[int, ...]] = {()}
    for steps in runs:
        before: tuple[int, ...] = ()
        begun.add(before)
        for step in steps:
            due.update((*before, other) for other in step.able)
            before = (*before, step.chosen)
            begun.add(before)
    return due - begun
