"""Trimming while filling: when a fill passes the budget, a thread of its own brings the store back within it.

Looking is cheap: one `statvfs` per second of filling, or per `LOOK_BYTES`. The size of the store is summed from its
rows in the thread, and between two sums it is guessed: what this process filled, or by how much the disk got fuller
(which sees other processes too), whichever is more. Readers wait for none of it; a fill that found the disk full does.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from casstore.errors import CasstoreError
from casstore.locks.collector_lock import CollectorLock

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.eviction.collector import CollectResult, RemovedBlob
    from casstore.eviction.plan import Plan

LOOK_SECONDS: Final = 1.0
"""How old the last look may be when something is filled."""

LOOK_BYTES: Final = 64 << 20
"""How much this process fills at most without a look."""

_SUM_SECONDS: Final = 60.0
"""How old a sum may be, whatever the guess says: it does not see what others fill while they make room elsewhere."""

RULE_SECONDS: Final = 600.0
"""How old the last look at ages and rules may be when something is filled: it takes a plan."""

REAP_SECONDS: Final = 60.0
"""How long a process trims without looking again for what dead ones left."""

_COMMIT_BYTES: Final = 64 << 10
"""What the row of a blob may take beside it."""

_COST: Final = 20
"""A look waits this many times as long as the last one took: trimming takes a twentieth of one processor at most."""

_SHOWN_URIS: Final = 3


class BackgroundEvictor:
    """The budget of one store as one process keeps it; thread-safe. A forked child makes its own."""

    def __init__(self, cache: Cache, turns: CollectorLock) -> None:
        self._cache = cache
        self._turns = turns
        self._limit = cache.settings.max_size
        self._mutex = threading.Lock()
        self._making = threading.Lock()
        self._made = 0.0
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        self._gap = LOOK_SECONDS
        self._filled = 0
        self._step = 0
        self._stored: int | None = None
        self._filled_since = 0
        self._free_then = 0
        self._summed = 0.0
        self._has_rules = cache.settings.max_age is not None or bool(cache.settings.rules)
        self._ruled = -RULE_SECONDS
        self._is_full = self._misses_budget = False
        self._reaped = -REAP_SECONDS
        self._warned = False
        self._said_full = False

    def admits(self, size: int) -> bool:
        """Whether a blob of *size* bytes is to be stored: no if it alone passes the budget, nor while nothing is left
        to evict. What is refused is streamed through; said once.
        """
        if (self._limit is None or size <= self._limit) and (not self._is_full or self._fits(size)):
            return True
        self._cache.count("streamed")
        if self._is_full:
            self._check_if_due()
        if not self._said_full:
            self._said_full = True
            why = "the store is at its budget and nothing in it can go" if self._is_full else "larger than max_size"
            _log("%s: %s: such objects are read without being stored", self._cache.root, why)
        return False

    def _fits(self, size: int) -> bool:
        """Whether there is room although none could be made for something: that may have been larger, or went again."""
        if self._misses_budget:
            return False
        try:
            space = os.statvfs(self._cache.root)
        except OSError:
            return False  # the store was removed
        free = space.f_bavail * space.f_frsize - self._cache.settings.keep_free(space)
        return free > size + _COMMIT_BYTES

    def record_fill(self, size: int) -> None:
        """A new blob of *size* bytes was stored; looks whether that was too much where a look is due."""
        self._filled += size
        self._check_if_due()

    def _check_if_due(self) -> None:
        if self._filled >= self._step or time.monotonic() - self._looked >= self._gap:
            self._check_budget()

    def _check_budget(self) -> None:
        """See how full it is, and start the thread if something is to be done; returns at once."""
        with self._mutex:
            if self._thread is not None:
                return  # it looks again itself
            cache, now = self._cache, time.monotonic()
            self._looked = now
            self._filled_since += self._filled
            self._filled = 0
            try:
                space = os.statvfs(cache.root)
            except OSError:
                return  # the store was removed: the next fill makes it anew
            free = space.f_bavail * space.f_frsize
            self._step = self._next_step(free)
            is_lacking = self._is_full or free < cache.settings.keep_free(space)
            if is_lacking or self._may_be_over(free, now) or self._is_rule_due(now):
                self._start()

    def _guess(self, free: int) -> int:
        assert self._stored is not None
        return self._stored + max(self._filled_since, self._free_then - free)

    def _next_step(self, free: int) -> int:
        if self._limit is None or self._stored is None:
            return LOOK_BYTES
        return max(min(LOOK_BYTES, self._limit - self._guess(free)), self._limit // 100)

    def _may_be_over(self, free: int, now: float) -> bool:
        if self._limit is None:
            return False
        return self._stored is None or self._guess(free) > self._limit or now - self._summed > _SUM_SECONDS

    def _is_rule_due(self, now: float) -> bool:
        return self._has_rules and now - self._ruled > RULE_SECONDS

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="casstore-trim", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            self._thread = None  # the interpreter is shutting down and starts no more threads

    def _run(self) -> None:
        try:
            while self._is_to_go_on(self._try()):
                pass
        finally:
            if self._thread is threading.current_thread():
                self._thread = None

    def _try(self) -> bool:
        """Trim, if it is still called for; False if that failed."""
        began = time.monotonic()
        try:
            self._trim()
        except (CasstoreError, OSError):
            import logging  # takes as long to load as the rest of this module

            # Nobody waits for it, and the next look tries again.
            logging.getLogger(__name__).warning("the store could not be trimmed", exc_info=True)
            return False
        finally:
            self._looked = time.monotonic()
            self._gap = max(LOOK_SECONDS, _COST * (self._looked - began))
        return True

    def _is_to_go_on(self, well: bool) -> bool:
        with self._mutex:
            # Who filled meanwhile found this thread at work, and may have come after it had added up.
            if well and self._filled >= max(self._step, 1):
                self._filled = 0
                return True
            self._thread = None
            return False

    def _trim(self) -> None:
        cache = self._cache
        # What has just been filled has its row, and its place in the order.
        cache.committer.flush()
        free = self._sum()
        over = self._limit is not None and self._guess(free) > self._limit
        is_due = self._is_rule_due(time.monotonic())
        lacks = free < cache.settings.keep_free(os.statvfs(cache.root))
        if not (over or is_due or lacks or self._is_full):
            return
        self._ruled = time.monotonic()
        with self._turns.acquire(0) as is_ours:
            if is_ours:  # else another process is doing just this
                plan = cache.plan()
                self._after(plan, self._carry_out(plan))

    def _sum(self) -> int:
        """Add up the rows, if there is a limit; the free bytes of the disk."""
        from casstore.eviction.budget import free_bytes, stored_bytes

        free = free_bytes(self._cache.root)
        if self._limit is not None:
            self._stored = stored_bytes(self._cache.index)
            self._free_then, self._filled_since, self._summed = free, 0, time.monotonic()
            self._step = self._next_step(free)
        return free

    def _carry_out(self, plan: Plan) -> CollectResult:
        uris: list[str] = []

        def note(removed: RemovedBlob) -> None:
            uris.extend(removed.uris)

        # Reaping starts a process: not with each of many small trims, but before fills have to go by unstored.
        now = time.monotonic()
        reaps = now - self._reaped > REAP_SECONDS or plan.shortfall(plan.reclaimable_bytes) > 0
        freed = self._cache.collect(plan, note, reaps=reaps)
        self._reaped = now if reaps else self._reaped
        if freed.bytes:
            self._log_trim(plan, freed, uris)
        return freed

    def _after(self, plan: Plan, freed: CollectResult) -> None:
        from casstore.eviction.budget import free_bytes

        self._stored = plan.stored - freed.bytes
        self._free_then, self._filled_since = free_bytes(self._cache.root), 0
        # Only if all of the plan was carried out: what came back into use can go another time.
        self._is_full = freed.bytes < plan.requested_bytes and not freed.still_in_use and not freed.is_stale
        self._misses_budget = replace(plan, at_least=0).shortfall(freed.bytes) > 0
        self._step = self._next_step(self._free_then)

    def make_room(self, needed: int) -> bool:
        """A write failed for want of room: trim, at least *needed* bytes; whether it is worth another try.

        Waits for other collectors; one trim serves all threads that wait meanwhile.
        """
        since = time.monotonic()
        with self._making:
            if self._made > since:
                return True
            if self._is_full and time.monotonic() - self._looked < self._gap:
                return False  # there was nothing to evict a moment ago
            began = time.monotonic()
            try:
                with self._turns.acquire(self._cache.settings.lock_timeout) as is_ours:
                    if not is_ours:
                        return False
                    plan = self._cache.plan(at_least=needed)
                    freed = self._carry_out(plan)
                    self._after(plan, freed)
            except (CasstoreError, OSError):
                return False  # the disk may be too full for the index as well
            self._looked = time.monotonic()
            self._gap = max(LOOK_SECONDS, _COST * (self._looked - began))
            self._made = self._looked if freed.bytes else 0.0
            return freed.bytes > 0

    def close(self, timeout: float) -> None:
        """The process ends: look once more at what was filled since, and wait up to *timeout* seconds for a trim."""
        deadline = time.monotonic() + timeout
        self._join(deadline)
        if self._filled:
            self._check_budget()
        self._join(deadline)

    def _join(self, deadline: float) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _log_trim(self, plan: Plan, freed: CollectResult, uris: list[str]) -> None:
        """The first time as a warning, so that it is seen without any configuration; then on the log."""
        import logging

        shown = ", ".join(uris[:_SHOWN_URIS]) + (f" and {len(uris) - _SHOWN_URIS:,} more" if uris[_SHOWN_URIS:] else "")
        level = logging.INFO if self._warned else logging.WARNING
        self._warned = True
        logger = logging.getLogger(__name__)
        logger.log(
            level,
            "%s: to stay within its budget (max_size %s, min_free %s%s), the store removed "
            "%s bytes, %s entries (%s); `casstore gc --help` says more",
            self._cache.root,
            "none" if plan.budget.max_size is None else plan.budget.max_size,
            plan.budget.min_free,
            ", ages and rules" if plan.budget.has_rules else "",
            freed.bytes,
            freed.entries,
            shown or "none",
        )
        for uri in uris:
            logger.debug("removed %s", uri)


def _log(message: str, *arguments: object) -> None:
    import logging

    logging.getLogger(__name__).warning(message, *arguments)
