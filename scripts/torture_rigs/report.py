"""The report of a run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """*kept* is a copy of the store after a violation; *skipped* is the reason why the rig did not run."""

    rig: str
    seed: int
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    kept: str | None = None
    skipped: str | None = None

    def summary(self) -> str:
        """Return one line of text."""
        if self.skipped is not None:
            return f"{self.rig}: skipped: {self.skipped}"
        counts = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        return f"{self.rig}: {len(self.violations)} violations; {counts}; {self.seconds:.0f} s, seed {self.seed}"

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(
            {
                "rig": self.rig,
                "seed": self.seed,
                "seconds": round(self.seconds, 1),
                "skipped": self.skipped,
                "violations": self.violations,
                "counts": dict(self.counts),
                "kept": self.kept,
            }
        )
