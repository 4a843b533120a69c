"""The report on what dead processes left behind, as text and as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from casstore.cli.shell import Shell
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.leases.reaper import ReapResult


def show_reaped(shell: Shell, reaped: ReapResult) -> None:
    """Print a line for what was removed, and one for each thing that was kept."""
    if reaped.leases or reaped.bytes or reaped.generations:
        shell.line(
            f"freed {format_size(reaped.bytes)} left by dead processes ({reaped.leases:,} leases, "
            f"{reaped.generations:,} generations of the index)"
        )
    for write in reaped.recorded:
        shell.line(f"pending  {format_size(write.size):>9}        {write.uri}: {write.why}")
    for kept in reaped.kept:
        if not kept.is_alive or not reaped.locks_exclude:
            edited = f": {', '.join(kept.edited)}" if kept.edited else ""
            shell.line(f"kept     lease {kept.name}: {kept.reason}{edited}")


def reaped_facts(reaped: ReapResult) -> dict[str, Any]:
    """Return the same as JSON facts."""
    recorded = [
        {"uri": write.uri, "name": write.name, "state": write.state.value, "bytes": write.size, "why": write.why}
        for write in reaped.recorded
    ]
    return {**dataclasses.asdict(dataclasses.replace(reaped, recorded=())), "recorded": recorded}
