"""What a run says in the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """*kept* names a copy of the store where something was violated; *skipped* says why nothing was done."""

    rig: str
    seed: int
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    kept: str | None = None
    skipped: str | None = None

    def summary(self) -> str:
        """One line."""
        if self.skipped is not None:
            return f"{self.rig}: skipped: {self.skipped}"
        counts = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        return f"{self.rig}: {len(self.violations)} violations; {counts}; {self.seconds:.0f} s, seed {self.seed}"

    def as_json(self) -> str:
        """The same for a script."""
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
