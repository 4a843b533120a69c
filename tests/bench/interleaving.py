"""Runs a few threads one step at a time, in every order that a bound on preemptions leaves.

A step ends where a wrapped function is called (`Points.wrap`): there the thread stops, and a scheduler says who goes
on. So a run is a list of choices and can be had again, and all lists can be gone through: those in which everybody runs
to his end, those with one interruption, and so on (most races need one or two). What a lock would make a thread wait
for is told to the scheduler (`Points.wrap_lock`), which lets nobody run into a lock that is taken.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

PATIENCE = 60.0
"""Seconds without a step after which a run counts as hung; a bound, no claim."""


@dataclass
class _Actor:
    number: int
    work: Callable[[], object]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    at: str = "the start"
    wants: str | None = None
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


class Points:
    """Where threads stop. Threads that are not of a run pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._local = threading.local()
        self._stopped = threading.Semaphore(0)
        self._owners: dict[str, int] = {}

    def wrap(self, owner: Any, name: str, *, after: bool = False) -> None:
        """Stop before, or *after*, each call of ``owner.name``."""
        real = getattr(owner, name)

        def stop_and_call(*arguments: Any, **options: Any) -> Any:
            if not after:
                self._stop(name)
            result = real(*arguments, **options)
            if after:
                self._stop(f"after {name}")
            return result

        self._monkeypatch.setattr(owner, name, stop_and_call)

    def wrap_lock(self, owner: Any, name: str) -> None:
        """``owner.name`` gives a context manager that one thread at a time may be in; stop before and after it."""
        real = getattr(owner, name)

        @contextlib.contextmanager
        def stop_and_enter(*arguments: Any, **options: Any) -> Iterator[Any]:
            actor = getattr(self._local, "actor", None)
            self._stop(name, wants=name)
            try:
                with real(*arguments, **options) as entered:
                    yield entered
            finally:
                if actor is not None:
                    del self._owners[name]
            self._stop(f"after {name}")

        self._monkeypatch.setattr(owner, name, stop_and_enter)

    def _stop(self, name: str, wants: str | None = None) -> None:
        actor: _Actor | None = getattr(self._local, "actor", None)
        if actor is None:
            return
        actor.at, actor.wants = name, wants
        self._stopped.release()
        actor.go.acquire()

    def run(self, works: Sequence[Callable[[], object]], choices: Sequence[int]) -> list[Step]:
        """Run all of *works* to their ends: by *choices* first, then without preemption. Raises what they raised."""
        actors = [_Actor(number, work) for number, work in enumerate(works)]
        threads = [threading.Thread(target=self._act, args=(actor,), daemon=True) for actor in actors]
        for thread in threads:
            thread.start()
        for _ in actors:
            self._wait()
        steps: list[Step] = []
        current = 0
        while any(not actor.is_done for actor in actors):
            able = tuple(a.number for a in actors if not a.is_done and a.wants not in self._owners)
            assert able, f"a deadlock: {[(actor.at, actor.wants) for actor in actors]}"
            default = current if current in able else able[0]
            chosen = choices[len(steps)] if len(steps) < len(choices) else default
            actor = actors[chosen]
            steps.append(Step(able, chosen, current, actor.at))
            current = chosen
            if actor.wants is not None:
                self._owners[actor.wants] = chosen
            actor.go.release()
            self._wait()
        for thread in threads:
            thread.join()
        for actor in actors:
            if actor.error is not None:
                raise actor.error
        return steps

    def _wait(self) -> None:
        assert self._stopped.acquire(timeout=PATIENCE), "a thread neither stops nor ends"

    def _act(self, actor: _Actor) -> None:
        self._local.actor = actor
        try:
            self._stop("the start")
            actor.work()
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            actor.error = error
        finally:
            actor.is_done = True
            self._stopped.release()


def explore(
    run: Callable[[Sequence[int]], list[Step]], preemptions: int, most: int | None = None, seed: int = 0
) -> Iterator[list[Step]]:
    """Call *run* with every list of choices of at most so many *preemptions*; with *most*, with that many of them,
    taken at random by *seed*.
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
                    if other != step.chosen and made + is_preemption <= preemptions:
                        left.append((*before, other))
            made += step.is_preemption
