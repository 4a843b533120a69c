"""``casstore gc``: shrink the store to a budget; shows what goes and what stays, asks, and reports what went."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.reaped import reaped_facts, show_reaped
from casstore.cli.shell import Shell, age_text, shows_progress
from casstore.config.units import NONE, format_size, parse_age, parse_size
from casstore.eviction.inventory import hour_of
from casstore.eviction.victims import Reason

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.eviction.budget import Budget
    from casstore.eviction.collector import CollectResult, RemovedBlob
    from casstore.eviction.plan import Plan, Retained
    from casstore.eviction.victims import Victim

_OVER_BUDGET: Final = 1
_SHOWN_HELD: Final = 20
_WHY: Final = {Reason.AGE: ": unused for too long", Reason.RULE: ": its rule has no more room"}


class Size(click.ParamType[int]):
    """Bytes, as `parse_size` reads them."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `parse_size`."""
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


class Age(click.ParamType[int]):
    """Seconds, as `parse_age` reads them."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `parse_age`."""
        try:
            age = None if value == NONE else parse_age(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if age is None:
            self.fail("name an age; without this option, what the store is set to holds", param, ctx)
        return age


@click.command()
@click.option("--max-size", type=Size(), metavar="SIZE", help="Bytes that the blobs may take: 10GB, 500MiB, 0.")
@click.option("--min-free", type=Size(), metavar="SIZE", help="Bytes of the disk that are to be free.")
@click.option("--max-age", type=Age(), metavar="AGE", help="How long ago the last use may be: 12h, 30d, 2w.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def gc(
    shell: Shell,
    max_size: int | None,
    min_free: int | None,
    max_age: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove what was used least recently until the store is within its budget, and what dead processes left.

    By the policy ``adaptive``, the default, in another order where that one is known to do badly. Without a size or an
    age, the budget is what the store is set to; its rules by prefix hold in any case. What processes have open, and the
    local paths that they were given, stay readable. Status 1 where a size could not be met; it says what holds the
    rest.
    """
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask at: say --yes to remove, or --dry-run to see what would go")
    cache = shell.open_cache()
    plan = cache.plan(max_size, min_free, max_age)
    report = _Report(shell, cache, plan, as_json=as_json)
    report.show_plan(lists=dry_run or not yes)
    if dry_run:
        report.end(None)
        return _OVER_BUDGET if plan.shortfall(plan.reclaimable_bytes) or plan.rule_overrun else 0
    if not yes and plan.victims:
        shell.confirm(f"Remove {format_size(plan.reclaimable_bytes)} in {len(plan.victims):,} blobs?")
    freed = cache.execute(plan, report.removed)
    cache.mark_synced()
    report.end(freed)
    return _OVER_BUDGET if freed.shortfall or freed.rule_overrun else 0


class _Report:
    """What is said of one collection, to people or as JSON."""

    def __init__(self, shell: Shell, cache: Cache, plan: Plan, *, as_json: bool) -> None:
        self._shell = shell
        self._cache = cache
        self._plan = plan
        self._as_json = as_json
        self._lists = False
        self._removals: list[dict[str, Any]] = []
        self._gone = 0
        self._has_bar = shows_progress()

    def show_plan(self, *, lists: bool) -> None:
        """The budget and what stays whatever is done; with *lists*, every blob that goes and whose it is."""
        self._lists = lists
        plan, shell = self._plan, self._shell
        if self._as_json:
            return
        limit = "no limit" if plan.budget.max_size is None else f"at most {format_size(plan.budget.max_size)}"
        shell.line(
            f"{format_size(plan.stored)} in {plan.blobs:,} blobs ({limit}); {format_size(plan.free)} of the disk are "
            "free "
            f"(at least {format_size(plan.budget.min_free)}){_rules_text(plan.budget)}"
        )
        if lists:
            for blob in plan.victims:
                uris = self._cache.uris_of(blob.digest)
                self._show_removal("goes", blob.size, uris, _last_used(blob), _WHY.get(blob.reason, ""))

    def removed(self, removed: RemovedBlob) -> None:
        """One blob went."""
        self._gone += 1
        if self._as_json:
            self._removals.append(_removal(removed.digest, removed.uris, removed.bytes, removed.reason))
        elif not self._lists:
            self._clear_bar()
            self._show_removal("removed", removed.bytes, removed.uris, why=_WHY.get(removed.reason, ""))
        if self._has_bar and self._gone % 64 == 0:
            sys.stderr.write(f"\r{self._gone:,} of {len(self._plan.victims):,} blobs removed\x1b[K")
            sys.stderr.flush()

    def _show_removal(self, verb: str, size: int, uris: tuple[str, ...], used: str = "", why: str = "") -> None:
        for uri in uris or ("(no entry)",):
            self._shell.line(f"{verb:<8} {format_size(size):>9}  {used:>4}  {uri}{why}")
            size = 0  # the bytes go once

    def _clear_bar(self) -> None:
        if self._has_bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def end(self, freed: CollectResult | None) -> None:
        """The sums, and what holds the rest where the budget is not met."""
        self._clear_bar()
        plan = self._plan
        done = plan.reclaimable_bytes if freed is None else freed.bytes
        short, held = (plan.shortfall(done), plan.retained) if freed is None else (freed.shortfall, freed.retained)
        overdue = plan.rule_overrun if freed is None else freed.rule_overrun
        if self._as_json:
            self._shell.json_document(self._facts(freed, short, overdue, held))
            return
        if freed is None:
            self._shell.line(f"would free {format_size(done)} in {len(plan.victims):,} blobs")
        else:
            self._shell.line(f"freed {format_size(done)}: {freed.blobs:,} blobs, {freed.entries:,} entries")
            if freed.reaped is not None:
                show_reaped(self._shell, freed.reaped)
        # Where the budget is met, pins cost nothing.
        told = [blob for blob in held if short or overdue or not blob.is_pinned]
        for blob in told[:_SHOWN_HELD]:
            uris = ", ".join(self._cache.uris_of(blob.digest)) or "(no entry)"
            why = "pinned" if blob.is_pinned else f"linked from {', '.join(blob.holders)}"
            self._shell.line(f"stays    {format_size(blob.size):>9}        {uris}: {why}")
        if len(told) > _SHOWN_HELD:
            self._shell.line(f"stay     {len(told) - _SHOWN_HELD:,} more blobs that are pinned or have other links")
        if short:
            self._shell.error(f"{format_size(short)} more should go: {_why_short(freed, held)}")
        if overdue:
            self._shell.error(f"{format_size(overdue)} more should go by the rules: {_why_short(freed, held)}")

    def _facts(self, freed: CollectResult | None, short: int, overdue: int, held: Sequence[Retained]) -> dict[str, Any]:
        plan, uris_of = self._plan, self._cache.uris_of
        removals = (
            [_removal(blob.digest, uris_of(blob.digest), blob.size, blob.reason) for blob in plan.victims]
            if freed is None
            else self._removals
        )
        return {
            "dry_run": freed is None,
            "max_size": plan.budget.max_size,
            "min_free": plan.budget.min_free,
            "max_age": plan.budget.max_age,
            "stored_bytes": plan.stored,
            "free_bytes": plan.free,
            "asked_bytes": plan.requested_bytes,
            "freed_bytes": plan.reclaimable_bytes if freed is None else freed.bytes,
            "short_bytes": short,
            "overdue_bytes": overdue,
            "within_budget": not (short or overdue),
            "kept_blobs": 0 if freed is None else freed.still_in_use,
            "removed": removals,
            "held": [
                {
                    "digest": blob.digest.hex(),
                    "bytes": blob.size,
                    "uris": list(uris_of(blob.digest)),
                    "linked_from": list(blob.holders),
                    "is_pinned": blob.is_pinned,
                }
                for blob in held
            ],
            "reaped": None if freed is None or freed.reaped is None else reaped_facts(freed.reaped),
        }


def _rules_text(budget: Budget) -> str:
    age = "" if budget.max_age is None else f"; nothing unused for longer than {age_text(budget.max_age)}"
    return age + (f"; {len(budget.rules)} rules by prefix" if budget.rules else "")


def _why_short(freed: CollectResult | None, held: Sequence[Retained]) -> str:
    reasons = []
    for is_pinned, what in ((True, "are pinned"), (False, "are linked from elsewhere")):
        sizes = [blob.size for blob in held if blob.is_pinned is is_pinned]
        if sizes:
            reasons.append(f"{format_size(sum(sizes))} in {len(sizes):,} blobs {what}")
    if freed is not None and freed.still_in_use:
        reasons.append(f"{freed.still_in_use:,} blobs came back into use meanwhile")
    if freed is not None and freed.is_stale:
        reasons.append("the index was replaced meanwhile: run it again")
    return "; ".join(reasons) or "the rest of the disk is not the store's"


def _removal(digest: bytes, uris: tuple[str, ...], size: int, why: Reason) -> dict[str, Any]:
    return {"digest": digest.hex(), "bytes": size, "uris": list(uris), "why": why.value}


def _last_used(blob: Victim) -> str:
    hour = hour_of(blob.used)
    return age_text(max(0.0, time.time() - hour * 3600)) if hour else ""
