"""``casstore clear``: empty the store, or what is below a prefix; asks, reports what went, and always what stays."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli_output import Shell, shows_progress
from casstore.cli_reaped import reaped_facts, show_reaped
from casstore.figures import size_text

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.clearing import Cleared, InUse
    from casstore.collector import Removed

_SHOWN: Final = 20
"""Things that stay, of each kind, that are named; the commands that list all of them are named below."""

_PINS: Final = "pinned, and never goes: `casstore unpin URI` gives that up, `casstore pin` lists all"
_PENDING: Final = (
    "not in the cloud, and never goes: `casstore push` uploads it, `casstore drop` discards it, `casstore pending` "
    "lists all"
)
_IN_USE: Final = "handed out: goes when the process that has it ends, or its link does"
_CHANGED: Final = "changed or made by its user, and never goes: it becomes a pending write"
_OUTSIDE: Final = "linked from outside of the store"
_UNREADABLE: Final = "cannot be read, so it is not known of what it is; it holds. Remove it to be rid of it"


@click.command()
@click.argument("prefix", required=False)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def clear(shell: Shell, prefix: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove all that can be fetched again: every entry, or those whose URI starts with PREFIX.

    Pins, pending writes and local edits stay whatever is said, and the report names them. What processes have open, and
    the local paths that they were given, stay readable. Without PREFIX, what is in quarantine goes too.
    """
    if prefix == "":
        raise click.UsageError("PREFIX is empty: leave it out to clear everything")
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask at: say --yes to clear, or --dry-run to see what would go")
    cache = shell.open_cache()
    report = _Report(shell, cache, prefix or "", as_json=as_json)
    if dry_run:
        report.end(cache.clear(prefix or "", report.removed, dry_run=True), is_dry_run=True)
        return 0
    if not yes:
        report.ask(cache.clear(prefix or "", dry_run=True))
    report.end(cache.clear(prefix or "", report.removed), is_dry_run=False)
    return 0


class _Report:
    """What is said of one clearing, to people or as JSON."""

    def __init__(self, shell: Shell, cache: Cache, prefix: str, *, as_json: bool) -> None:
        self._shell, self._cache, self._prefix = shell, cache, prefix
        self._as_json = as_json
        self._removals: list[dict[str, Any]] = []
        self._gone = self._freed = 0
        self._of = ""
        self._verb = "removed"
        self._has_bar = shows_progress()

    def ask(self, cleared: Cleared) -> None:
        """Say in short what would go and what stays, and ask; all of it on stderr."""
        self._shell.note(f"stays: {_kept_text(cleared)}")
        if cleared.is_nothing:
            return
        bad = f" and {cleared.bad:,} files in quarantine" if cleared.bad else ""
        where = f" below {self._shell.shown(self._prefix)}" if self._prefix else ""
        self._of = f" of {cleared.entries:,}"
        click.confirm(
            f"Remove {cleared.entries:,} entries{where}, {cleared.blobs:,} blobs of {size_text(cleared.bytes)}{bad}?",
            abort=True,
            err=True,
        )

    def removed(self, removed: Removed) -> None:
        """One blob went, or entries of one that stays for others."""
        self._gone += len(removed.uris)
        self._freed += removed.bytes
        if self._as_json:
            digest, uris = removed.digest.hex(), list(removed.uris)
            self._removals.append({"digest": digest, "bytes": removed.bytes, "uris": uris})
        else:
            self._clear_bar()
            size = removed.bytes
            for uri in removed.uris or ("(no entry)",):
                self._shell.line(f"{self._verb:<8} {size_text(size):>9}  {uri}")
                size = 0  # the bytes go once
        if self._has_bar:
            sys.stderr.write(f"\r{self._gone:,}{self._of} entries, {size_text(self._freed)}\x1b[K")
            sys.stderr.flush()

    def _clear_bar(self) -> None:
        if self._has_bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def end(self, cleared: Cleared, *, is_dry_run: bool) -> None:
        """The sums, and all that stays."""
        self._clear_bar()
        if self._as_json:
            self._shell.json_document(self._facts(cleared, is_dry_run=is_dry_run))
            return
        verb = "would free" if is_dry_run else "freed"
        self._shell.line(
            f"{verb} {size_text(cleared.bytes)}: {cleared.blobs:,} blobs, {cleared.entries:,} entries"
            + (f"; {size_text(cleared.bad_bytes)}: {cleared.bad:,} files in quarantine" if cleared.bad else "")
        )
        if cleared.reaped is not None:
            show_reaped(self._shell, cleared.reaped)
        self._show_kept(cleared)

    def _show_kept(self, cleared: Cleared) -> None:
        from casstore.reports import pending_facts, pin_facts

        pins = [pin_facts(self._cache, pin) for pin in cleared.pins[:_SHOWN]]
        self._show(
            [(fact["size"], fact["uri"]) for fact in pins],
            len(cleared.pins),
            _PINS,
        )
        writes = [pending_facts(self._cache, write) for write in cleared.pending[:_SHOWN]]
        self._show([(f["size"], f"{f['uri']}: {f['why']}") for f in writes], len(cleared.pending), _PENDING)
        for files, why in _in_use_by_kind(cleared.in_use):
            self._show([(file.size, _file_text(file)) for file in files[:_SHOWN]], len(files), why)
        self._show([(None, path) for path in cleared.unreadable[:_SHOWN]], len(cleared.unreadable), _UNREADABLE)
        if cleared.young:
            self._shell.line(
                f"stays    {size_text(cleared.young_bytes):>9}  {cleared.young:,} blobs that may be downloads just now"
                ": in a minute they are entries, or can go"
            )
        if _kept_text(cleared) == _NOTHING:
            self._shell.line(f"stays    {_NOTHING}")

    def _show(self, things: Sequence[tuple[int | None, str]], count: int, why: str) -> None:
        for size, text in things:
            self._shell.line(f"stays    {'' if size is None else size_text(size):>9}  {text}")
        if count > len(things):
            self._shell.line(f"stay     {count - len(things):,} more like these")
        if count:
            self._shell.line(f"         {'':>9}  {why}")

    def _facts(self, cleared: Cleared, *, is_dry_run: bool) -> dict[str, Any]:
        from casstore.reports import pending_facts, pin_facts

        return {
            "dry_run": is_dry_run,
            "prefix": self._prefix,
            "entries": cleared.entries,
            "blobs": cleared.blobs,
            "freed_bytes": cleared.bytes,
            "quarantined": cleared.bad,
            "quarantined_bytes": cleared.bad_bytes,
            "removed": self._removals,
            "kept": {
                "pins": [pin_facts(self._cache, pin) for pin in cleared.pins],
                "pending": [pending_facts(self._cache, write) for write in cleared.pending],
                "in_use": [dataclasses.asdict(file) for file in cleared.in_use],
                "unreadable": list(cleared.unreadable),
                "young_blobs": cleared.young,
                "young_bytes": cleared.young_bytes,
            },
            "reaped": None if cleared.reaped is None else reaped_facts(cleared.reaped),
        }


_NOTHING: Final = "nothing: no pins, no pending writes, no local paths"


def _kept_text(cleared: Cleared) -> str:
    """In short, what stays."""
    counts = [
        (len(cleared.pins), "pins"),
        (len(cleared.pending), "pending writes and local edits"),
        (len(cleared.in_use), "local paths"),
        (len(cleared.unreadable), "unreadable pins and pending writes"),
        (cleared.young, "blobs that may be downloads just now"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or _NOTHING


def _in_use_by_kind(in_use: Sequence[InUse]) -> Sequence[tuple[list[InUse], str]]:
    return (
        ([file for file in in_use if file.is_changed], _CHANGED),
        ([file for file in in_use if not file.is_changed and file.path is not None], _IN_USE),
        ([file for file in in_use if not file.is_changed and file.path is None], _OUTSIDE),
    )


def _file_text(file: InUse) -> str:
    return ": ".join(part for part in (", ".join(file.uris), file.path) if part)
