"""Evict in the background: when a fill exceeds the budget, a thread brings the store back within it.

The check is cheap: one `statvfs` per second of filling, or per `CHECK_BYTES`. The thread adds up the size of the store
from its rows, and between two sums it is estimated: what this process filled, or by how much the disk got fuller (which
includes other processes), whichever is more. Readers never wait; a fill that found the disk full does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from casstore.errors import CasstoreError, printable
from casstore.eviction.evictor import Evictor
from casstore.locks.lock_files import polls_until
from casstore.locks.mutex import new_mutex, start_thread

if TYPE_CHECKING:
    # Imported when they are used: most processes evict nothing.
    import logging

    from casstore.eviction.collector import CollectResult
    from casstore.eviction.plan import Plan

CHECK_SECONDS: Final = 1.0
"""The age of the last check at which a fill makes another."""

CHECK_BYTES: Final = 64 << 20
"""How much this process fills at most without a check."""

_SUM_SECONDS: Final = 60.0
"""How old a sum may be: the estimate misses what others fill while they delete elsewhere."""

RULE_SECONDS: Final = 600.0
"""The age of the last check of ages and rules at which a fill makes another: it takes a plan."""

REAP_SECONDS: Final = 60.0
"""How long a process evicts without reaping what dead ones left."""

_PARTS: Final = 8
"""How often a process checks while it fills the room that is left."""

_COMMIT_BYTES: Final = 64 << 10
"""What the row of a blob may take on the disk."""

_COST: Final = 20
"""A check waits this many times as long as the last one took: evicting takes a twentieth of one processor at most."""

_SHOWN_URIS: Final = 3


class BackgroundEvictor:
    """Keeps the budget of one store for one process; thread-safe. A forked child makes its own."""

    def __init__(self, evictor: Evictor) -> None:
        self._evictor = evictor
        self._settings = evictor.settings
        self._directory = evictor.directory
        self._limit = evictor.settings.max_size
        self._has_rules = evictor.settings.max_age is not None or bool(evictor.settings.rules)
        self._mutex, self._making_room = new_mutex(), new_mutex(may_wait=True)
        self._is_making_room = self._is_running = False
        self._checked = self._summed = self._made_room = 0.0
        self._checked_rules, self._reaped = -RULE_SECONDS, -REAP_SECONDS
        self._pause = CHECK_SECONDS
        self._step = 0
        self._filled = self._filled_since = 0
        self._free_then = 0
        self._stored: int | None = None
        self._is_full = self._misses_budget = False
        self._refused = sys.maxsize
        self._has_logged = self._has_logged_full = self._has_logged_copies = False

    def admits(self, size: int) -> bool:
        """Whether to store a blob of *size* bytes: not if it alone exceeds the budget, nor while nothing can be
        evicted. Other objects are streamed; the first one is logged.
        """
        if (self._limit is None or size <= self._limit) and (not self._is_full or self._fits(size)):
            return True
        self._evictor.counters.increment("streamed")
        if self._is_full:
            self._check_if_due()
        if not self._has_logged_full:
            self._has_logged_full = True
            why = "the store is full and nothing can be evicted" if self._is_full else "larger than max_size"
            _logger().warning("%s: %s: such objects are read without being stored", printable(self._directory), why)
        return False

    def _fits(self, size: int) -> bool:
        """Whether there is room although none could be made before: for something larger, or that was deleted since."""
        if self._misses_budget:
            return False
        try:
            space = os.statvfs(self._directory)
        except OSError:
            return False  # the store was removed
        free = space.f_bavail * space.f_frsize - self._settings.keep_free(space)
        return free > size + _COMMIT_BYTES

    def record_fill(self, size: int) -> None:
        """Record that a new blob of *size* bytes was stored; checks the budget if a check is due."""
        self._filled += size
        self._check_if_due()

    def _check_if_due(self) -> None:
        if self._filled >= self._step or time.monotonic() - self._checked >= self._pause:
            self._check_budget()

    def _check_budget(self) -> None:
        """Check how full the store is, and start the thread if anything has to be evicted; returns at once."""
        with self._mutex:
            if self._is_running:
                return  # it checks again itself
            now = time.monotonic()
            self._checked = now
            self._filled_since += self._filled
            self._filled = 0
            try:
                space = os.statvfs(self._directory)
            except OSError:
                return  # the store was removed: the next fill recreates it
            free = space.f_bavail * space.f_frsize
            self._step = self._next_step(free)
            is_sum_old = self._limit is not None and (self._stored is None or now - self._summed > _SUM_SECONDS)
            is_lacking = self._is_full or free < self._settings.keep_free(space)
            if is_lacking or is_sum_old or self._is_over(free) or self._is_rule_due(now):
                try:
                    self._is_running = True
                    start_thread(self._run, ())
                except RuntimeError:
                    self._is_running = False  # the interpreter is shutting down and starts no more threads

    def _estimate(self, free: int) -> int:
        assert self._stored is not None
        return self._stored + max(self._filled_since, self._free_then - free)

    def _next_step(self, free: int) -> int:
        if self._limit is None or self._stored is None:
            return CHECK_BYTES
        # A part of the room that is left: other processes fill it, too.
        return max(min(CHECK_BYTES, (self._limit - self._estimate(free)) // _PARTS), self._limit // 100)

    def _is_over(self, free: int) -> bool:
        return self._limit is not None and self._estimate(free) > self._limit

    def _is_rule_due(self, now: float) -> bool:
        return self._has_rules and now - self._checked_rules > RULE_SECONDS

    def _run(self) -> None:
        is_due = True
        try:
            while is_due:
                began = time.monotonic()
                try:
                    self._evict()
                finally:
                    self._pace(began)
                with self._mutex:
                    # A fill that found this thread running may have come after the thread had added up.
                    is_due = self._filled >= max(self._step, 1)
                    if is_due:
                        self._filled = 0
                    else:
                        self._is_running = False
        except BaseException as error:
            self._is_running = False
            if not isinstance(error, CasstoreError | OSError):
                raise
            # No caller waits for it, and the next check tries again.
            _logger().warning("background eviction failed", exc_info=True)

    def _pace(self, began: float) -> None:
        """Make the next check wait by how long this one took, which *began* then."""
        self._checked = time.monotonic()
        self._pause = max(CHECK_SECONDS, _COST * (self._checked - began))

    def _evict(self) -> None:
        # So that what was just filled has its row, and its place in the order.
        self._evictor.committer.flush()
        free = self._sum()
        lacks = free < self._settings.keep_free(os.statvfs(self._directory))
        if not (lacks or self._is_full or self._is_over(free) or self._is_rule_due(time.monotonic())):
            return
        self._checked_rules = time.monotonic()
        with self._evictor.lock.acquire(0) as file:
            if file.is_locked:  # else another process is doing the same
                self._carry_out(self._evictor.plan())

    def _sum(self) -> int:
        """Add up the rows, if there is a limit; return the free bytes of the disk."""
        from casstore.eviction.budget import free_bytes, stored_bytes
        from casstore.eviction.local_copies import LocalInventory

        free = free_bytes(self._directory)
        if self._limit is not None:
            copies = LocalInventory(self._evictor.layout, self._settings.local_path_grace).bytes
            self._estimate_from(stored_bytes(self._evictor.index) + copies, free)
            self._summed = time.monotonic()
        return free

    def _estimate_from(self, stored: int, free: int) -> None:
        self._stored, self._free_then, self._filled_since = stored, free, 0
        self._step = self._next_step(free)

    def _carry_out(self, plan: Plan) -> CollectResult:
        from casstore.eviction.budget import free_bytes

        uris: list[str] = []
        # Reaping starts a process: not for each of many small evictions, but before fills cannot be stored.
        now = time.monotonic()
        reaps = now - self._reaped > REAP_SECONDS or plan.shortfall(plan.reclaimable_bytes) > 0
        done = self._evictor.collect(plan, lambda removed: uris.extend(removed.uris), reaps=reaps)
        self._reaped = now if reaps else self._reaped
        if done.bytes:
            self._log_eviction(plan, done, uris)
        if done.copies and not self._has_logged_copies:
            self._has_logged_copies = True
            _logger().warning(
                "%s: local paths that were unused for %g s were removed to make room: keep the CloudPath of a path "
                'that you still need, pin its object, use path.local(), or set local_paths = "keep"',
                printable(self._directory),
                self._settings.local_path_grace,
            )
        # Only if all of the plan was carried out: what came back into use can be evicted another time.
        self._is_full = done.bytes < plan.requested_bytes and not done.still_in_use and not done.is_stale
        self._misses_budget = replace(plan, at_least=0).shortfall(done.bytes) > 0
        self._estimate_from(plan.stored - done.bytes, free_bytes(self._directory))
        return done

    def make_room(self, needed: int) -> bool:
        """Evict at least *needed* bytes after a write found the disk full; whether to try it again.

        Evicts nothing for what would not fit even then. Waits for other collectors; one eviction serves all threads
        that wait meanwhile.
        """
        since = time.monotonic()
        with self._making_room:
            if self._made_room > since:
                return True
            if self._is_making_room:
                return False  # a signal handler interrupted the eviction of its own thread
            if (self._is_full or needed >= self._refused) and time.monotonic() - self._checked < self._pause:
                return False  # there was nothing to evict a moment ago, or not enough
            began = time.monotonic()
            try:
                self._is_making_room = True
                with self._evictor.lock.acquire(self._settings.lock_timeout) as file:
                    if not file.is_locked:
                        return False
                    plan = self._plan_room(needed)
                    done = self._carry_out(plan) if plan is not None else None
            except (CasstoreError, OSError):
                return False  # the disk may be too full for the index as well
            finally:
                self._is_making_room = False
            self._pace(began)
            self._refused = needed if done is None else sys.maxsize
            has_made = done is not None and done.bytes > 0
            self._made_room = self._checked if has_made else 0.0
            return has_made

    def _plan_room(self, needed: int) -> Plan | None:
        """Plan to evict at least *needed* bytes; None if all that can be evicted is not enough."""
        from casstore.eviction.victims import VictimList

        plan = self._evictor.plan(at_least=needed)
        if plan.can_suffice or not plan.victims:
            return plan
        # Perhaps files of dead processes take the room.
        self._evictor.collect(replace(plan, victims=VictimList()))
        plan = self._evictor.plan(at_least=needed)
        return plan if plan.can_suffice else None

    def close(self, timeout: float) -> None:
        """Check what was filled since the last time, and wait up to *timeout* seconds for the thread."""
        deadline = time.monotonic() + timeout
        self._join(deadline)
        if self._filled:
            self._check_budget()
        self._join(deadline)

    def _join(self, deadline: float) -> None:
        for _ in polls_until(deadline):
            if not self._is_running:
                return

    def _log_eviction(self, plan: Plan, done: CollectResult, uris: Sequence[str]) -> None:
        """Log the first eviction as a warning, so that it is seen without configuration; later ones as information."""
        uris = [printable(uri) for uri in uris]
        shown = ", ".join(uris[:_SHOWN_URIS]) + (f" and {len(uris) - _SHOWN_URIS:,} more" if uris[_SHOWN_URIS:] else "")
        logger = _logger()
        log = logger.info if self._has_logged else logger.warning
        self._has_logged = True
        log(
            "%s: to stay within its budget (max_size %s, min_free %s%s), the store removed "
            "%s bytes, %s entries (%s); see `casstore gc --help`",
            printable(self._directory),
            "none" if plan.budget.max_size is None else plan.budget.max_size,
            plan.budget.min_free,
            ", ages and rules" if plan.budget.has_rules else "",
            done.bytes,
            done.entries,
            shown or "none",
        )
        for uri in uris:
            logger.debug("removed %s", uri)


def _logger() -> logging.Logger:
    import logging  # takes as long to load as the rest of this module

    return logging.getLogger(__name__)
