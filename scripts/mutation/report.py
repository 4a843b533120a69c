"""The report of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from mutation.safety_lines import SafetyLine
from mutation.verdicts import Outcome, Verdict


def as_json(verdicts: Sequence[Verdict], seconds: float) -> str:
    """Return the report as JSON."""
    return json.dumps(
        {
            "counts": _counts(verdicts),
            "seconds": round(seconds, 1),
            "lines": [
                {
                    "name": verdict.line.name,
                    "file": verdict.line.file,
                    "outcome": verdict.outcome,
                    "detail": verdict.detail,
                    "seconds": round(verdict.seconds, 1),
                }
                for verdict in verdicts
            ],
        }
    )


def as_text(verdicts: Sequence[Verdict], seconds: float) -> str:
    """Return what was not noticed, and a last line with the counts."""
    shown = [_shown(verdict) for verdict in verdicts if verdict.outcome is not Outcome.NOTICED]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in _counts(verdicts).items() if count)
    return "\n".join([*shown, f"{len(verdicts)} lines: {counts}; {seconds:.0f} s"])


def listed(lines: Sequence[SafetyLine], *, as_json: bool) -> str:
    """Return the list of *lines*."""
    if as_json:
        return json.dumps([asdict(line) for line in lines])
    return "\n".join(f"{line.name}\n    {line.file}: {line.protects}" for line in lines)


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    found = Counter(verdict.outcome for verdict in verdicts)
    return {outcome.value: found[outcome] for outcome in Outcome}


def _shown(verdict: Verdict) -> str:
    line = verdict.line
    head = f"{verdict.outcome}: {line.name} ({line.file}): {line.protects}"
    return "\n    ".join([head, *verdict.detail.splitlines()])
