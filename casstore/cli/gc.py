"""``casstore gc``: evict blobs until the store is within its budget."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.facts import reaped_facts, reaped_lines
from casstore.cli.shell import Parsed, Shell, age_text, json_document_option, progress_bar, yes_option
from casstore.config.units import format_size, parse_age, parse_size
from casstore.eviction.inventory import hour_of
from casstore.eviction.victims import Reason

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.eviction.collector import CollectResult
    from casstore.eviction.plan import Plan
    from casstore.eviction.removal import RemovedBlob

_OVER_BUDGET: Final = 1
_MOST_KEPT_SHOWN: Final = 20
_REASONS: Final = {Reason.AGE: ": not used within the maximum age", Reason.RULE: ": over the budget of its prefix"}


def _parse_max_age(text: str) -> int:
    age = parse_age(text)
    if age is None:
        raise ValueError("is no age: use 30d, or omit the option to use the store's setting")
    return age


_SIZE: Final = Parsed("size", parse_size)
_AGE: Final = Parsed("age", _parse_max_age)


@click.command()
@click.option("--max-size", type=_SIZE, metavar="SIZE", help="Most bytes that the blobs may use: 10GB, 500MiB, 0.")
@click.option("--min-free", type=_SIZE, metavar="SIZE", help="Bytes of the disk to keep free: 20GB.")
@click.option("--max-age", type=_AGE, metavar="AGE", help="Evict blobs unused for longer than this: 12h, 30d, 2w.")
@click.option("--dry-run", is_flag=True, help="Show what would be evicted, and change nothing.")
@yes_option
@json_document_option
@click.pass_obj
def gc(shell: Shell, /, dry_run: bool, yes: bool, as_json: bool, **limits: int | None) -> int:
    """Evict blobs until the store is within its budget.

    The least recently used blobs are evicted first. The default policy, `adaptive`, switches to another order when LRU
    performs badly. Without options, the store's settings are the budget. Per-prefix rules always apply. What dead
    processes left behind is removed too.

    Pinned objects are kept. Open files and local paths in use stay readable. Exits with status 1 if the budget could
    not be met, and lists what prevents it.

    \b
    Examples:
      casstore gc --max-size 50GB --dry-run
      casstore gc --max-age 30d --yes
    """
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("cannot ask without a terminal: add --yes to evict, or --dry-run to preview")
    cache = shell.open_cache()
    plan = cache.plan(limits["max_size"], limits["min_free"], limits["max_age"])
    report = _Report(shell, cache, plan, as_json=as_json, lists_plan=dry_run or not yes)
    report.show_plan()
    if dry_run:
        result = _expected(plan)
    else:
        if not yes and (plan.victims or plan.copies):
            copies = f" and {len(plan.copies):,} local copies" if plan.copies else ""
            shell.confirm(f"Evict {len(plan.victims):,} blobs{copies} ({format_size(plan.reclaimable_bytes)})?")
        result = report.execute()
        cache.mark_synced()
    report.end(result, is_dry_run=dry_run)
    return _OVER_BUDGET if result.shortfall or result.rule_overrun else 0


def _expected(plan: Plan) -> CollectResult:
    from casstore.eviction.collector import CollectResult

    return CollectResult(
        entries=0,
        blobs=len(plan.victims),
        bytes=plan.reclaimable_bytes,
        copies=len(plan.copies),
        shortfall=plan.shortfall(plan.reclaimable_bytes),
        rule_overrun=plan.rule_overrun,
        retained=plan.retained,
    )


class _Report:
    """Prints one collection, as text or as JSON; with *lists_plan*, each victim before it is evicted."""

    def __init__(self, shell: Shell, cache: Cache, plan: Plan, *, as_json: bool, lists_plan: bool) -> None:
        self._shell, self._cache, self._plan = shell, cache, plan
        self._as_json, self._lists_plan = as_json, lists_plan
        self._removals: list[dict[str, Any]] = []
        self._blobs = self._freed = 0

    def show_plan(self) -> None:
        """Print the budget, and each victim if asked to."""
        if self._as_json:
            return
        plan, budget = self._plan, self._plan.budget
        limit = "no limit" if budget.max_size is None else f"limit: {format_size(budget.max_size)}"
        age = "" if budget.max_age is None else f"; maximum age: {age_text(budget.max_age)}"
        rules = f"; per-prefix rules: {len(budget.rules)}" if budget.rules else ""
        copies = f" and {len(plan.copies):,} unused local copies" if plan.copies else ""
        self._shell.line(
            f"stored: {format_size(plan.stored)} in {plan.blobs:,} blobs{copies} ({limit}); free on the disk: "
            f"{format_size(plan.free)} (minimum: {format_size(budget.min_free)}){age}{rules}"
        )
        if self._lists_plan:
            for blob in plan.victims:
                hour = hour_of(blob.used)
                age = age_text(max(0.0, time.time() - hour * 3600)) if hour else ""
                self._show_removal("evict", blob.size, self._cache.uris_of(blob.digest), blob.reason, age)

    def execute(self) -> CollectResult:
        with progress_bar(prints_lines=not (self._as_json or self._lists_plan)) as self._draw:
            return self._cache.execute(self._plan, self._removed)

    def _removed(self, removed: RemovedBlob) -> None:
        self._blobs += 1
        self._freed += removed.bytes
        if self._as_json:
            self._removals.append(_removal(removed.digest, removed.uris, removed.bytes, removed.reason))
        elif not self._lists_plan:
            self._show_removal("evicted", removed.bytes, removed.uris, removed.reason)
        total = len(self._plan.victims)
        self._draw(f"{self._blobs:,}/{total:,} blobs", format_size(self._freed), self._blobs, total)

    def _show_removal(self, verb: str, size: int, uris: tuple[str, ...], reason: Reason, age: str = "") -> None:
        for uri in uris or ("(no entry)",):
            self._shell.line(f"{verb:<8} {format_size(size):>9}  {age:>4}  {uri}{_REASONS.get(reason, '')}")
            size = 0  # the blob's bytes count once

    def end(self, result: CollectResult, *, is_dry_run: bool) -> None:
        """Print the totals, and what prevents the budget from being met."""
        shell, missed = self._shell, result.shortfall or result.rule_overrun
        if self._as_json:
            shell.json_document(self._facts(result, is_dry_run=is_dry_run))
            return
        if is_dry_run:
            shell.line(f"would free {format_size(result.bytes)} in {result.blobs:,} blobs")
        else:
            shell.line(f"freed {format_size(result.bytes)}: {result.blobs:,} blobs, {result.entries:,} entries")
        for line in reaped_lines(result.reaped):
            shell.line(line)
        # Pins matter only if the budget is not met.
        shown = [blob for blob in result.retained if missed or not blob.is_pinned]
        for blob in shown[:_MOST_KEPT_SHOWN]:
            uris = ", ".join(self._cache.uris_of(blob.digest)) or "(no entry)"
            why = "pinned" if blob.is_pinned else f"linked from {', '.join(blob.holders)}"
            shell.line(f"kept     {format_size(blob.size):>9}        {uris}: {why}")
        if len(shown) > _MOST_KEPT_SHOWN:
            shell.line(f"kept     {len(shown) - _MOST_KEPT_SHOWN:,} more blobs that are pinned or linked")
        for size, budget in ((result.shortfall, ""), (result.rule_overrun, " of the rules")):
            if size:
                shell.error(f"over the budget{budget} by {format_size(size)}: {_why_short(result)}")

    def _facts(self, result: CollectResult, *, is_dry_run: bool) -> dict[str, Any]:
        plan, uris_of = self._plan, self._cache.uris_of
        removals = self._removals
        if is_dry_run:
            removals = [_removal(blob.digest, uris_of(blob.digest), blob.size, blob.reason) for blob in plan.victims]
        return {
            "dry_run": is_dry_run,
            "max_size": plan.budget.max_size,
            "min_free": plan.budget.min_free,
            "max_age": plan.budget.max_age,
            "stored_bytes": plan.stored,
            "free_bytes": plan.free,
            "asked_bytes": plan.requested_bytes,
            "freed_bytes": result.bytes,
            "short_bytes": result.shortfall,
            "overdue_bytes": result.rule_overrun,
            "within_budget": not (result.shortfall or result.rule_overrun),
            "kept_blobs": result.still_in_use,
            "removed": removals,
            "held": [
                {
                    "digest": blob.digest.hex(),
                    "bytes": blob.size,
                    "uris": list(uris_of(blob.digest)),
                    "linked_from": list(blob.holders),
                    "is_pinned": blob.is_pinned,
                }
                for blob in result.retained
            ],
            "reaped": reaped_facts(result.reaped),
        }


def _why_short(result: CollectResult) -> str:
    reasons = []
    pinned = "pinned (`casstore unpin URI` removes a pin)"
    for is_pinned, state in ((True, pinned), (False, "linked from outside the store")):
        sizes = [blob.size for blob in result.retained if blob.is_pinned is is_pinned]
        if sizes:
            reasons.append(f"{format_size(sum(sizes))} in {len(sizes):,} blobs are {state}")
    if result.still_in_use:
        reasons.append(f"{result.still_in_use:,} blobs were used again in the meantime")
    if result.is_stale:
        reasons.append("the index was replaced in the meantime: run `casstore gc` again")
    return "; ".join(reasons) or "other files use the rest of the disk"


def _removal(digest: bytes, uris: tuple[str, ...], size: int, why: Reason) -> dict[str, Any]:
    return {"digest": digest.hex(), "bytes": size, "uris": list(uris), "why": why.value}
