"""``casstore clear``: empty the store, or what is below a prefix; asks, reports what went, and always what stays."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.reaped import reaped_facts, show_reaped
from casstore.cli.shell import Shell, shows_progress
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.eviction.clear import ClearResult
    from casstore.eviction.collector import RemovedBlob
    from casstore.leases.in_use import InUse

_SHOWN: Final = 20
"""Things that stay, of each kind, that are named."""

_WAYS_ON: Final = {
    "pins": "`casstore unpin URI` gives a pin up (`casstore pin` lists them)",
    "pending": "`casstore push` uploads what is pending, `casstore drop` discards it (`casstore pending` lists it)",
    "in_use": "local paths go when the processes end that have them; what was changed in them becomes a pending write",
    "unreadable": "what cannot be read holds until somebody removes it",
    "young": "what may be a download just now is an entry in a minute, or can go",
}
"""By field of `ClearResult`: how what stays for it goes."""


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
    report = _Report(shell, cache, prefix or "", as_json=as_json, is_dry_run=dry_run)
    if not (dry_run or yes):
        report.ask(cache.clear(prefix or "", dry_run=True))
    report.end(cache.clear(prefix or "", report.removed, dry_run=dry_run))
    return 0


class _Report:
    """What is said of one clearing, to people or as JSON."""

    def __init__(self, shell: Shell, cache: Cache, prefix: str, *, as_json: bool, is_dry_run: bool) -> None:
        self._shell, self._cache, self._prefix = shell, cache, prefix
        self._as_json, self._is_dry_run = as_json, is_dry_run
        self._facts_of: list[dict[str, Any]] = []
        self._removals = self._gone = self._freed = 0
        self._of = ""
        self._verb = "goes" if is_dry_run else "removed"
        self._has_bar = shows_progress()

    def ask(self, cleared: ClearResult) -> None:
        """Say in short what would go and what stays, and ask; all of it on stderr."""
        self._shell.note(f"stays: {_kept_text(cleared)}")
        if cleared.is_nothing:
            return
        bad = f" and {cleared.bad:,} files in quarantine" if cleared.bad else ""
        where = f" below {self._shell.shown(self._prefix)}" if self._prefix else ""
        self._of = f" of {cleared.entries:,}"
        self._shell.confirm(
            f"Remove {cleared.entries:,} entries{where}, {cleared.blobs:,} blobs of {format_size(cleared.bytes)}{bad}?"
        )

    def removed(self, removed: RemovedBlob) -> None:
        """One blob went, or entries of one that stays for others."""
        self._removals += 1
        self._gone += len(removed.uris)
        self._freed += removed.bytes
        if self._as_json:
            digest, uris = removed.digest.hex(), list(removed.uris)
            self._facts_of.append({"digest": digest, "bytes": removed.bytes, "uris": uris})
        else:
            self._clear_bar()
            size = removed.bytes
            for uri in removed.uris or ("(no entry)",):
                self._show(self._verb, size, uri)
                size = 0  # the bytes go once
        if self._has_bar and self._removals % 64 == 0:
            sys.stderr.write(f"\r{self._gone:,}{self._of} entries, {format_size(self._freed)}\x1b[K")
            sys.stderr.flush()

    def _clear_bar(self) -> None:
        if self._has_bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, verb: str, size: int | None, text: str) -> None:
        self._shell.line(f"{verb:<8} {'' if size is None else format_size(size):>9}  {text}")

    def end(self, cleared: ClearResult) -> None:
        """The sums, and all that stays."""
        self._clear_bar()
        if self._as_json:
            self._shell.json_document(self._facts(cleared))
            return
        self._shell.line(
            f"{'would free' if self._is_dry_run else 'freed'} {format_size(cleared.bytes)}: "
            f"{cleared.blobs:,} blobs, {cleared.entries:,} entries"
            + (f"; {format_size(cleared.bad_bytes)}: {cleared.bad:,} files in quarantine" if cleared.bad else "")
        )
        if cleared.reaped is not None:
            show_reaped(self._shell, cleared.reaped)
        self._show_kept(cleared)

    def _show_kept(self, cleared: ClearResult) -> None:
        from casstore.cli.facts import pending_facts, pin_facts

        for fact in [pin_facts(self._cache, pin) for pin in cleared.pins[:_SHOWN]]:
            self._show("stays", fact["size"], f"{fact['uri']}: pinned")
        for write in [pending_facts(self._cache, write) for write in cleared.pending[:_SHOWN]]:
            self._show("stays", write["size"], f"{write['uri']}: pending: {write['why']}")
        for entry in cleared.bases[:_SHOWN]:
            self._show("stays", entry.size, f"{entry.uri}: held, since something is pending of it")
        for file in cleared.in_use[:_SHOWN]:
            self._show("stays", file.size, _file_text(file))
        for path in cleared.unreadable[:_SHOWN]:
            self._show("stays", None, f"{path}: cannot be read, so that nobody can tell what it is of")
        if cleared.young:
            self._show("stays", cleared.young_bytes, f"{cleared.young:,} blobs that may be downloads just now")
        kinds = (cleared.pins, cleared.pending, cleared.bases, cleared.in_use, cleared.unreadable)
        more = sum(max(0, len(things) - _SHOWN) for things in kinds)
        if more:
            self._shell.line(f"stay     {more:,} more like these")
        if _kept_text(cleared) == _NOTHING:
            self._shell.line(f"stays    {_NOTHING}{f' below {self._prefix}' if self._prefix else ''}")
        for kind, way in _WAYS_ON.items():
            if getattr(cleared, kind):
                self._shell.line(f"         {way}")

    def _facts(self, cleared: ClearResult) -> dict[str, Any]:
        from casstore.cli.facts import pending_facts, pin_facts

        return {
            "dry_run": self._is_dry_run,
            "prefix": self._prefix,
            "entries": cleared.entries,
            "blobs": cleared.blobs,
            "freed_bytes": cleared.bytes,
            "quarantined": cleared.bad,
            "quarantined_bytes": cleared.bad_bytes,
            "removed": self._facts_of,
            "kept": {
                "pins": [pin_facts(self._cache, pin) for pin in cleared.pins],
                "pending": [pending_facts(self._cache, write) for write in cleared.pending],
                "bases": [self._shell.facts(self._cache, entry) for entry in cleared.bases],
                "in_use": [dataclasses.asdict(file) for file in cleared.in_use],
                "unreadable": list(cleared.unreadable),
                "young_blobs": cleared.young,
                "young_bytes": cleared.young_bytes,
            },
            "reaped": None if cleared.reaped is None else reaped_facts(cleared.reaped),
        }


_NOTHING: Final = "nothing: no pins, no pending writes, no local paths"


def _kept_text(cleared: ClearResult) -> str:
    """In short, what stays."""
    counts = [
        (len(cleared.pins), "pins"),
        (len(cleared.pending), "pending writes and local edits"),
        (len(cleared.in_use), "local paths"),
        (len(cleared.unreadable), "unreadable pins and pending writes"),
        (cleared.young, "blobs that may be downloads just now"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or _NOTHING


def _file_text(file: InUse) -> str:
    why = "changed or made by its user" if file.is_changed else "in use"
    uris = f"{', '.join(file.uris)}: " if file.uris else ""
    return f"{uris}{why}: {file.path or 'links outside of the store'}"
