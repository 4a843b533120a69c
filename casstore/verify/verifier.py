"""Verification of a store: hash the blobs, and compare rows with files.

The store may be in use. A running publication and an eviction between its two steps are not damage: a second check
tells them apart. What a killed process leaves behind counts as leftovers. Only a `StoreRepairer` changes anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from casstore.eviction.reaper import ReapResult
from casstore.verify import report
from casstore.verify.blob_checks import BlobChecks, Sample
from casstore.verify.index_checks import IndexChecks
from casstore.verify.repair import StoreRepairer, reason
from casstore.verify.report import Problem, ProblemKind, VerifyProgress


class Verifier:
    """One verification; *sample* selects the blobs to hash."""

    def __init__(self, rows: IndexChecks, sample: Sample, progress: Callable[[VerifyProgress], None] | None) -> None:
        self._rows, self._blobs, self._progress = rows, BlobChecks(rows, sample), progress
        self._layout, self._findings, self._repairer = rows.layout, rows.findings, rows.repairer

    def run(self, store_id: str) -> None:
        """Check the marker, the index and the blobs."""
        self._check_marker(store_id)
        self._rows.check(self._report_progress)
        if self._repairer is not None:
            self._repair_index(self._repairer)
        self._blobs.check(self._report_progress)
        # Checked again: a process that creates a store creates the index before the first blob.
        if self._rows.is_absent and self._blobs.files and not self._rows.find():
            self._add_absence(self._blobs.files)
        self._report_progress()

    def _repair_index(self, repairer: StoreRepairer) -> None:
        if self._rows.is_absent:
            count = sum(len(names) for _, _, names in os.walk(self._layout.blobs))
            if not count or self._rows.find():
                return  # a new store
            self._add_absence(count)
        if not any(problem.kind is ProblemKind.DAMAGED_INDEX for problem in self._findings.problems):
            return
        repair = repairer.replace_index()
        self._findings.set_repair(ProblemKind.DAMAGED_INDEX, repair)
        if repair.is_done:
            self._rows.is_absent = not self._rows.find()

    def _add_absence(self, blobs: int) -> None:
        detail = f"the index is missing, but there are {blobs:,} blobs"
        self._findings.add(Problem(ProblemKind.DAMAGED_INDEX, self._layout.index, detail))

    def _check_marker(self, store_id: str) -> None:
        detail = None
        try:
            with open(self._layout.store, "rb") as file:
                found = json.loads(file.read())
            if (found["digest"], found["id"]) != (self._rows.algorithm, store_id):
                detail = "it belongs to another store than the one that was opened"
        except OSError as error:
            detail = reason(error)
        except (ValueError, LookupError, TypeError):
            detail = "it does not identify a store"
        if detail is not None:
            self._findings.add(Problem(ProblemKind.DAMAGED_MARKER, self._layout.store, detail))

    def _report_progress(self) -> None:
        if self._progress is not None:
            rows, blobs = self._rows, self._blobs
            self._progress(
                VerifyProgress(
                    rows.rows, blobs.files, blobs.read, rows.blobs, rows.bytes, blobs.skipped, blobs.skipped_bytes
                )
            )

    def result(self, reaped: ReapResult | None = None) -> report.VerifyReport:
        """Return the report; *reaped* is what a repair removed of dead processes."""
        rows, blobs, findings, layout = self._rows, self._blobs, self._findings, self._layout
        leftovers = report.Leftovers(
            blobs.unknown,
            blobs.unknown_bytes,
            rows.unused,
            rows.unused_bytes,
            rows.stale,
            *_measure(layout.trash),
            *_measure(layout.quarantine),
            _count(layout.leases),
        )
        repairs = None
        if self._repairer is not None:
            repairs = report.RepairSummary(findings.repaired, blobs.adopted, blobs.adopted_bytes, rows.dropped, reaped)
        return report.VerifyReport(
            blobs.files,
            blobs.bytes,
            rows.entries,
            rows.generation,
            findings.wrong,
            tuple(findings.problems),
            leftovers,
            blobs.skipped,
            blobs.skipped_bytes,
            repairs,
        )


def _measure(directory: str) -> tuple[int, int]:
    """Return the number of files below a directory and their bytes; other processes may delete files meanwhile."""
    files = size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                status = os.stat(f"{parent}/{name}", follow_symlinks=False)
            except OSError:
                continue
            files, size = files + 1, size + status.st_size
    return files, size


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        return 0
