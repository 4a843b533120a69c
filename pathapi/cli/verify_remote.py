"""``casstore verify --remote``: the part of that command that asks the cloud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import click

from pathapi.cli.cloud_options import Clients, Shell, cloud_command, in_the_shell, progress_bar
from pathapi.cli.compare import Compared, State, compare
from pathapi.parallel.progress import Progress

_MOST: Final = 10_000
"""How many differences are listed; the rest is counted."""


class _Remote:
    """What became of the comparison."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._counts: Counter[State] = Counter()
        self._listed: list[dict[str, Any]] = []

    def add(self, found: Compared) -> None:
        """Count it, and list it if it differs."""
        self._counts[found.state] += 1
        if found.state is not State.SAME and len(self._listed) < _MOST:
            detail = None if found.error is None else in_the_shell(self._shell, found.error)
            entry = found.entry
            listed = {"state": found.state.value, "uri": entry.uri, "origin": entry.key.origin, "detail": detail}
            self._listed.append(listed)

    @property
    def is_wrong(self) -> bool:
        """Whether anything differs, or could not be asked for."""
        return self._counts.total() > self._counts[State.SAME]

    @property
    def facts(self) -> Mapping[str, Any]:
        """For scripts."""
        counts = {state.value: self._counts[state] for state in State}
        return {"remote": {"asked": self._counts.total(), **counts, "differences": self._listed}}

    def show(self, shell: Shell) -> None:
        """For people."""
        for found in self._listed:
            detail = f": {found['detail']}" if found["detail"] else ""
            shell.line(f"{found['state']:<11}  {found['uri']}{detail}")
        counts = ", ".join(f"{self._counts[state]:,} {state}" for state in State if self._counts[state])
        shell.line(f"{self._counts.total():,} entries compared with the cloud: {counts or 'there are none'}")


@click.command("verify")
@click.option("--remote", is_flag=True, help="Also ask the cloud about every entry, one request each.")
@click.option("--prefix", metavar="PREFIX", default="", help="With --remote: only entries whose URI starts so.")
@cloud_command
def verify_part(shell: Shell, /, remote: bool, prefix: str, **options: Any) -> _Remote | None:
    """Which entries are stale, gone, or of a server that cannot be reached."""
    if not remote:
        given = [name for name, value in {"prefix": prefix, **options}.items() if value]
        if given:
            raise click.UsageError(f"--{given[0].removesuffix('_name').replace('_', '-')} is for --remote")
        return None
    cache = shell.open_cache()
    clients = Clients(shell, options, cache.root)
    found = _Remote(shell)
    with progress_bar(shell, "Asking") as progress:
        for number, compared in enumerate(compare(cache.entries(prefix), clients.path), 1):
            found.add(compared)
            if progress is not None:
                progress(Progress(number, number, 0, 0, is_listing=True))
    return found
