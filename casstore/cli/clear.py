"""``casstore clear``: remove every entry, or those below a prefix."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from casstore.cli.facts import pending_facts, pin_facts, reaped_facts, reaped_lines
from casstore.cli.shell import Shell, json_document_option, progress_bar, yes_option
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.cache import Cache
    from casstore.eviction.clear import ClearResult
    from casstore.eviction.removal import RemovedBlob

_MOST_KEPT_SHOWN: Final = 20
"""Kept things that are listed, of each kind."""

_HINTS: Final = {
    "pins": "`casstore unpin URI` removes a pin (`casstore pin` lists them)",
    "pending": "`casstore push` uploads pending writes, `casstore drop` discards them (`casstore pending` lists them)",
    "in_use": "local paths are removed when the processes that use them exit; changed ones become pending writes",
    "unreadable": "unreadable records block their URIs: `casstore pending` says how to go on, or remove the files",
    "young": "files less than a minute old may belong to a running download; run `clear` again later to remove them",
}
"""By field of `ClearResult`: how to remove what was kept."""


@click.command()
@click.argument("prefix", required=False)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
@yes_option
@json_document_option
@click.pass_obj
def clear(shell: Shell, prefix: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove every entry, or those at or below PREFIX.

    PREFIX is one object, or a directory: s3://bucket/1 removes s3://bucket/1/a, and not s3://bucket/10.
    Pins, pending writes and local edits are always kept; the report lists them. Open files and local paths stay
    readable. Without PREFIX, the quarantine is emptied too.

    \b
    Examples:
      casstore clear s3://bucket/photos/ --dry-run
      casstore clear --yes
    """
    if prefix == "":
        raise click.UsageError("PREFIX is empty: omit it to clear everything")
    if prefix and "://" not in prefix:
        raise click.UsageError(f"{prefix}: not a URI: write it as `casstore ls` does, such as s3://{prefix}")
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("cannot ask without a terminal: add --yes to clear, or --dry-run to preview")
    report = _Report(shell, shell.open_cache(), prefix or "", as_json=as_json, is_dry_run=dry_run)
    if not (dry_run or yes):
        report.confirm()
    report.run()
    return 0


class _Report:
    def __init__(self, shell: Shell, cache: Cache, prefix: str, *, as_json: bool, is_dry_run: bool) -> None:
        self._shell, self._cache, self._prefix = shell, cache, prefix
        self._as_json, self._is_dry_run = as_json, is_dry_run
        self._removals: list[dict[str, Any]] = []
        self._entries = self._freed = 0
        self._total: int | None = None

    def confirm(self) -> None:
        """Print on stderr what would be removed and kept, and ask."""
        cleared = self._cache.clear(self._prefix, dry_run=True)
        self._shell.note(f"kept: {_kept_text(cleared)}")
        if cleared.is_nothing:
            return
        self._total = cleared.entries
        below = f" at or below {self._prefix}" if self._prefix else ""
        bad = f" and {cleared.bad:,} files in quarantine" if cleared.bad else ""
        self._shell.confirm(
            f"Remove {cleared.entries:,} entries{below} and {cleared.blobs:,} blobs "
            f"({format_size(cleared.bytes)}){bad}?"
        )

    def run(self) -> None:
        """Clear with a progress bar, then print the totals and what was kept."""
        with progress_bar(prints_lines=not self._as_json) as self._draw:
            cleared = self._cache.clear(self._prefix, self._removed, dry_run=self._is_dry_run)
        if self._as_json:
            self._shell.json_document(self._facts(cleared))
            return
        self._shell.line(
            f"{'would free' if self._is_dry_run else 'freed'} {format_size(cleared.bytes)}: "
            f"{cleared.blobs:,} blobs, {cleared.entries:,} entries"
            + (f"; {format_size(cleared.bad_bytes)}: {cleared.bad:,} files in quarantine" if cleared.bad else "")
        )
        for line in reaped_lines(cleared.reaped):
            self._shell.line(line)
        self._show_kept(cleared)

    def _removed(self, removed: RemovedBlob) -> None:
        """Report a blob that was removed, or entries of a blob that others still use."""
        self._entries += len(removed.uris)
        self._freed += removed.bytes
        if self._as_json:
            digest, uris = removed.digest.hex(), list(removed.uris)
            self._removals.append({"digest": digest, "bytes": removed.bytes, "uris": uris})
        else:
            size = removed.bytes
            for uri in removed.uris or ("(no entry)",):
                self._show("remove" if self._is_dry_run else "removed", size, uri)
                size = 0  # the blob's bytes count once
        total = "" if self._total is None else f"/{self._total:,}"
        self._draw(f"{self._entries:,}{total} entries", format_size(self._freed), self._entries, self._total)

    def _show(self, verb: str, size: int | None, text: str) -> None:
        self._shell.line(f"{verb:<8} {'' if size is None else format_size(size):>9}  {text}")

    def _show_kept(self, cleared: ClearResult) -> None:
        most = _MOST_KEPT_SHOWN
        for fact in [pin_facts(self._cache, pin) for pin in cleared.pins[:most]]:
            self._show("kept", fact["size"], f"{fact['uri']}: pinned")
        for write in [pending_facts(self._cache, write) for write in cleared.pending[:most]]:
            self._show("kept", write["size"], f"{write['uri']}: pending: {write['why']}")
        for entry in cleared.bases[:most]:
            self._show("kept", entry.size, f"{entry.uri}: cached, and a pending write is based on it")
        for file in cleared.in_use[:most]:
            uris = f"{', '.join(file.uris)}: " if file.uris else ""
            why = "changed or created by its user" if file.is_changed else "in use"
            self._show("kept", file.size, f"{uris}{why}: {file.path or 'links outside the store'}")
        for path in cleared.unreadable[:most]:
            self._show("kept", None, f"{path}: cannot be read, so its URI is unknown")
        if cleared.young:
            self._show("kept", cleared.young_bytes, f"{cleared.young:,} blobs of possibly running downloads")
        kinds = (cleared.pins, cleared.pending, cleared.bases, cleared.in_use, cleared.unreadable)
        more = sum(max(0, len(things) - most) for things in kinds)
        if more:
            self._shell.line(f"kept     {more:,} more like these")
        if _kept_text(cleared) == _NOTHING:
            self._shell.line(f"kept     {_NOTHING}{f' at or below {self._prefix}' if self._prefix else ''}")
        self._show_others(cleared)
        for kind, hint in _HINTS.items():
            if getattr(cleared, kind):
                self._shell.line(f"         {hint}")

    def _show_others(self, cleared: ClearResult) -> None:
        """If nothing was removed, name an entry whose URI only starts with the prefix."""
        if self._prefix and not cleared.entries and not cleared.bases and not cleared.pins:
            other = next(self._cache.entries(self._prefix), None)
            if other is None:
                self._shell.note_no_match("cached", self._prefix)
            else:
                self._shell.note(f"nothing is at or below {self._prefix}; {other.uri} only starts with it")

    def _facts(self, cleared: ClearResult) -> dict[str, Any]:
        return {
            "dry_run": self._is_dry_run,
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
                "bases": [self._shell.facts(self._cache, entry) for entry in cleared.bases],
                "in_use": [dataclasses.asdict(file) for file in cleared.in_use],
                "unreadable": list(cleared.unreadable),
                "young_blobs": cleared.young,
                "young_bytes": cleared.young_bytes,
            },
            "reaped": reaped_facts(cleared.reaped),
        }


_NOTHING: Final = "nothing: no pins, no pending writes, no local paths"


def _kept_text(cleared: ClearResult) -> str:
    counts = [
        (len(cleared.pins), "pins"),
        (len(cleared.pending), "pending writes and local edits"),
        (len(cleared.in_use), "local paths"),
        (len(cleared.unreadable), "unreadable pins and pending writes"),
        (cleared.young, "blobs of possibly running downloads"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or _NOTHING
