"""What is said of what dead processes had left, to people and to scripts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from casstore.cli.shell import Shell
from casstore.config.units import format_size

if TYPE_CHECKING:
    from casstore.leases.reaper import ReapResult


def show_reaped(shell: Shell, reaped: ReapResult) -> None:
    """A line for what went, and one for each thing that stays."""
    if reaped.leases or reaped.bytes or reaped.generations:
        shell.line(
            f"freed {format_size(reaped.bytes)} that dead processes had left ({reaped.leases:,} leases, "
            f"{reaped.generations:,} generations of the index)"
        )
    for write in reaped.recorded:
        shell.line(f"pending  {format_size(write.size):>9}        {write.uri}: {write.why}")
    for kept in reaped.kept:
        if not kept.is_alive or not reaped.locks_exclude:
            edited = f": {', '.join(kept.edited)}" if kept.edited else ""
            shell.line(f"stays    lease {kept.name}: {kept.reason}{edited}")


def reaped_facts(reaped: ReapResult) -> dict[str, Any]:
    """The same in types that JSON has."""
    recorded = [
        {"uri": write.uri, "name": write.name, "state": write.state.value, "bytes": write.size, "why": write.why}
        for write in reaped.recorded
    ]
    return {**dataclasses.asdict(dataclasses.replace(reaped, recorded=())), "recorded": recorded}
